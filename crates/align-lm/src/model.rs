use std::path::{Path, PathBuf};

use align_core::{
    CausalLm, PackedBatch, Parameter, records_gradients,
    tch::{Device, Kind, Tensor},
};

use crate::adapter::Attached;
use crate::attention::PackedAttention;
use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, Output};
use crate::recompute::{Rows, Segment, Tape};
use crate::tail::Tail;
use crate::transformer::Transformer;
use crate::weights::{Builder, Existing, Plan, RandomInit, SCORE, Source, Weight};
use crate::{Error, Result};

/// Which weights of a loaded model are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Trainable {
    /// All of them.
    #[default]
    All,
    /// None: a reference, or a model that only scores and samples. It records no gradient.
    No,
}

/// How weights that are not trained are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FrozenStorage {
    /// In float32.
    #[default]
    Float,
    /// Matrices and embeddings in 16 bits: float16 where the checkpoint has that and float32 is computed with, otherwise
    /// bfloat16, which loses
    /// nothing of a bfloat16 checkpoint. Norms and biases stay float32. Where 16 bits are also computed with
    /// ([`LoadOptions::compute`]), the results are those of float32 storage.
    Half,
    /// The linear layers of the blocks in 4-bit NormalFloat with double quantisation (QLoRA, arXiv:2305.14314), a
    /// little over half a byte per weight; embeddings and output layer as with [`Self::Half`] where 16 bits are computed
    /// with, otherwise in float32. A model that is trained on top of such weights computes activations again
    /// ([`LoadOptions::recompute`]), so that one block at a time exists in full.
    Nf4,
}

impl FrozenStorage {
    /// The format of dense matrices where it is not float32, from that in the checkpoint and that of computing.
    pub(crate) fn kind(self, stored: Kind, compute: Kind) -> Option<Kind> {
        match (self, stored) {
            (Self::Float, _) => None,
            (Self::Nf4, _) if compute == Kind::Float => None,
            (Self::Half, Kind::Half) if compute == Kind::Float => Some(Kind::Half),
            (Self::Half | Self::Nf4, _) => Some(Kind::BFloat16),
        }
    }

    pub(crate) fn is_nf4(self) -> bool {
        self == Self::Nf4
    }
}

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadOptions {
    /// Where the weights go.
    pub device: Device,
    /// Which of them are trained.
    pub trainable: Trainable,
    /// The number format of activations and products: [`Kind::Float`] or [`Kind::BFloat16`]. Weights are rounded where
    /// they are used, and their gradients arrive in float32. Norms, softmax, logits and log-probabilities are float32
    /// always.
    pub compute: Kind,
    /// How weights that are not trained are kept.
    pub frozen: FrozenStorage,
    /// Whether the backward pass computes activations again instead of keeping them (arXiv:1604.06174): a model that
    /// is trained takes less memory and a third more time. Gradients stay the same. The loss's backward pass must be
    /// [`CausalLm::backward`].
    pub recompute: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            trainable: Trainable::default(),
            compute: Kind::Float,
            frozen: FrozenStorage::default(),
            recompute: false,
        }
    }
}

impl LoadOptions {
    fn check(&self) -> Result<()> {
        if !matches!(self.compute, Kind::Float | Kind::BFloat16) {
            let why = format!("{:?} is not computed with; Float and BFloat16 are", self.compute);
            return Err(align_core::Error::input("number format", why).into());
        }
        if self.trainable == Trainable::All && self.frozen.is_nf4() {
            let why = "a step is far smaller than their distance; freeze them and train an adapter";
            return Err(align_core::Error::input("training of 4-bit weights", why).into());
        }
        Ok(())
    }

    /// Says whether the backward pass computes activations again. Weights that are read in another format than they
    /// are stored in would otherwise be kept in full until it is over.
    pub(crate) fn recomputes(&self) -> bool {
        let cast = self.frozen == FrozenStorage::Half && self.compute == Kind::Float;
        self.recompute || cast || self.frozen.is_nf4()
    }
}

/// A decoder-only transformer.
///
/// Weights that are trained are float32 masters, whatever the checkpoint stores and whatever is computed with; the data
/// type of the checkpoint is remembered for saving.
///
/// ```no_run
/// use align_core::{CausalLm, PackedBatch, align_types::{Completion, PromptGroup}};
/// use align_lm::{LoadOptions, Model};
///
/// let model = Model::load("my-llama".as_ref(), &LoadOptions::default())?;
/// let batch = PackedBatch::new(&[PromptGroup::new(vec![1, 15], vec![Completion::new(vec![9, 2])])])?;
/// let log_probs = model.token_log_probs(&batch, 1.0)?;
/// # Ok::<(), align_lm::Error>(())
/// ```
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    pub(crate) decoder: Transformer,
    pub(crate) weights: Vec<Weight>,
    /// Something on top of frozen weights; `options.trainable` then speaks of that alone.
    pub(crate) adapter: Option<Attached>,
    pub(crate) options: LoadOptions,
    tape: Tape,
    source: Option<PathBuf>,
    unused: Vec<String>,
}

