use std::path::Path;

use crate::{Packs, Parameter, align_types::PromptGroup};

/// Whatever a seam's implementation failed with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What one batch gave, before its update.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchReport {
    /// The loss of the whole batch.
    pub loss: f64,
    /// The global norm of the gradient before clipping; 0 for an evaluation.
    pub grad_norm: f64,
    /// Metrics: Σ sums / Σ counts over the batch, in the order in which they first came.
    pub metrics: Vec<(String, f64)>,
    /// How many items a metric is the mean of, where that is known.
    pub counts: Vec<(String, f64)>,
    /// Prompt groups of the batch.
    pub groups: usize,
    /// Flat tokens of the batch.
    pub tokens: usize,
}

impl BatchReport {
    /// Returns the metric of this name.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

/// A model with its objective and optimiser, as an algorithm that updates several times per batch of samples sees it.
///
/// `align_train::Engine` is one; a method that is written against this trait trains with any other.
pub trait Learn {
    /// Returns the parameters that are trained, in the model's order.
    fn parameters(&self) -> &[Parameter];

    /// Plans how a batch is computed.
    fn pack(&self, groups: Vec<PromptGroup>) -> Packs;

    /// Asks the objective for its numbers of each group ([`Objective::measure`](crate::Objective::measure)), without a
    /// gradient and in the order of the batch.
    ///
    /// # Errors
    /// Rows that the model or the objective cannot take.
    fn measure(&mut self, packs: &Packs) -> Result<Vec<Vec<f64>>, BoxError>;

    /// Computes loss, metrics and gradient, and keeps the gradient for [`Self::apply`]. Weights do not change.
    ///
    /// # Errors
    /// A loss or gradient that is no number names its rows; rows that cannot be used.
    fn compute(&mut self, packs: &Packs) -> Result<BatchReport, BoxError>;

    /// Clips the gradient of the last [`Self::compute`] and updates the weights; without a gradient it does nothing.
    ///
    /// # Errors
    /// A failure of libtorch.
    fn apply(&mut self, learning_rate: f64) -> Result<(), BoxError>;

    /// Ends an iteration in which weights were updated ([`Objective::after_iteration`](crate::Objective::after_iteration)).
    ///
    /// # Errors
    /// A failure of libtorch.
    fn end_iteration(&mut self) -> Result<(), BoxError>;

    /// Writes into an existing folder what goes on from step to step beside the trained weights: moments, counts, and
    /// what the objective keeps. With `weights` those too.
    ///
    /// # Errors
    /// Files that cannot be written.
    fn save(&self, folder: &Path, weights: bool) -> Result<(), BoxError>;

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// Files that are missing, damaged, or of another model or objective.
    fn load(&mut self, folder: &Path, weights: bool) -> Result<(), BoxError>;
}
