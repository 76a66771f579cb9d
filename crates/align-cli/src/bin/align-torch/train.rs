//! What every training command does: everything is read and checked, then the run folder is made, then it trains.

use std::path::Path;

use align_cli::{
    Error, Result,
    args::{ReferenceArgs, TrainArgs},
    health, talk,
};
use align_core::{Objective, align_types::HealthCheck};
use align_data::{DataConfig, Kind};
use align_lm::{Companions, LoadOptions, Model, SaveDtype};
use align_train::{
    Checkpoint, Environment, Hooks, OpenMode, Opened, Outcome, RunFolder, Silent, Start, Terminal, TrainJob,
    Unit,
};
use serde_json::{Map, Value};

use crate::{
    computer, doctor, dry_run, failure, inputs, interrupt, model, notices, reference,
    rows::{self, Rows},
    samples::Samples,
    tuning::Tuning,
};

/// What one training command is, beside the others.
pub trait Method {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What a row is called in the metrics.
    fn unit(&self) -> Unit;

    /// Returns the flags of the reference policy, where there is one.
    fn reference_args(&self) -> Option<&ReferenceArgs> {
        None
    }

    /// Returns the folder of the model that the trained one is compared with, where there is one.
    fn reference<'a>(&'a self, base: &'a Path) -> Option<&'a Path> {
        self.reference_args().map(|args| reference::folder(args, base))
    }

    /// Checks what can be checked once rows are read.
    ///
    /// # Errors
    /// Rows that the method cannot use.
    fn check_rows(&self, _: &Rows) -> Result<()> {
        Ok(())
    }

    /// Returns the kinds of rows that it trains on.
    fn kinds(&self) -> &'static [Kind];

    /// Names the other columns that it reads, beside those that rows of its kinds are made of.
    fn columns(&self) -> &'static [&'static str] {
        &[]
    }

    /// Changes how rows are read, beside what the shared flags say.
    fn data_config(&self, config: DataConfig) -> DataConfig {
        config
    }

    /// Makes the objective; what it needs to know of rows may be written into them.
    ///
    /// # Errors
    /// A reference that cannot be loaded.
    fn objective(&self, setup: &Setup<'_>, rows: &mut Rows) -> Result<Box<dyn Objective>>;

    /// Returns what is watched over while it trains.
    fn health(&self) -> Vec<HealthCheck> {
        health::shared()
    }
}

/// What an objective is made from.
pub struct Setup<'a> {
    /// The flags of every training command.
    pub train: &'a TrainArgs,
    /// What else is in the folder of `--model`.
    pub folder: &'a model::Folder,
    /// The model that is trained.
    pub policy: &'a Model,
    /// What is trained of it.
    pub tuning: &'a Tuning<'a>,
    /// The folder of `--model`.
    pub base: &'a Path,
    /// Whether the policy comes from a checkpoint and no longer is what `base` holds.
    pub continued: bool,
    /// How a model that is not trained is loaded.
    pub reference: LoadOptions,
    /// Compute threads.
    pub threads: usize,
    /// Most tokens of one forward pass.
    pub micro_batch_tokens: usize,
    /// Most tokens of a prompt with one of its answers.
    pub max_length: usize,
}

