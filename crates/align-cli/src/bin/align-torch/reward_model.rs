//! Reward models: folders of `AutoModelForSequenceClassification` with one label.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use align_cli::{Error, Result, args::ModelArgs, talk};
use align_core::{
    PackedBatch, ScoreModel,
    align_types::{self, PromptGroup, Reward, RewardItem, TokenId},
    no_grad,
    tch::{Device, Kind},
};
use align_data::encode_item;
use align_lm::{AdapterOptions, LoadOptions, SequenceClassifier, Trainable};
use align_rm::RewardNormalization;

use crate::{
    failure,
    model::{self, Folder},
    passes, scale,
};

/// A reward model with the tokenizer and the template that it was trained with, over as many threads as there are.
pub struct Scorer {
    path: PathBuf,
    folder: Folder,
    replicas: Vec<SequenceClassifier>,
    micro_batch_tokens: usize,
}

impl Scorer {
    /// Loads a folder, with an adapter and its score head where there is one, and tells what a user should know of it.
    ///
    /// # Errors
    /// [`Error::Data`] for a folder that is no reward model, an adapter that does not fit.
    pub fn load(
        path: &Path,
        adapter: Option<&Path>,
        machine: &ModelArgs,
        device: Device,
        micro_batch_tokens: usize,
    ) -> Result<Self> {
        let folder = model::open(path)?;
        let model = classifier(path, adapter, &model::frozen(machine, device))?;
        model.notes().iter().for_each(|note| talk::warn(&format!("{}: {note}", path.display())));
        let more = if device == Device::Cpu { machine.threads().saturating_sub(1) } else { 0 };
        let mut replicas =
            (0..more).map(|_| model.replica().map_err(failure::of)).collect::<Result<Vec<_>>>()?;
        replicas.push(model);
        Ok(Self { path: path.to_owned(), folder, replicas, micro_batch_tokens })
    }

    /// Returns where the model was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns tokenizer, template and configuration.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Returns the token that is skipped at the end of answers, where there is one.
    pub fn pad_token_id(&self) -> Option<TokenId> {
        self.replicas.first().and_then(SequenceClassifier::pad_token_id)
    }

    /// Returns the longest prompt with an answer that the model takes, in tokens.
    pub fn context(&self) -> usize {
        self.folder.config.context_length()
    }

    /// Scores every answer of the rows, and hands on the scores of each batch, one list per row, in the rows' order;
    /// batches of the first `kept` rows alone are left out.
    ///
    /// # Errors
    /// [`Error::Data`] names the row of a score that is not finite; the model fails; those of `go_on` and `done`.
    pub fn each(
        &mut self,
        rows: &[PromptGroup],
        kept: usize,
        go_on: impl Fn() -> Result<()> + Sync,
        done: impl FnMut(Range<usize>, Vec<Vec<f64>>) -> Result<()>,
    ) -> Result<()> {
        let Self { path, replicas, micro_batch_tokens, .. } = self;
        let work = |model: &mut SequenceClassifier, rows: &[PromptGroup]| {
            scores(model, rows, &path.display().to_string())
        };
        passes::over_rows(replicas, rows, *micro_batch_tokens, kept, go_on, work, done)
    }

    /// Scores every answer of the rows.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub fn all(
        &mut self,
        rows: &[PromptGroup],
        go_on: impl Fn() -> Result<()> + Sync,
    ) -> Result<Vec<Vec<f64>>> {
        let mut all = Vec::with_capacity(rows.len());
        self.each(rows, 0, go_on, |_, scores| {
            all.extend(scores);
            Ok(())
        })?;
        Ok(all)
    }
}

/// Loads a classifier; an adapter of a reward model brings the score head, so that its base needs none.
///
/// # Errors
/// As [`Scorer::load`].
pub fn classifier(path: &Path, adapter: Option<&Path>, options: &LoadOptions) -> Result<SequenceClassifier> {
    let Some(adapter) = adapter else { return SequenceClassifier::load(path, options).map_err(refused) };
    let mut model = SequenceClassifier::begin(path, 0, options).map_err(failure::of)?;
    let options = AdapterOptions { trainable: Trainable::No, seed: 0 };
    model.load_adapter(adapter, &options).map_err(failure::of)?;
    Ok(model)
}

