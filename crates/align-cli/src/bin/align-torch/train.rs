//! What every training command does: everything is read and checked, then the run folder is made, then it trains.

use std::path::Path;
use std::sync::{Arc, atomic::AtomicBool};

use align_cli::{
    Error, Result,
    args::{ReferenceArgs, TrainArgs},
    health, talk,
};
use align_core::{
    Objective,
    align_types::{HealthCheck, PromptSource},
    tch::Device,
};
use align_data::{DataConfig, Kind};
use align_lm::{Companions, LoadOptions, Model, SaveDtype};
use align_train::{
    BoxError, Checkpoint, Environment, Hooks, OpenMode, Opened, Outcome, RunFolder, Silent, Start, Terminal,
    TrainJob, Unit,
};
use serde_json::{Map, Value};

use crate::{
    computer, doctor, dry_run, failure, inputs, interrupt,
    learner::Learner,
    model, notices, reference,
    rows::{self, Reports, Rows},
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

    /// Returns what is watched over while it trains.
    fn health(&self) -> Vec<HealthCheck> {
        health::shared()
    }
}

/// The part of a method that knows what it trains.
pub trait Training: Method + Sized {
    /// The kind of model.
    type Model: Learner;

    /// Fits the model to the rows before anything is made of it.
    ///
    /// # Errors
    /// Rows that the model cannot be fitted to.
    fn fit(&self, policy: Self::Model, _: &model::Folder, _: &Rows) -> Result<Self::Model> {
        Ok(policy)
    }

    /// Makes the objective; what it needs to know of rows may be written into them.
    ///
    /// # Errors
    /// A reference that cannot be loaded.
    fn objective(&self, setup: &Setup<'_, Self::Model>, rows: &mut Rows) -> Result<Box<Goal<Self::Model>>>;

    /// Makes the source of batches of `steps` steps, which may choose among the rows, and the share of each file in an
    /// epoch. `run` is the run folder.
    ///
    /// # Errors
    /// As [`Rows::source`].
    fn source(
        &self,
        setup: &Setup<'_, Self::Model>,
        rows: &Rows,
        steps: u64,
        _run: &Path,
    ) -> Result<(Box<dyn PromptSource>, Vec<Value>)> {
        rows.source(setup.train.batch.batch_size, setup.train.seed, steps)
    }

    /// Says of the trained model what goes into `summary.json` beside the metrics.
    ///
    /// # Errors
    /// Held-out rows that cannot be read, or a model that fails.
    fn findings(&self, _: &Setup<'_, Self::Model>, _: &Rows, _run: &Path) -> Result<Map<String, Value>> {
        Ok(Map::new())
    }
}

/// What a model of this kind is trained to do.
pub type Goal<M> = dyn Objective<<M as Learner>::Seen>;

/// What an objective is made from.
pub struct Setup<'a, M = Model> {
    /// The flags of every training command.
    pub train: &'a TrainArgs,
    /// What else is in the folder of `--model`.
    pub folder: &'a model::Folder,
    /// The model that is trained.
    pub policy: &'a M,
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
pub fn run<T: Training>(train: &TrainArgs, settings: &toml::Table, method: &T) -> Result<()> {
    let stop = interrupt::flag()?;
    let device = computer::set_up(&train.machine)?;
    let base = train.model.as_deref().unwrap_or_else(|| Path::new(""));
    let output = train.output_dir.as_deref().unwrap_or_else(|| Path::new(""));
    let text = config_text(method, settings);
    let command = Command { train, method, device, base, output, text, stop };
    let Some(opened) = command.look()? else { return Ok(()) };
    let read = command.read()?;
    if train.dry_run {
        let Read { folder, trained, rows, reports, .. } = &read;
        return dry_run::show(train, settings, method, folder, *trained, rows, &reports.train);
    }
    command.train(opened, read)
}

/// One training command on its way.
struct Command<'a, T> {
    train: &'a TrainArgs,
    method: &'a T,
    device: Device,
    /// The folder of `--model`.
    base: &'a Path,
    /// The run folder.
    output: &'a Path,
    /// The content of `config.toml`.
    text: String,
    stop: Arc<AtomicBool>,
}

/// A run folder, and the checkpoint to go on from.
type Run = (RunFolder, Option<Checkpoint>);

/// What was read and found in order.
struct Read<'a> {
    folder: model::Folder,
    tuning: Tuning<'a>,
    /// Parameters of the adapter, where one is trained.
    trained: Option<usize>,
    rows: Rows,
    reports: Reports,
}

