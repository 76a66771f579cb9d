//! What the benches against peers have in common: their flags, and whole commands under `fixtures/speed/measure.py`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{peers, ppo, scoring, training};
use crate::{Error, Metadata, Result, Workspace, process};

/// What runs with the peers, and how much of it.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Run our commands and their peers in alternation instead; PYTHON has transformers, and TRL for training
    #[arg(long, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// What is compared with the peers
    #[arg(long, value_name = "CHOICE", default_value = "sampling", requires = "peers")]
    race: Subject,
    /// Times that each command runs
    #[arg(long, value_name = "N", default_value = "3", requires = "peers")]
    pub(super) rounds: usize,
    /// Samples that a command draws, half of them with the largest model; pairs that a command scores, a quarter of them
    /// of the long ones
    #[arg(long, value_name = "N", default_value = "128", requires = "peers")]
    pub(super) peer_samples: usize,
    /// Steps or iterations that a command trains, the first of which is not counted; half of them with long pairs, twice
    /// as many to compare what `align ppo` and its peer learn
    #[arg(long, value_name = "N", default_value = "6", requires = "peers")]
    pub(super) peer_steps: usize,
    /// Threads of each side; one, because a busy machine tells nothing about two
    #[arg(long, value_name = "N", default_value = "1", requires = "peers")]
    peer_threads: usize,
    /// JSON Lines with a "prompt" in each row for sampling, or with preference pairs for training and scoring; without it the text
    /// is made up
    #[arg(long, value_name = "FILE", requires = "peers")]
    pub(super) text: Option<PathBuf>,
    /// JSON Lines of which the longest preference pairs are taken for training on long pairs; if absent, as --text
    #[arg(long, value_name = "FILE", requires = "peers")]
    pub(super) long_text: Option<PathBuf>,
}

/// What is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// `align generate` with `transformers.generate`
    #[default]
    Sampling,
    /// `align dpo` with TRL's DPO trainer
    Training,
    /// `align score` with sequence classification of transformers
    Scoring,
    /// `align ppo` with a plain PPO in PyTorch, in speed and in what is learned
    Ppo,
}

impl Options {
    /// Says whether the peers are asked for.
    pub(super) fn are_given(&self) -> bool {
        self.peers.is_some()
    }
}

/// Builds our programs and runs what is asked for.
///
/// # Errors
/// A program that is missing or fails, or output that is not understood.
pub(super) fn run(
    workspace: &Workspace,
    metadata: &Metadata,
    options: &Options,
    as_json: bool,
) -> Result<()> {
    process::run_talking(workspace.cargo("build").args(["--release", "-p", "align-cli"]))?;
    let race = Race {
        python: options.peers.clone().unwrap_or_default(),
        scripts: workspace.root().join("fixtures/speed"),
        folder: metadata.target_directory.join("bench-peers"),
        align: metadata.release_program("", "align"),
        threads: options.peer_threads,
    };
    match options.race {
        Subject::Sampling => peers::run(&race, options, as_json),
        Subject::Ppo => ppo::run(&race, options, as_json),
        Subject::Scoring => scoring::run(&race, options, as_json),
        Subject::Training => training::run(workspace, &race, options, as_json),
    }
}

/// Where everything is that runs.
pub(super) struct Race {
    pub(super) python: PathBuf,
    pub(super) scripts: PathBuf,
    /// Models, rows and results.
    pub(super) folder: PathBuf,
    align: PathBuf,
    pub(super) threads: usize,
}

impl Race {
    /// One of our commands.
    pub(super) fn ours(&self, command: &str) -> [OsString; 2] {
        [self.align.clone().into(), command.into()]
    }

    /// A program of the peer.
    pub(super) fn peer(&self, script: &str) -> [OsString; 2] {
        [self.python.clone().into(), self.scripts.join(script).into()]
    }

    /// Runs a command and reads what measure.py printed of it; `lines` is the file whose lines it watches.
    pub(super) fn measure<T>(
        &self,
        lines: Option<&Path>,
        program: &[OsString],
        arguments: &[OsString],
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T> {
        let mut command = Command::new(&self.python);
        command.arg(self.scripts.join("measure.py"));
        if let Some(file) = lines {
            command.arg("--lines").arg(file);
        }
        command.args(program).args(arguments);
        command.env("RAYON_NUM_THREADS", self.threads.to_string()).stderr(Stdio::null());
        let shown = process::shown(&command);
        let ran = command.output().map_err(|source| Error::Start { program: shown.clone(), source })?;
        process::check(shown.clone(), ran.status)?;
        let used: Option<Value> = serde_json::from_slice(&ran.stdout).ok();
        used.as_ref()
            .and_then(read)
            .ok_or_else(|| Error::environment(format!("`{shown}` wrote something else than expected"), []))
    }
}
