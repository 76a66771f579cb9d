//! `align eval`: held-out loss, rewards and win rate of sampled answers, divergence from a reference.

mod data;
mod held_out;
mod rewards;
mod samples;
mod show;

use std::{collections::BTreeMap, path::Path, sync::atomic::Ordering};

use align_cli::{
    Error, Result,
    args::{EvalArgs, Measure},
    talk,
};
use align_core::tch::Device;
use align_lm::{Model, ModelConfig};
use serde_json::{Map, Value, json};

use crate::{computer, failure, interrupt, model, origin::Origin, output::Output};
use data::Data;
use rewards::Rewards;
use show::Report;

/// The two models, and how they are run.
pub struct Bench<'a> {
    flags: &'a EvalArgs,
    model: Model,
    reference: Option<Model>,
    device: Device,
}

/// What is written of each row, by the row's number.
type RowNumbers = BTreeMap<usize, Map<String, Value>>;

pub fn run(flags: &EvalArgs, settings: &toml::Table) -> Result<()> {
    let device = computer::set_up(&flags.machine)?;
    let folder = model::open(&flags.model)?;
    let mut context = folder.config.context_length();
    if let Some(reference) = &flags.reference {
        let config = ModelConfig::read(reference).map_err(failure::of)?;
        model::same_vocabulary(&folder.config, &config, reference)
            .map_err(|error| error.with_message(|text| text.replace("--ref-model", "--reference")))?;
        context = context.min(config.context_length());
    }
    let data = Data::read(flags, &folder, context)?;
    let output = match &flags.output {
        Some(path) => Some(Output::begin(path, &origin(flags, settings)?, &[], false)?),
        None => None,
    };
    let options = model::frozen(&flags.machine, device);
    let bench = Bench {
        flags,
        model: model::load_adapted(&flags.model, flags.machine.adapter.as_deref(), &options)?,
        reference: flags.reference.as_deref().map(|folder| model::load(folder, &options)).transpose()?,
        device,
    };
    let mut report = Report::new(flags);
    let mut rows = RowNumbers::new();
    // Before anything that takes long: what cannot be loaded or started is known at once.
    let wanted = data.prompts.is_some() && flags.wants(Measure::Rewards) && flags.rewards.count() > 0;
    let mut rewards = if wanted { Some(Rewards::load(&bench)?) } else { None };
    if let Some(held_out) = &data.held_out {
        report.held_out = Some(held_out::measure(&bench, held_out, context, &mut rows)?);
    }
    if let Some(prompts) = &data.prompts {
        samples::measure(&bench, &folder.tokenizer, prompts, rewards.as_mut(), &mut report, &mut rows)?;
    }
    if let Some(rewards) = &mut rewards {
        rewards.finish()?;
    }
    if let Some(mut output) = output {
        let lines: Vec<Value> = rows.into_iter().map(|(row, numbers)| line(row, numbers)).collect();
        output.append(&lines)?;
        output.finish()?;
    }
    talk::data(&if flags.machine.json { report.json()? } else { report.table() })
}

fn line(row: usize, numbers: Map<String, Value>) -> Value {
    let mut line = Map::from_iter([("row".to_owned(), json!(row))]);
    line.extend(numbers);
    Value::Object(line)
}

fn origin(flags: &EvalArgs, settings: &toml::Table) -> Result<Origin> {
    let adapter = flags.machine.adapter.as_deref();
    let mut origin = Origin::new("eval", settings, &flags.model, adapter, &flags.data)?;
    let reference = flags.reference.as_deref().map(|folder| ("reference", folder));
    let rewards = flags.rewards.reward_model.iter().map(|folder| ("reward_model", folder.as_path()));
    let folders: Vec<(&str, &Path)> = reference.into_iter().chain(rewards).collect();
    for (name, folder) in folders {
        origin = origin.with_folder(name, folder)?;
    }
    Ok(origin)
}

/// Stops between two pieces of work where the user asked for it.
///
/// # Errors
/// [`Error::Interrupted`].
fn go_on() -> Result<()> {
    if interrupt::flag()?.load(Ordering::SeqCst) {
        let hints = vec!["nothing was written; the command begins anew when it is repeated".to_owned()];
        return Err(Error::Interrupted { step: 0, hints });
    }
    Ok(())
}

/// Says on stderr what is left out, unless it was asked for, by name or by a flag of its own.
///
/// # Errors
/// [`Error::Usage`] with the reason where it was.
fn left_out(flags: &EvalArgs, measure: Measure, what: &str, why: &str) -> Result<()> {
    if flags.insists(measure) {
        return Err(Error::usage(format!("{what} cannot be measured: {why}"), []));
    }
    if let (Measure::HeldOut, Some(flag)) = (measure, flags.held_out.given()) {
        return Err(Error::usage(
            format!("{flag} would change nothing: {what} cannot be measured: {why}"),
            [],
        ));
    }
    talk::say(&format!("{what} is not measured: {why}"));
    Ok(())
}
