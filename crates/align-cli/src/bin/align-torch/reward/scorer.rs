//! The rewards of rows, from the weights as they are now.

use std::sync::{Arc, atomic::AtomicBool};

use align_cli::Result;
use align_core::{ScoreModel, align_types::PromptGroup, tch::Device};
use align_lm::SequenceClassifier;

use crate::{failure, interrupt, logprobs::resumable, passes, reward_model::scores};

/// Replicas of a reward model that is trained, one per thread.
pub struct Scorer {
    replicas: Vec<SequenceClassifier>,
    micro_batch_tokens: usize,
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
}

impl Scorer {
    /// Makes replicas over the weights of a model: they score with what the weights are at that time.
    ///
    /// # Errors
    /// libtorch refuses; the system refuses to say when Ctrl-C is pressed.
    pub fn over(model: &SequenceClassifier, threads: usize, micro_batch_tokens: usize) -> Result<Self> {
        let count = if model.device() == Device::Cpu { threads.max(1) } else { 1 };
        let replicas = (0..count).map(|_| model.replica().map_err(failure::of)).collect::<Result<_>>()?;
        Ok(Self { replicas, micro_batch_tokens, stop: interrupt::flag()? })
    }

    /// Computes the rewards of every answer, row by row.
    ///
    /// # Errors
    /// A reward that is not finite, by its row; a model that fails; [`align_cli::Error::Interrupted`] once Ctrl-C is
    /// pressed.
    pub fn rewards(&mut self, rows: &[PromptGroup]) -> Result<Vec<Vec<f64>>> {
        let mut rewards = Vec::with_capacity(rows.len());
        let work = |model: &mut SequenceClassifier, rows: &[PromptGroup]| {
            scores(model, rows, "the model that is trained")
        };
        passes::over_rows(
            &mut self.replicas,
            rows,
            self.micro_batch_tokens,
            0,
            || resumable(&self.stop),
            work,
            |_, scores| {
                rewards.extend(scores);
                Ok(())
            },
        )?;
        Ok(rewards)
    }
}