impl Model {
    /// Loads a Hugging Face folder: `config.json` and `model.safetensors`, or its shards with their index; where
    /// there are none, `pytorch_model.bin` or its shards, of which tensors are read and nothing is executed.
    ///
    /// Names, shapes, offsets and data types of all tensors are checked before the first weight is allocated; peak
    /// memory is the weights and a few megabytes; in 4 bits also the largest matrix in float32.
    ///
    /// # Errors
    /// See [`ModelConfig::read`]; [`Error::Weights`] for a damaged or missing file; [`Error::Contradiction`] for
    /// tensors that are missing or have another shape than the configuration means; [`Error::Pickle`] for a pickle
    /// with more in it than tensors; [`Error::Unsupported`] for other data types and for files of torch before 1.6.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self> {
        let config = ModelConfig::read(dir)?;
        Self::load_from(Checkpoint::open(dir, options.device)?, config, dir, options)
    }

    /// Loads what `config` means out of the weights of a folder.
    pub(crate) fn load_from(
        mut checkpoint: Checkpoint,
        config: ModelConfig,
        dir: &Path,
        options: &LoadOptions,
    ) -> Result<Self> {
        options.check()?;
        let (plan, _) = Self::plan(&config)?;
        checkpoint.rename_to(&plan);
        let mut unused = checkpoint.check(&plan)?;
        match config.output() {
            Output::Vocabulary => check_tied_head(dir, &mut checkpoint, &plan, &mut unused)?,
            // Another output than the model's is what was asked for.
            Output::Score | Output::None => {
                unused.retain(|name| name != SCORE && !HEADS.contains(&name.as_str()));
            }
        }
        unused.retain(|name| !DERIVED.iter().any(|end| name.ends_with(end)));
        let mut model = Self::assemble(config, &mut checkpoint, options)?;
        model.source = Some(dir.to_owned());
        model.unused = unused;
        Ok(model)
    }

    /// Makes a model with random weights on the CPU: matrices and embeddings normal with standard deviation
    /// `initializer_range`, norms one, biases zero. The weights are a function of configuration and seed.
    ///
    /// # Errors
    /// libtorch refuses, for example for want of memory.
    pub fn init(config: &ModelConfig, seed: u64) -> Result<Self> {
        let std = config.sizes().initializer_range;
        let mut source = RandomInit { seed, std, device: Device::Cpu, index: 0 };
        Self::assemble(config.clone(), &mut source, &LoadOptions::default())
    }

    /// Makes a model over the same storage with leaves of its own, for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn replica(&self) -> Result<Self> {
        let trainable = if self.adapter.is_some() { Trainable::No } else { self.options.trainable };
        let mut model = self.rebuilt(&mut Existing { weights: &self.weights, copy: false }, trainable)?;
        self.pass_adapter_to(&mut model, false, self.options.trainable)?;
        Ok(model)
    }

    /// Copies the weights as they are now into a model that is never trained: the reference of preference losses.
    /// Where there is an adapter, the base cannot change and only the adapter is copied.
    ///
    /// # Errors
    /// libtorch refuses, for example for want of memory.
    pub fn frozen_copy(&self) -> Result<Self> {
        let copy = self.adapter.is_none();
        let mut model = self.rebuilt(&mut Existing { weights: &self.weights, copy }, Trainable::No)?;
        self.pass_adapter_to(&mut model, true, Trainable::No)?;
        Ok(model)
    }

    pub(crate) fn rebuilt(&self, source: &mut dyn Source, trainable: Trainable) -> Result<Self> {
        let options = LoadOptions { trainable, ..self.options };
        let mut model = Self::assemble(self.config.clone(), source, &options)?;
        model.source.clone_from(&self.source);
        model.unused.clone_from(&self.unused);
        Ok(model)
    }

    pub(crate) fn assemble(
        config: ModelConfig,
        source: &mut dyn Source,
        options: &LoadOptions,
    ) -> Result<Self> {
        let mut builder = Builder::new(source, options);
        builder.output = config.output();
        let mut decoder = config.family().build(options.device, &mut builder)?;
        decoder.embedding.kind = Some(options.compute);
        let weights = builder.finish();
        Ok(Self {
            config,
            decoder,
            weights,
            adapter: None,
            options: *options,
            tape: Tape::default(),
            source: None,
            unused: Vec::new(),
        })
    }

    /// Lists the tensors that a model of this configuration takes, and builds it without them.
    pub(crate) fn plan(config: &ModelConfig) -> Result<(Plan, Transformer)> {
        let mut plan = Plan::default();
        let options = LoadOptions { trainable: Trainable::No, ..LoadOptions::default() };
        let model = Self::assemble(config.clone(), &mut plan, &options)?;
        Ok((plan, model.decoder))
    }

    /// Returns the configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Changes keys of the configuration that decide nothing in the forward pass.
    pub(crate) fn change_config(&mut self, change: impl FnOnce(ModelConfig) -> ModelConfig) {
        self.config = change(self.config.clone());
    }

    /// Returns the folder that the model was loaded from.
    pub fn source(&self) -> Option<&Path> {
        self.source.as_deref()
    }

    /// Returns what a user should know about this folder: tensors that the model has no use for, settings that are
    /// not followed.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.config.notes();
        if let (Some(first), count) = (self.unused.first(), self.unused.len()) {
            notes.push(format!("{count} tensors of the checkpoint are not used, the first is {first}"));
        }
        notes
    }

    /// Returns the names of the tensors in the checkpoint that the model has no use for.
    pub fn unused_tensors(&self) -> &[String] {
        &self.unused
    }

    pub(crate) fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// Takes the data types in which the weights of another folder are stored for those of [`crate::SaveDtype::Source`]:
    /// a run that is continued from a float32 checkpoint ends in the data type that it began with.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn adopt_dtypes(&mut self, dir: &Path) -> Result<()> {
        self.adopt_stored(dir)?;
        self.config = ModelConfig::read(dir)?;
        Ok(())
    }

    /// As [`Self::adopt_dtypes`] of the weights alone; a score head that the folder lacks is float32.
    pub(crate) fn adopt_stored(&mut self, dir: &Path) -> Result<()> {
        let mut checkpoint = Checkpoint::open(dir, self.options.device)?;
        if let Some(score) = self.weights.iter().find(|weight| weight.name == SCORE && !checkpoint.has(SCORE))
        {
            checkpoint.provide(SCORE, score.matrix.read()?);
        }
        let (plan, _) = Self::plan(&self.config)?;
        checkpoint.rename_to(&plan);
        checkpoint.check(&plan)?;
        self.weights.iter_mut().for_each(|weight| weight.stored = checkpoint.stored(&weight.name));
        Ok(())
    }

    /// Names the data type of most weights as they were stored, as `config.json` does.
    pub fn source_dtype(&self) -> &'static str {
        let numbers = |kind: Kind| -> i64 {
            let stored = self.weights.iter().filter(|weight| weight.stored == kind);
            stored.map(|weight| weight.matrix.shape().iter().product::<i64>()).sum()
        };
        let names = [(Kind::Float, "float32"), (Kind::Half, "float16"), (Kind::BFloat16, "bfloat16")];
        names.into_iter().max_by_key(|(kind, _)| numbers(*kind)).map_or("float32", |(_, name)| name)
    }

    /// Returns how the model was loaded.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// Counts the bytes of the weights in memory, a tied matrix once.
    pub fn weight_bytes(&self) -> usize {
        self.weights.iter().map(|weight| weight.matrix.bytes()).sum()
    }

    /// Computes the hidden states of every row of the stream after the last norm, `[T, H]`.
    ///
    /// # Errors
    /// As [`CausalLm::logits`].
    pub fn hidden_states(&self, batch: &PackedBatch) -> align_core::Result<Tensor> {
        self.forward(batch, None)
    }

    /// Computes the hidden states of all rows, or of those of a tail.
    fn forward(&self, batch: &PackedBatch, tail: Option<&Tail>) -> align_core::Result<Tensor> {
        batch.check_vocabulary(self.vocab_size())?;
        self.check_context(batch)?;
        let ids = PackedBatch::index_tensor(batch.ids(), self.options.device)?;
        let positions = PackedBatch::index_tensor(batch.positions(), self.options.device)?;
        self.enter(batch);
        let mut attention = PackedAttention::new(batch, self.options.device);
        if !(self.options.recomputes() && self.is_trained() && records_gradients()?) {
            return match tail {
                None => self.decoder.hidden(&ids, &positions, &mut attention),
                Some(tail) => self.decoder.hidden_tail(&ids, &positions, &mut attention, tail),
            };
        }
        let tail = tail.map(|tail| tail.rows.shallow_clone());
        let rows = Rows { batch: batch.clone(), ids, positions, tail };
        let (hidden, segment) = Segment::record(&self.decoder, rows, attention)?;
        self.tape.push(segment);
        Ok(hidden)
    }

    /// Computes the hidden states of the rows that predict, `[N, H]`.
    fn predicting_states(&self, batch: &PackedBatch) -> align_core::Result<Tensor> {
        self.states_of(batch, batch.predict_rows())
    }

    /// Computes the hidden states of some rows of the stream, `[N, H]`.
    pub(crate) fn states_of(&self, batch: &PackedBatch, rows: &[i64]) -> align_core::Result<Tensor> {
        let device = self.options.device;
        // Dropout is drawn for all rows of a layer.
        let drops = self.adapter.as_ref().is_some_and(Attached::drops);
        let tail = if drops { None } else { Tail::with(batch, rows, device)? };
        Ok(match tail {
            Some(tail) => self.forward(batch, Some(&tail))?.f_index_select(0, &tail.predict)?,
            None => {
                let rows = PackedBatch::index_tensor(rows, device)?;
                self.hidden_states(batch)?.f_index_select(0, &rows)?
            }
        })
    }

    /// Tells an adapter which rows its layers will see next.
    fn enter(&self, batch: &PackedBatch) {
        if let Some(adapter) = &self.adapter {
            adapter.enter(batch, self.options.device);
        }
    }

    fn is_trained(&self) -> bool {
        self.options.trainable != Trainable::No
    }

    /// Computes the logits of a batch from the hidden states of all of its rows.
    pub(crate) fn logits_of(&self, hidden: &Tensor, batch: &PackedBatch) -> align_core::Result<Tensor> {
        self.decoder.head(&predicting(hidden, batch)?)
    }

    fn check_context(&self, batch: &PackedBatch) -> align_core::Result<()> {
        let context = self.config.context_length();
        if batch.longest() <= context {
            return Ok(());
        }
        let longest = |span: &align_core::GroupSpan| {
            span.prompt_len + span.completion_lens.iter().max().copied().unwrap_or(0)
        };
        let over: Vec<usize> = batch.groups().iter().map(longest).filter(|len| *len > context).collect();
        let most = over.iter().max().copied().unwrap_or(0);
        Err(align_core::Error::input(
            format!("{} of {} rows of the batch", over.len(), batch.groups().len()),
            format!(
                "longer than the model's context of {context} tokens (the longest has {most}); shorten them"
            ),
        ))
    }
}

