//! How far the scores of a reward model can be trusted, from held-out pairs.

mod probabilities;
mod temperature;

use std::collections::BTreeMap;

use align_core::evaluation::{PairAgreement, PairMargin, Prompts};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

pub use probabilities::{Probabilities, ReliabilityBin, calibration_error};
pub use temperature::fit_temperature;

/// Scores of a held-out pair and what the figures are broken down by.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrationPair {
    /// Score of the chosen answer.
    pub chosen: f64,
    /// Score of the rejected answer.
    pub rejected: f64,
    /// Length of the chosen answer, in characters or tokens.
    pub chosen_length: f64,
    /// Length of the rejected answer, in the same unit.
    pub rejected_length: f64,
    /// The part of the data that the pair belongs to, where it names one.
    pub subset: Option<String>,
}

impl CalibrationPair {
    /// Returns r(chosen) − r(rejected).
    pub fn margin(&self) -> f64 {
        self.chosen - self.rejected
    }
}

/// What held-out pairs say of a reward model: how often it is right, beside how often the longer answer is, and whether
/// σ(difference of scores) is a probability. All intervals are over prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Number of pairs.
    pub pairs: usize,
    /// Accuracy (a tie counts 1/2; their number stands beside it), the accuracy of preferring the longer answer, their
    /// paired difference, and the accuracy by length difference.
    pub agreement: PairAgreement,
    /// The figures of σ(d), d the difference of the scores.
    pub raw: Probabilities,
    /// The figures of σ(d / T) for the temperature T that was given.
    pub scaled: Option<Probabilities>,
    /// The agreement of each subset, by name; pairs without one are in none.
    pub subsets: BTreeMap<String, PairAgreement>,
}

impl Calibration {
    /// Measures held-out pairs; `prompts` has the prompt of each. `temperature` must come from other rows than these
    /// ([`fit_temperature`]).
    ///
    /// ```
    /// use align_core::evaluation::Prompts;
    /// use align_rm::{Calibration, CalibrationPair};
    ///
    /// let pair = |chosen, rejected, chosen_length| CalibrationPair {
    ///     chosen, rejected, chosen_length, rejected_length: 10.0, subset: None,
    /// };
    /// let pairs = [pair(1.0, 0.0, 12.0), pair(0.5, 0.5, 9.0), pair(2.0, 0.0, 11.0), pair(0.0, 1.0, 20.0)];
    /// let prompts = Prompts { of_rows: vec![0, 1, 2, 3], count: 4 };
    /// let found = Calibration::of(&pairs, &prompts, None, 0)?;
    /// assert_eq!((found.agreement.accuracy.mean, found.agreement.ties), (2.5 / 4.0, 1));
    /// // Preferring the longer answer is right three times of four: this model is no better than that.
    /// assert_eq!((found.agreement.chosen_longer.mean, found.agreement.above_length.mean), (0.75, -0.125));
    /// # Ok::<(), align_rm::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Input`] without a pair, for another number of rows than of pairs, a row whose prompt is not below
    /// their number, a temperature that is not above 0; [`Error::NonFinite`] names the pair with a score or length that is
    /// not finite.
    pub fn of(
        pairs: &[CalibrationPair],
        prompts: &Prompts,
        temperature: Option<f64>,
        seed: u64,
    ) -> Result<Self> {
        check(pairs, prompts)?;
        let margins: Vec<f64> = pairs.iter().map(CalibrationPair::margin).collect();
        let mut subsets: BTreeMap<String, Vec<PairMargin>> = BTreeMap::new();
        let mut all = Vec::with_capacity(pairs.len());
        for (row, pair) in pairs.iter().enumerate() {
            let difference = pair.chosen_length - pair.rejected_length;
            let margin = PairMargin { row, margin: pair.margin(), difference };
            all.push(margin);
            if let Some(name) = &pair.subset {
                subsets.entry(name.clone()).or_default().push(margin);
            }
        }
        let scaled = temperature.map(|t| Probabilities::of(&margins, t, prompts, seed)).transpose()?;
        let of_subset = |(name, list): (String, Vec<PairMargin>)| {
            PairAgreement::of(&list, prompts, seed).map(|agreement| (name, agreement))
        };
        Ok(Self {
            pairs: pairs.len(),
            agreement: PairAgreement::of(&all, prompts, seed)?,
            raw: Probabilities::of(&margins, 1.0, prompts, seed)?,
            scaled,
            subsets: subsets.into_iter().map(of_subset).collect::<Result<_>>()?,
        })
    }
}

fn check(pairs: &[CalibrationPair], prompts: &Prompts) -> Result<()> {
    if pairs.is_empty() {
        return Err(Error::input("calibration", "there is no pair"));
    }
    if prompts.of_rows.len() != pairs.len() {
        let why = format!("{} rows with prompts for {} pairs", prompts.of_rows.len(), pairs.len());
        return Err(Error::input("calibration", why));
    }
    if let Some(prompt) = prompts.of_rows.iter().find(|prompt| **prompt >= prompts.count) {
        return Err(Error::input("calibration", format!("prompt {prompt} of {}", prompts.count)));
    }
    for (row, pair) in pairs.iter().enumerate() {
        let numbers = [pair.chosen, pair.rejected, pair.chosen_length, pair.rejected_length];
        if let Some(value) = numbers.into_iter().find(|number| !number.is_finite()) {
            return Err(Error::NonFinite { what: format!("pair {row}: a score or length"), value });
        }
    }
    Ok(())
}
