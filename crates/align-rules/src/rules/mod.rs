//! Rules: rewards that look at one completion at a time.

mod columns;
mod format;
mod json;
mod math;
mod repetition;
mod text;

use align_types::{Reward, RewardItem};

pub use format::{Format, Tags, Template};
pub use json::Json;
pub use math::MathAnswer;
pub use repetition::{Distinct, Grams, Repetition};
pub use text::{
    Contains, EndsWith, ExactMatch, Finished, Length, Matches, OneOf, Overlong, StartsWith, Words,
};

use crate::Error;

/// A reward that looks at one completion at a time, at nothing else, and keeps nothing.
pub trait Rule: Send {
    /// Scores one completion with a finite number, or abstains.
    ///
    /// # Errors
    /// The row cannot be judged at all, in words to which [`RuleReward`] adds the row and the rule: `the column answer
    /// is missing`.
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String>;
}

/// A [`Rule`] as a [`Reward`].
pub struct RuleReward {
    name: String,
    rule: Box<dyn Rule>,
}

impl std::fmt::Debug for RuleReward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RuleReward").field(&self.name).finish()
    }
}

impl RuleReward {
    /// Gives a rule the name that messages and metrics have.
    pub fn new(name: impl Into<String>, rule: Box<dyn Rule>) -> Self {
        Self { name: name.into(), rule }
    }
}

impl Reward for RuleReward {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
        let score = |(index, item): (usize, &RewardItem<'_>)| {
            self.rule.score(item).map_err(|why| {
                Error::Row { row: item.describe(index), reward: self.name.clone(), why }.into()
            })
        };
        items.iter().enumerate().map(score).collect()
    }
}

/// 1 for yes, 0 for no.
#[allow(clippy::unnecessary_wraps, reason = "what a rule returns")]
fn verdict(yes: bool) -> Result<Option<f64>, String> {
    Ok(Some(f64::from(u8::from(yes))))
}
