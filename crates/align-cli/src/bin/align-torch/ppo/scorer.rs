//! Rewards, as an iteration asks for them.

use align_cli::Result;
use align_core::{BoxError, align_types::PromptGroup};
use align_ppo::{Scorer, TextScorer};
use align_rules::WeightedSum;

use super::prompts::Prompts;
use crate::rewards;

/// The weighted sum of a command's rewards, with the mean of each summand as a metric.
pub struct Summands<'a>(TextScorer<'a, WeightedSum>);

impl<'a> Summands<'a> {
    /// Scores answers to prompts that were read.
    pub fn new(sum: WeightedSum, prompts: &'a Prompts) -> Self {
        Self(TextScorer::new(sum, |group| {
            let found = prompts.text(group).cloned();
            found.ok_or_else(|| format!("{}: its text is not known", group.describe(0)).into())
        }))
    }

    /// Lets the rewards go, once the run has ended.
    ///
    /// # Errors
    /// As [`rewards::finish`].
    pub fn finish(&mut self) -> Result<()> {
        rewards::finish(self.0.reward_mut())
    }
}

impl Scorer for Summands<'_> {
    fn score(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<Option<f64>>>, BoxError> {
        self.0.score(groups)
    }

    fn silence(&self) -> Option<String> {
        // The iteration knows no summands: whose silence it is can be said here alone.
        Some(rewards::silence(self.0.reward().last_abstentions()))
    }

    fn metrics(&self) -> Vec<(String, f64, usize)> {
        let means = self.0.reward().last_means();
        means.map(|(name, mean, scored)| (format!("rewards/{name}/mean"), mean, scored)).collect()
    }
}