/// A folder that cannot be loaded; one without a head gets a better hint than another kind of damage.
fn refused(error: align_lm::Error) -> Error {
    let headless =
        matches!(&error, align_lm::Error::Contradiction { why, .. } if why.contains("has no score head"));
    match headless {
        true => Error::data(
            error.to_string(),
            ["a language model is no reward model: `align reward` makes one of it".to_owned()],
        ),
        false => failure::of(error),
    }
}

/// Computes the scores of the answers of some rows in one pass, a list per row; `name` is the model's in messages.
///
/// # Errors
/// [`Error::Data`] names the row of a score that is not finite; the model fails.
pub fn scores(model: &SequenceClassifier, rows: &[PromptGroup], name: &str) -> Result<Vec<Vec<f64>>> {
    let _guard = no_grad();
    let batch = PackedBatch::new(rows).map_err(failure::of)?;
    let scores = model.scores(&batch).map_err(failure::of)?;
    let wide = scores.f_to_kind(Kind::Double).and_then(|scores| scores.f_contiguous());
    let list = wide.and_then(Vec::<f64>::try_from).map_err(align_core::Error::from).map_err(failure::of)?;
    let mut list = list.into_iter();
    let of_row = |(index, row): (usize, &PromptGroup)| {
        let scores = list.by_ref().take(row.completions.len()).collect();
        let scores = ties(row, scores);
        match scores.iter().find(|score| !score.is_finite()) {
            None => Ok(scores),
            Some(score) => Err(Error::data(
                format!("{}: its reward is {score}", row.describe(index)),
                [format!(
                    "the weights of {name} are damaged, or its training diverged; --dtype f32 has the widest range"
                )],
            )),
        }
    };
    rows.iter().enumerate().map(of_row).collect()
}

/// Gives equal answers of a row one score: sums of the same numbers in other places of a batch differ in their last
/// bits, which would decide a tie.
fn ties(row: &PromptGroup, mut scores: Vec<f64>) -> Vec<f64> {
    for (index, answer) in row.completions.iter().enumerate() {
        let equal = row.completions.iter().take(index).position(|other| other.token_ids == answer.token_ids);
        let known = equal.and_then(|equal| scores.get(equal).copied());
        if let (Some(known), Some(score)) = (known, scores.get_mut(index)) {
            *score = known;
        }
    }
    scores
}

/// A reward model as a reward of texts: text goes between it and the policy.
pub struct RewardModel {
    name: String,
    scorer: Scorer,
    context: usize,
    scale: Option<RewardNormalization>,
}

impl RewardModel {
    /// Loads a folder.
    ///
    /// # Errors
    /// As [`Scorer::load`].
    pub fn load(
        folder: &Path,
        machine: &ModelArgs,
        device: Device,
        micro_batch_tokens: usize,
    ) -> Result<Self> {
        // The adapter of a command is that of its policy.
        let scorer = Scorer::load(folder, None, machine, device, micro_batch_tokens)?;
        let context = scorer.context();
        Ok(Self { name: format!("model:{}", folder.display()), scorer, context, scale: None })
    }

    /// Brings the rewards to the scale in the model's folder, and says so in the name.
    ///
    /// # Errors
    /// As [`scale::read`].
    pub fn normalized(mut self) -> Result<Self> {
        self.scale = Some(scale::read(self.scorer.path(), None)?);
        self.name.push_str(", normalized");
        Ok(self)
    }

    fn scores(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>> {
        let groups =
            items.iter().enumerate().map(|(i, item)| self.group(item, i)).collect::<Result<Vec<_>>>()?;
        let scores = self.scorer.all(&groups, || Ok(()))?;
        let brought = |score: f64| self.scale.as_ref().map_or(score, |scale| scale.apply(score));
        Ok(scores.into_iter().flatten().map(|score| Some(brought(score))).collect())
    }

    fn group(&self, item: &RewardItem<'_>, index: usize) -> Result<PromptGroup> {
        let Folder { tokenizer, template, .. } = self.scorer.folder();
        let mut group = encode_item(item, index, tokenizer, template.as_ref())?;
        group.source = item.source.cloned();
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
        std::fs::write(
            here.path().join(align_rm::NORMALIZATION_FILE),
            r#"{"mean":1.0,"std":2.0,"rows":9,"of":"samples"}"#,
        )
        .unwrap();
        let raw = model.score(&items).unwrap();
        let brought = model.normalized().unwrap().score(&items).unwrap();
        for (raw, brought) in raw.iter().zip(brought) {
            assert!((brought.unwrap() - (raw.unwrap() - 1.0) / 2.0).abs() < 1e-5);
        }
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
