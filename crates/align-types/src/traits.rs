use crate::{Error, PromptGroup, Result, TokenId, config::SamplingConfig};

/// Samples completions of prompts.
///
/// Implementations take the random numbers of sample `k` of prompt `i` from the stream (seed, sampling, step,
/// prompt and sample), so that a sample does not depend on which other prompts share its batch.
pub trait Generator {
    /// Draws `config.num_completions` completions for each prompt, in the order of the prompts.
    ///
    /// `step` separates the calls of one run from each other; a resumed run passes the same number again.
    /// The returned completions carry `logprobs` (under the sampling policy at `config.temperature`, before
    /// filtering) and `finish_reason`.
    ///
    /// # Errors
    /// An empty prompt, a prompt that leaves no room in the context, or a failure of the model.
    fn generate(
        &mut self,
        prompts: &[Vec<TokenId>],
        config: &SamplingConfig,
        step: u64,
    ) -> Result<Vec<PromptGroup>>;

    /// Takes the weights of the model as they are now, after an update; nothing (the default) for a generator that
    /// reads them where they are.
    ///
    /// # Errors
    /// A failure of the model.
    fn refresh(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Hands out the prompts or rows of a training run in an order that can be continued exactly.
pub trait PromptSource: Send {
    /// Returns the rows of optimiser step or iteration `step` (from 0).
    ///
    /// It is a pure function of the step and of what the source was told about earlier steps, so that a
    /// resumed run sees the rows of the uninterrupted one. A source that takes long may give up with any error once
    /// the run is to end: the step counts as not begun.
    ///
    /// # Errors
    /// A row that cannot be read.
    fn batch(&mut self, step: u64) -> Result<Vec<PromptGroup>>;

    /// As [`Self::batch`], for a step that has taken rows already and needs more: a source that chooses its rows gives
    /// others as long as it has some. One that hands them out in turn (the default) goes on.
    ///
    /// # Errors
    /// As [`Self::batch`].
    fn batch_beside(&mut self, step: u64, taken: &[PromptGroup]) -> Result<Vec<PromptGroup>> {
        let _ = taken;
        self.batch(step)
    }

    /// Counts the steps that the source can serve; `None` when it has no end.
    fn steps(&self) -> Option<u64>;

    /// Returns what the source has to say of the rows that it handed out last, as metrics of their step; nothing (the
    /// default) where it chooses none.
    fn metrics(&self) -> Vec<(String, f64)> {
        Vec::new()
    }

    /// Hears what became of sampled prompts, their completions with rewards; a source that chooses prompts by it is
    /// told after each batch, in order. Others (the default) do not listen.
    fn learn(&mut self, sampled: &[PromptGroup]) {
        let _ = sampled;
    }

    /// Returns what [`Self::learn`] left behind, for a checkpoint; empty (the default) for a source without memory.
    fn state(&self) -> Vec<f64> {
        Vec::new()
    }

    /// Takes a state that [`Self::state`] returned.
    ///
    /// # Errors
    /// [`Error::Seam`] for one that is not this source's.
    fn restore(&mut self, state: &[f64]) -> Result<()> {
        if state.is_empty() {
            return Ok(());
        }
        let why = format!("its state has {} numbers, and this source keeps none", state.len());
        Err(Error::Seam { what: "the source of prompts".into(), why, source: None })
    }
}

/// Receives the metrics of a run.
pub trait MetricSink: Send {
    /// Takes the metrics of one step (from 1), in the order in which they are to be shown.
    ///
    /// # Errors
    /// The sink cannot be written.
    fn record(&mut self, step: u64, metrics: &[(String, f64)]) -> Result<()>;
}
