//! The rewards of rows, from the weights as they are now.

use align_cli::Result;
use align_core::{
    PackedBatch, ScoreModel,
    align_types::PromptGroup,
    no_grad,
    tch::{Device, Kind},
};
use align_lm::SequenceClassifier;

use crate::{computer, failure, logprobs::batches};

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
    /// A model that fails.
    pub fn rewards(&mut self, rows: &[PromptGroup]) -> Result<Vec<Vec<f64>>> {
        let mut rewards = Vec::with_capacity(rows.len());
        let cut = if rows.is_empty() { Vec::new() } else { batches(rows, self.micro_batch_tokens) };
        for round in cut.chunks(self.replicas.len()) {
            let jobs = round.iter().map(|batch| rows.get(batch.clone()).unwrap_or_default());
            let results = computer::in_parallel(&mut self.replicas, jobs, rewards_of)?;
            rewards.extend(results.into_iter().flatten());
        }
        Ok(rewards)
    }
}

fn rewards_of(model: &mut SequenceClassifier, rows: &[PromptGroup]) -> Result<Vec<Vec<f64>>> {
    let _guard = no_grad();
    let batch = PackedBatch::new(rows).map_err(failure::of)?;
    let scores = model.scores(&batch).map_err(failure::of)?;
    let wide = scores.f_to_kind(Kind::Double).and_then(|scores| scores.f_contiguous());
    let list = wide.and_then(Vec::<f64>::try_from).map_err(align_core::Error::from).map_err(failure::of)?;
    let mut list = list.into_iter();
    Ok(rows.iter().map(|row| list.by_ref().take(row.completions.len()).collect()).collect())
}
