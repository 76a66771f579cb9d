use std::ops::ControlFlow;

use align_core::align_types::{Generator, PromptGroup, TokenId, config::SamplingConfig};
use align_lm::Model;

use crate::{BoxError, Engine, Error, Result, TensorGenerator};

/// Prompts that the tensor backend samples before their groups are handed out.
const CHUNK: usize = 32;

/// Chooses the engine where it knows the model, and the tensor backend for every other model and for GPUs.
///
/// Completions end at any of the given tokens.
///
/// # Errors
/// A failure of libtorch.
pub fn auto_generator(model: &Model, stop_tokens: Vec<TokenId>) -> Result<AutoGenerator<'_>> {
    match Engine::new(model, stop_tokens.clone()) {
        Ok(engine) => Ok(AutoGenerator::Engine(Box::new(engine))),
        Err(Error::Unsupported) => {
            Ok(AutoGenerator::Tensor(Box::new(TensorGenerator::new(model, stop_tokens))))
        }
        Err(error) => Err(error),
    }
}

/// The backend that [`auto_generator`] chose. Settings and results are the same for both.
#[derive(Debug)]
#[non_exhaustive]
pub enum AutoGenerator<'a> {
    /// Plain Rust on the CPU.
    Engine(Box<Engine<'a>>),
    /// The model's own forward.
    Tensor(Box<TensorGenerator<'a>>),
}

impl<'a> AutoGenerator<'a> {
    /// Gives completions their text and makes stop strings possible; see [`TensorGenerator::with_decoder`].
    #[must_use]
    pub fn with_decoder(
        self,
        decode: impl Fn(&[TokenId]) -> Result<String, BoxError> + Send + Sync + 'a,
    ) -> Self {
        match self {
            Self::Engine(engine) => Self::Engine(Box::new(engine.with_decoder(decode))),
            Self::Tensor(tensor) => Self::Tensor(Box::new(tensor.with_decoder(decode))),
        }
    }

    /// Sets the number of threads; the tensor backend runs on the calling thread.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        match self {
            Self::Engine(engine) => Self::Engine(Box::new(engine.with_threads(threads))),
            tensor @ Self::Tensor(_) => tensor,
        }
    }

    /// Bounds the sequences that are decoded together on a thread.
    #[must_use]
    pub fn with_slots(self, slots: usize) -> Self {
        match self {
            Self::Engine(engine) => Self::Engine(Box::new(engine.with_slots(slots))),
            Self::Tensor(tensor) => Self::Tensor(Box::new(tensor.with_slots(slots))),
        }
    }

    /// Draws as [`Engine::generate_from`] and [`TensorGenerator::generate_from`] do.
    ///
    /// # Errors
    /// As there.
    pub fn generate_from(
        &mut self,
        first: u64,
        prompts: &[Vec<TokenId>],
        config: &SamplingConfig,
        step: u64,
    ) -> Result<Vec<PromptGroup>> {
        match self {
            Self::Engine(engine) => engine.generate_from(first, prompts, config, step),
            Self::Tensor(tensor) => tensor.generate_from(first, prompts, config, step),
        }
    }

    /// Draws and hands out the groups in the order of the prompts, as [`Engine::generate_each`] does; the tensor
    /// backend hands out some prompts at a time.
    ///
    /// # Errors
    /// As [`Self::generate_from`]. With the tensor backend groups may have been handed out before a later prompt is
    /// refused.
    pub fn generate_each(
        &mut self,
        first: u64,
        prompts: &[Vec<TokenId>],
        config: &SamplingConfig,
        step: u64,
        mut sink: impl FnMut(PromptGroup) -> ControlFlow<()>,
    ) -> Result<()> {
        let tensor = match self {
            Self::Engine(engine) => return engine.generate_each(first, prompts, config, step, sink),
            Self::Tensor(tensor) => tensor,
        };
        for (index, chunk) in prompts.chunks(CHUNK).enumerate() {
            let before = index * CHUNK;
            let groups = tensor.generate_from(first + before as u64, chunk, config, step);
            for group in groups.map_err(|error| error.after(before))? {
                if sink(group).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Generator for AutoGenerator<'_> {
    fn generate(
        &mut self,
        prompts: &[Vec<TokenId>],
        config: &SamplingConfig,
        step: u64,
    ) -> align_core::align_types::Result<Vec<PromptGroup>> {
        Ok(self.generate_from(0, prompts, config, step)?)
    }
}
