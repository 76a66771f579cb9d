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

/// What held-out rows gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// Loss and metrics.
    pub report: BatchReport,
    /// What a person should hear of them: rows without a number, say.
    pub warning: Option<String>,
}

/// How the end of a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concluded {
    /// Everything is written, or there was nothing to write.
    Done,
    /// Something that the run does not depend on could not be written; this says what.
    Without(String),
    /// The stop flag was set meanwhile.
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

    /// Names the metrics that [`Self::evaluate`] gives beside the loss; `None` (the default) where there are no held-out
    /// rows.
    ///
    /// # Errors
    /// Held-out rows that cannot be used.
    fn evaluation_metrics(&mut self) -> Result<Option<Vec<String>>, BoxError> {
        Ok(None)
    }

    /// Evaluates held-out rows with the weights of now; `None` (the default) where there are none.
    ///
    /// # Errors
    /// Held-out rows that cannot be used.
    fn evaluate(&mut self, at: &StepAt<'_>) -> Result<Option<Evaluation>, BoxError> {
        let _ = at;
        Ok(None)
    }

    /// Writes into the run folder what belongs to the end of a run; by default nothing. A run that is killed meanwhile
    /// is asked again when it is resumed.
    ///
    /// # Errors
    /// Files that cannot be written.
    fn conclude(&mut self, at: &StepAt<'_>, folder: &Path) -> Result<Concluded, BoxError> {
        let _ = (at, folder);
        Ok(Concluded::Done)
    }

    /// Returns the wall time of each phase in seconds since the process began, for `summary.json`.
    fn phases(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }
}
