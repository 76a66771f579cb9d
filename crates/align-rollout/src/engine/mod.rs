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

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use align_core::{
    align_types::{Completion, Generator, PromptGroup, TokenId, config::SamplingConfig},
    threads::flush_denormals,
};
use align_lm::Model;

use crate::{BoxError, Error, Result, door, sequence::Numbering, stop::StopRules};
use forward::Decoder;
pub use kernels::Instructions;
use weights::{Rotation, Weights};
use worker::{Finished, Job, Shared, Worker};

/// A decoder that threads may share.
type SharedDecode<'a> = dyn Fn(&[TokenId]) -> Result<String, BoxError> + Send + Sync + 'a;

/// Samples from a decoder of the Llama shape on the CPU, without tensors.
///
/// It has a copy of the weights, packed for its kernels; after an optimiser step [`Self::repack`] takes the new ones.
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
    weights: Weights,
    rotation: Rotation,
    kernels: Instructions,
    stop_tokens: Vec<TokenId>,
    decode: Option<Box<SharedDecode<'a>>>,
    slots: usize,
    threads: usize,
    cache_bytes: usize,
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("shape", &self.weights.shape)
            .field("kernels", &self.kernels.name())
            .field("stop_tokens", &self.stop_tokens)
            .field("decodes", &self.decode.is_some())
            .field("slots", &self.slots)
            .field("threads", &self.threads)
            .field("cache_bytes", &self.cache_bytes)
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
            weights: read(model)?,
            rotation: Rotation::default(),
            kernels: Instructions::best(),
            stop_tokens,
            decode: None,
            slots: 32,
            threads: thread::available_parallelism().map_or(1, usize::from),
            cache_bytes: 1 << 30,
        })
    }

    /// Takes the weights of the model as they are now.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn repack(&mut self, model: &Model) -> Result<()> {
        self.weights = read(model)?;
        self.rotation = Rotation::default();
        Ok(())
    }

    /// Gives completions their text and makes stop strings possible; see
    /// [`TensorGenerator::with_decoder`](crate::TensorGenerator::with_decoder).
    #[must_use]
    pub fn with_decoder(
        mut self,
        decode: impl Fn(&[TokenId]) -> Result<String, BoxError> + Send + Sync + 'a,
    ) -> Self {
        self.decode = Some(Box::new(decode));
        self
    }

    /// Bounds the sequences that one thread decodes together (32; at least 1 is used). It changes speed and memory,
    /// not samples.
    #[must_use]
    pub fn with_slots(mut self, slots: usize) -> Self {
        self.slots = slots;
        self
    }

    /// Sets the number of threads (one per core; at least 1 is used). It changes speed and memory, not samples.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Bounds the bytes of the key-value caches of all threads (1 GiB): long contexts get fewer slots, one per
    /// thread at least.
    #[must_use]
    pub fn with_cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Chooses an instruction set other than the fastest.
    #[must_use]
    pub fn with_instructions(mut self, instructions: Instructions) -> Self {
        self.kernels = instructions;
        self
    }

    /// Draws as [`Generator::generate`] does, for prompts that are number `first`, `first + 1`, … of a longer list;
    /// see [`TensorGenerator::generate_from`](crate::TensorGenerator::generate_from).
    ///
    /// # Errors
    /// As there, and [`Error::Thread`].
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
            ControlFlow::Continue(())
        })?;
        Ok(groups)
    }

    /// Draws as [`Self::generate_from`] does and hands out each group as soon as it and all before it are complete,
    /// in the order of the prompts. `Break` ends the sampling early.
    ///
    /// # Errors
    /// As [`Self::generate_from`].
    pub fn generate_each(
        &mut self,
        first: u64,
        prompts: &[Vec<TokenId>],
        config: &SamplingConfig,
        step: u64,
        sink: impl FnMut(PromptGroup) -> ControlFlow<()>,
    ) -> Result<()> {
        let shape = &self.weights.shape;
        let decodes = self.decode.is_some();
        let limits = door::limits(shape.vocab, Some(shape.context), decodes, prompts, config)?;
        let Some(capacity) = door::capacity(prompts, &limits) else { return Ok(()) };
        self.rotation.reach(capacity, &self.weights.frequencies);
        let threads = self.threads.clamp(1, prompts.len().saturating_mul(config.num_completions));
        let jobs = jobs(prompts.len(), config.num_completions, threads);
        let shared = Shared {
            decoder: Decoder { weights: &self.weights, rotation: &self.rotation, kernels: self.kernels },
            prompts,
            limits: &limits,
            config,
            numbering: Numbering { first, step },
            jobs: &jobs,
            next_job: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            slots: self.slots_of(capacity, prompts.len() * config.num_completions, threads),
        };
        self.work(&shared, threads, sink)
    }

    /// Counts the slots of one thread: as many as memory allows, and no more than its share of the samples.
    fn slots_of(&self, capacity: usize, samples: usize, threads: usize) -> usize {
        let block = self.weights.shape.block_lanes() * size_of::<lanes::Lane>();
        let sequence = block.saturating_mul(capacity.div_ceil(attend::BLOCK)).max(1);
        let affordable = self.cache_bytes / threads / sequence;
        self.slots.min(affordable).min(samples.div_ceil(threads)).max(1)
    }

    fn work(
        &self,
        shared: &Shared<'_>,
        threads: usize,
        sink: impl FnMut(PromptGroup) -> ControlFlow<()>,
    ) -> Result<()> {
        thread::scope(|scope| {
            let (sender, results) = mpsc::channel();
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let sender = sender.clone();
                    scope.spawn(move || {
                        flush_denormals();
                        let decode = self.decode.as_deref();
                        let stop = StopRules {
                            tokens: &self.stop_tokens,
                            strings: &shared.config.stop,
                            decode: decode.map(|decode| decode as _),
                        };
                        Worker::new(shared, stop, sender).run();
                    })
                })
                .collect();
            drop(sender);
            let result = collect(shared, results, sink);
            shared.stopped.store(true, Ordering::Relaxed);
            // A thread that panicked has sent nothing more: without this its samples would be missing silently.
            let sound = workers.into_iter().map(|worker| worker.join().is_ok()).fold(true, |a, b| a & b);
            match (result, sound) {
                (Ok(_), false) | (Ok(false), true) => Err(Error::Thread),
                (result, _) => result.map(|_| ()),
            }
        })
    }
}

