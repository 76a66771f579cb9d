//! Scoring sampled completions.

use align_core::{
    BoxError,
    align_types::{self, PromptGroup, Reward, RewardItem},
};

use crate::IterationError as Error;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Scores sampled completions: the seam through which the iteration asks for rewards.
///
/// [`TextScorer`] puts every [`Reward`] behind it; write another where completions are not scored as text.
pub trait Scorer {
    /// Scores every completion: one list per group in order, with one finite number per completion, or `None` where
    /// the reward abstains.
    ///
    /// # Errors
    /// Anything that is neither a score nor an abstention; the message names the row.
    fn score(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<Option<f64>>>, BoxError>;

    /// Returns means over completions of the last call for the metrics, such as that of each summand, each with the number
    /// of completions that it is over; nothing unless written.
    fn metrics(&self) -> Vec<(String, f64, usize)> {
        Vec::new()
    }

    /// Says who abstained where every completion of the last call is without a score; nothing unless written. Training
    /// ends with it, and held-out prompts go without scores.
    fn silence(&self) -> Option<String> {
        None
    }
}

/// A prompt as rewards read it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PromptText {
    /// The text, without special tokens.
    pub text: String,
    /// The messages, where it is a conversation.
    pub messages: Option<Vec<serde_json::Value>>,
}

/// Finds the text of a sampled group's prompt.
pub type FindText<'a> = dyn FnMut(&PromptGroup) -> Result<PromptText, BoxError> + 'a;

/// Scores completions by their text, which the generator must have given them (`Completion::text`).
///
/// ```
/// use align_core::align_types::{Completion, PromptGroup, RewardFn, RewardItem};
/// use align_ppo::{PromptText, Scorer, TextScorer};
///
/// let reward = RewardFn::new("short", |item: &RewardItem<'_>| -(item.completion.len() as f64));
/// let mut scorer = TextScorer::new(reward, |_| Ok(PromptText { text: "Hello".into(), ..PromptText::default() }));
/// let answer = Completion { text: Some("Hi!".into()), ..Completion::new(vec![4, 2]) };
/// assert_eq!(scorer.score(&[PromptGroup::new(vec![1], vec![answer])])?, [vec![Some(-3.0)]]);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
pub struct TextScorer<'a, R> {
    reward: R,
    text: Box<FindText<'a>>,
}

impl<R: Reward> std::fmt::Debug for TextScorer<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TextScorer").field(&self.reward.name()).finish()
    }
}

impl<'a, R: Reward> TextScorer<'a, R> {
    /// Takes a reward, and a function that finds the text of a prompt.
    pub fn new(reward: R, text: impl FnMut(&PromptGroup) -> Result<PromptText, BoxError> + 'a) -> Self {
        Self { reward, text: Box::new(text) }
    }

    /// Returns the reward.
    pub fn reward(&self) -> &R {
        &self.reward
    }

    /// Lends the reward, to end it ([`Reward::finish`]) once nothing more is scored.
    pub fn reward_mut(&mut self) -> &mut R {
        &mut self.reward
    }
}

impl<R: Reward> Scorer for TextScorer<'_, R> {
    fn score(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<Option<f64>>>, BoxError> {
        let prompts = groups.iter().map(|group| (self.text)(group)).collect::<Result<Vec<_>, _>>()?;
        let mut items = Vec::new();
        for (index, (group, prompt)) in groups.iter().zip(&prompts).enumerate() {
            for answer in &group.completions {
                let Some(completion) = answer.text.as_deref() else {
                    let why = "the completion has no text: give the generator a decoder";
                    return Err(Error::rows(group.describe(index), why).into());
                };
                items.push(RewardItem {
                    prompt: &prompt.text,
                    messages: prompt.messages.as_deref(),
                    completion,
                    columns: &group.columns,
                    source: group.source.as_ref(),
                });
            }
        }
        let mut scores = align_types::score(&mut self.reward, &items)?.into_values().into_iter();
        Ok(groups.iter().map(|group| scores.by_ref().take(group.completions.len()).collect()).collect())
    }
}
