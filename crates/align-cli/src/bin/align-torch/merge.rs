//! `align merge`: an adapter into its base, or reward models into their average.

use std::path::{Path, PathBuf};

use align_cli::{Error, Result, args::MergeArgs, talk};
use align_core::{
    ScoreModel,
    tch::{Device, Kind},
};
use align_lm::{FrozenStorage, LoadOptions, ModelConfig, SaveDtype, SequenceClassifier, Trainable};
use align_rm::{NORMALIZATION_FILE, WeightedMember, average_weights, check_common_beginning};
use serde_json::{Map, Value, json};

use crate::{computer, failure, model, origin, reward_model::classifier};

pub fn run(flags: &MergeArgs) -> Result<()> {
    let device = computer::set_up(&flags.machine)?;
    must_be_new(&flags.output)?;
    let what = match &flags.model {
        Some(model) => add_adapter(flags, model, device)?,
        None => average(flags, device)?,
    };
    if flags.machine.json {
        return talk::data(&format!("{}\n", json!({"output": flags.output})));
    }
    talk::say(&format!("{what} is in {}", flags.output.display()));
    Ok(())
}

fn add_adapter(flags: &MergeArgs, folder: &Path, device: Device) -> Result<&'static str> {
    let adapter = flags.machine.adapter.as_deref();
    // The sum is rounded once, when it is saved.
    let (frozen, compute) = (storage(flags.machine.load_in_4bit), Kind::Float);
    let options = LoadOptions { frozen, compute, ..model::frozen(&flags.machine, device) };
    if adapter.is_some_and(is_of_reward_model) {
        let mut model = classifier(folder, adapter, &options)?;
        model.merge_adapter().map_err(failure::of)?;
        model.save_with_tokenizer(&flags.output, SaveDtype::Source, folder).map_err(failure::of)?;
        return Ok("the merged reward model");
    }
    let mut model = model::load_adapted(folder, adapter, &options)?;
    model.merge_adapter().map_err(failure::of)?;
    model.save_with_tokenizer(&flags.output, SaveDtype::Source, folder).map_err(failure::of)?;
    Ok("the merged model")
}

/// Says whether PEFT calls an adapter one of a sequence classifier.
fn is_of_reward_model(adapter: &Path) -> bool {
    let text = std::fs::read(adapter.join("adapter_config.json")).unwrap_or_default();
    let config: Option<Value> = serde_json::from_slice(&text).ok();
    config.is_some_and(|config| config.get("task_type").is_some_and(|task| task == "SEQ_CLS"))
}

/// Averages reward models into one.
fn average(flags: &MergeArgs, device: Device) -> Result<&'static str> {
    let Some((first, others)) = flags.average.split_first() else {
        return Err(Error::usage("--average <DIR> is missing", []));
    };
    let tokenizer = tokenizer_of(first)?;
    let config = ModelConfig::read(first).map_err(failure::of)?;
    for other in others {
        let another = ModelConfig::read(other).map_err(failure::of)?;
        if let Some(key) = differing(config.raw(), another.raw()) {
            let show = |raw: &Map<String, Value>| {
                raw.get(&key).map_or_else(|| "nothing".to_owned(), Value::to_string)
            };
            return Err(Error::data(
                format!(
                    "config.json of {} and {} differ in {key}: {} and {}",
                    first.display(),
                    other.display(),
                    show(config.raw()),
                    show(another.raw())
                ),
                ["an average takes models that began as one, and has the configuration of all of them"
                    .to_owned()],
            ));
        }
        if tokenizer_of(other)? != tokenizer {
            return Err(Error::data(
                format!("{} and {} have different tokenizers", first.display(), other.display()),
                ["an average takes models that began as one".to_owned()],
            ));
        }
    }
    let options =
        LoadOptions { trainable: Trainable::All, compute: Kind::Float, device, ..LoadOptions::default() };
    let load = |folder: &PathBuf| {
        let model = SequenceClassifier::load(folder, &options).map_err(failure::of)?;
        let parameters = ScoreModel::parameters(&model);
        Ok((folder.display().to_string(), model, parameters))
    };
    let models: Vec<_> = flags.average.iter().map(load).collect::<Result<_>>()?;
    let members: Vec<_> = models
        .iter()
        .map(|(name, _, parameters)| WeightedMember { name, parameters, initial_head: None })
        .collect();
    check_common_beginning(&members, HEAD).map_err(|error| {
        let hint = "train every model from one initial reward model, so that they begin with the same weights and the same \
                    head";
        failure::of(error).with_hint(hint.to_owned())
    })?;
    average_weights(&members).map_err(failure::of)?;
    if let Some((_, model, _)) = models.first() {
        model.save_with_tokenizer(&flags.output, SaveDtype::Source, first).map_err(failure::of)?;
    }
    // The scale of one of the models is not that of their average.
    let scale = flags.output.join(NORMALIZATION_FILE);
    if scale.exists() {
        std::fs::remove_file(&scale).map_err(Error::write(&scale))?;
    }
    Ok("the average")
}

/// Finds a key of which two configurations say different things; null is as good as no key.
fn differing(one: &Map<String, Value>, another: &Map<String, Value>) -> Option<String> {
    fn said<'a>(raw: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
        raw.get(key).filter(|value| !value.is_null())
    }
    let mut keys = one.keys().chain(another.keys()).filter(|key| !SAVING.contains(&key.as_str()));
    keys.find(|key| said(one, key) != said(another, key)).cloned()
}

/// Keys that say how and by what a model was saved, not what it computes.
const SAVING: [&str; 4] = ["torch_dtype", "dtype", "transformers_version", "_name_or_path"];

/// The weights of the head.
const HEAD: &str = "score.weight";

/// Computes a digest of what decides which tokens a text has.
fn tokenizer_of(folder: &Path) -> Result<String> {
    let files = ["tokenizer.json", "tokenizer.model", "chat_template.jinja"].map(|name| folder.join(name));
    origin::digest(&files.into_iter().filter(|file| file.is_file()).collect::<Vec<_>>())
}

/// An adapter that was trained over 4 bits belongs to the numbers that these stand for.
fn storage(in_4bit: bool) -> FrozenStorage {
    if in_4bit { FrozenStorage::Nf4 } else { FrozenStorage::Float }
}

/// A folder that holds something may be what is read.
fn must_be_new(output: &Path) -> Result<()> {
    let is_empty = std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty || !output.exists() {
        return Ok(());
    }
    let what = if output.is_dir() { "the folder is not empty" } else { "is a file, not a folder" };
    Err(Error::usage(
        format!("--output {}: {what}", output.display()),
        ["name another folder, or delete this one first".to_owned()],
    ))
}
