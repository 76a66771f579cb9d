//! A folder of `AutoModelForSequenceClassification` as a reward.

use std::path::Path;

use align_cli::{Error, Result, args::ModelArgs, talk};
use align_core::{
    PackedBatch, ScoreModel,
    align_types::{self, PromptGroup, Reward, RewardItem},
    no_grad,
    tch::{Device, Kind},
};
use align_data::{ChatTemplate, Tokenizer, encode_item};
use align_lm::SequenceClassifier;

use crate::{
    computer, failure,
    logprobs::batches,
    model::{self, Folder},
};

/// A reward model with the tokenizer and the template that it was trained with: text goes between it and the policy.
pub struct RewardModel {
    name: String,
    replicas: Vec<SequenceClassifier>,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    context: usize,
    micro_batch_tokens: usize,
}

impl RewardModel {
    /// Loads a folder.
    ///
    /// # Errors
    /// [`Error::Data`] for a folder that is no reward model.
    pub fn load(
        folder: &Path,
        machine: &ModelArgs,
        device: Device,
        micro_batch_tokens: usize,
    ) -> Result<Self> {
        let Folder { config, tokenizer, template } = model::open(folder)?;
        let options = model::frozen(machine, device);
        let model = SequenceClassifier::load(folder, &options).map_err(failure::of)?;
        model.notes().iter().for_each(|note| talk::warn(&format!("{}: {note}", folder.display())));
        let more = if device == Device::Cpu { machine.threads().saturating_sub(1) } else { 0 };
        let mut replicas =
            (0..more).map(|_| model.replica().map_err(failure::of)).collect::<Result<Vec<_>>>()?;
        replicas.push(model);
        let name = format!("model:{}", folder.display());
        let context = config.context_length();
        Ok(Self { name, replicas, tokenizer, template, context, micro_batch_tokens })
    }

    fn scores(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>> {
        let groups =
            items.iter().enumerate().map(|(i, item)| self.group(item, i)).collect::<Result<Vec<_>>>()?;
        let cut = if groups.is_empty() { Vec::new() } else { batches(&groups, self.micro_batch_tokens) };
        let mut scores = Vec::with_capacity(items.len());
        for round in cut.chunks(self.replicas.len()) {
            let jobs = round.iter().map(|batch| groups.get(batch.clone()).unwrap_or_default());
            let results = computer::in_parallel(&mut self.replicas, jobs, |model, groups| {
                let _guard = no_grad();
                let batch = PackedBatch::new(groups).map_err(failure::of)?;
                let scores = model.scores(&batch).map_err(failure::of)?;
                let wide = scores.f_to_kind(Kind::Double).and_then(|scores| scores.f_contiguous());
                let list = wide.and_then(Vec::<f64>::try_from).map_err(align_core::Error::from);
                list.map_err(failure::of)
            })?;
            scores.extend(results.into_iter().flatten().map(Some));
        }
        Ok(scores)
    }

    fn group(&self, item: &RewardItem<'_>, index: usize) -> Result<PromptGroup> {
        let group = encode_item(item, index, &self.tokenizer, self.template.as_ref())?;
        let tokens = group.flat_tokens();
        if tokens <= self.context {
            return Ok(group);
        }
        Err(Error::data(
            format!(
                "{}: prompt and answer have {tokens} tokens of the reward model, whose context is {}",
                item.describe(index),
                self.context
            ),
            ["lower --max-new-tokens, or leave the prompt out".to_owned()],
        ))
    }
}

impl Reward for RewardModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
        self.scores(items).map_err(|error| align_types::Error::Seam {
            what: self.name.clone(),
            why: error.to_string(),
            source: Some(Box::new(error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use align_cli::{args::Command, settings};
    use align_core::align_types::Columns;
    use serde_json::Value;

    use super::*;

    /// Puts a reward model and its tokenizer into one folder.
    fn folder(to: &Path) {
        let copy = |from: &str, name: &str| {
            std::fs::copy(align_testkit::fixture(&format!("{from}/{name}")), to.join(name)).unwrap();
        };
        for name in ["config.json", "model.safetensors"] {
            copy("classifiers/llama", name);
        }
        for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
            copy("models/tiny-llama", name);
        }
    }

    fn load(folder: &Path, context: Option<usize>) -> RewardModel {
        let line = "align eval --model m --data d --device cpu --threads 2";
        let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let Command::Eval(flags) = settings::parse(&argv).unwrap().command else { panic!("another command") };
        let mut model = RewardModel::load(folder, &flags.machine, Device::Cpu, 64).unwrap();
        model.context = context.unwrap_or(model.context);
        model
    }

    /// `fixtures/classifiers/rewards.py` got the expected rewards from transformers: text and conversations, each with
    /// the reward model's own tokens and template.
    #[test]
    fn rewards_of_texts_are_those_of_transformers() {
        let here = tempfile::tempdir().unwrap();
        folder(here.path());
        let expected = std::fs::read(align_testkit::fixture("classifiers/rewards.json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let cases = expected["items"].as_array().unwrap();
        let columns = Columns::new();
        let items: Vec<RewardItem<'_>> = cases
            .iter()
            .map(|case| RewardItem {
                prompt: case["prompt"].as_str().unwrap_or("the messages count"),
                messages: case["messages"].as_array().map(Vec::as_slice),
                completion: case["completion"].as_str().unwrap(),
                columns: &columns,
                source: None,
            })
            .collect();
        let mut model = load(here.path(), None);
        let rewards = model.score(&items).unwrap();
        for ((case, item), reward) in cases.iter().zip(&items).zip(rewards) {
            let (got, expected) = (reward.unwrap(), case["reward"].as_f64().unwrap());
            assert!((got - expected).abs() < 1e-4, "{case}: {got}");
            assert_eq!(model.group(item, 0).unwrap().flat_tokens() as u64, case["tokens"].as_u64().unwrap());
        }
        assert_eq!(model.score(&[]).unwrap(), []);
    }

    #[test]
    fn an_answer_that_does_not_fit_is_an_error_that_names_the_item() {
        let here = tempfile::tempdir().unwrap();
        folder(here.path());
        let columns = Columns::new();
        let item = RewardItem {
            prompt: "p",
            messages: None,
            completion: "more words",
            columns: &columns,
            source: None,
        };
        let error = load(here.path(), Some(3)).score(&[item]).unwrap_err().to_string();
        assert!(error.contains("completion 0") && error.contains("whose context is 3"), "{error}");
    }
}