/// Trains.
///
/// # Errors
/// Everything that can be refused is refused before anything is written.
pub fn run(train: &TrainArgs, settings: &toml::Table, method: &dyn Method) -> Result<()> {
    let stop = interrupt::flag()?;
    let device = computer::set_up(&train.machine)?;
    let base = train.model.as_deref().unwrap_or_else(|| Path::new(""));
    let output = train.output_dir.as_deref().unwrap_or_else(|| Path::new(""));
    let text = config_text(method, settings);
    check_place(output)?;
    if train.overwrite {
        inputs::outlive(output, train, method.reference(base))?;
    }
    notices::give(&train.optimizer_config(), device);
    // A run that is there is looked at first: it may be finished, or have been started otherwise. One that is to be
    // overwritten goes last, when nothing else can be refused.
    let mut opened = None;
    if !train.dry_run && !train.overwrite && !is_empty(output) {
        opened = open(train, output, &text)?;
        if opened.is_none() {
            return Ok(());
        }
    }
    let folder = model::open(base)?;
    if let Some(args) = method.reference_args() {
        reference::check(args, &folder)?;
    }
    let tuning = Tuning::of(train);
    let trained = tuning.check(&folder.config)?;
    let (mut rows, reports) = rows::read(train, method, &folder)?;
    if let Some(args) = method.reference_args() {
        reference::check_rows(args, &rows)?;
    }
    method.check_rows(&rows)?;
    if train.dry_run {
        return dry_run::show(train, settings, method, &folder, trained, &rows, &reports.train);
    }
    // Weights of no use are refused before anything is written.
    rows.source(train.batch.batch_size, train.seed, 1)?;
    let mut folders = tuning.folders(base);
    let reference = method.reference(base).filter(|reference| !folders.contains(reference));
    folders.extend(reference);
    let inputs = inputs::fingerprint(&rows, &folders, method.columns())?;
    let checkpoint = match &opened {
        Some((_, Some(checkpoint))) => Some(checkpoint.model_dir()),
        _ => None,
    };
    let options = model::trained(train, device);
    let policy = tuning.load(base, checkpoint.as_deref(), &options, train.seed)?;
    let companions = Companions::read(base).map_err(failure::of)?;
    let config = train.train_config();
    let setup = Setup {
        train,
        folder: &folder,
        policy: &policy,
        tuning: &tuning,
        base,
        continued: checkpoint.is_some(),
        reference: model::frozen(&train.machine, device),
        threads: config.threads,
        micro_batch_tokens: config.micro_batch_tokens,
        max_length: train.rows.max_length.min(folder.config.context_length()),
    };
    let objective = method.objective(&setup, &mut rows)?;
    let (run, start) = match opened {
        Some(opened) => opened,
        None => match open(train, output, &text)? {
            Some((run, None)) => (run, None),
            _ => return Err(begun_elsewhere(output)),
        },
    };
    let named = computer::device_name(device);
    let environment =
        Environment::collect(env!("CARGO_PKG_VERSION"), doctor::libtorch(), named, config.threads);
    run.write_environment(&environment).map_err(failure::of)?;
    let samples =
        Samples::new(train.watch.samples, &rows, folder.config.context_length(), output, config.threads)?;
    if start.is_none() {
        samples.write(&policy, &folder.tokenizer, 0)?;
    }

    let total_steps = config.total_steps(rows.train.len());
    let (mut source, shares) = rows.source(config.batch_size, config.seed, total_steps)?;
    let mut summary = reports.summary();
    summary.insert("data_shares".into(), shares.into());
    if matches!(tuning, Tuning::Full) {
        summary.insert("model_dtype".into(), policy.source_dtype().into());
    }
    let save_in = |to: &Path, dtype: SaveDtype| match tuning {
        Tuning::Full => Ok(policy.save_with(to, dtype, &companions)?),
        Tuning::New(_) | Tuning::From(_) => Ok(policy.save_adapter_with(to, &companions)?),
    };
    let save = |to: &Path| save_in(to, SaveDtype::F32);
    let save_final = |to: &Path| save_in(to, SaveDtype::Source);
    let job: TrainJob<'_> = TrainJob {
        folder: &run,
        start,
        model: Box::new(policy.replica().map_err(failure::of)?),
        objective,
        source: source.as_mut(),
        eval: rows.eval.into_vec()?,
        inputs,
        keep_best: train.watch.keep_best.clone(),
        total_steps,
        config: &config,
        optimizer: &train.optimizer_config(),
        unit: method.unit(),
        summary,
    };
    let sample = |step: u64| Ok(samples.write(&policy, &folder.tokenizer, step)?);
    let mut hooks = Hooks::new(&save);
    hooks.save_final = Some(&save_final);
    hooks.before_finish = Some(&sample);
    hooks.stop = stop;
    hooks.checks = method.health();
    hooks.progress = if train.machine.no_progress { Box::new(Silent) } else { Box::new(Terminal::new()) };
    match align_train::train(job, hooks).map_err(failure::of)? {
        Outcome::Interrupted { step, checkpoint } => Err(interrupted(step, checkpoint.as_deref())),
        Outcome::Finished(summary) => finished(train, output, &summary),
    }
}

