use align_core::align_types::{
    Completion, FinishReason, Purpose, RngStream, TokenId, config::SamplingConfig,
};

use crate::{
    Error, Result,
    stop::{StopRules, Tail},
};

/// A sample that is being drawn.
pub(crate) struct Sequence {
    pub(crate) prompt: usize,
    pub(crate) sample: usize,
    pub(crate) stream: RngStream,
    pub(crate) tokens: Vec<TokenId>,
    logprobs: Vec<f32>,
    tail: Tail,
}

/// What the number of a sample in a run is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbering {
    /// The number of the first prompt in a longer list.
    pub(crate) first: u64,
    /// The step of the run.
    pub(crate) step: u64,
}

impl Sequence {
    pub(crate) fn new(prompt: usize, sample: usize, numbering: Numbering, config: &SamplingConfig) -> Self {
        // Injective, and without the number of samples in it: more samples leave the first ones as they are.
        let rank = numbering.first.wrapping_add(prompt as u64) << 32 | sample as u64;
        let stream = RngStream::new(config.seed, Purpose::Sampling, numbering.step, rank);
        Self { prompt, sample, stream, tokens: Vec::new(), logprobs: Vec::new(), tail: Tail::default() }
    }

    /// Takes a token that was drawn; returns the completion if it is the last.
    pub(crate) fn push(
        &mut self,
        token: TokenId,
        log_prob: f64,
        stop: &StopRules<'_>,
        limit: usize,
    ) -> Result<Option<Completion>> {
        self.tokens.push(token);
        self.logprobs.push(log_prob as f32);
        let Self { prompt, sample, .. } = *self;
        let undecodable = |source| Error::Decode { prompt, sample, source };
        let reason = if stop.reached(&self.tokens, &mut self.tail).map_err(undecodable)? {
            FinishReason::Stop
        } else if self.tokens.len() >= limit {
            FinishReason::Length
        } else {
            return Ok(None);
        };
        let text = stop.text(&self.tokens).map_err(undecodable)?;
        let mut completion = Completion::new(std::mem::take(&mut self.tokens));
        completion.text = text;
        completion.logprobs = Some(std::mem::take(&mut self.logprobs));
        completion.finish_reason = Some(reason);
        Ok(Some(completion))
    }

    /// Returns the last token, the one that the model has not seen yet.
    pub(crate) fn last(&self) -> &[TokenId] {
        self.tokens.get(self.tokens.len().saturating_sub(1)..).unwrap_or_default()
    }
}
