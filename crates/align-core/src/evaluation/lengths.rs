use serde::{Deserialize, Serialize};

use super::average;
use crate::{
    Result,
    intervals::{Bootstrap, Estimate, Over},
};

/// Number of bins of length differences.
const BINS: usize = 5;

/// One comparison of two answers to a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Number of the prompt.
    pub prompt: usize,
    /// 1 where the first answer is judged better, 0 where it is worse, 0.5 for a tie.
    pub score: f64,
    /// Length of the first answer less that of the second.
    pub difference: f64,
    /// How much the comparison counts; > 0.
    pub weight: f64,
}

/// Outcomes whose length differences lie in one range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LengthBin {
    /// Smallest and largest length difference.
    pub range: (f64, f64),
    /// Comparisons in the bin.
    pub count: usize,
    /// Average score.
    pub score: Estimate,
}

/// How much of an average score is owed to length.
///
/// The score is regressed on the length difference, score = a + b · difference (weighted least squares); the
/// intercept a is the score that answers of equal length would have. It is the simple relative of the length-controlled
/// win rate of AlpacaEval 2 (2404.04475), which regresses on more than that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LengthControl {
    /// The intercept a; none where all differences are the same number other than 0.
    pub at_equal_length: Option<Estimate>,
    /// The slope b, per unit of length; none where all differences are the same.
    pub slope: Option<f64>,
    /// The outcomes by length difference, in about five bins of about equal size.
    pub bins: Vec<LengthBin>,
}

/// Σ w, Σ w x, Σ w y, Σ w x², Σ w x y.
type Moments = [f64; 5];

impl LengthControl {
    /// Regresses and bins outcomes; intervals are bootstrapped over the prompts 0..`prompts`.
    ///
    /// ```
    /// use align_core::evaluation::{LengthControl, Outcome};
    ///
    /// // Every token more is worth 0.1, and answers of equal length win 0.3 of the time.
    /// let outcome = |prompt, difference| Outcome { prompt, score: 0.3 + 0.1 * difference, difference, weight: 1.0 };
    /// let outcomes = [outcome(0, -1.0), outcome(1, 2.0), outcome(2, 5.0)];
    /// let control = LengthControl::of("win rate", &outcomes, 3, 0)?;
    /// assert!((control.at_equal_length.unwrap().mean - 0.3).abs() < 1e-12);
    /// assert!((control.slope.unwrap() - 0.1).abs() < 1e-12);
    /// # Ok::<(), align_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::NonFinite`] for a score or a difference that is not finite.
    pub fn of(what: &str, outcomes: &[Outcome], prompts: usize, seed: u64) -> Result<Self> {
        let mut sums = vec![[0.0; 5]; prompts];
        for outcome in outcomes {
            let (w, x, y) = (outcome.weight, outcome.difference, outcome.score);
            if let Some(sum) = sums.get_mut(outcome.prompt) {
                [w, w * x, w * y, w * x * x, w * x * y].iter().zip(sum).for_each(|(term, sum)| *sum += term);
            }
        }
        let present: Vec<Moments> = sums.into_iter().filter(|sum| sum[0] > 0.0).collect();
        let line = fit(&total(&present, &vec![1.0; present.len()]));
        let at_equal_length = line.map(|line| Estimate {
            mean: line.intercept,
            interval: Bootstrap { units: present.len(), seed }
                .interval(|weights| fit(&total(&present, weights)).map(|line| line.intercept)),
            count: present.len(),
            over: Over::Items,
        });
        let slope = line.and_then(|line| line.slope);
        Ok(Self { at_equal_length, slope, bins: bins(what, outcomes, prompts, seed)? })
    }
}

fn total(moments: &[Moments], weights: &[f64]) -> Moments {
    let mut total = [0.0; 5];
    for (moment, weight) in moments.iter().zip(weights) {
        total.iter_mut().zip(moment).for_each(|(sum, value)| *sum += weight * value);
    }
    total
}

#[derive(Debug, Clone, Copy)]
struct Line {
    intercept: f64,
    /// None where the line is known at 0 alone.
    slope: Option<f64>,
}

/// Fits a line by least squares; none where it is not determined at 0.
fn fit(&[n, x, y, xx, xy]: &Moments) -> Option<Line> {
    if n <= 0.0 {
        return None;
    }
    let (mean_x, mean_y) = (x / n, y / n);
    let spread = xx / n - mean_x * mean_x;
    // What rounding leaves of equal differences is not a spread.
    if spread > 1e-9 * (xx / n) {
        let slope = (xy / n - mean_x * mean_y) / spread;
        return Some(Line { intercept: mean_y - slope * mean_x, slope: Some(slope) });
    }
    (xx == 0.0).then_some(Line { intercept: mean_y, slope: None })
}

