//! The loss on rows of earlier data, which shows what the policy forgets.

use align_cli::Result;
use align_core::{BoxError, align_types::PromptGroup};
use align_lm::Model;

use crate::{
    failure, interrupt,
    logprobs::{self, resumable},
    model,
    progress::Progress,
};

/// Held-out rows of earlier data, and the policy to measure them with.
pub struct Earlier {
    /// Over the weights of the policy as they are at any time.
    replicas: Vec<Model>,
    rows: Vec<PromptGroup>,
    micro_batch_tokens: usize,
}

impl Earlier {
    /// Takes the rows.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn new(
        policy: &Model,
        rows: Vec<PromptGroup>,
        threads: usize,
        micro_batch_tokens: usize,
    ) -> Result<Self> {
        let replicas = model::replicas(policy.replica().map_err(failure::of)?, threads)?;
        Ok(Self { replicas, rows, micro_batch_tokens })
    }

    /// Computes the mean loss of a token.
    ///
    /// # Errors
    /// The model fails; [`align_cli::Error::Interrupted`] after Ctrl-C.
    pub fn measure(&mut self) -> Result<f64, BoxError> {
        let stop = interrupt::flag()?;
        let mut silent = Progress::new(self.rows.len(), 0, true);
        let Self { replicas, rows, micro_batch_tokens } = self;
        let sums = logprobs::sums(replicas, rows, *micro_batch_tokens, &mut silent, || resumable(&stop))?;
        let (sum, tokens) = sums.iter().fold((0.0, 0), |(a, n), (sum, tokens)| (a + sum, n + tokens));
        Ok(-sum / tokens as f64)
    }
}
