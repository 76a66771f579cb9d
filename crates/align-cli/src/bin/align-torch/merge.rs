//! `align merge`: an adapter into its base.

use std::path::Path;

use align_cli::{Error, Result, args::MergeArgs, talk};
use align_core::tch::Kind;
use align_lm::{FrozenStorage, LoadOptions, SaveDtype};
use serde_json::json;

use crate::{computer, failure, model};

pub fn run(flags: &MergeArgs) -> Result<()> {
    let device = computer::set_up(&flags.machine)?;
    must_be_new(&flags.output)?;
    let adapter = flags.machine.adapter.as_deref();
    // The sum is rounded once, when it is saved.
    let (frozen, compute) = (storage(flags.machine.load_in_4bit), Kind::Float);
    let options = LoadOptions { frozen, compute, ..model::frozen(&flags.machine, device) };
    let mut model = model::load_adapted(&flags.model, adapter, &options)?;
    model.merge_adapter().map_err(failure::of)?;
    model.save_with_tokenizer(&flags.output, SaveDtype::Source, &flags.model).map_err(failure::of)?;
    if flags.machine.json {
        return talk::data(&format!("{}\n", json!({"output": flags.output})));
    }
    talk::say(&format!("the merged model is in {}", flags.output.display()));
    Ok(())
}

/// An adapter that was trained over 4 bits belongs to the numbers that these stand for.
fn storage(in_4bit: bool) -> FrozenStorage {
    if in_4bit { FrozenStorage::Nf4 } else { FrozenStorage::Float }
}

/// A folder that holds something may be what is read.
fn must_be_new(output: &Path) -> Result<()> {
    let is_empty = std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty || !output.exists() {
        return Ok(());
    }
    let what = if output.is_dir() { "the folder is not empty" } else { "is a file, not a folder" };
    Err(Error::usage(
        format!("--output {}: {what}", output.display()),
        ["name another folder, or delete this one first".to_owned()],
    ))
}
