//! `align logprobs`: the log-probability of every token of the completions of a file.

use std::sync::atomic::{AtomicBool, Ordering};

use align_cli::{Error, Result, args, args::LogprobsArgs, talk};
use align_core::{CausalLm, PackedBatch, align_types::PromptGroup, no_grad};
use align_data::{DataConfig, Kind, Truncation};
use align_lm::Model;
use serde_json::{Value, json};

use crate::{
    computer, failure, interrupt, model, origin::Origin, output::Output, passes, progress::Progress,
};

/// Every kind of row that has completions.
const KINDS: &[Kind] =
    &[Kind::Language, Kind::PromptCompletion, Kind::Preference, Kind::Unpaired, Kind::Scored, Kind::Ranking];

pub fn run(flags: &LogprobsArgs, settings: &toml::Table) -> Result<()> {
    let device = computer::set_up(&flags.machine)?;
    let folder = model::open(&flags.model)?;
    let context = folder.config.context_length();
    let config = DataConfig {
        max_length: Some(flags.max_length.map_or(context, |given| given.min(context))),
        truncation: if flags.max_length.is_some() { Truncation::KeepStart } else { Truncation::Error },
        columns: args::columns(&flags.columns),
        ..DataConfig::default()
    };
    let data = std::slice::from_ref(&flags.data);
    let (groups, report) =
        align_data::load_rows(data, KINDS, &folder.tokenizer, folder.template.as_ref(), &config)
            .map_err(refused)?;
    if report.cut + report.dropped_no_room > 0 {
        talk::warn(&format!(
            "--max-length: {} rows were cut, {} left no room for an answer and were dropped",
            report.cut, report.dropped_no_room
        ));
    }
    let rows: Vec<usize> = groups.iter().map(row_number).collect();
    let adapter = flags.machine.adapter.as_deref();
    let model = model::load_adapted(&flags.model, adapter, &model::frozen(&flags.machine, device))?;
    let mut replicas = model::replicas(model, flags.machine.threads())?;
    let origin = Origin::new("logprobs", settings, &flags.model, adapter, &flags.data)?;
    let stop = interrupt::flag()?;
    let mut output = Output::begin(&flags.output, &origin, &rows, flags.resume)?;
    let kept = output.kept();
    let mut progress = Progress::new(groups.len(), kept, flags.machine.no_progress);

    passes::over_rows(
        &mut replicas,
        &groups,
        flags.micro_batch_tokens,
        kept,
        || resumable(&stop),
        |model, groups| score(model, groups),
        |batch, lines| {
            let new = lines.get(kept.saturating_sub(batch.start).min(lines.len())..).unwrap_or_default();
            output.append(new)?;
            progress.add(new.len());
            Ok(())
        },
    )?;
    progress.finish();
    output.finish()?;
    done(flags.machine.json, groups.len(), kept, &flags.output)
}

/// Stops a command between two pieces of work where the user asked for it.
///
/// # Errors
/// [`interrupted`].
pub fn resumable(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::SeqCst) { Err(interrupted()) } else { Ok(()) }
}

/// What a command ends with that the user stopped, and that can go on.
pub fn interrupted() -> Error {
    Error::Interrupted { step: 0, hints: vec!["--resume continues after the last whole row".into()] }
}

/// Nothing is cut unless that is asked for, so the limit of a row that is too long is the model's context.
pub fn refused(error: align_data::Error) -> Error {
    let limit = match &error {
        align_data::Error::TooLong { limit, .. } => Some(*limit),
        _ => None,
    };
    match (Error::from(error), limit) {
        (Error::Data { message, .. }, Some(limit)) => {
            Error::data(message, [format!("--max-length {limit} cuts rows to the model's context")])
        }
        (error, _) => error,
    }
}

/// Says on stderr, or as JSON on stdout, what was written.
pub fn done(as_json: bool, rows: usize, kept: usize, output: &std::path::Path) -> Result<()> {
    if as_json {
        return talk::data(&format!("{}\n", json!({"rows": rows, "kept": kept, "output": output})));
    }
    talk::say(&format!(
        "{rows} rows in {}{}",
        output.display(),
        match kept {
            0 => String::new(),
            kept => format!(", {kept} of them from before"),
        }
    ));
    Ok(())
}

/// Returns the number of a group's row in its file; every group that was read has one.
pub fn row_number(group: &PromptGroup) -> usize {
    group.source.as_ref().map_or(0, |source| source.row)
}

/// Computes the log-probability of every answer of some rows and the number of its tokens, `go_on` being asked before
/// each pass.
///
/// # Errors
/// A model that fails; what `go_on` refuses.
pub fn sums(
    replicas: &mut [Model],
    rows: &[PromptGroup],
    micro_batch_tokens: usize,
    progress: &mut Progress,
    go_on: impl Fn() -> Result<()> + Sync,
) -> Result<Vec<(f64, usize)>> {
    let mut sums = Vec::with_capacity(rows.len());
    passes::over_rows(
        replicas,
        rows,
        micro_batch_tokens,
        0,
        go_on,
        |model, rows| {
            let _guard = no_grad();
            let batch = PackedBatch::new(rows).map_err(failure::of)?;
            let values = model.token_log_probs(&batch, 1.0).and_then(|logps| logps.to_vecs());
            let sum = |values: &Vec<f32>| (values.iter().map(|value| f64::from(*value)).sum(), values.len());
            Ok(values.map_err(failure::of)?.iter().map(sum).collect::<Vec<(f64, usize)>>())
        },
        |batch, found| {
            sums.extend(found);
            progress.add(batch.len());
            Ok(())
        },
    )?;
    Ok(sums)
}

fn score(model: &Model, groups: &[PromptGroup]) -> Result<Vec<Value>> {
    let _guard = no_grad();
    let batch = PackedBatch::new(groups).map_err(failure::of)?;
    let values = model.token_log_probs(&batch, 1.0).and_then(|logps| logps.to_vecs()).map_err(failure::of)?;
    let mut values = values.into_iter();
    groups.iter().map(|group| line(group, &mut values)).collect()
}

fn line(group: &PromptGroup, values: &mut impl Iterator<Item = Vec<f32>>) -> Result<Value> {
    let mut completions = Vec::with_capacity(group.completions.len());
    for (completion, logprobs) in group.completions.iter().zip(values) {
        let sum: f64 = logprobs.iter().map(|value| f64::from(*value)).sum();
        if !sum.is_finite() {
            return Err(Error::data(
                format!("{}: a log-probability is not finite", group.describe(0)),
                ["the weights of the model are damaged, or its training diverged".to_owned()],
            ));
        }
        let name = if completion.name.is_empty() { "completion" } else { &completion.name };
        completions.push(json!({
            "name": name, "token_ids": completion.token_ids, "logprobs": logprobs, "sum": sum,
        }));
    }
    Ok(json!({"row": row_number(group), "prompt_tokens": group.prompt, "completions": completions}))
}
