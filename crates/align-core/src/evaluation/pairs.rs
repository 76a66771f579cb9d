use serde::{Deserialize, Serialize};

use super::{LengthControl, Outcome, Prompts, verdict};
use crate::{Error, Result, intervals::Estimate};

/// What a model says of one preference pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairMargin {
    /// The row of the pair.
    pub row: usize,
    /// Reward of the chosen answer less that of the rejected one.
    pub margin: f64,
    /// Length of the chosen answer less that of the rejected one.
    pub difference: f64,
}

/// How often a model prefers the chosen answers, beside how often the longer answer is the chosen one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairAgreement {
    /// Share of pairs with a positive margin; a tie counts 1/2.
    pub accuracy: Estimate,
    /// Pairs with margin 0.
    pub ties: usize,
    /// Share of pairs whose chosen answer is the longer one, equal lengths counting 1/2: the accuracy of preferring
    /// length, which a model has to beat (or 1 less that, of preferring brevity).
    pub chosen_longer: Estimate,
    /// Pairs of equal length.
    pub equal_lengths: usize,
    /// The accuracy less the share of longer chosen answers, paired by prompt.
    pub above_length: Estimate,
    /// The accuracy as a function of the length difference.
    pub length_control: LengthControl,
}

impl PairAgreement {
    /// Counts pairs; intervals are over prompts.
    ///
    /// ```
    /// use align_core::evaluation::{PairAgreement, PairMargin, Prompts};
    ///
    /// let pair = |row, margin, difference| PairMargin { row, margin, difference };
    /// let pairs = [pair(0, 0.3, 5.0), pair(1, -0.1, 2.0), pair(2, 0.0, -4.0), pair(3, 1.0, 0.0)];
    /// let prompts = Prompts { of_rows: vec![0, 1, 2, 3], count: 4 };
    /// let agreement = PairAgreement::of(&pairs, &prompts, 0)?;
    /// assert_eq!((agreement.accuracy.mean, agreement.ties), (2.5 / 4.0, 1));
    /// assert_eq!((agreement.chosen_longer.mean, agreement.equal_lengths), (2.5 / 4.0, 1));
    /// # Ok::<(), align_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Input`] without a pair, [`Error::NonFinite`] for a margin that is not finite.
    pub fn of(pairs: &[PairMargin], prompts: &Prompts, seed: u64) -> Result<Self> {
        if let Some(pair) = pairs.iter().find(|pair| !pair.margin.is_finite()) {
            return Err(Error::NonFinite { what: "margin of a pair".into(), value: pair.margin });
        }
        let right = |pair: &PairMargin| verdict(pair.margin, 0.0);
        let longer = |pair: &PairMargin| verdict(pair.difference, 0.0);
        let average = |what: &str, of: &dyn Fn(&PairMargin) -> f64| {
            let found = prompts.average(what, pairs.iter().map(|pair| (pair.row, of(pair), 1.0)), seed)?;
            found.ok_or_else(|| Error::input(what, "there is no pair"))
        };
        let outcome = |pair: &PairMargin| Outcome {
            prompt: prompts.of_rows.get(pair.row).copied().unwrap_or(usize::MAX),
            score: right(pair),
            difference: pair.difference,
            weight: 1.0,
        };
        let outcomes: Vec<Outcome> = pairs.iter().map(outcome).collect();
        Ok(Self {
            accuracy: average("accuracy", &right)?,
            ties: pairs.iter().filter(|pair| pair.margin == 0.0).count(),
            chosen_longer: average("share of longer chosen answers", &longer)?,
            equal_lengths: pairs.iter().filter(|pair| pair.difference == 0.0).count(),
            above_length: average("accuracy above length", &|pair| right(pair) - longer(pair))?,
            length_control: LengthControl::of("accuracy", &outcomes, prompts.count, seed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_prefers_length_is_no_better_than_length() {
        let pairs: Vec<PairMargin> = (0..40)
            .map(|row| {
                let difference = f64::from(row as u32 % 7) - 3.0;
                PairMargin { row, margin: 0.1 * difference, difference }
            })
            .collect();
        let prompts = Prompts { of_rows: (0..40).collect(), count: 40 };
        let agreement = PairAgreement::of(&pairs, &prompts, 0).unwrap();
        assert_eq!(agreement.accuracy, agreement.chosen_longer);
        assert_eq!((agreement.above_length.mean, agreement.above_length.interval), (0.0, Some((0.0, 0.0))));
        assert_eq!(agreement.ties, agreement.equal_lengths);
    }

    #[test]
    fn margins_that_are_no_numbers_and_no_pairs_are_refused() {
        let prompts = Prompts { of_rows: vec![0], count: 1 };
        let broken = PairMargin { row: 0, margin: f64::NAN, difference: 0.0 };
        assert!(PairAgreement::of(&[broken], &prompts, 0).is_err());
        assert!(PairAgreement::of(&[], &prompts, 0).is_err());
    }
}
