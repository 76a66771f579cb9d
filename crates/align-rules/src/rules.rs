use align_types::{Reward, RewardItem};
use regex::Regex;

use crate::{Error, Result};

/// A reward that looks at one completion at a time, at nothing else, and keeps nothing.
pub trait Rule: Send {
    /// Scores one completion with a finite number, or abstains.
    fn score(&self, item: &RewardItem<'_>) -> Option<f64>;
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
        Ok(items.iter().map(|item| self.rule.score(item)).collect())
    }
}

/// The number of characters (Unicode scalar values) of the completion; with a target less its distance from it.
///
/// Without a target the reward is the count itself; with a target T it is −|count − T|, 0 at best.
#[derive(Debug, Clone, Copy, Default)]
pub struct Length {
    /// The count that is wanted.
    pub target: Option<usize>,
}

impl Rule for Length {
    fn score(&self, item: &RewardItem<'_>) -> Option<f64> {
        let count = item.completion.chars().count();
        Some(match self.target {
            None => count as f64,
            Some(target) => -(count.abs_diff(target) as f64),
        })
    }
}

/// 1 where the completion has a text in it, 0 elsewhere; case counts.
#[derive(Debug, Clone)]
pub struct Contains(
    /// The text.
    pub String,
);

impl Rule for Contains {
    fn score(&self, item: &RewardItem<'_>) -> Option<f64> {
        Some(f64::from(u8::from(item.completion.contains(&self.0))))
    }
}

/// 1 where a regular expression matches somewhere in the completion, 0 elsewhere.
///
/// Matching takes time linear in the completion, whatever the expression (no backtracking), so that no answer of a
/// model can bring it to a halt.
#[derive(Debug, Clone)]
pub struct Matches(Regex);

/// Most bytes that a compiled expression may take.
const REGEX_BYTES: usize = 1 << 20;

impl Matches {
    /// Compiles an expression in the syntax of the crate `regex`.
    ///
    /// # Errors
    /// [`Error::Argument`] for one that is none, or becomes too large.
    pub fn new(pattern: &str) -> Result<Self> {
        let compiled = regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES).build();
        compiled.map(Self).map_err(|error| {
            // The message draws the expression over several lines; its last one says what is wrong.
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Error::Argument { rule: "regex".into(), why: format!("`{pattern}`: {why}") }
        })
    }
}

impl Rule for Matches {
    fn score(&self, item: &RewardItem<'_>) -> Option<f64> {
        Some(f64::from(u8::from(self.0.is_match(item.completion))))
    }
}
