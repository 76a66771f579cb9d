//! The sampling engine: plain Rust on the CPU.

mod attend;
mod blocks;
mod forward;
mod kernels;
mod lanes;
mod product;
mod row;
#[cfg(test)]
mod tests;
mod weights;
mod worker;

use std::thread;

use align_core::{
    align_types::{Generator, PromptGroup, TokenId, config::SamplingConfig},
    threads::flush_denormals,
};
use align_lm::Model;

use crate::{
    Error, Result,
    settings::{Settings, generator_methods},
    work::{Backend, Call, Emit, Sink},
};
use forward::Decoder;
pub use kernels::Instructions;
use weights::{Rotation, Weights};
use worker::Worker;

/// Samples from a decoder of the Llama shape on the CPU, without tensors.
///
/// It has a copy of the weights, packed for its kernels; after an optimiser step [`Generator::refresh`] takes the new ones.
/// Each of its threads runs sequences of its own and takes prompts from one queue. A prompt is computed once; its
/// samples share the blocks of its cache.
///
/// Everything that [`TensorGenerator`](crate::TensorGenerator) promises holds here, and samples are the same, except
/// where two tokens are within the rounding of a draw. A sample has the same bits whatever the number of slots and
/// threads and whatever prompts are beside it; another instruction set may round otherwise.
///
/// ```
/// use align_core::align_types::{Generator, config::SamplingConfig};
/// use align_lm::{LlamaConfig, Model, ModelConfig};
/// use align_rollout::Engine;
///
/// let config = LlamaConfig { vocab_size: 64, hidden_size: 32, num_hidden_layers: 1, ..LlamaConfig::default() };
/// let model = Model::init(&ModelConfig::llama(config)?, 0)?;
/// let mut engine = Engine::new(&model, vec![2])?.with_threads(1);
/// let sampling = SamplingConfig { num_completions: 2, max_new_tokens: 3, ..SamplingConfig::default() };
/// let groups = engine.generate(&[vec![1, 5]], &sampling, 0)?;
/// assert_eq!(groups[0].completions.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Engine<'a> {
    /// The same storage as the model that it was made from.
    model: Model,
    weights: Weights,
    rotation: Rotation,
    kernels: Instructions,
    settings: Settings<'a>,
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("shape", &self.weights.shape)
            .field("kernels", &self.kernels.name())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<'a> Engine<'a> {
    /// Packs the weights of a model; completions end at any of the given tokens.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that is not of the Llama shape, in float32 and on the CPU; a failure of
    /// libtorch.
    pub fn new(model: &Model, stop_tokens: Vec<TokenId>) -> Result<Self> {
        Ok(Self {
            model: model.replica().map_err(packing)?,
            weights: read(model)?,
            rotation: Rotation::default(),
            kernels: Instructions::best(),
            settings: Settings::new(stop_tokens, thread::available_parallelism().map_or(1, usize::from)),
        })
    }

    /// Takes the weights of a model of the same shape. [`Generator::refresh`] takes those of the model that the engine
    /// was made from, as they are now.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn repack(&mut self, model: &Model) -> Result<()> {
        self.weights = read(model)?;
        self.rotation = Rotation::default();
        Ok(())
    }

    /// Chooses an instruction set other than the fastest.
    #[must_use]
    pub fn with_instructions(mut self, instructions: Instructions) -> Self {
        self.kernels = instructions;
        self
    }
}

impl<'a> Backend<'a> for Engine<'a> {
    fn settings(&self) -> &Settings<'a> {
        &self.settings
    }

    fn settings_mut(&mut self) -> &mut Settings<'a> {
        &mut self.settings
    }

    fn vocabulary(&self) -> usize {
        self.weights.shape.vocab
    }

    fn context(&self) -> Option<usize> {
        Some(self.weights.shape.context)
    }

    fn refresh(&mut self) -> Result<()> {
        self.weights = read(&self.model)?;
        self.rotation = Rotation::default();
        Ok(())
    }

    fn draw(&mut self, call: &Call<'_>, capacity: usize, sink: &mut Sink<'_>) -> Result<()> {
        self.rotation.reach(capacity, &self.weights.frequencies);
        let work = &call.work(self.settings.threads);
        let block = self.weights.shape.block_lanes() * size_of::<lanes::Lane>();
        let sequence = block.saturating_mul(capacity.div_ceil(attend::BLOCK)).max(1);
        let slots = self.settings.slots_of(sequence, call.samples(), work.threads);
        let (settings, decoder) = (
            &self.settings,
            Decoder { weights: &self.weights, rotation: &self.rotation, kernels: self.kernels },
        );
        let workers = (0..work.threads).map(|_| {
            move |emit: &mut Emit<'_>| {
                flush_denormals();
                Worker::new(work, decoder, slots, settings.stop_rules(call.config)).run(emit)
            }
        });
        work.on_threads(workers, sink)
    }
}

generator_methods!(Engine);

fn read(model: &Model) -> Result<Weights> {
    match model.plain() {
        Ok(Some(plain)) => Weights::new(&plain),
        Ok(None) => Err(Error::Unsupported),
        Err(error) => Err(packing(error)),
    }
}

fn packing(error: align_lm::Error) -> Error {
    let source = match error {
        align_lm::Error::Tensor(source) => source,
        other => align_core::Error::input("model", other.to_string()),
    };
    Error::model("packing")(source)
}
