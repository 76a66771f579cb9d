//! Reward models as rewards of texts: one, or several as one.

use align_core::{
    BoxError,
    align_types::{self, PromptGroup, Reward, RewardItem},
};

use crate::{
    EnsembleMember, EnsembleRule, Result, RewardNormalization, RowScorer, ScoringError, combine_scores,
};

/// Makes token ids of a prompt with one answer; the number is the item's place in its batch, for messages.
pub type Encode = dyn Fn(&RewardItem<'_>, usize) -> Result<PromptGroup, BoxError> + Send;

/// A reward model as a [`Reward`]: text goes between it and the policy, so that it may have a tokenizer and a template of
/// its own, which it knows as a function from text to tokens.
///
/// With `align-lm` and `align-data` a folder of `AutoModelForSequenceClassification` with one label, such as
/// `align reward` writes, is a reward in a few lines:
///
/// ```
/// use align_core::align_types::{Columns, RewardItem, score};
/// use align_data::{ChatTemplate, Tokenizer, encode_item};
/// use align_lm::{LoadOptions, SequenceClassifier};
/// use align_rm::{ModelReward, RowScorer};
///
/// # let folder = align_testkit::fixture("classifiers/llama");
/// # let with_tokenizer = align_testkit::fixture("models/tiny-llama");
/// // The tokenizer lies in the model's folder, or in another one.
/// let tokenizer = Tokenizer::from_folder(&with_tokenizer)?;
/// let template = ChatTemplate::from_folder(&with_tokenizer, tokenizer.special_tokens())?;
/// let model = SequenceClassifier::load(&folder, &LoadOptions::default())?;
/// let scorer = RowScorer::new("helpful", Box::new(model)).with_threads(2)?.with_batch_tokens(4096);
/// let mut reward = ModelReward::new(scorer, move |item, index| {
///     Ok(encode_item(item, index, &tokenizer, template.as_ref())?)
/// });
/// // Of a model with a scale beside it: reward.normalized(RewardNormalization::read(&folder, None)?)?
/// let columns = Columns::new();
/// let item = |completion| RewardItem { prompt: "2 + 2 =", messages: None, completion, columns: &columns, source: None };
/// let scores = score(&mut reward, &[item(" 4"), item(" 5"), item(" 4")])?;
/// assert!(scores.values().iter().all(Option::is_some));
/// # let close = |a: Option<f64>, b: Option<f64>| (a.unwrap() - b.unwrap()).abs() < 1e-4;
/// # assert!(close(scores.values()[0], scores.values()[2]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Scores are raw logits unless they are brought to a scale ([`Self::normalized`]): then only differences between answers
/// to one prompt mean something. Nothing is cut: as a reward the model abstains from an answer that does not fit into its
/// context, and the first of them is told to [`Self::with_notice`].
pub struct ModelReward {
    name: String,
    scorer: RowScorer,
    encode: Box<Encode>,
    scale: Option<RewardNormalization>,
    /// Until it was told something.
    notice: Option<Box<Notice>>,
}

/// Hears what a user should know.
pub type Notice = dyn FnMut(&str) + Send;

impl std::fmt::Debug for ModelReward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelReward").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ModelReward {
    /// Takes a model and a function that makes token ids of a prompt with its answer. The reward has the model's name.
    pub fn new(
        scorer: RowScorer,
        encode: impl Fn(&RewardItem<'_>, usize) -> Result<PromptGroup, BoxError> + Send + 'static,
    ) -> Self {
        Self { name: scorer.name().to_owned(), scorer, encode: Box::new(encode), scale: None, notice: None }
    }

    /// Changes the name of the reward; messages about the model name it as the scorer does.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Names who is told of the first answer that is too long for the model.
    #[must_use]
    pub fn with_notice(self, notice: Box<Notice>) -> Self {
        Self { notice: Some(notice), ..self }
    }

    /// Brings the scores to a scale, (score − mean) / std, and says so in the name.
    ///
    /// # Errors
    /// As [`RewardNormalization::validate`].
    pub fn normalized(mut self, scale: RewardNormalization) -> Result<Self> {
        scale.validate()?;
        if self.scale.replace(scale).is_none() {
            self.name.push_str(", normalized");
        }
        Ok(self)
    }

    /// Returns the scale, where there is one.
    pub fn scale(&self) -> Option<&RewardNormalization> {
        self.scale.as_ref()
    }

    /// Computes raw scores, one per item.
    ///
    /// # Errors
    /// An item that cannot be encoded, does not fit, or has a score that is not finite: each by its name.
    pub fn raw_scores(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<f64>, ScoringError> {
        let groups =
            items.iter().enumerate().map(|(i, item)| self.group(item, i)).collect::<Result<Vec<_>, _>>()?;
        self.scores_of(&groups)
    }

    fn scores_of(&mut self, groups: &[PromptGroup]) -> Result<Vec<f64>, ScoringError> {
        let scores = self.scorer.all(groups, || Ok::<_, ScoringError>(()))?;
        Ok(scores.into_iter().flatten().collect())
    }

    /// As [`Self::raw_scores`]; `None` for an item that is too long for the model.
    fn scores_that_fit(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>, ScoringError> {
        let (mut groups, mut fits) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        for (index, item) in items.iter().enumerate() {
            let group = match self.group(item, index) {
                Err(error @ ScoringError::TooLong { .. }) => {
                    if let Some(mut notice) = self.notice.take() {
                        notice(&format!("{}: {error}; answers that are too long have no reward", self.name));
                    }
                    None
                }
                group => Some(group?),
            };
            fits.push(group.is_some());
            groups.extend(group);
        }
        let mut scores = self.scores_of(&groups)?.into_iter();
        Ok(fits.into_iter().map(|fits| if fits { scores.next() } else { None }).collect())
    }

    fn group(&self, item: &RewardItem<'_>, index: usize) -> Result<PromptGroup, ScoringError> {
        let mut group = (self.encode)(item, index).map_err(ScoringError::Encode)?;
        if group.completions.len() != 1 {
            let (row, got) = (item.describe(index), group.completions.len());
            return Err(ScoringError::Encoding { row, got });
        }
        group.source = item.source.cloned();
        let tokens = group.flat_tokens();
        match self.scorer.context_length() {
            Some(context) if tokens > context => {
                Err(ScoringError::TooLong { row: item.describe(index), tokens, context })
            }
            _ => Ok(group),
        }
    }
}

impl Reward for ModelReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
        let raw = self.scores_that_fit(items).map_err(|error| failed(&self.name, error))?;
        let brought = |score: f64| self.scale.as_ref().map_or(score, |scale| scale.apply(score));
        Ok(raw.into_iter().map(|score| score.map(brought)).collect())
    }
}

fn failed(name: &str, error: ScoringError) -> align_types::Error {
    align_types::Error::Seam { what: name.to_owned(), why: error.to_string(), source: Some(Box::new(error)) }
}

/// Several reward models as one [`Reward`]: each scores the same texts, each with a tokenizer of its own, and
/// [`combine_scores`] makes one number of theirs.
///
/// Every member must be normalised, on answers of the same kind ([`ModelReward::normalized`]). The ensemble abstains from
/// an answer that is too long for one of them.
#[derive(Debug)]
pub struct EnsembleReward {
    name: String,
    members: Vec<ModelReward>,
    rule: EnsembleRule,
}

impl EnsembleReward {
    /// Puts models together.
    ///
    /// # Errors
    /// As [`combine_scores`]: fewer than two models, one without a scale or with one of another kind, a rule that cannot
    /// be.
    pub fn new(members: Vec<ModelReward>, rule: EnsembleRule) -> Result<Self> {
        let names: Vec<&str> = members.iter().map(|member| member.scorer.name()).collect();
        let name = format!("{} of {}", rule.describe(), names.join(" and "));
        let ensemble = Self { name, members, rule };
        // What has no scale in common is known before anything is scored.
        ensemble.combine(&vec![Vec::new(); ensemble.members.len()])?;
        Ok(ensemble)
    }

    fn combine(&self, raw: &[Vec<f64>]) -> Result<Vec<f64>> {
        let members = self.members.iter().zip(raw).map(|(member, scores)| EnsembleMember {
            name: member.scorer.name(),
            scores,
            normalization: member.scale.as_ref(),
        });
        combine_scores(&members.collect::<Vec<_>>(), self.rule)
    }
}

impl Reward for EnsembleReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
        let mut fits = vec![true; items.len()];
        let mut raw = Vec::with_capacity(self.members.len());
        for member in &mut self.members {
            let scores = member.scores_that_fit(items).map_err(|error| failed(&self.name, error))?;
            fits.iter_mut().zip(&scores).for_each(|(fits, score)| *fits &= score.is_some());
            raw.push(scores);
        }
        let of_all = |scores: Vec<Option<f64>>| -> Vec<f64> {
            scores.into_iter().zip(&fits).filter_map(|(score, fits)| score.filter(|_| *fits)).collect()
        };
        let raw: Vec<Vec<f64>> = raw.into_iter().map(of_all).collect();
        let combined = self.combine(&raw).map_err(|error| failed(&self.name, error.into()))?;
        let mut combined = combined.into_iter();
        Ok(fits.into_iter().map(|fits| if fits { combined.next() } else { None }).collect())
    }
}