impl<'a, T: Training> Command<'a, T> {
    /// Looks at the place of the run. The outer `None` is a run that is finished already, the inner one a run that is
    /// begun later.
    ///
    /// A run that is there is looked at first: it may be finished, or have been started otherwise. One that is to be
    /// overwritten goes last, when nothing else can be refused.
    fn look(&self) -> Result<Option<Option<Run>>> {
        let Self { train, output, .. } = *self;
        check_place(output)?;
        if train.overwrite {
            inputs::outlive(output, train, self.method.reference(self.base))?;
        }
        notices::give(&train.optimizer_config(), self.device);
        if train.dry_run || train.overwrite || is_empty(output) {
            return Ok(Some(None));
        }
        Ok(open(train, output, &self.text)?.map(Some))
    }

    /// Reads model folder and rows, and checks that they fit each other.
    fn read(&self) -> Result<Read<'a>> {
        let Self { train, method, base, .. } = *self;
        let mut folder = model::open(base)?;
        folder.config = T::Model::config(base, folder.config)?;
        if let Some(args) = method.reference_args() {
            reference::check(args, &folder)?;
        }
        let tuning = Tuning::of(train);
        let trained = tuning.check(&folder.config)?;
        let (rows, reports) = rows::read(train, method, &folder)?;
        if let Some(args) = method.reference_args() {
            reference::check_rows(args, &rows)?;
        }
        method.check_rows(&rows)?;
        Ok(Read { folder, tuning, trained, rows, reports })
    }

    /// Computes what a run is only continued with the same of.
    fn inputs(&self, rows: &Rows, tuning: &Tuning<'_>) -> Result<String> {
        let mut folders = tuning.folders(self.base);
        let reference = self.method.reference(self.base).filter(|reference| !folders.contains(reference));
        folders.extend(reference);
        inputs::fingerprint(rows, &folders, self.method.columns())
    }

    /// Opens the run folder where that was not done before.
    fn begin(&self, opened: Option<Run>) -> Result<Run> {
        if let Some(opened) = opened {
            return Ok(opened);
        }
        match open(self.train, self.output, &self.text)? {
            Some((run, None)) => Ok((run, None)),
            _ => Err(begun_elsewhere(self.output)),
        }
    }

    fn train(&self, opened: Option<Run>, read: Read<'_>) -> Result<()> {
        let Self { train, method, device, base, output, .. } = *self;
        let Read { folder, tuning, mut rows, reports, .. } = read;
        // Weights of no use are refused before anything is written.
        rows.source(train.batch.batch_size, train.seed, 1)?;
        let inputs = self.inputs(&rows, &tuning)?;
        let checkpoint = match &opened {
            Some((_, Some(checkpoint))) => Some(checkpoint.model_dir()),
            _ => None,
        };
        let options = model::trained(train, device);
        let policy: T::Model = tuning.load(base, checkpoint.as_deref(), &options, train.seed)?;
        let policy = method.fit(policy, &folder, &rows)?;
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
        let (run, start) = self.begin(opened)?;
        let named = computer::device_name(device);
        let environment =
            Environment::collect(env!("CARGO_PKG_VERSION"), doctor::libtorch(), named, config.threads);
        run.write_environment(&environment).map_err(failure::of)?;
        let context = folder.config.context_length();
        let samples = Samples::new(train.watch.samples, &rows, context, output, config.threads)?;
        if start.is_none() {
            policy.write_samples(&samples, &folder.tokenizer, 0)?;
        }

        let total_steps = config.total_steps(rows.train.len());
        let (mut source, shares) = method.source(&setup, &rows, total_steps, output)?;
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
        let job = TrainJob {
            folder: &run,
            start,
            model: policy.seen()?,
            objective,
            source: source.as_mut(),
            eval: rows.eval.clone().into_vec()?,
            inputs,
            keep_best: train.watch.keep_best.clone(),
            total_steps,
            config: &config,
            optimizer: &train.optimizer_config(),
            unit: method.unit(),
            summary,
        };
        let before_finish = |step: u64| -> Result<Map<String, Value>, BoxError> {
            policy.write_samples(&samples, &folder.tokenizer, step)?;
            Ok(method.findings(&setup, &rows, output)?)
        };
        let mut hooks = Hooks::new(&save);
        hooks.save_final = Some(&save_final);
        hooks.before_finish = Some(&before_finish);
        hooks.stop = Arc::clone(&self.stop);
        hooks.checks = method.health();
        hooks.progress = if train.machine.no_progress { Box::new(Silent) } else { Box::new(Terminal::new()) };
        match align_train::train(job, hooks).map_err(failure::of)? {
            Outcome::Interrupted { step, checkpoint } => Err(interrupted(step, checkpoint.as_deref())),
            Outcome::Finished(summary) => finished(train, output, &summary),
        }
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