/// Cuts the outcomes, by length difference, into bins of about equal size; equal differences stay together.
fn bins(what: &str, outcomes: &[Outcome], prompts: usize, seed: u64) -> Result<Vec<LengthBin>> {
    let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
    sorted.sort_by(|a, b| a.difference.total_cmp(&b.difference));
    let mut bins = Vec::new();
    let mut rest = sorted.as_slice();
    let mut done = 0;
    while let Some(next) = rest.first() {
        // The bin ends where its share of all outcomes does, or where the last difference of that share does.
        let share = (bins.len() + 1) * sorted.len() / BINS;
        let last = sorted.get(share.max(done + 1) - 1).unwrap_or(next).difference;
        let size = rest.iter().take_while(|outcome| outcome.difference <= last).count().max(1);
        let (bin, tail) = rest.split_at_checked(size).unwrap_or((rest, &[]));
        (rest, done) = (tail, done + size);
        bins.extend(summary(what, bin, (next.difference, last), prompts, seed)?);
    }
    Ok(bins)
}

fn summary(
    what: &str,
    bin: &[&Outcome],
    range: (f64, f64),
    prompts: usize,
    seed: u64,
) -> Result<Option<LengthBin>> {
    let mut sums = vec![(0.0, 0.0); prompts];
    for outcome in bin {
        if let Some((over, under)) = sums.get_mut(outcome.prompt) {
            *over += outcome.weight * outcome.score;
            *under += outcome.weight;
        }
    }
    let score = average(what, &sums, seed)?;
    Ok(score.map(|score| LengthBin { range, count: bin.len(), score }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcome(prompt: usize, score: f64, difference: f64) -> Outcome {
        Outcome { prompt, score, difference, weight: 1.0 }
    }

    /// Differences −2, 0, 1, 5 with scores 0, 1, 0, 1: means 1 and 1/2, covariance (0·−2 + 0 + 0 + 5)/4 − 1/2 = 3/4,
    /// variance 30/4 − 1 = 13/2, so the slope is 3/26 and the intercept 1/2 − 3/26 = 5/13.
    #[test]
    fn the_regression_is_that_of_least_squares() {
        let outcomes =
            [outcome(0, 0.0, -2.0), outcome(1, 1.0, 0.0), outcome(2, 0.0, 1.0), outcome(3, 1.0, 5.0)];
        let control = LengthControl::of("x", &outcomes, 4, 0).unwrap();
        assert!((control.slope.unwrap() - 3.0 / 26.0).abs() < 1e-12);
        assert!((control.at_equal_length.unwrap().mean - 5.0 / 13.0).abs() < 1e-12);
    }

    #[test]
    fn without_a_spread_of_lengths_there_is_a_figure_at_equal_length_only() {
        let of = |difference| {
            let outcomes: Vec<_> = (0..4).map(|i| outcome(i, f64::from(i as u32 % 2), difference)).collect();
            LengthControl::of("x", &outcomes, 4, 0).unwrap()
        };
        let equal = of(0.0);
        assert_eq!((equal.at_equal_length.unwrap().mean, equal.slope, equal.bins.len()), (0.5, None, 1));
        let shifted = of(0.1);
        assert_eq!((shifted.at_equal_length, shifted.slope, shifted.bins.len()), (None, None, 1));
    }

    /// A judge that likes length alone: the plain average says that the longer answers are better, the intercept that
    /// they are not.
    #[test]
    fn a_preference_for_length_is_taken_out() {
        let outcomes: Vec<_> = (0..300)
            .map(|i| {
                let difference = f64::from(i % 30) - 5.0;
                outcome(
                    i as usize,
                    if difference > 0.0 {
                        1.0
                    } else if difference < 0.0 {
                        0.0
                    } else {
                        0.5
                    },
                    difference,
                )
            })
            .collect();
        let control = LengthControl::of("x", &outcomes, 300, 0).unwrap();
        let plain = outcomes.iter().map(|o| o.score).sum::<f64>() / 300.0;
        assert!(plain > 0.8 && control.at_equal_length.unwrap().mean < plain - 0.2);
        assert_eq!(
            control.bins.first().unwrap().score.mean,
            0.5 / 6.0,
            "differences −5 to 0, of which 0 is a tie"
        );
        assert_eq!(control.bins.last().unwrap().score.mean, 1.0);
    }

    proptest! {
        // Each case is a bootstrap for every bin.
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn bins_hold_every_outcome_once_and_do_not_overlap(differences in prop::collection::vec(-6i32..6, 1..60)) {
            let outcomes: Vec<_> =
                differences.iter().enumerate().map(|(i, d)| outcome(i, 0.5, f64::from(*d))).collect();
            let bins = LengthControl::of("x", &outcomes, outcomes.len(), 0).unwrap().bins;
            prop_assert_eq!(bins.iter().map(|bin| bin.count).sum::<usize>(), outcomes.len());
            prop_assert!(bins.len() <= BINS);
            prop_assert!(bins.iter().all(|bin| bin.range.0 <= bin.range.1));
            prop_assert!(bins.windows(2).all(|pair| pair[0].range.1 < pair[1].range.0));
        }
    }
}
