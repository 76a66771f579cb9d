//! `--dry-run`: what a run would do, without weights and without a run folder.

use std::path::Path;

use align_cli::{Result, args::TrainArgs, talk};
use align_core::tch::Device;
use align_data::DataReport;
use align_lm::{LoadOptions, MemoryEstimate, Trainable};
use serde_json::json;

use crate::{
    failure,
    model::{self, Folder},
    reference,
    rows::Rows,
    train::Method,
    tuning::Tuning,
};

/// Shows configuration, batch arithmetic, memory estimate and number of steps on stdout.
pub fn show(
    train: &TrainArgs,
    settings: &toml::Table,
    method: &dyn Method,
    folder: &Folder,
    trained: Option<usize>,
    rows: &Rows,
    report: &DataReport,
) -> Result<()> {
    let config = train.train_config();
    let base = train.model.as_deref();
    // Below an adapter the base is a reference at no cost.
    let costs = |reference: &Path| trained.is_none() || base != Some(reference);
    let beside = base.and_then(|base| method.reference(base)).is_some_and(costs);
    let steps = config.total_steps(rows.train.len());
    let per_epoch = rows.train.len().div_ceil(config.batch_size.max(1));
    let estimate = |options| folder.config.memory_estimate_for(&options).map_err(failure::of);
    // What would be computed on is not asked: shapes take the same bytes everywhere.
    let args = method.reference_args();
    let frozen = model::frozen(&train.machine, Device::Cpu);
    let follows = args.is_some_and(|args| args.sync().is_some());
    let other = estimate(if follows { reference::following(&frozen) } else { frozen })?;
    let described = args.zip(base).map(|(args, base)| reference::describe(args, &Tuning::of(train), base));
    let options = model::trained(train, Device::Cpu);
    let estimate = match trained {
        None => estimate(options)?,
        Some(trained) => estimate(LoadOptions { trainable: Trainable::No, ..options })?.with_adapter(trained),
    };
    let (all, longest) = count_tokens(&rows.train)?;
    let batch_rows = config.batch_size.min(rows.train.len());
    let batch_tokens = (all * batch_rows).checked_div(rows.train.len()).unwrap_or(0);
    let pass = config.micro_batch_tokens.max(longest).min(batch_tokens.max(1));
    let (_, shares) = rows.source(config.batch_size, config.seed, steps)?;
    let memory = Memory::of(&estimate, pass, config.threads, beside.then_some(&other));
    if train.machine.json {
        let value = json!({
            "config": settings,
            "rows": rows.train.len(),
            "eval_rows": rows.eval.len(),
            "steps": steps,
            "steps_per_epoch": per_epoch,
            "tokens_per_batch": batch_tokens,
            "parameters": estimate.parameters,
            "trained_parameters": estimate.trained,
            "memory_mb": memory.total_mb(),
            "reference": described,
            "data": report,
            "data_shares": shares,
        });
        return talk::data(&format!("{value:#}\n"));
    }
    let total = report.lengths.total;
    talk::data(&format!(
        "{settings}\n\
         # rows          {} to train on, {} held out, {} cut, {} skipped as bad, {} dropped for their length\n\
         # tokens        prompt with its longest answer: least {}, median {}, most {}\n\
         # batch         {} rows, about {batch_tokens} tokens, in passes of at most {} tokens on {} threads\n\
         # steps         {steps} ({per_epoch} per epoch)\n\
         # parameters    {:.2} million, {:.2} million of them trained\n\
         # memory        about {:.0} MB: {}\n\
         {}\
         # nothing was trained and nothing was written\n",
        rows.train.len(),
        rows.eval.len(),
        report.cut,
        report.bad_count,
        report.dropped_no_room + report.dropped_too_long.count,
        total.min,
        total.median,
        total.max,
        config.batch_size,
        config.micro_batch_tokens,
        config.threads,
        estimate.parameters as f64 / 1e6,
        estimate.trained as f64 / 1e6,
        memory.total_mb(),
        memory.parts(),
        described.map(|text| format!("# reference     {text}\n")).unwrap_or_default(),
    ))
}

/// Counts the tokens of all rows laid out flat, and those of the longest.
fn count_tokens(rows: &align_data::Rows) -> Result<(usize, usize)> {
    let (mut all, mut longest) = (0, 0);
    for group in rows.iter() {
        let tokens = group?.flat_tokens();
        all += tokens;
        longest = longest.max(tokens);
    }
    Ok((all, longest))
}

/// What libtorch takes before it does anything, in bytes.
pub const LIBTORCH: usize = 120_000_000;

/// The parts of the estimate, in bytes.
pub struct Memory(Vec<(&'static str, usize)>);

impl Memory {
    /// Takes the parts.
    pub fn new(parts: Vec<(&'static str, usize)>) -> Self {
        Self(parts)
    }

    fn of(
        estimate: &MemoryEstimate,
        pass_tokens: usize,
        threads: usize,
        reference: Option<&MemoryEstimate>,
    ) -> Self {
        let per_token = estimate.activations_per_token + estimate.activations_per_completion_token;
        let mut parts = vec![
            ("libtorch", LIBTORCH),
            ("weights", estimate.weights),
            ("gradients", estimate.gradients * threads),
            ("optimiser", estimate.optimizer),
            ("activations", per_token * pass_tokens * threads),
        ];
        if estimate.casts > 0 {
            parts.push(("weights of a pass", estimate.casts * threads));
        }
        if let Some(reference) = reference {
            parts.push(("reference", reference.weights));
        }
        Self(parts)
    }

    /// Sums them up.
    pub fn total_mb(&self) -> f64 {
        self.0.iter().map(|(_, bytes)| *bytes as f64 / 1e6).sum()
    }

    /// Returns each part in megabytes, by its name.
    pub fn by_part(&self) -> serde_json::Map<String, serde_json::Value> {
        self.0.iter().map(|(name, bytes)| ((*name).to_owned(), json!(*bytes as f64 / 1e6))).collect()
    }

    /// Lists them in words.
    pub fn parts(&self) -> String {
        let part = |(name, bytes): &(&str, usize)| format!("{name} {:.0}", *bytes as f64 / 1e6);
        self.0.iter().map(part).collect::<Vec<_>>().join(", ")
    }
}