fn config_text(method: &dyn Method, settings: &toml::Table) -> String {
    let name = method.name();
    format!("# align {name}: run again with `align {name} --config FILE --output-dir NEW`\n{settings}")
}

/// Checks that a folder can be where the run folder is to be: what is there, or the nearest place above, is one.
fn check_place(output: &Path) -> Result<()> {
    match output.ancestors().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) if !path.is_dir() => Err(Error::usage(
            format!("--output-dir {}: {} is not a folder", output.display(), path.display()),
            ["name a folder; one that is not there yet is made".to_owned()],
        )),
        _ => Ok(()),
    }
}

/// Says whether a folder is not there or holds nothing.
fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(!folder.exists(), |mut entries| entries.next().is_none())
}

/// The folder was empty when the policy was chosen, so that the policy is not that of the run found there now.
fn begun_elsewhere(output: &Path) -> Error {
    let message = format!("--output-dir {}: another process began a run in it just now", output.display());
    Error::usage(message, ["repeat the command with --resume, or name another folder".to_owned()])
}

/// Opens the run folder; `None` when its run is finished and nothing is left to do.
fn open(train: &TrainArgs, output: &Path, config: &str) -> Result<Option<(RunFolder, Option<Checkpoint>)>> {
    let mode = match (train.resume, train.overwrite) {
        (true, _) => OpenMode::Resume,
        (_, true) => OpenMode::Overwrite,
        _ => OpenMode::New,
    };
    let Opened { folder, start, notices } = RunFolder::open(output, mode, config).map_err(failure::of)?;
    notices.iter().for_each(|notice| talk::warn(notice));
    match start {
        Start::Beginning => Ok(Some((folder, None))),
        Start::Checkpoint(checkpoint) => {
            talk::say(&format!("continuing after step {}", checkpoint.state.step));
            Ok(Some((folder, Some(*checkpoint))))
        }
        Start::Finished(summary) => {
            talk::say(&format!("{}: the run is finished; nothing to do", output.display()));
            if train.machine.json {
                talk::data(&format!("{:#}\n", Value::Object(summary)))?;
            }
            Ok(None)
        }
    }
}

fn interrupted(step: u64, checkpoint: Option<&Path>) -> Error {
    let hints = match checkpoint {
        Some(path) => vec![
            format!("the state is in {}", path.display()),
            "repeat the command with --resume to continue".to_owned(),
        ],
        None => vec!["no step was done; repeat the command with --resume or --overwrite".to_owned()],
    };
    Error::Interrupted { step, hints }
}

fn finished(train: &TrainArgs, output: &Path, summary: &Map<String, Value>) -> Result<()> {
    if train.machine.json {
        return talk::data(&format!("{:#}\n", Value::Object(summary.clone())));
    }
    let number = |key: &str| summary.get("final").and_then(|last| last.get(key)).and_then(Value::as_f64);
    let shown =
        ["loss", "eval/loss", "rewards/accuracies", "eval/rewards/accuracies", "eval/rewards/margins"];
    let parts: Vec<_> = shown.iter().filter_map(|key| Some(format!("{key} {:.4}", number(key)?))).collect();
    let place = output.join("model").display().to_string();
    let saved = match summary.get("model_dtype").and_then(Value::as_str) {
        Some(dtype) => format!("the model is in {place} ({dtype}, as --model)"),
        None => format!("the adapter is in {place}"),
    };
    talk::say(&format!("done: {}; {saved}", parts.join(", ")));
    Ok(())
}
