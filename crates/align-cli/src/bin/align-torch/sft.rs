//! `align sft`.

use std::path::{Path, PathBuf};

use align_cli::{Result, args::SftArgs};
use align_core::{Objective, align_types::PromptGroup};
use align_data::{DataConfig, DataReport};
use align_losses::Sft as SftObjective;
use align_train::Unit;

use crate::{
    model::Folder,
    train::{Method, Rows, Setup},
};

/// Supervised fine-tuning.
pub struct Sft<'a>(pub &'a SftArgs);

impl Method for Sft<'_> {
    fn name(&self) -> &'static str {
        "sft"
    }

    fn unit(&self) -> Unit {
        Unit::Groups
    }

    fn reference<'a>(&'a self, _: &'a Path) -> Option<&'a Path> {
        None
    }

    fn check(&self, _: &Folder) -> Result<()> {
        Ok(())
    }

    fn load(
        &self,
        files: &[PathBuf],
        folder: &Folder,
        config: &DataConfig,
    ) -> Result<(Vec<PromptGroup>, DataReport)> {
        let config = DataConfig { sft_on_chosen: self.0.sft_on_chosen, ..config.clone() };
        Ok(align_data::load_language(files, &folder.tokenizer, folder.template.as_ref(), &config)?)
    }

    fn objective(&self, _: &Setup<'_>, _: &mut Rows) -> Result<Box<dyn Objective>> {
        Ok(Box::new(SftObjective::new(self.0.sft_config())))
    }
}
