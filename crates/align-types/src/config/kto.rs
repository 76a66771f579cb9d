use serde::{Deserialize, Serialize};

use super::{check, dpo::check_beta};
use crate::Result;

/// The losses of labelled answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KtoLossType {
    /// Kahneman-Tversky optimisation, 2402.01306 eq. 8; its baseline belongs to the optimiser batch.
    #[default]
    Kto,
    /// The unpaired form of anchored preference optimisation, 2408.06266 eq. 7: no baseline.
    ApoZeroUnpaired,
    /// Binary classifier optimisation, 2404.04656; its reward shift is a running mean.
    Bco,
}

impl KtoLossType {
    /// Says whether the loss of one answer depends on the other rows of the optimiser batch.
    pub fn couples_rows(self) -> bool {
        !matches!(self, Self::ApoZeroUnpaired)
    }
}

/// Learning from thumbs up and down, with TRL's names and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KtoConfig {
    /// Strength of the pull to the reference; > 0 and at most a million.
    pub beta: f64,
    /// Which loss.
    pub loss_type: KtoLossType,
    /// Weight λ_D of desirable answers; >= 0.
    pub desirable_weight: f64,
    /// Weight λ_U of undesirable answers; >= 0.
    pub undesirable_weight: f64,
}

impl Default for KtoConfig {
    fn default() -> Self {
        Self { beta: 0.1, loss_type: KtoLossType::Kto, desirable_weight: 1.0, undesirable_weight: 1.0 }
    }
}

/// Largest λ_D n_D / (λ_U n_U) that the authors advise (2402.01306 v1, section 4; TRL warns from 1.33 on).
const MOST_BALANCE: f64 = 4.0 / 3.0;

impl KtoConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`crate::Error::Config`] names the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        check_beta(self.beta)?;
        let (up, down) = (self.desirable_weight, self.undesirable_weight);
        check("desirable-weight", up, up >= 0.0, "a finite number of at least 0")?;
        check("undesirable-weight", down, down >= 0.0, "a finite number of at least 0")?;
        check("desirable-weight", up, up + down > 0.0, "above 0 when undesirable-weight is 0")
    }

    /// Says which weights would balance a data set of unequal classes; `None` where the weights are inside the
    /// advised range λ_D n_D / (λ_U n_U) ∈ [1, 4/3], or the loss is not KTO's, or a class is absent or weighs nothing.
    ///
    /// ```
    /// use align_types::config::KtoConfig;
    ///
    /// let hint = KtoConfig::default().balance_hint(100, 1000).unwrap();
    /// assert!(hint.contains("--desirable-weight from 10 to 13.33"));
    /// assert_eq!(KtoConfig::default().balance_hint(500, 500), None);
    /// ```
    pub fn balance_hint(&self, desirable: usize, undesirable: usize) -> Option<String> {
        let (up, down) = (desirable as f64, undesirable as f64);
        let balance = self.desirable_weight * up / (self.undesirable_weight * down);
        let advised = (1.0..=MOST_BALANCE + 1e-9).contains(&balance);
        let unweighted = self.desirable_weight == 0.0 || self.undesirable_weight == 0.0;
        if desirable == 0 || undesirable == 0 || advised || unweighted || self.loss_type != KtoLossType::Kto {
            return None;
        }
        let text = |value: f64| ((value * 100.0).round() / 100.0).to_string();
        let wanted_up = self.undesirable_weight * down / up;
        let wanted_down = self.desirable_weight * up / down;
        Some(format!(
            "{desirable} desirable and {undesirable} undesirable answers: use --desirable-weight from {} to {}, or \
             --undesirable-weight from {} to {}",
            text(wanted_up),
            text(wanted_up * MOST_BALANCE),
            text(wanted_down / MOST_BALANCE),
            text(wanted_down),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_checked() {
        KtoConfig::default().validate().unwrap();
        for weight in [-1.0, f64::NAN] {
            assert!(KtoConfig { desirable_weight: weight, ..Default::default() }.validate().is_err());
        }
        let none = KtoConfig { desirable_weight: 0.0, undesirable_weight: 0.0, ..Default::default() };
        assert!(none.validate().unwrap_err().to_string().contains("above 0 when"));
    }

    /// The hint must lead into the range that it asks for.
    #[test]
    fn weights_taken_from_the_hint_silence_it() {
        for (up, down) in [(30u32, 100u32), (1000, 7), (99, 100)] {
            let hint = KtoConfig::default().balance_hint(up as usize, down as usize);
            let balanced = |weight| KtoConfig { desirable_weight: weight, ..Default::default() };
            assert!(hint.is_some());
            assert_eq!(
                balanced(1.1 * f64::from(down) / f64::from(up)).balance_hint(up as usize, down as usize),
                None
            );
        }
        assert_eq!(KtoConfig::default().balance_hint(0, 10), None);
    }
}
