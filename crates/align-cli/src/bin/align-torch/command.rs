//! What every training command does around its training: the place of the run, its environment, its end.

use std::path::Path;
use std::sync::{Arc, atomic::AtomicBool};

use align_cli::{Error, Result, args::TrainArgs, talk};
use align_core::tch::Device;
use align_train::{
    Checkpoint, Environment, Hooks, OpenMode, Opened, Outcome, RunFolder, Silent, Start, Terminal,
};
use serde_json::{Map, Value};

use crate::{computer, doctor, failure, inputs, interrupt, notices, train::Method};

/// One training command on its way.
pub struct Command<'a> {
    /// The flags of every training command.
    pub train: &'a TrainArgs,
    /// What is trained how.
    pub method: &'a dyn Method,
    /// Where tensors live.
    pub device: Device,
    /// The folder of `--model`.
    pub base: &'a Path,
    /// The run folder.
    pub output: &'a Path,
    /// The content of `config.toml`.
    text: String,
    stop: Arc<AtomicBool>,
}

/// A run folder, and the checkpoint to go on from.
pub type Run = (RunFolder, Option<Checkpoint>);

impl<'a> Command<'a> {
    /// Listens for Ctrl-C and finds the device.
    ///
    /// # Errors
    /// As [`computer::set_up`].
    pub fn new(train: &'a TrainArgs, settings: &toml::Table, method: &'a dyn Method) -> Result<Self> {
        let stop = interrupt::flag()?;
        let device = computer::set_up(&train.machine)?;
        let base = train.model.as_deref().unwrap_or_else(|| Path::new(""));
        let output = train.output_dir.as_deref().unwrap_or_else(|| Path::new(""));
        Ok(Self { train, method, device, base, output, text: config_text(method, settings), stop })
    }

    /// Looks at the place of the run. The outer `None` is a run that is finished already, the inner one a run that is
    /// begun later.
    ///
    /// A run that is there is looked at first: it may be finished, or have been started otherwise. One that is to be
    /// overwritten goes last, when nothing else can be refused.
    ///
    /// # Errors
    /// A place that a run cannot be in.
    pub fn look(&self) -> Result<Option<Option<Run>>> {
        let Self { train, output, .. } = *self;
        check_place(output)?;
        if train.overwrite {
            inputs::outlive(output, train, &self.method.reads(self.base))?;
        }
        notices::give(&train.optimizer_config(), self.device);
        if train.dry_run || train.overwrite || is_empty(output) {
            return Ok(Some(None));
        }
        Ok(open(train, output, &self.text)?.map(Some))
    }

    /// Opens the run folder where that was not done before.
    ///
    /// # Errors
    /// Another process began a run in it meanwhile.
    pub fn begin(&self, opened: Option<Run>) -> Result<Run> {
        if let Some(opened) = opened {
            return Ok(opened);
        }
        match open(self.train, self.output, &self.text)? {
            Some((run, None)) => Ok((run, None)),
            _ => Err(begun_elsewhere(self.output)),
        }
    }

    /// Writes `environment.json`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_environment(&self, run: &RunFolder) -> Result<()> {
        let (named, threads) = (computer::device_name(self.device), self.train.machine.threads());
        let environment = Environment::collect(env!("CARGO_PKG_VERSION"), doctor::libtorch(), named, threads);
        run.write_environment(&environment).map_err(failure::of)
    }

    /// Adds to hooks what every command has: Ctrl-C, checks, progress.
    pub fn equip<'h>(&self, mut hooks: Hooks<'h>) -> Hooks<'h> {
        hooks.stop = Arc::clone(&self.stop);
        hooks.checks = self.method.health();
        hooks.progress =
            if self.train.machine.no_progress { Box::new(Silent) } else { Box::new(Terminal::new()) };
        hooks
    }

    /// Tells how the run ended.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn end(&self, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Interrupted { step, checkpoint } => Err(interrupted(step, checkpoint.as_deref())),
            Outcome::Finished(summary) => finished(self.train, self.output, &summary),
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
    let shown = [
        "loss",
        "eval/loss",
        "rewards/accuracies",
        "eval/rewards/accuracies",
        "eval/rewards/margins",
        "objective/scores",
        "objective/kl",
        "eval/objective/scores",
    ];
    let parts: Vec<_> = shown.iter().filter_map(|key| Some(format!("{key} {:.4}", number(key)?))).collect();
    let place = output.join("model").display().to_string();
    let saved = match summary.get("model_dtype").and_then(Value::as_str) {
        Some(dtype) => format!("the model is in {place} ({dtype}, as --model)"),
        None => format!("the adapter is in {place}"),
    };
    talk::say(&format!("done: {}; {saved}", parts.join(", ")));
    Ok(())
}
