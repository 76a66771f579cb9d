//! `align sft`.

use align_cli::{Result, args::SftArgs, health};
use align_core::{Objective, align_types::HealthCheck};
use align_data::{DataConfig, Kind};
use align_lm::Model;
use align_losses::Sft as SftObjective;
use align_train::Unit;

use crate::{
    rows::Rows,
    train::{Method, Setup, Training},
};

/// The kinds of rows that are trained on.
pub const KINDS: &[Kind] = &[Kind::Language, Kind::PromptCompletion];

/// Supervised fine-tuning.
pub struct Sft<'a>(pub &'a SftArgs);

impl Method for Sft<'_> {
    fn name(&self) -> &'static str {
        "sft"
    }

    fn unit(&self) -> Unit {
        Unit::Groups
    }

    fn kinds(&self) -> &'static [Kind] {
        KINDS
    }

    fn data_config(&self, config: DataConfig) -> DataConfig {
        DataConfig { sft_on_chosen: self.0.sft_on_chosen, train_on: self.0.train_on.into(), ..config }
    }

    fn health(&self) -> Vec<HealthCheck> {
        health::sft(&self.0.sft_config())
    }
}

impl Training for Sft<'_> {
    type Model = Model;

    fn objective(&self, _: &Setup<'_>, _: &mut Rows) -> Result<Box<dyn Objective>> {
        Ok(Box::new(SftObjective::new(self.0.sft_config())))
    }
}
