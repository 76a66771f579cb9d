use serde::{Deserialize, Serialize};

use super::check;
use crate::{Error, Result};

/// How the prompts of an iteration are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CurriculumKind {
    /// All prompts in turn, in a new order each epoch.
    #[default]
    Off,
    /// Prompts that the policy sometimes solves.
    Edge,
}

/// Which prompts are at the edge of ability, and how often they are taken.
///
/// A prompt's success rate p is a moving average that begins at 1/2 and forgets by `decay` with every answer. Prompts with
/// `range.0` <= p <= `range.1` (PRIME, 2502.01456: 0.2 to 0.8) are drawn with the weight p (1 − p) + `floor`: what a
/// prompt can teach is bounded below by a multiple of p (1 − p) (2504.03380).
///
/// ```
/// use align_types::config::CurriculumConfig;
/// let config = CurriculumConfig { threshold: Some(0.5), ..Default::default() };
/// config.validate()?;
/// assert_eq!(config.success(0.7), 1.0);
/// assert_eq!(CurriculumConfig::default().success(0.7), 0.7);
/// # Ok::<(), align_types::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurriculumConfig {
    /// Lowest and highest success rate of a prompt that is drawn by weight; 0 <= low <= high <= 1.
    pub range: (f64, f64),
    /// What every weight has beside p (1 − p); in [0, 1]. 0 leaves prompts that always or never succeed out, should
    /// the range have them.
    pub floor: f64,
    /// What one answer leaves of the old estimate; in [0, 1]. 0 keeps the answers of the last visit alone, 1 keeps what
    /// the run began with.
    pub decay: f64,
    /// The reward above which an answer is a success; `None` takes the reward itself, clipped to [0, 1].
    pub threshold: Option<f64>,
    /// Share of a batch for prompts that were never sampled, as long as there are any; in [0, 1].
    pub explore: f64,
    /// Share of a batch for prompts outside the range, so that their estimates do not go stale and what was learned is
    /// not forgotten; in [0, 1], with `explore` at most 1.
    pub replay: f64,
}

impl Default for CurriculumConfig {
    fn default() -> Self {
        Self { range: (0.2, 0.8), floor: 0.01, decay: 0.8, threshold: None, explore: 0.25, replay: 0.1 }
    }
}

impl CurriculumConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`crate::Error::Config`] names the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        let (low, high) = self.range;
        if !(0.0 <= low && low <= high && high <= 1.0) {
            return Err(Error::Config {
                key: "curriculum-range",
                value: format!("{low},{high}"),
                expected: "two numbers LO,HI with 0 <= LO <= HI <= 1",
            });
        }
        let shares = [
            ("curriculum-floor", self.floor),
            ("curriculum-decay", self.decay),
            ("curriculum-explore", self.explore),
            ("curriculum-replay", self.replay),
        ];
        for (key, value) in shares {
            check(key, value, (0.0..=1.0).contains(&value), "a number in [0, 1]")?;
        }
        let both = self.explore + self.replay;
        check("curriculum-replay", self.replay, both <= 1.0, "at most 1 together with curriculum-explore")?;
        let threshold = self.threshold.unwrap_or_default();
        check("curriculum-threshold", threshold, true, "a finite number")
    }

    /// Says how much of a success a reward is, in [0, 1].
    pub fn success(&self, reward: f64) -> f64 {
        match self.threshold {
            Some(threshold) => f64::from(u8::from(reward > threshold)),
            None => reward.clamp(0.0, 1.0),
        }
    }

    /// Says whether a success rate is at the edge of ability.
    pub fn is_inside(&self, rate: f64) -> bool {
        self.range.0 <= rate && rate <= self.range.1
    }

    /// The weight of a prompt with this success rate, p (1 − p) + `floor`.
    pub fn weight(&self, rate: f64) -> f64 {
        rate * (1.0 - rate) + self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outside_their_ranges_are_named() {
        let base = CurriculumConfig::default;
        base().validate().unwrap();
        let wrong = [
            (CurriculumConfig { range: (0.8, 0.2), ..base() }, "curriculum-range"),
            (CurriculumConfig { range: (f64::NAN, 1.0), ..base() }, "curriculum-range"),
            (CurriculumConfig { range: (0.0, 1.1), ..base() }, "curriculum-range"),
            (CurriculumConfig { floor: -0.1, ..base() }, "curriculum-floor"),
            (CurriculumConfig { decay: f64::NAN, ..base() }, "curriculum-decay"),
            (CurriculumConfig { explore: 1.5, ..base() }, "curriculum-explore"),
            (CurriculumConfig { explore: 0.6, replay: 0.5, ..base() }, "curriculum-replay"),
            (CurriculumConfig { threshold: Some(f64::INFINITY), ..base() }, "curriculum-threshold"),
        ];
        for (config, key) in wrong {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(key), "{message}");
        }
    }

    #[test]
    fn a_success_is_above_the_threshold_or_the_reward_itself() {
        let strict = CurriculumConfig { threshold: Some(0.0), ..Default::default() };
        assert_eq!([-1.0, 0.0, 0.1].map(|reward| strict.success(reward)), [0.0, 0.0, 1.0]);
        let graded = CurriculumConfig::default();
        assert_eq!([-1.0, 0.25, 3.0].map(|reward| graded.success(reward)), [0.0, 0.25, 1.0]);
    }
}
