//! The iterations of a run, with what they sampled counted for `summary.json`.

use std::cell::Cell;
use std::path::Path;

use align_core::{BoxError, Concluded, Evaluation, StepAt, StepError, Stepped, Steps};
use align_ppo::Ppo;

/// Iterations that say at their end how many answers were sampled.
pub struct Counted<'a> {
    /// The iterations.
    pub iterations: Ppo<'a>,
    /// Answers sampled for training, over all processes of the run.
    pub sampled: &'a Cell<u64>,
}

impl Steps for Counted<'_> {
    fn step(&mut self, at: &StepAt<'_>) -> Result<Stepped, StepError> {
        match self.iterations.step(at) {
            // Ctrl-C reaches a program that scores too, which then fails.
            Err(StepError { intact: true, .. }) if at.stopped() => Ok(Stepped::Stopped),
            done => done,
        }
    }

    fn save(&self, folder: &Path) -> Result<(), BoxError> {
        self.iterations.save(folder)
    }

    fn load(&mut self, folder: &Path) -> Result<(), BoxError> {
        self.iterations.load(folder)
    }

    fn evaluation_metrics(&mut self) -> Result<Option<Vec<String>>, BoxError> {
        self.iterations.evaluation_metrics()
    }

    fn evaluate(&mut self, at: &StepAt<'_>) -> Result<Option<Evaluation>, BoxError> {
        self.iterations.evaluate(at)
    }

    fn conclude(&mut self, at: &StepAt<'_>, folder: &Path) -> Result<Concluded, BoxError> {
        self.sampled.set(self.iterations.sampled());
        self.iterations.conclude(at, folder)
    }

    fn phases(&self) -> Vec<(&'static str, f64)> {
        self.iterations.phases()
    }
}
