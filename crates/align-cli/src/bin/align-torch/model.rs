//! Model folders: weights with their tokenizer and chat template.

use std::path::Path;

use align_cli::{
    Error, Result,
    args::{Dtype, ModelArgs, TrainArgs},
    talk,
};
use align_core::{
    CausalLm,
    align_types::PromptGroup,
    tch::{Device, Kind},
};
use align_data::{ChatTemplate, Rows, Tokenizer};
use align_lm::{AdapterOptions, FrozenStorage, LoadOptions, Model, ModelConfig, Trainable};

use crate::failure;

/// What can be read of a model folder without its weights.
#[derive(Debug)]
pub struct Folder {
    /// `config.json`.
    pub config: ModelConfig,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template, where there is one.
    pub template: Option<ChatTemplate>,
}

/// Reads configuration, tokenizer and chat template of a model folder and checks that they belong together.
///
/// # Errors
/// [`Error::Data`] for a folder that is none, an unknown architecture, a missing tokenizer, a tokenizer with tokens
/// that the model does not have.
pub fn open(folder: &Path) -> Result<Folder> {
    if !folder.is_dir() {
        let what =
            if folder.exists() { "is a file, not a model folder" } else { "there is no such model folder" };
        return Err(Error::data(
            format!("{}: {what}", folder.display()),
            ["a model folder holds config.json, *.safetensors and tokenizer.json (or tokenizer.model)"
                .to_owned()],
        ));
    }
    let config = ModelConfig::read(folder).map_err(failure::of)?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let template = ChatTemplate::from_folder(folder, tokenizer.special_tokens())?;
    let (tokens, rows) = (tokenizer.vocab_size(), config.vocab_size());
    if tokens > rows {
        return Err(Error::data(
            format!("{}: the tokenizer has {tokens} tokens, the model {rows}", folder.display()),
            ["take the tokenizer that the model was trained with".to_owned()],
        ));
    }
    Ok(Folder { config, tokenizer, template })
}

/// How a model that is not trained is loaded.
pub fn frozen(machine: &ModelArgs, device: Device) -> LoadOptions {
    LoadOptions {
        device,
        trainable: Trainable::No,
        compute: match machine.dtype {
            Dtype::F32 => Kind::Float,
            Dtype::Bf16 => Kind::BFloat16,
        },
        frozen: match (machine.load_in_4bit, machine.dtype) {
            (true, _) => FrozenStorage::Nf4,
            (false, Dtype::Bf16) => FrozenStorage::Half,
            (false, Dtype::F32) => FrozenStorage::Float,
        },
        ..LoadOptions::default()
    }
}

/// How the model of a training command is loaded.
pub fn trained(train: &TrainArgs, device: Device) -> LoadOptions {
    let recompute = train.batch.gradient_checkpointing;
    LoadOptions { trainable: Trainable::All, recompute, ..frozen(&train.machine, device) }
}

/// Loads the weights, and tells what a user should know of them.
///
/// # Errors
/// [`Error::Data`] for damaged or contradictory weights, [`Error::Environment`] for want of memory.
pub fn load(folder: &Path, options: &LoadOptions) -> Result<Model> {
    let model = Model::load(folder, options).map_err(failure::of)?;
    model.notes().iter().for_each(|note| talk::warn(&format!("{}: {note}", folder.display())));
    Ok(model)
}

/// Loads a model that is never trained, with its adapter where there is one.
///
/// # Errors
/// As [`load`]; [`Error::Data`] for an adapter that does not fit.
pub fn load_adapted(folder: &Path, adapter: Option<&Path>, options: &LoadOptions) -> Result<Model> {
    let mut model = load(folder, options)?;
    if let Some(adapter) = adapter {
        let options = AdapterOptions { trainable: Trainable::No, seed: 0 };
        model.load_adapter(adapter, &options).map_err(failure::of)?;
    }
    Ok(model)
}

/// Makes one model per thread over the same weights.
///
/// # Errors
/// libtorch refuses.
pub fn replicas(model: Model, threads: usize) -> Result<Vec<Model>> {
    // A GPU does not get faster by being asked from several threads.
    let more = if model.device() == Device::Cpu { threads.saturating_sub(1) } else { 0 };
    let mut replicas = (0..more).map(|_| model.replica().map_err(failure::of)).collect::<Result<Vec<_>>>()?;
    replicas.push(model);
    Ok(replicas)
}

/// Checks that two models speak of the same tokens.
///
/// # Errors
/// [`Error::Data`] when their vocabularies differ in size.
pub fn same_vocabulary(policy: &ModelConfig, reference: &ModelConfig, folder: &Path) -> Result<()> {
    let (tokens, others) = (policy.vocab_size(), reference.vocab_size());
    if tokens == others {
        return Ok(());
    }
    Err(Error::data(
        format!(
            "--ref-model {}: its vocabulary has {others} tokens, that of --model {tokens}",
            folder.display()
        ),
        ["policy and reference must share one tokenizer".to_owned()],
    ))
}

/// Checks that every prompt with each of its answers fits into the context of the reference.
///
/// # Errors
/// [`Error::Data`] with the first row that does not, or rows on a disk that fails.
pub fn rows_fit(rows: &Rows, context: usize, folder: &Path) -> Result<()> {
    let longest = |group: &PromptGroup| {
        let answers = group.completions.iter().map(|answer| answer.token_ids.len());
        group.prompt.len() + answers.max().unwrap_or(0)
    };
    for (index, group) in rows.iter().enumerate() {
        let group = group?;
        let tokens = longest(&group);
        if tokens > context {
            return Err(Error::data(
                format!(
                    "{}: {tokens} tokens do not fit into the context of --ref-model {} ({context} tokens)",
                    group.describe(index),
                    folder.display()
                ),
                [format!("cut rows to it with --max-length {context}, or name another --ref-model")],
            ));
        }
    }
    Ok(())
}
