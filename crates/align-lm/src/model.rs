use std::path::{Path, PathBuf};

use align_core::{
    CausalLm, PackedBatch, Parameter,
    tch::{Device, Kind, Tensor},
};

use crate::attention::PackedAttention;
use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, Output};
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

/// How a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Where the weights go.
    pub device: Device,
    /// Which of them are trained.
    pub trainable: Trainable,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { device: Device::Cpu, trainable: Trainable::default() }
    }
}

/// A decoder-only transformer.
///
/// Weights are float32 masters, whatever the checkpoint stores; the data type of the checkpoint is remembered for
/// saving.
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
    weights: Vec<Weight>,
    device: Device,
    trainable: Trainable,
    source: Option<PathBuf>,
    unused: Vec<String>,
}

impl Model {
    /// Loads a Hugging Face folder: `config.json` and `model.safetensors`, or its shards with their index; where
    /// there are none, `pytorch_model.bin` or its shards, of which tensors are read and nothing is executed.
    ///
    /// Names, shapes, offsets and data types of all tensors are checked before the first weight is allocated; peak
    /// memory is the weights and a few megabytes.
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
        let mut model = Self::assemble(config, &mut checkpoint, options.device, options.trainable)?;
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
        Self::assemble(config.clone(), &mut source, Device::Cpu, Trainable::All)
    }

    /// Makes a model over the same storage with leaves of its own, for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn replica(&self) -> Result<Self> {
        self.rebuilt(&mut Existing { weights: &self.weights, copy: false }, self.trainable)
    }

    /// Copies the weights as they are now into a model that is never trained: the reference of preference losses.
    ///
    /// # Errors
    /// libtorch refuses, for example for want of memory.
    pub fn frozen_copy(&self) -> Result<Self> {
        self.rebuilt(&mut Existing { weights: &self.weights, copy: true }, Trainable::No)
    }

    pub(crate) fn rebuilt(&self, source: &mut dyn Source, trainable: Trainable) -> Result<Self> {
        let mut model = Self::assemble(self.config.clone(), source, self.device, trainable)?;
        model.source.clone_from(&self.source);
        model.unused.clone_from(&self.unused);
        Ok(model)
    }

    pub(crate) fn assemble(
        config: ModelConfig,
        source: &mut dyn Source,
        device: Device,
        trainable: Trainable,
    ) -> Result<Self> {
        let mut builder = Builder::new(source, trainable == Trainable::All);
        builder.output = config.output();
        let decoder = config.family().build(device, &mut builder)?;
        let weights = builder.finish();
        Ok(Self { config, decoder, weights, device, trainable, source: None, unused: Vec::new() })
    }

    /// Lists the tensors that a model of this configuration takes, and builds it without them.
    pub(crate) fn plan(config: &ModelConfig) -> Result<(Plan, Transformer)> {
        let mut plan = Plan::default();
        let model = Self::assemble(config.clone(), &mut plan, Device::Cpu, Trainable::No)?;
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

    /// Computes the hidden states of every row of the stream after the last norm, `[T, H]`.
    ///
    /// # Errors
    /// As [`CausalLm::logits`].
    pub fn hidden_states(&self, batch: &PackedBatch) -> align_core::Result<Tensor> {
        batch.check_vocabulary(self.vocab_size())?;
        self.check_context(batch)?;
        let ids = PackedBatch::index_tensor(batch.ids(), self.device)?;
        let positions = PackedBatch::index_tensor(batch.positions(), self.device)?;
        let mut attention = PackedAttention::new(batch, self.device);
        self.decoder.hidden(&ids, &positions, &mut attention)
    }

    /// Computes the logits of a batch from the hidden states of all of its rows.
    pub(crate) fn logits_of(&self, hidden: &Tensor, batch: &PackedBatch) -> align_core::Result<Tensor> {
        let rows = PackedBatch::index_tensor(batch.predict_rows(), hidden.device())?;
        self.decoder.head(&hidden.f_index_select(0, &rows)?)
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
        self.device
    }

    fn logits(&self, batch: &PackedBatch) -> align_core::Result<Tensor> {
        if batch.groups().is_empty() {
            return Ok(Tensor::f_zeros([0, self.vocab_size() as i64], (Kind::Float, self.device))?);
        }
        self.logits_of(&self.hidden_states(batch)?, batch)
    }

    fn parameters(&self) -> Vec<Parameter> {
        if self.trainable == Trainable::No {
            return Vec::new();
        }
        self.weights.iter().map(Weight::parameter).collect()
    }

    fn replicate(&self) -> align_core::Result<Box<dyn CausalLm>> {
        Ok(Box::new(self.replica().map_err(Error::of_replica)?))
    }
}
