use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{BatchReport, BoxError};

/// Where a run is.
#[derive(Debug, Clone, Copy)]
pub struct StepAt<'a> {
    /// The step that is to be done, from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// The schedule's factor of the peak learning rate, in [0, 1].
    pub schedule: f64,
    /// Set from outside (Ctrl-C) when the run is to end.
    pub stop: &'a AtomicBool,
}

impl StepAt<'_> {
    /// Says whether the run is to end.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Stepped {
    /// It is done.
    Done(BatchReport),
    /// The stop flag was set before anything of the state had changed: the step is not done.
    Stopped,
}

/// Why a step failed, and whether the state is still that before it.
#[derive(Debug)]
pub struct StepError {
    /// Whether weights and everything else are those before the step, so that they may be saved.
    pub intact: bool,
    /// What happened.
    pub source: BoxError,
}

impl StepError {
    /// Makes the error of a step that changed nothing.
    pub fn intact(source: impl Into<BoxError>) -> Self {
        Self { intact: true, source: source.into() }
    }

    /// Makes the error of a step that had begun to change the weights.
    pub fn torn(source: impl Into<BoxError>) -> Self {
        Self { intact: false, source: source.into() }
    }
}

/// What a run repeats: an optimiser step of an offline method, an iteration (sample, score, update) of an on-policy one.
///
/// The loop around it (checkpoints, metrics, exact resume) knows nothing else of the method.
pub trait Steps {
    /// Does one step.
    ///
    /// # Errors
    /// Anything that keeps the step from being done.
    fn step(&mut self, at: &StepAt<'_>) -> Result<Stepped, StepError>;

    /// Writes into an existing folder everything that goes on from step to step, but for the weights of the policy.
    ///
    /// # Errors
    /// Files that cannot be written.
    fn save(&self, folder: &Path) -> Result<(), BoxError>;

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// Files that are missing, damaged, or of another run.
    fn load(&mut self, folder: &Path) -> Result<(), BoxError>;

    /// Returns the wall time of each phase in seconds since the process began, for `summary.json`.
    fn phases(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }
}
