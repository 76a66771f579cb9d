use serde::{Deserialize, Serialize};

use super::{check, una::check_score_range};
use crate::{Error, Result};

/// What becomes of two answers with the same rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TieRule {
    /// They are not compared, as in InstructGPT (2203.02155, appendix C.2).
    #[default]
    Skip,
    /// The model has a probability for ties (Rao and Kupper, "Ties in paired-comparison experiments", 1967): with
    /// d the difference of the scores and η = log θ, P(first better) = σ(d − η), P(second better) = σ(−d − η), and a tie
    /// has what is left.
    RaoKupper,
    /// Each of the two is the better one with probability 1/2.
    Half,
}

/// How a score is compared with the number that a row gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScoreLoss {
    /// Squared error of the score itself.
    #[default]
    Mse,
    /// Cross-entropy of σ(score) against a number in [0, 1].
    Bce,
}

/// How a reward model learns from pairs, rankings, labels and scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardConfig {
    /// What becomes of answers with equal ranks.
    pub ties: TieRule,
    /// η = log θ of [`TieRule::RaoKupper`], required there and refused elsewhere; > 0 and at most 100. Answers of
    /// equal score tie with probability t = tanh(η / 2): η = ln((1 + t) / (1 − t)).
    pub tie_margin: Option<f64>,
    /// Probability ε that a comparison is the wrong way round; in [0, 0.5).
    pub label_smoothing: f64,
    /// Weight of the mean of (r_chosen + r_rejected)², which keeps scores around 0 (2312.09244 eq. 2, where 0.01 is
    /// recommended); >= 0. The name is TRL's.
    pub center_rewards_coefficient: f64,
    /// Which loss for rows with a score; rows with a label always have the cross-entropy of σ(score).
    pub score_loss: ScoreLoss,
    /// Weight of the mean over prompts with pairs or rankings; >= 0.
    pub pair_weight: f64,
    /// Weight of the mean over labelled answers; >= 0.
    pub binary_weight: f64,
    /// Weight of the mean over scored answers; >= 0.
    pub score_weight: f64,
    /// Score of the data that becomes 0; given with `score_max` or not at all.
    pub score_min: Option<f64>,
    /// Score of the data that becomes 1; above `score_min`.
    pub score_max: Option<f64>,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            ties: TieRule::Skip,
            tie_margin: None,
            label_smoothing: 0.0,
            center_rewards_coefficient: 0.0,
            score_loss: ScoreLoss::Mse,
            pair_weight: 1.0,
            binary_weight: 1.0,
            score_weight: 1.0,
            score_min: None,
            score_max: None,
        }
    }
}

/// Largest η: far beyond it every probability but that of a tie leaves float64.
const MOST_TIE_MARGIN: f64 = 100.0;

impl RewardConfig {
    /// Checks the ranges, and that every option is read by something.
    ///
    /// ```
    /// use align_types::config::{RewardConfig, TieRule};
    ///
    /// let config = RewardConfig { ties: TieRule::RaoKupper, tie_margin: Some(0.7), ..Default::default() };
    /// config.validate()?;
    /// let unread = RewardConfig { ties: TieRule::Half, ..config };
    /// assert!(unread.validate().unwrap_err().to_string().starts_with("tie-margin and ties"));
    /// # Ok::<(), align_types::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] names the first value outside its range, [`Error::Exclusive`] an option that nothing reads.
    pub fn validate(&self) -> Result<()> {
        let smoothing = self.label_smoothing;
        check("label-smoothing", smoothing, (0.0..0.5).contains(&smoothing), "a number in [0, 0.5)")?;
        for (key, value) in [
            ("center-rewards-coefficient", self.center_rewards_coefficient),
            ("pair-weight", self.pair_weight),
            ("binary-weight", self.binary_weight),
            ("score-weight", self.score_weight),
        ] {
            check(key, value, value >= 0.0, "a finite number of at least 0")?;
        }
        let all = self.pair_weight + self.binary_weight + self.score_weight;
        check("pair-weight", all, all > 0.0, "above 0 when binary-weight and score-weight are 0")?;
        self.check_ties()?;
        self.check_read()?;
        check_score_range(self.score_min, self.score_max)
    }

    fn check_ties(&self) -> Result<()> {
        match (self.ties, self.tie_margin) {
            (TieRule::RaoKupper, Some(eta)) => {
                let expected = "a number above 0 and at most 100";
                check("tie-margin", eta, eta > 0.0 && eta <= MOST_TIE_MARGIN, expected)
            }
            (TieRule::RaoKupper, None) => {
                let expected = "a number above 0, as ties is rao_kupper: ln((1 + t) / (1 - t)), t the share of ties \
                                that answers of equal worth should have";
                Err(Error::Config { key: "tie-margin", value: "missing".into(), expected })
            }
            (_, Some(_)) => {
                let why = "only rao_kupper has a margin of ties";
                Err(Error::Exclusive { first: "tie-margin", second: "ties", why })
            }
            (_, None) => Ok(()),
        }
    }

    /// Refuses options of comparisons where comparisons have no weight.
    fn check_read(&self) -> Result<()> {
        let given = [
            ("ties", self.ties != TieRule::Skip),
            ("label-smoothing", self.label_smoothing > 0.0),
            ("center-rewards-coefficient", self.center_rewards_coefficient > 0.0),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((first, _)) if self.pair_weight == 0.0 => Err(Error::Exclusive {
                first,
                second: "pair-weight",
                why: "with weight 0 no comparison is read",
            }),
            _ => Ok(()),
        }
    }

