use align_core::{
    CachedLm,
    align_types::{Generator, PromptGroup, TokenId, config::SamplingConfig},
};

use crate::{
    BoxError, Error, Result, call::Call, door, sequence::Numbering, slots, stop::Decode, stop::StopRules,
};

/// Samples from a model whose forward is made of tensors, on any device.
///
/// Each prompt is computed once, however many samples are drawn from it. Up to [`Self::with_slots`] sequences
/// are decoded together; a finished one leaves at once and the next one takes its slot. The model is borrowed,
/// so that a trainer makes a generator for each rollout and samples from the weights as they are.
///
/// What is promised:
///
/// * Sample `k` of prompt `i` draws from a random stream of its own, one number per token. It does not depend
///   on slots, on other prompts or on the number of samples, except for the rounding of the model itself.
/// * `logprobs` are log softmax(logits / temperature) of the sampled token, before top-k and top-p: what
///   [`CausalLm::token_log_probs`](align_core::CausalLm::token_log_probs) gives at that temperature. Greedy
///   completions have them too, at the configured temperature.
/// * `token_ids` are all tokens that were drawn, stop token included. `text` (with a decoder) has neither the
///   stop token nor anything from the first stop string on; the tokens are not cut, because training needs
///   them as they were drawn.
/// * `finish_reason` is `stop` after a stop token or stop string, also where it is the last token allowed, and
///   `length` otherwise. A completion never outgrows the context: one that reaches its end has reason `length`
///   and may have less than `max_new_tokens` tokens.
///
/// Computation runs on the calling thread, which should have called
/// [`prepare_compute_thread`](align_core::threads::prepare_compute_thread).
pub struct TensorGenerator<'a> {
    model: &'a dyn CachedLm,
    stop_tokens: Vec<TokenId>,
    decode: Option<Box<Decode<'a>>>,
    max_slots: usize,
    cache_bytes: usize,
}

impl std::fmt::Debug for TensorGenerator<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorGenerator")
            .field("stop_tokens", &self.stop_tokens)
            .field("decodes", &self.decode.is_some())
            .field("max_slots", &self.max_slots)
            .field("cache_bytes", &self.cache_bytes)
            .finish_non_exhaustive()
    }
}

impl<'a> TensorGenerator<'a> {
    /// Makes a generator that stops at any of the given tokens; without one, completions end by length or by
    /// a stop string.
    pub fn new(model: &'a dyn CachedLm, stop_tokens: Vec<TokenId>) -> Self {
        Self { model, stop_tokens, decode: None, max_slots: 32, cache_bytes: 1 << 30 }
    }

    /// Gives completions their text and makes stop strings possible.
    ///
    /// The function turns tokens into text without special tokens. Stop strings are looked for in its text, so
    /// a special token cannot be a stop string: stop at its id.
    #[must_use]
    pub fn with_decoder(mut self, decode: impl Fn(&[TokenId]) -> Result<String, BoxError> + 'a) -> Self {
        self.decode = Some(Box::new(decode));
        self
    }

    /// Bounds the sequences that are decoded together (32; at least 1 is used). It changes speed and memory,
    /// not samples.
    #[must_use]
    pub fn with_slots(mut self, slots: usize) -> Self {
        self.max_slots = slots;
        self
    }

    /// Bounds the bytes of the key-value cache (1 GiB): long contexts get fewer slots, one at least.
    #[must_use]
    pub fn with_cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Draws as [`Generator::generate`] does, for prompts that are number `first`, `first + 1`, … of a longer
    /// list: the samples are those that one call with the whole list gives. Prompts and samples of a step count
    /// up to 2^32 each.
    ///
    /// # Errors
    /// [`Error::Prompt`] for a prompt that is empty, leaves no room in the context or has tokens outside the
    /// vocabulary (before anything is computed), [`Error::Config`], [`Error::NoDecoder`], or a failure of the
    /// model or the decoder.
    pub fn generate_from(
        &mut self,
        first: u64,
        prompts: &[Vec<TokenId>],
        config: &SamplingConfig,
        step: u64,
    ) -> Result<Vec<PromptGroup>> {
        let (vocabulary, context) = (self.model.vocab_size(), self.model.context_length());
        let limits = door::limits(vocabulary, context, self.decode.is_some(), prompts, config)?;
        let Some(capacity) = door::capacity(prompts, &limits) else { return Ok(Vec::new()) };
        let stop = StopRules {
            tokens: &self.stop_tokens,
            strings: &config.stop,
            decode: self.decode.as_deref().map(|decode| decode as &Decode<'_>),
        };
        let samples = prompts.len().saturating_mul(config.num_completions);
        let slots = self.slots(capacity)?.min(samples);
        Call::new(self.model, config, stop, prompts, &limits).run(Numbering { first, step }, slots, capacity)
    }

    /// Counts the slots that the memory for the cache allows.
    fn slots(&self, capacity: usize) -> Result<usize> {
        let probe = self.model.new_cache(1, 1).map_err(Error::model("making a cache"))?;
        let slot = slots::bytes_per_token(&probe).saturating_mul(capacity);
        let affordable = self.cache_bytes.checked_div(slot).unwrap_or(usize::MAX);
        Ok(self.max_slots.min(affordable).max(1))
    }
}

impl Generator for TensorGenerator<'_> {
    fn generate(
        &mut self,
        prompts: &[Vec<TokenId>],
        config: &SamplingConfig,
        step: u64,
    ) -> align_core::align_types::Result<Vec<PromptGroup>> {
        Ok(self.generate_from(0, prompts, config, step)?)
    }
}
