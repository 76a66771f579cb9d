use crate::{Columns, PromptGroup, Result, Source, TokenId, config::SamplingConfig};

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
}

/// One completion to be scored, as text without special tokens.
#[derive(Debug, Clone, Copy)]
pub struct RewardItem<'a> {
    /// The prompt; of a conversation what its template makes of it, without special tokens.
    pub prompt: &'a str,
    /// The messages of the prompt, where it is a conversation: for rewards with a template of their own.
    pub messages: Option<&'a [serde_json::Value]>,
    /// The completion.
    pub completion: &'a str,
    /// The other columns of the prompt's row.
    pub columns: &'a Columns,
    /// Where the prompt's row came from, for messages.
    pub source: Option<&'a Source>,
}

impl RewardItem<'_> {
    /// Names the item in messages: `file:row`, or its position where there is no source.
    pub fn describe(&self, index: usize) -> String {
        self.source.map_or_else(|| format!("completion {index}"), ToString::to_string)
    }
}

/// Scores completions.
pub trait Reward: Send {
    /// Names the reward in messages and metrics.
    fn name(&self) -> &str;

    /// Scores a batch: one finite number for each item in order, or `None` where the reward abstains.
    ///
    /// # Errors
    /// Anything that is neither a score nor an abstention; the message names the item.
    fn score(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>>;
}

/// Hands out the prompts or rows of a training run in an order that can be continued exactly.
pub trait PromptSource: Send {
    /// Returns the rows of optimiser step or iteration `step` (from 0).
    ///
    /// It is a pure function of the step and of what the source was told about earlier steps, so that a
    /// resumed run sees the rows of the uninterrupted one.
    ///
    /// # Errors
    /// A row that cannot be read.
    fn batch(&mut self, step: u64) -> Result<Vec<PromptGroup>>;

    /// Counts the steps that the source can serve; `None` when it has no end.
    fn steps(&self) -> Option<u64>;

    /// Returns what the source has to say of the rows that it handed out last, as metrics of their step; nothing (the
    /// default) where it chooses none.
    fn metrics(&self) -> Vec<(String, f64)> {
        Vec::new()
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