fn read(model: &Model) -> Result<Weights> {
    match model.plain() {
        Ok(Some(plain)) => Weights::new(&plain),
        Ok(None) => Err(Error::Unsupported),
        Err(error) => Err(Error::Model {
            doing: "packing".into(),
            source: align_core::Error::input("model", error.to_string()),
        }),
    }
}

/// Cuts the samples into jobs: one per prompt, or several where there are fewer prompts than threads.
fn jobs(prompts: usize, samples: usize, threads: usize) -> Vec<Job> {
    let parts = threads.div_ceil(prompts.max(1)).min(samples);
    let size = samples.div_ceil(parts.max(1)).max(1);
    let job = |prompt| {
        (0..samples).step_by(size).map(move |first| Job {
            prompt,
            first_sample: first,
            end_sample: samples.min(first + size),
        })
    };
    (0..prompts).flat_map(job).collect()
}

/// Puts finished samples into their groups and hands complete groups out in order; `false` when some are missing.
fn collect(
    shared: &Shared<'_>,
    results: mpsc::Receiver<Result<Finished>>,
    mut sink: impl FnMut(PromptGroup) -> ControlFlow<()>,
) -> Result<bool> {
    let samples = shared.config.num_completions;
    let mut open: BTreeMap<usize, (usize, Vec<Completion>)> = BTreeMap::new();
    let mut next = 0;
    for finished in results {
        let (prompt, sample, completion) = finished?;
        let (count, group) = open.entry(prompt).or_insert_with(|| (0, vec![Completion::default(); samples]));
        *count += 1;
        if let Some(place) = group.get_mut(sample) {
            *place = completion;
        }
        while let Some((prompt, (_, completions))) =
            open.first_entry().filter(|e| *e.key() == next && e.get().0 == samples).map(|e| e.remove_entry())
        {
            next += 1;
            let tokens = shared.prompts.get(prompt).cloned().unwrap_or_default();
            if sink(PromptGroup::new(tokens, completions)).is_break() {
                return Ok(true);
            }
        }
    }
    Ok(next == shared.prompts.len())
}

impl Generator for Engine<'_> {
    fn generate(
        &mut self,
        prompts: &[Vec<TokenId>],
        config: &SamplingConfig,
        step: u64,
    ) -> align_core::align_types::Result<Vec<PromptGroup>> {
        Ok(self.generate_from(0, prompts, config, step)?)
    }
}
