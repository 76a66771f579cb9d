use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The file beside a reward model that holds its [`RewardNormalization`].
pub const NORMALIZATION_FILE: &str = "reward_normalization.json";

/// Whose answers had the scores that a normalisation was computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NormalizedOn {
    /// Samples of the reference policy (Ziegler et al., 1909.08593).
    Samples,
    /// Demonstrations or reference answers (2203.02155 appendix C.2; 2009.01325 section 3.4).
    Demonstrations,
}

impl NormalizedOn {
    /// Names the answers in messages and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::Demonstrations => "demonstrations",
        }
    }
}

/// What becomes 1 and what stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Mean 0 and variance 1.
    #[default]
    Unit,
    /// Mean 0 alone; the standard deviation is written as 1.
    Kept,
}

/// Brings the scores of a reward model to mean 0, and to variance 1, on reference answers: (score − mean) / std.
///
/// The loss of comparisons fixes neither the zero nor the scale of scores. It is stored as JSON in
/// [`NORMALIZATION_FILE`].
///
/// ```
/// use align_rm::{NormalizedOn, RewardNormalization, Spread};
///
/// let fit = RewardNormalization::fit(&[1.0, 5.0], NormalizedOn::Samples, Spread::Unit)?;
/// assert_eq!((fit.mean, fit.std, fit.rows), (3.0, 2.0, 2));
/// assert_eq!(fit.invert(fit.apply(7.5)), 7.5);
/// let text = serde_json::to_string(&fit).unwrap();
/// assert_eq!(text, r#"{"mean":3.0,"std":2.0,"rows":2,"of":"samples","spread":"unit"}"#);
/// # Ok::<(), align_rm::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardNormalization {
    /// Average of the raw scores.
    pub mean: f64,
    /// Standard deviation of the raw scores (divisor: their number), or 1 where only the mean was removed; > 0.
    pub std: f64,
    /// Number of scores.
    pub rows: usize,
    /// Whose answers they were.
    pub of: NormalizedOn,
    /// Whether the variance becomes 1; it does where a file does not say.
    #[serde(default)]
    pub spread: Spread,
    /// A digest of the weights that gave the scores; none where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

impl RewardNormalization {
    /// Computes mean and standard deviation of raw scores.
    ///
    /// # Errors
    /// [`Error::NonFinite`] names a score that is not finite; [`Error::Input`] for no score, and for scores that are all
    /// equal where the spread is to become 1.
    pub fn fit(scores: &[f64], of: NormalizedOn, spread: Spread) -> Result<Self> {
        let what = "scores to normalise on";
        if let Some((row, value)) = scores.iter().enumerate().find(|(_, score)| !score.is_finite()) {
            return Err(Error::NonFinite { what: format!("score of reference answer {row}"), value: *value });
        }
        let Some(first) = scores.first() else {
            return Err(Error::input(what, "there are none"));
        };
        let rows = scores.len();
        let mean = scores.iter().sum::<f64>() / rows as f64;
        let std = match spread {
            Spread::Kept => 1.0,
            Spread::Unit if scores.iter().all(|score| score == first) => {
                let why = format!(
                    "all {rows} are {first}, and scores without variance cannot be brought to variance 1: take more \
                     answers, or check that the model tells answers apart"
                );
                return Err(Error::input(what, why));
            }
            Spread::Unit => {
                (scores.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / rows as f64).sqrt()
            }
        };
        let fit = Self { mean, std, rows, of, spread, weights: None };
        fit.validate()?;
        Ok(fit)
    }

    /// Checks numbers that were read from a file.
    ///
    /// # Errors
    /// [`Error::Input`] names the number that cannot be.
    pub fn validate(&self) -> Result<()> {
        let wrong = |name: &str, value: f64, why: &str| {
            Err(Error::input(format!("normalisation of rewards: {name} = {value}"), why))
        };
        if !self.mean.is_finite() {
            return wrong("mean", self.mean, "a mean is a finite number");
        }
        if !(self.std > 0.0 && self.std.is_finite()) {
            return wrong("std", self.std, "a standard deviation to divide by is a finite number above 0");
        }
        if self.keeps_spread() && self.std != 1.0 {
            return wrong("std", self.std, "it is 1 where the spread is kept");
        }
        if self.rows == 0 {
            return wrong("rows", 0.0, "it was computed from nothing");
        }
        Ok(())
    }

    /// Binds the normalisation to the weights that gave the scores, by a digest of them.
    pub fn of_weights(self, digest: impl Into<String>) -> Self {
        Self { weights: Some(digest.into()), ..self }
    }

