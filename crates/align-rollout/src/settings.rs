use std::fmt;

use align_core::align_types::{TokenId, config::SamplingConfig};

use crate::{BoxError, stop::StopRules};

/// A decoder that threads may share.
type SharedDecode<'a> = dyn Fn(&[TokenId]) -> Result<String, BoxError> + Send + Sync + 'a;

/// What every backend is told in the same words; see [`generator_methods`].
pub(crate) struct Settings<'a> {
    pub(crate) stop_tokens: Vec<TokenId>,
    pub(crate) decode: Option<Box<SharedDecode<'a>>>,
    pub(crate) slots: usize,
    pub(crate) threads: usize,
    pub(crate) cache_bytes: usize,
}

impl fmt::Debug for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("stop_tokens", &self.stop_tokens)
            .field("decodes", &self.decode.is_some())
            .field("slots", &self.slots)
            .field("threads", &self.threads)
            .field("cache_bytes", &self.cache_bytes)
            .finish()
    }
}

impl Settings<'_> {
    pub(crate) fn new(stop_tokens: Vec<TokenId>, threads: usize) -> Self {
        Self { stop_tokens, decode: None, slots: 32, threads, cache_bytes: 1 << 30 }
    }

    pub(crate) fn stop_rules<'c>(&'c self, config: &'c SamplingConfig) -> StopRules<'c> {
        StopRules {
            tokens: &self.stop_tokens,
            strings: &config.stop,
            decode: self.decode.as_deref().map(|decode| decode as _),
        }
    }

    /// Counts the slots of one of `threads`: as many as memory allows, and no more than its share of the samples.
    pub(crate) fn slots_of(&self, sequence_bytes: usize, samples: usize, threads: usize) -> usize {
        let affordable =
            (self.cache_bytes / threads.max(1)).checked_div(sequence_bytes).unwrap_or(usize::MAX);
        self.slots.min(affordable).min(samples.div_ceil(threads.max(1))).max(1)
    }
}

/// Writes the settings and the calls that all generators have, for one that is a [`Backend`](crate::work::Backend).
macro_rules! generator_methods {
    ($generator:ident) => {
        impl<'a> $generator<'a> {
            /// Gives completions their text and makes stop strings possible.
            ///
            /// The function turns tokens into text without special tokens. Stop strings are looked for in its text, so
            /// a special token cannot be a stop string: stop at its id.
            #[must_use]
            pub fn with_decoder(
                mut self,
                decode: impl Fn(&[TokenId]) -> Result<String, crate::BoxError> + Send + Sync + 'a,
            ) -> Self {
                self.settings_mut().decode = Some(Box::new(decode));
                self
            }

            /// Bounds the sequences that one thread decodes together (32; at least 1 is used). It changes speed and
            /// memory, not samples.
            #[must_use]
            pub fn with_slots(mut self, slots: usize) -> Self {
                self.settings_mut().slots = slots;
                self
            }

            /// Sets the number of threads (at least 1 is used). It changes speed and memory, not samples.
            ///
            /// The engine has one thread per core unless told otherwise. The tensor backend has one: more where the
            /// model can be [replicated](align_core::CachedLm::replicate_cached).
            #[must_use]
            pub fn with_threads(mut self, threads: usize) -> Self {
                self.settings_mut().threads = threads;
                self
            }

            /// Bounds the bytes of the key-value caches of all threads (1 GiB): long contexts get fewer slots, one per
            /// thread at least.
            #[must_use]
            pub fn with_cache_bytes(mut self, bytes: usize) -> Self {
                self.settings_mut().cache_bytes = bytes;
                self
            }

            /// Draws as [`Generator::generate`] does, for prompts that are number `first`, `first + 1`, … of a longer
            /// list: the samples are those that one call with the whole list gives. Prompts and samples of a step
            /// count up to 2^32 each.
            ///
            /// # Errors
            /// [`Error::Prompt`](crate::Error::Prompt) for a prompt that is empty, leaves no room in the context or has
            /// tokens outside the vocabulary (before anything is computed), [`Error::Config`](crate::Error::Config),
            /// [`Error::NoDecoder`](crate::Error::NoDecoder), [`Error::Thread`](crate::Error::Thread), or a failure of
            /// the model or the decoder.
            pub fn generate_from(
                &mut self,
                first: u64,
                prompts: &[Vec<TokenId>],
                config: &SamplingConfig,
                step: u64,
            ) -> Result<Vec<PromptGroup>> {
                let mut groups = Vec::with_capacity(prompts.len());
                self.generate_each(first, prompts, config, step, |group| {
                    groups.push(group);
                    std::ops::ControlFlow::Continue(())
                })?;
                Ok(groups)
            }

            /// Draws as [`Self::generate_from`] does and hands out each group as soon as it and all before it are
            /// complete, in the order of the prompts. `Break` ends the sampling early.
            ///
            /// # Errors
            /// As [`Self::generate_from`].
            pub fn generate_each(
                &mut self,
                first: u64,
                prompts: &[Vec<TokenId>],
                config: &SamplingConfig,
                step: u64,
                mut sink: impl FnMut(PromptGroup) -> std::ops::ControlFlow<()>,
            ) -> Result<()> {
                crate::work::run(self, crate::sequence::Numbering { first, step }, prompts, config, &mut sink)
            }
        }

        impl Generator for $generator<'_> {
            fn generate(
                &mut self,
                prompts: &[Vec<TokenId>],
                config: &SamplingConfig,
                step: u64,
            ) -> align_core::align_types::Result<Vec<PromptGroup>> {
                Ok(self.generate_from(0, prompts, config, step)?)
            }

            fn refresh(&mut self) -> align_core::align_types::Result<()> {
                Ok(crate::work::Backend::refresh(self)?)
            }
        }
    };
}

pub(crate) use generator_methods;
