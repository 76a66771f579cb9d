use serde::{Deserialize, Serialize};

use super::{check, dpo::check_beta};
use crate::{Error, Result};

/// How UNA compares the implicit reward with feedback (2408.15339), and its relatives that know the partition
/// function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnaLossType {
    /// Squared error between σ(β h) and a label or a score in [0, 1].
    #[default]
    Mse,
    /// Cross-entropy between σ(β h) and a label or a score in [0, 1]; its gradient does not vanish.
    Bce,
    /// Squared error between β h and an unbounded score, for scores that are centred per prompt.
    RawMse,
    /// Quantile reward policy optimisation, 2507.08068: squared error of β h against the quantile of the reward
    /// among rewards of the reference policy, less β log Z.
    Qrpo,
    /// A*-PO, 2505.20686: squared error of β h against the advantage r − V*.
    AStarPo,
}

impl UnaLossType {
    /// Says whether rows must carry rewards of the reference policy for their prompt.
    pub fn uses_reference_rewards(self) -> bool {
        matches!(self, Self::Qrpo | Self::AStarPo)
    }
}

/// How scores come into [0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreTransform {
    /// (score − score_min) / (score_max − score_min) where the two are given, else as they are.
    #[default]
    Linear,
    /// The logistic function.
    Sigmoid,
}

/// Learning from pairs, labels and scores with one implicit reward β log(π / π_ref).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnaConfig {
    /// Scale of the implicit reward; > 0 and at most a million. The paper has 0.03 for scores and pairs and 0.01
    /// for labels.
    pub beta: f64,
    /// Which loss for labels and scores; pairs always have that of DPO.
    pub loss_type: UnaLossType,
    /// Weight of the mean over pairs; >= 0.
    pub pair_weight: f64,
    /// Weight of the mean over labelled answers; >= 0.
    pub binary_weight: f64,
    /// Weight of the mean over scored answers; >= 0.
    pub score_weight: f64,
    /// Score that becomes 0; given with `score_max` or not at all.
    pub score_min: Option<f64>,
    /// Score that becomes 1; above `score_min`.
    pub score_max: Option<f64>,
    /// How scores come into [0, 1].
    pub score_transform: ScoreTransform,
}

impl Default for UnaConfig {
    fn default() -> Self {
        Self {
            beta: 0.03,
            loss_type: UnaLossType::Mse,
            pair_weight: 1.0,
            binary_weight: 1.0,
            score_weight: 1.0,
            score_min: None,
            score_max: None,
            score_transform: ScoreTransform::Linear,
        }
    }
}

impl UnaConfig {
    /// Checks the ranges, and that the options go together.
    ///
    /// # Errors
    /// [`Error::Config`] names the first value outside its range, [`Error::Exclusive`] two options that cannot be
    /// given together.
    pub fn validate(&self) -> Result<()> {
        check_beta(self.beta)?;
        for (key, weight) in [
            ("pair-weight", self.pair_weight),
            ("binary-weight", self.binary_weight),
            ("score-weight", self.score_weight),
        ] {
            check(key, weight, weight >= 0.0, "a finite number of at least 0")?;
        }
        let all = self.pair_weight + self.binary_weight + self.score_weight;
        check("pair-weight", all, all > 0.0, "above 0 when binary-weight and score-weight are 0")?;
        self.check_scale()
    }

    fn check_scale(&self) -> Result<()> {
        check_score_range(self.score_min, self.score_max)?;
        let scaled = self.score_min.is_some();
        if scaled && self.score_transform == ScoreTransform::Sigmoid {
            let why = "each of them brings scores into [0, 1]";
            return Err(Error::Exclusive {
                first: "score-min and score-max",
                second: "score-transform",
                why,
            });
        }
        let squashed = matches!(self.loss_type, UnaLossType::Mse | UnaLossType::Bce);
        let scaled = scaled || self.score_transform == ScoreTransform::Sigmoid;
        if !squashed && scaled {
            let why = "raw_mse, qrpo and a_star_po take rewards as they are";
            return Err(Error::Exclusive { first: "loss-type", second: "scaling of scores", why });
        }
        Ok(())
    }