    /// Brings a score of the data into the scale of the loss: (score − score_min) / (score_max − score_min) where the
    /// two are given, else as it is.
    ///
    /// Returns `None` for a score that does not fit: not finite, outside the two, or outside [0, 1] under `bce`.
    ///
    /// ```
    /// use align_types::config::{RewardConfig, ScoreLoss};
    ///
    /// assert_eq!(RewardConfig::default().scale(4.0), Some(4.0));
    /// let rated = RewardConfig { score_min: Some(1.0), score_max: Some(5.0), ..Default::default() };
    /// assert_eq!((rated.scale(4.0), rated.scale(6.0)), (Some(0.75), None));
    /// let bce = RewardConfig { score_loss: ScoreLoss::Bce, ..Default::default() };
    /// assert_eq!(bce.scale(4.0), None);
    /// ```
    pub fn scale(&self, score: f64) -> Option<f64> {
        let (scaled, bounded) = match (self.score_min, self.score_max) {
            (Some(low), Some(high)) => ((score - low) / (high - low), true),
            _ => (score, self.score_loss == ScoreLoss::Bce),
        };
        let fits = scaled.is_finite() && (!bounded || (0.0..=1.0).contains(&scaled));
        fits.then_some(scaled)
    }

    /// Checks the smallest and the largest score of a data set.
    ///
    /// # Errors
    /// [`Error::Config`] prints the range that was seen and says how to scale it.
    pub fn check_range(&self, smallest: f64, largest: f64) -> Result<()> {
        if self.scale(smallest).is_some() && self.scale(largest).is_some() {
            return Ok(());
        }
        let expected = match (self.score_min, self.score_loss) {
            (Some(_), _) => "scores from score-min to score-max",
            (None, ScoreLoss::Bce) => "scores in [0, 1], or score-min and score-max, or score-loss mse",
            (None, ScoreLoss::Mse) => "finite scores",
        };
        Err(Error::Config { key: "scores", value: format!("{smallest} to {largest}"), expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: &RewardConfig, expected: &str) {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn ranges_are_checked() {
        let base = RewardConfig::default();
        base.validate().unwrap();
        refused(&RewardConfig { label_smoothing: 0.5, ..base.clone() }, "label-smoothing = 0.5");
        refused(&RewardConfig { label_smoothing: f64::NAN, ..base.clone() }, "label-smoothing = NaN");
        let negative = RewardConfig { center_rewards_coefficient: -0.01, ..base.clone() };
        refused(&negative, "center-rewards-coefficient");
        refused(&RewardConfig { pair_weight: f64::INFINITY, ..base.clone() }, "pair-weight");
        let nothing =
            RewardConfig { pair_weight: 0.0, binary_weight: 0.0, score_weight: 0.0, ..base.clone() };
        refused(&nothing, "above 0 when");
        refused(&RewardConfig { score_min: Some(1.0), ..base.clone() }, "score-max = missing");
        refused(&RewardConfig { score_min: Some(1.0), score_max: Some(1.0), ..base }, "above score-min");
    }

    #[test]
    fn the_margin_of_ties_goes_with_its_rule_alone() {
        let rule = |ties, tie_margin| RewardConfig { ties, tie_margin, ..Default::default() };
        rule(TieRule::RaoKupper, Some(0.5)).validate().unwrap();
        refused(&rule(TieRule::RaoKupper, None), "tie-margin = missing");
        for wrong in [0.0, -1.0, 101.0, f64::NAN] {
            refused(&rule(TieRule::RaoKupper, Some(wrong)), "above 0 and at most 100");
        }
        refused(&rule(TieRule::Skip, Some(0.5)), "exclude each other");
        refused(&rule(TieRule::Half, Some(0.5)), "exclude each other");
    }

    #[test]
    fn options_of_comparisons_need_comparisons() {
        let base = RewardConfig { pair_weight: 0.0, ..Default::default() };
        base.validate().unwrap();
        refused(&RewardConfig { ties: TieRule::Half, ..base.clone() }, "ties and pair-weight");
        refused(&RewardConfig { label_smoothing: 0.1, ..base.clone() }, "label-smoothing and pair-weight");
        refused(&RewardConfig { center_rewards_coefficient: 0.1, ..base }, "no comparison is read");
    }

    #[test]
    fn scores_outside_their_range_are_shown() {
        RewardConfig::default().check_range(-1e4, 1e4).unwrap();
        let nan = RewardConfig::default().check_range(0.0, f64::NAN).unwrap_err().to_string();
        assert!(nan.contains("0 to NaN: finite scores"), "{nan}");
        let bce = RewardConfig { score_loss: ScoreLoss::Bce, ..Default::default() };
        bce.check_range(0.0, 1.0).unwrap();
        let error = bce.check_range(1.0, 5.0).unwrap_err().to_string();
        assert!(error.contains("1 to 5") && error.contains("score-min and score-max"), "{error}");
        let scaled = RewardConfig { score_min: Some(1.0), score_max: Some(5.0), ..bce };
        scaled.check_range(1.0, 5.0).unwrap();
        assert!(scaled.check_range(0.0, 5.0).unwrap_err().to_string().contains("from score-min"));
    }

    #[test]
    fn names_are_those_of_the_files() {
        let text = r#"{"ties":"rao_kupper","tie_margin":0.5,"score_loss":"bce"}"#;
        let config: RewardConfig = serde_json::from_str(text).unwrap();
        assert_eq!((config.ties, config.score_loss), (TieRule::RaoKupper, ScoreLoss::Bce));
        assert!(serde_json::from_str::<RewardConfig>(r#"{"centre":1}"#).is_err());
    }
}
