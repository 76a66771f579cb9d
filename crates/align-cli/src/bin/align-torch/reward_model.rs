//! Reward models: folders of `AutoModelForSequenceClassification` with one label.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use align_cli::{
    Error, Result,
    args::{EnsembleArgs, EnsembleName, ModelArgs},
    talk,
};
use align_core::{
    BoxError,
    align_types::{PromptGroup, RewardItem, TokenId},
    tch::Device,
};
use align_data::encode_item;
use align_lm::{AdapterOptions, LoadOptions, SequenceClassifier, Trainable};
use align_rm::{EnsembleReward, EnsembleRule, ModelReward, RowScorer};

use crate::{
    failure::{self, Own},
    model::{self, Folder},
    scale,
};

/// How models are run.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// The flags.
    pub flags: &'a ModelArgs,
    /// Where.
    pub device: Device,
    /// Most tokens of a forward pass.
    pub micro_batch_tokens: usize,
}

/// A reward model with the tokenizer and the template that it was trained with, over as many threads as there are.
pub struct Scorer {
    path: PathBuf,
    folder: Folder,
    pad: Option<TokenId>,
    rows: RowScorer,
}

impl Scorer {
    /// Loads a folder, with an adapter and its score head where there is one, and tells what a user should know of it.
    ///
    /// # Errors
    /// [`Error::Data`] for a folder that is no reward model, an adapter that does not fit.
    pub fn load(path: &Path, adapter: Option<&Path>, machine: Machine<'_>) -> Result<Self> {
        let folder = model::open(path)?;
        let model = classifier(path, adapter, &model::frozen(machine.flags, machine.device))?;
        model.notes().iter().for_each(|note| talk::warn(&format!("{}: {note}", path.display())));
        let pad = model.pad_token_id();
        let rows = RowScorer::new(path.display().to_string(), Box::new(model))
            .with_batch_tokens(machine.micro_batch_tokens)
            .with_threads(machine.flags.threads())
            .map_err(failure::of)?;
        Ok(Self { path: path.to_owned(), folder, pad, rows })
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
        self.pad
    }

    /// Returns the longest prompt with an answer that the model takes, in tokens.
    pub fn context(&self) -> usize {
        self.folder.config.context_length()
    }

    /// Scores every answer of the rows, as [`RowScorer::each`].
    ///
    /// # Errors
    /// [`Error::Data`] names the row of a score that is not finite; the model fails; those of `go_on` and `done`.
    pub fn each(
        &mut self,
        rows: &[PromptGroup],
        kept: usize,
        go_on: impl Fn() -> Result<()> + Sync,
        mut done: impl FnMut(Range<usize>, Vec<Vec<f64>>) -> Result<()>,
    ) -> Result<()> {
        let done = |batch: Range<usize>, scores: Vec<Vec<f64>>| done(batch, scores).map_err(Own);
        self.rows.each(rows, kept, || go_on().map_err(Own), done).map_err(|Own(error)| error)
    }

    /// Scores every answer of the rows, as [`RowScorer::all`].
    ///
    /// # Errors
    /// As [`Self::each`].
    pub fn all(
        &mut self,
        rows: &[PromptGroup],
        go_on: impl Fn() -> Result<()> + Sync,
    ) -> Result<Vec<Vec<f64>>> {
        self.rows.all(rows, || go_on().map_err(Own)).map_err(|Own(error)| error)
    }

    /// Makes a reward of texts of the model.
    fn into_reward(self, name: String) -> ModelReward {
        let Folder { tokenizer, template, .. } = self.folder;
        let encode = move |item: &RewardItem<'_>, index: usize| {
            encode_item(item, index, &tokenizer, template.as_ref()).map_err(BoxError::from)
        };
        ModelReward::new(self.rows, encode).named(name).with_notice(Box::new(talk::warn))
    }
}

/// Loads a folder as a reward of texts, on the scale in the folder where that is asked for, and says which.
///
/// # Errors
/// As [`Scorer::load`] and [`scale::read`].
pub fn reward(folder: &Path, normalize: bool, machine: Machine<'_>) -> Result<ModelReward> {
    // Before the weights, which take longer.
    let scale = normalize.then(|| scale::read(folder, None)).transpose()?;
    // The adapter of a command is that of its policy.
    let scorer = Scorer::load(folder, None, machine)?;
    let reward = scorer.into_reward(format!("model:{}", folder.display()));
    let Some(scale) = scale else {
        let raw = "its rewards are raw logits, of which only differences within a prompt mean something";
        talk::say(&format!("{}: {raw}", folder.display()));
        return Ok(reward);
    };
    talk::say(&format!(
        "{}: its rewards are normalized, (r - {:.4}) / {:.4}, measured on {} {}",
        folder.display(),
        scale.mean,
        scale.std,
        scale.rows,
        scale.of.name()
    ));
    reward.normalized(scale).map_err(failure::of)
}

/// Puts reward models together.
///
/// # Errors
/// As [`EnsembleReward::new`].
pub fn ensemble(members: Vec<ModelReward>, rule: EnsembleRule) -> Result<EnsembleReward> {
    EnsembleReward::new(members, rule).map_err(failure::of)
}

/// Returns how several models are one reward, where that is asked for.
pub fn rule(flags: &EnsembleArgs) -> Option<EnsembleRule> {
    flags.ensemble.map(|name| match name {
        EnsembleName::Mean => EnsembleRule::Mean,
        EnsembleName::Min => EnsembleRule::Worst,
        EnsembleName::Variance => EnsembleRule::MeanMinusVariance { k: flags.coefficient() },
    })
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