/// Takes the rows that predict out of those of the whole stream.
fn predicting(hidden: &Tensor, batch: &PackedBatch) -> align_core::Result<Tensor> {
    Ok(hidden.f_index_select(0, &PackedBatch::index_tensor(batch.predict_rows(), hidden.device())?)?)
}

/// Ends of the names of tensors that old checkpoints store although they follow from the configuration: frequencies of
/// rotary embeddings and triangular masks.
const DERIVED: [&str; 6] = [
    "rotary_emb.inv_freq",
    "rotary_pos_emb.inv_freq",
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
];

/// The names of output layers.
const HEADS: [&str; 3] = ["lm_head.weight", "embed_out.weight", "transformer.output_layer.weight"];

/// With `tie_word_embeddings` an output layer in the file is superfluous; one with other numbers contradicts it.
fn check_tied_head(
    dir: &Path,
    checkpoint: &mut Checkpoint,
    plan: &Plan,
    unused: &mut Vec<String>,
) -> Result<()> {
    let embedding = plan.tensors.first().map_or("", |(name, _, _)| name);
    let Some(head) = unused.iter().find(|name| HEADS.contains(&name.as_str())).cloned() else {
        return Ok(());
    };
    if !checkpoint.equal(&head, embedding)? {
        let why = format!("tie_word_embeddings is true, but {head} and {embedding} hold different numbers");
        return Err(Error::Contradiction { dir: dir.to_owned(), why });
    }
    unused.retain(|name| *name != head);
    Ok(())
}

