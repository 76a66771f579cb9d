//! The rewards of rows, from the weights as they are now.

use align_cli::Result;
use align_core::{ScoreModel, align_types::PromptGroup, tch::Device};
use align_lm::SequenceClassifier;

use crate::{failure, passes, reward_model::scores};

/// Replicas of a reward model that is trained, one per thread.
pub struct Scorer {
    replicas: Vec<SequenceClassifier>,
    micro_batch_tokens: usize,
}

impl Scorer {
    /// Makes replicas over the weights of a model: they score with what the weights are at that time.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn over(model: &SequenceClassifier, threads: usize, micro_batch_tokens: usize) -> Result<Self> {
        let count = if model.device() == Device::Cpu { threads.max(1) } else { 1 };
        let replicas = (0..count).map(|_| model.replica().map_err(failure::of)).collect::<Result<_>>()?;
        Ok(Self { replicas, micro_batch_tokens })
    }

    /// Computes the rewards of every answer, row by row.
    ///
    /// # Errors
    /// A reward that is not finite, by its row; a model that fails.
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
            || Ok(()),
            work,
            |_, scores| {
                rewards.extend(scores);
                Ok(())
            },
        )?;
        Ok(rewards)
    }
}
