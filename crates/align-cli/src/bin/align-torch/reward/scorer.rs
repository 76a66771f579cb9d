//! The rewards of rows, from the weights as they are now.

use std::sync::{Arc, atomic::AtomicBool};

use align_cli::Result;
use align_core::{ScoreModel, align_types::PromptGroup};
use align_lm::SequenceClassifier;
use align_rm::RowScorer;

use crate::{
    failure::{self, Own},
    interrupt,
    logprobs::resumable,
};

/// Replicas of a reward model that is trained, one per thread.
pub struct Scorer {
    rows: RowScorer,
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
}

impl Scorer {
    /// Makes replicas over the weights of a model: they score with what the weights are at that time.
    ///
    /// # Errors
    /// libtorch refuses; the system refuses to say when Ctrl-C is pressed.
    pub fn over(model: &SequenceClassifier, threads: usize, micro_batch_tokens: usize) -> Result<Self> {
        let replica = model.replicate().map_err(failure::of)?;
        let rows = RowScorer::new("the model that is trained", replica)
            .with_batch_tokens(micro_batch_tokens)
            .with_threads(threads)
            .map_err(failure::of)?;
        Ok(Self { rows, stop: interrupt::flag()? })
    }

    /// Computes the rewards of every answer, row by row.
    ///
    /// # Errors
    /// A reward that is not finite, by its row; a model that fails; [`align_cli::Error::Interrupted`] once Ctrl-C is
    /// pressed.
    pub fn rewards(&mut self, rows: &[PromptGroup]) -> Result<Vec<Vec<f64>>> {
        self.rows.all(rows, || resumable(&self.stop).map_err(Own)).map_err(|Own(error)| error)
    }
}