impl CausalLm for Model {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size()
    }

    fn context_length(&self) -> Option<usize> {
        Some(self.config.context_length())
    }

    fn device(&self) -> Device {
        self.options.device
    }

    fn logits(&self, batch: &PackedBatch) -> align_core::Result<Tensor> {
        if batch.groups().is_empty() {
            return Ok(Tensor::f_zeros([0, self.vocab_size() as i64], (Kind::Float, self.options.device))?);
        }
        self.decoder.head(&self.predicting_states(batch)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        if !self.is_trained() {
            return Vec::new();
        }
        match &self.adapter {
            Some(adapter) => adapter.parameters(),
            None => self.weights.iter().filter_map(Weight::parameter).collect(),
        }
    }

    fn begin_step(&self, step: Option<u64>) {
        if let Some(adapter) = &self.adapter {
            adapter.begin_step(step);
        }
    }

    fn backward(&self, loss: &Tensor) -> align_core::Result<()> {
        Tape::backward(&self.tape, loss, &self.decoder, &|batch| self.enter(batch))
    }

    fn discard_forwards(&self) {
        self.tape.clear();
    }

    fn replicate(&self) -> align_core::Result<Box<dyn CausalLm>> {
        Ok(Box::new(self.replica().map_err(Error::of_replica)?))
    }
}