    /// Tells whether the scores came from weights with this digest; `None` where it is not known from which.
    pub fn fits_weights(&self, digest: &str) -> Option<bool> {
        self.weights.as_ref().map(|weights| weights == digest)
    }

    /// Computes (score − mean) / std.
    pub fn apply(&self, score: f64) -> f64 {
        (score - self.mean) / self.std
    }

    /// Computes the raw score, normalised · std + mean.
    pub fn invert(&self, normalised: f64) -> f64 {
        normalised * self.std + self.mean
    }

    /// Tells whether only the mean was removed.
    pub fn keeps_spread(&self) -> bool {
        self.spread == Spread::Kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(scores: &[f64], spread: Spread) -> Result<RewardNormalization> {
        RewardNormalization::fit(scores, NormalizedOn::Samples, spread)
    }

    /// 1, 2, 6: mean 3, variance (4 + 1 + 9) / 3 = 14/3.
    #[test]
    fn normalised_scores_have_mean_0_and_variance_1() {
        let scores = [1.0, 2.0, 6.0];
        let unit = fit(&scores, Spread::Unit).unwrap();
        assert!((unit.mean - 3.0).abs() < 1e-12 && (unit.std - (14.0f64 / 3.0).sqrt()).abs() < 1e-12);
        let normalised = scores.map(|score| unit.apply(score));
        assert!(normalised.iter().sum::<f64>().abs() < 1e-12);
        assert!((normalised.iter().map(|z| z * z).sum::<f64>() / 3.0 - 1.0).abs() < 1e-12);
        let kept = fit(&scores, Spread::Kept).unwrap();
        assert_eq!((kept.apply(6.0), kept.keeps_spread(), unit.keeps_spread()), (3.0, true, false));
    }

    /// 1 and 3 have mean 2 and deviation 1.
    #[test]
    fn a_deviation_of_1_that_was_measured_is_no_spread_that_was_kept() {
        let measured = fit(&[1.0, 3.0], Spread::Unit).unwrap();
        assert_eq!((measured.std, measured.keeps_spread()), (1.0, false));
        let back: RewardNormalization =
            serde_json::from_str(&serde_json::to_string(&measured).unwrap()).unwrap();
        assert_eq!(back, measured);
        let old: RewardNormalization =
            serde_json::from_str(r#"{"mean":2.0,"std":1.0,"rows":2,"of":"samples"}"#).unwrap();
        assert_eq!(old, measured, "a file that does not say has both");
        assert!(RewardNormalization { spread: Spread::Kept, std: 2.0, ..measured }.validate().is_err());
    }

    #[test]
    fn a_normalisation_knows_its_weights() {
        let fit = fit(&[1.0, 3.0], Spread::Unit).unwrap();
        assert_eq!(fit.fits_weights("a"), None);
        let bound = fit.of_weights("a");
        assert_eq!((bound.fits_weights("a"), bound.fits_weights("b")), (Some(true), Some(false)));
    }

    #[test]
    fn what_cannot_be_normalised_is_refused() {
        // The mean of 0.1, 0.1, 0.1 is not 0.1 in binary: the variance is not exactly 0, and still there is none.
        let error = fit(&[0.1; 3], Spread::Unit).unwrap_err().to_string();
        assert!(error.contains("all 3 are 0.1"), "{error}");
        assert_eq!(fit(&[0.5], Spread::Kept).unwrap().mean, 0.5);
        assert!(fit(&[], Spread::Kept).is_err());
        let error = fit(&[0.0, f64::NAN], Spread::Unit).unwrap_err().to_string();
        assert!(error.contains("reference answer 1"), "{error}");
    }

    #[test]
    fn files_with_impossible_numbers_are_refused() {
        let read = |text: &str| serde_json::from_str::<RewardNormalization>(text);
        let good = read(r#"{"mean":0.5,"std":2.0,"rows":10,"of":"demonstrations"}"#).unwrap();
        good.validate().unwrap();
        for wrong in [
            RewardNormalization { std: 0.0, ..good.clone() },
            RewardNormalization { std: f64::NAN, ..good.clone() },
            RewardNormalization { mean: f64::INFINITY, ..good.clone() },
            RewardNormalization { rows: 0, ..good },
        ] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
        assert!(read(r#"{"mean":0.5,"std":2.0,"rows":10,"of":"people"}"#).is_err());
        assert!(read(r#"{"mean":0.5,"std":2.0,"rows":10,"of":"samples","gain":1}"#).is_err());
    }
}