    /// Brings a score into the range of the loss: [0, 1] for `mse` and `bce`, any finite number otherwise.
    ///
    /// Returns `None` for a score that does not fit; [`Self::check_range`] tells the user of what was seen.
    ///
    /// ```
    /// use align_types::config::UnaConfig;
    ///
    /// let config = UnaConfig { score_min: Some(1.0), score_max: Some(5.0), ..Default::default() };
    /// assert_eq!(config.scale(4.0), Some(0.75));
    /// assert_eq!(config.scale(6.0), None);
    /// ```
    pub fn scale(&self, score: f64) -> Option<f64> {
        if !matches!(self.loss_type, UnaLossType::Mse | UnaLossType::Bce) {
            return score.is_finite().then_some(score);
        }
        let scaled = match (self.score_transform, self.score_min, self.score_max) {
            (ScoreTransform::Sigmoid, ..) => 1.0 / (1.0 + (-score).exp()),
            (ScoreTransform::Linear, Some(low), Some(high)) => (score - low) / (high - low),
            (ScoreTransform::Linear, ..) => score,
        };
        (score.is_finite() && (0.0..=1.0).contains(&scaled)).then_some(scaled)
    }

    /// Checks the smallest and the largest score of a data set.
    ///
    /// # Errors
    /// [`Error::Config`] prints the range that was seen and says how to scale it.
    pub fn check_range(&self, smallest: f64, largest: f64) -> Result<()> {
        if self.scale(smallest).is_some() && self.scale(largest).is_some() {
            return Ok(());
        }
        let expected = match (self.score_transform, self.score_min) {
            (ScoreTransform::Linear, None)
                if matches!(self.loss_type, UnaLossType::Mse | UnaLossType::Bce) =>
            {
                "scores in [0, 1], or score-min and score-max, or score-transform sigmoid"
            }
            (ScoreTransform::Linear, Some(_)) => "scores from score-min to score-max",
            _ => "finite scores",
        };
        Err(Error::Config { key: "scores", value: format!("{smallest} to {largest}"), expected })
    }
}

/// Checks the two scores that become 0 and 1: both or neither, finite, in this order.
pub(super) fn check_score_range(low: Option<f64>, high: Option<f64>) -> Result<()> {
    let missing = |key, expected| Err(Error::Config { key, value: "missing".into(), expected });
    match (low, high) {
        (None, None) => Ok(()),
        (Some(low), Some(high)) => {
            check("score-min", low, true, "a finite number")?;
            check("score-max", high, high > low, "a finite number above score-min")
        }
        (Some(_), None) => missing("score-max", "a number, as score-min is given"),
        (None, Some(_)) => missing("score-min", "a number, as score-max is given"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_checked() {
        let base = UnaConfig::default();
        base.validate().unwrap();
        for (config, expected) in [
            (UnaConfig { score_min: Some(0.0), ..base.clone() }, "score-max = missing"),
            (UnaConfig { score_max: Some(0.0), ..base.clone() }, "score-min = missing"),
            (UnaConfig { score_min: Some(2.0), score_max: Some(2.0), ..base.clone() }, "above score-min"),
            (
                UnaConfig {
                    score_min: Some(1.0),
                    score_max: Some(2.0),
                    score_transform: ScoreTransform::Sigmoid,
                    ..base.clone()
                },
                "exclude each other",
            ),
            (
                UnaConfig {
                    loss_type: UnaLossType::RawMse,
                    score_transform: ScoreTransform::Sigmoid,
                    ..base.clone()
                },
                "as they are",
            ),
            (UnaConfig { binary_weight: -1.0, ..base.clone() }, "binary-weight"),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn scores_outside_their_range_are_shown() {
        let error = UnaConfig::default().check_range(-0.5, 9.0).unwrap_err().to_string();
        assert!(error.contains("-0.5 to 9") && error.contains("score-transform"), "{error}");
        let scaled = UnaConfig { score_min: Some(-1.0), score_max: Some(9.0), ..Default::default() };
        scaled.check_range(-0.5, 9.0).unwrap();
        let error = scaled.check_range(-2.0, 9.0).unwrap_err().to_string();
        assert!(error.contains("from score-min"), "{error}");
        let sigmoid = UnaConfig { score_transform: ScoreTransform::Sigmoid, ..Default::default() };
        sigmoid.check_range(-1e4, 1e4).unwrap();
        assert!(sigmoid.check_range(0.0, f64::NAN).is_err());
        let raw = UnaConfig { loss_type: UnaLossType::RawMse, ..Default::default() };
        raw.check_range(-1e4, 1e4).unwrap();
    }
}
