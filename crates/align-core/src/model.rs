use tch::{Device, Kind, Tensor};

use crate::{Error, PackedBatch, Result, TokenLogProbs, gather_log_probs};

/// A trainable tensor of a model.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in the model's checkpoint.
    pub name: String,
    /// The leaf itself (a shallow clone shares storage and gradient with the model's own).
    pub tensor: Tensor,
    /// Whether weight decay applies: matrices and embeddings yes, norms and biases no.
    pub decay: bool,
}

/// A causal language model that can be trained.
///
/// The contract is small on purpose: a loss needs log-probabilities of completions, the training loop needs
/// the parameters, and data-parallel threads need replicas. There is no loss inside, which would tie a model
/// to one algorithm.
pub trait CausalLm: Send {
    /// Returns the number of tokens of the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Returns the longest sequence the model takes, if it has a bound.
    fn context_length(&self) -> Option<usize>;

    /// Returns the device of the weights.
    fn device(&self) -> Device;

    /// Computes the logits of the rows that predict a completion token, `[N, V]`, in the order of
    /// [`PackedBatch::targets`]. Other rows never reach the vocabulary matrix.
    ///
    /// # Errors
    /// A token outside the vocabulary, a sequence longer than the context, or a failure of libtorch.
    fn logits(&self, batch: &PackedBatch) -> Result<Tensor>;

    /// Returns the trainable parameters in a fixed order.
    fn parameters(&self) -> Vec<Parameter>;

    /// Makes a model over the same storage with leaves of its own, for another thread: weights exist once,
    /// gradients once per replica.
    ///
    /// # Errors
    /// libtorch refuses.
    fn replicate(&self) -> Result<Box<dyn CausalLm>>;

    /// Says that the passes from now on train, as part of this optimiser step, or with `None` that they do not.
    ///
    /// What is random in a training pass (dropout) may depend on the step and on the rows and on nothing else, so that
    /// a resumed run draws the same. A new model does not train. The default, of a model without dropout, does nothing.
    fn begin_step(&self, step: Option<u64>) {
        let _ = step;
    }

    /// Adds the gradient of a loss to the gradients of the parameters; everything the loss was computed from is
    /// used up.
    ///
    /// A training loop calls this and not the tensor's own backward pass: a model that recomputes activations has
    /// only the end of its graph in the loss and finds the rest by itself.
    ///
    /// # Errors
    /// libtorch refuses.
    fn backward(&self, loss: &Tensor) -> Result<()> {
        Ok(loss.f_backward()?)
    }

    /// Frees what forward passes kept for a backward pass that will not come, because an error came between.
    fn discard_forwards(&self) {}

    /// Computes the log-probability of every completion token, as [`gather_log_probs`] has it.
    ///
    /// # Errors
    /// As [`Self::logits`], or a temperature that is not positive.
    fn token_log_probs(&self, batch: &PackedBatch, temperature: f64) -> Result<TokenLogProbs> {
        let targets = PackedBatch::index_tensor(batch.targets(), self.device())?;
        let values = gather_log_probs(&self.logits(batch)?, &targets, temperature)?;
        TokenLogProbs::new(values, batch.completion_lens().to_vec())
    }
}

/// Keys and values of one layer, `[slots, heads, capacity, head size]` each.
#[derive(Debug)]
pub struct LayerCache {
    /// The keys, already rotated.
    pub keys: Tensor,
    /// The values.
    pub values: Tensor,
}

/// Keys and values of the sequences that are being sampled.
#[derive(Debug)]
pub struct KvCache {
    /// One entry per layer.
    pub layers: Vec<LayerCache>,
    /// Tokens held by each slot.
    pub lengths: Vec<usize>,
    /// Most tokens a slot can hold.
    pub capacity: usize,
}

impl KvCache {
    /// Makes an empty cache; `layers` holds (key-value heads, head size) of each layer.
    ///
    /// # Errors
    /// libtorch refuses, for example for want of memory.
    pub fn new(
        layers: &[(i64, i64)],
        slots: usize,
        capacity: usize,
        kind: Kind,
        device: Device,
    ) -> Result<Self> {
        let zeros = |(heads, size): (i64, i64)| {
            Tensor::f_zeros([slots as i64, heads, capacity as i64, size], (kind, device))
        };
        let layers = layers
            .iter()
            .map(|shape| Ok(LayerCache { keys: zeros(*shape)?, values: zeros(*shape)? }))
            .collect::<Result<_>>()?;
        Ok(Self { layers, lengths: vec![0; slots], capacity })
    }

    /// Counts the slots.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Makes the cache of the given slots, in that order; a slot may come several times, so that samples of one
    /// prompt share its prefill.
    ///
    /// # Errors
    /// [`Error::Input`] for a slot that does not exist.
    pub fn select(&self, slots: &[usize]) -> Result<Self> {
        let lengths = slots
            .iter()
            .map(|s| self.lengths.get(*s).copied())
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::input("cache slots", format!("{slots:?} of {}", self.slots())))?;
        let indices: Vec<i64> = slots.iter().map(|s| *s as i64).collect();
        let pick = |tensor: &Tensor| -> Result<Tensor> {
            Ok(tensor.f_index_select(0, &PackedBatch::index_tensor(&indices, tensor.device())?)?)
        };
        let layers = self
            .layers
            .iter()
            .map(|layer| Ok(LayerCache { keys: pick(&layer.keys)?, values: pick(&layer.values)? }))
            .collect::<Result<_>>()?;
        Ok(Self { layers, lengths, capacity: self.capacity })
    }
}

/// A model that can continue sequences from cached keys and values.
pub trait CachedLm: CausalLm {
    /// Makes an empty cache of `slots` sequences of at most `capacity` tokens.
    ///
    /// # Errors
    /// A capacity beyond the context, or want of memory.
    fn new_cache(&self, slots: usize, capacity: usize) -> Result<KvCache>;

    /// Appends tokens to every slot of the cache and computes the logits that follow the last token of each,
    /// `[slots, V]`.
    ///
    /// `tokens` has one non-empty list per slot; lists may differ in length. No gradient is recorded.
    ///
    /// # Errors
    /// [`Error::Input`] when a slot gets no token or would outgrow the capacity; a failure of libtorch.
    fn extend(&self, cache: &mut KvCache, tokens: &[&[u32]]) -> Result<Tensor>;

    /// Makes a model over the same storage for another thread that samples; `None` where one thread is all that a
    /// model can use, as on a GPU.
    ///
    /// # Errors
    /// libtorch refuses.
    fn replicate_cached(&self) -> Result<Option<Box<dyn CachedLm>>> {
        Ok(None)
    }
}
