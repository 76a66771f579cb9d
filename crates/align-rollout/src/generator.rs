use align_core::{
    CachedLm,
    align_types::{Generator, PromptGroup, TokenId, config::SamplingConfig},
    threads::prepare_compute_thread,
};

use crate::{
    Error, Result,
    settings::{Settings, generator_methods},
    slots,
    tensors::Worker,
    work::{Backend, Call, Emit, Sink},
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
/// * `logprobs` are log softmax(logits / temperature) of the sampled token, before repetition penalty, top-k, top-p
///   and min-p: what
///   [`CausalLm::token_log_probs`](align_core::CausalLm::token_log_probs) gives at that temperature. Greedy
///   completions have them too, at the configured temperature.
/// * `token_ids` are all tokens that were drawn, stop token included. `text` (with a decoder) has neither the
///   stop token nor anything from the first stop string on; the tokens are not cut, because training needs
///   them as they were drawn.
/// * `finish_reason` is `stop` after a stop token or stop string, also where it is the last token allowed, and
///   `length` otherwise. A completion never outgrows the context: one that reaches its end has reason `length`
///   and may have less than `max_new_tokens` tokens.
///
/// With one thread, computation runs on the calling one, which should have called
/// [`prepare_compute_thread`]; with more, each has a replica of the model over the same weights.
#[derive(Debug)]
pub struct TensorGenerator<'a> {
    model: Borrowed<'a>,
    settings: Settings<'a>,
}

struct Borrowed<'a>(&'a dyn CachedLm);

impl std::fmt::Debug for Borrowed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a model of {} tokens", self.0.vocab_size())
    }
}

impl<'a> TensorGenerator<'a> {
    /// Makes a generator that stops at any of the given tokens; without one, completions end by length or by
    /// a stop string.
    pub fn new(model: &'a dyn CachedLm, stop_tokens: Vec<TokenId>) -> Self {
        Self { model: Borrowed(model), settings: Settings::new(stop_tokens, 1) }
    }

    /// Makes a replica for each thread; none where one thread is enough or the model has no replicas.
    fn replicas(&self, threads: usize) -> Result<Vec<Box<dyn CachedLm>>> {
        if threads < 2 {
            return Ok(Vec::new());
        }
        let replica = |_| match self.model.0.replicate_cached() {
            Ok(replica) => replica.map(Ok),
            Err(error) => Some(Err(Error::model("making a replica")(error))),
        };
        (0..threads).map_while(replica).collect()
    }
}

impl<'a> Backend<'a> for TensorGenerator<'a> {
    fn settings(&self) -> &Settings<'a> {
        &self.settings
    }

    fn settings_mut(&mut self) -> &mut Settings<'a> {
        &mut self.settings
    }

    fn vocabulary(&self) -> usize {
        self.model.0.vocab_size()
    }

    fn context(&self) -> Option<usize> {
        self.model.0.context_length()
    }

    fn draw(&mut self, call: &Call<'_>, capacity: usize, sink: &mut Sink<'_>) -> Result<()> {
        let replicas = self.replicas(self.settings.threads.min(call.samples()))?;
        let probe = self.model.0.new_cache(1, 1).map_err(Error::model("making a cache"))?;
        let sequence = slots::bytes_per_token(&probe).saturating_mul(capacity);
        let work = &call.work(replicas.len());
        let slots = self.settings.slots_of(sequence, call.samples(), work.threads);
        let settings = &self.settings;
        if replicas.is_empty() {
            let worker = Worker::new(self.model.0, work, settings.stop_rules(call.config));
            return work.here(|emit| worker.run(slots, capacity, emit), sink);
        }
        let workers = replicas.into_iter().map(|model| {
            move |emit: &mut Emit<'_>| {
                prepare_compute_thread();
                let stop = settings.stop_rules(call.config);
                Worker::new(model.as_ref(), work, stop).run(slots, capacity, emit)
            }
        });
        work.on_threads(workers, sink)
    }
}

generator_methods!(TensorGenerator);
