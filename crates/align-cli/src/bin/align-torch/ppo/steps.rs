//! The iterations of a run, with what they sampled counted for `summary.json`.

use std::cell::Cell;
use std::path::Path;

use align_core::{BoxError, Concluded, Evaluation, StepAt, StepError, Stepped, Steps};
use align_ppo::Ppo;

/// What is known of a run once its iterations are done.
#[derive(Debug, Default)]
pub struct Totals {
    sampled: Cell<u64>,
    scale: Cell<Option<(f64, f64)>>,
}

impl Totals {
    /// Counts the answers sampled for training, over all processes of the run.
    pub fn sampled(&self) -> u64 {
        self.sampled.get()
    }

    /// Returns mean and deviation of the units that the critic was trained in.
    pub fn scale(&self) -> (f64, f64) {
        self.scale.get().unwrap_or((0.0, 1.0))
    }
}

/// Iterations that say at their end what became of them.
pub struct Counted<'a> {
    /// The iterations.
    pub iterations: Ppo<'a>,
    /// Filled at the end.
    pub totals: &'a Totals,
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
        self.totals.sampled.set(self.iterations.sampled());
        self.totals.scale.set(self.iterations.value_scale().map(|scale| (scale.mean(), scale.std())));
        self.iterations.conclude(at, folder)
    }

    fn phases(&self) -> Vec<(&'static str, f64)> {
        self.iterations.phases()
    }
}
