//! Intervals: Student over seeds, bootstrap over items and over prompts.

use align_types::{Purpose, RngStream};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Coverage of every interval.
pub const COVERAGE: f64 = 0.95;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 1000;

/// Over what an average and its interval are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// Nothing: the figure is computed and has no sampling error.
    Exact,
    /// Training runs with their own data, initialisation and order: what a claim about training needs.
    Seeds,
    /// Held-out items of one run, or prompts with all their rows: says nothing about another run.
    Items,
}

/// An average with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The average, or the figure itself where it is exact.
    pub mean: f64,
    /// The interval; none for an exact figure and for a single seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
    /// Number of seeds or items.
    pub count: usize,
    /// What was averaged.
    pub over: Over,
}

impl Estimate {
    /// Takes a figure that has no sampling error.
    pub fn exact(value: f64) -> Self {
        Self { mean: value, interval: None, count: 1, over: Over::Exact }
    }

    /// Averages one value per seed, with the Student interval mean ± t · s / √n.
    ///
    /// For a paired comparison the values are the differences, seed by seed.
    ///
    /// ```
    /// use align_core::intervals::Estimate;
    ///
    /// let estimate = Estimate::over_seeds("difference", &[1.0, 2.0, 3.0])?;
    /// let (low, high) = estimate.interval.unwrap_or_default();
    /// // s = 1, t(2) = 4.3027, half-width 4.3027 / sqrt(3) = 2.4842
    /// assert!((low + 0.4842).abs() < 1e-3 && (high - 4.4842).abs() < 1e-3);
    /// # Ok::<(), align_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a value that is not finite; [`Error::Input`] for no value.
    pub fn over_seeds(what: &str, values: &[f64]) -> Result<Self> {
        let mean = mean_of(what, values)?;
        let interval = half_width(values).map(|half| (mean - half, mean + half));
        Ok(Self { mean, interval, count: values.len(), over: Over::Seeds })
    }

    /// Averages one value per item, with the percentile bootstrap over items (1000 resamples).
    ///
    /// # Errors
    /// As [`Self::over_seeds`].
    pub fn over_items(what: &str, values: &[f64], seed: u64) -> Result<Self> {
        let mean = mean_of(what, values)?;
        let interval =
            Bootstrap { units: values.len(), seed }.interval(|weights| weighted_mean(values, weights));
        Ok(Self { mean, interval, count: values.len(), over: Over::Items })
    }

    /// Divides two sums over prompts, with the percentile bootstrap over prompts.
    ///
    /// `sums` has one (numerator, denominator) per prompt: for an average over rows the sum over the prompt's rows
    /// and their number, for an average over tokens the sum over its tokens and theirs. Rows of one prompt stay
    /// together, because they are not independent.
    ///
    /// ```
    /// use align_core::intervals::Estimate;
    ///
    /// // Two prompts with 1 and 3 rows: (2 + 6) / 4.
    /// let estimate = Estimate::over_prompts("x", &[(2.0, 1.0), (6.0, 3.0)], 0)?;
    /// assert_eq!((estimate.mean, estimate.count), (2.0, 2));
    /// # Ok::<(), align_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a sum that is not finite; [`Error::Input`] without a prompt, or for denominators
    /// that add up to 0.
    pub fn over_prompts(what: &str, sums: &[(f64, f64)], seed: u64) -> Result<Self> {
        let (over, under): (Vec<f64>, Vec<f64>) = sums.iter().copied().unzip();
        mean_of(what, &over)?;
        mean_of(what, &under)?;
        let ratio = |weights: &[f64]| {
            let sum = |values: &[f64]| values.iter().zip(weights).map(|(v, w)| v * w).sum::<f64>();
            Some(sum(&over) / sum(&under)).filter(|ratio| ratio.is_finite())
        };
        let mean = ratio(&vec![1.0; sums.len()]);
        let mean = mean.ok_or_else(|| Error::input(what, "it is an average over nothing"))?;
        let interval = Bootstrap { units: sums.len(), seed }.interval(ratio);
        Ok(Self { mean, interval, count: sums.len(), over: Over::Items })
    }

    /// Returns half the length of the interval; 0 without one.
    pub fn half_width(&self) -> f64 {
        self.interval.map_or(0.0, |(low, high)| (high - low) / 2.0)
    }
}

/// Resampling of units with replacement: 1000 resamples, percentile interval of 95 %.
///
/// The resamples are a function of the seed and of the number of units, so statistics of the same units are resampled
/// together: differences of two systems over the same prompts are paired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootstrap {
    /// Number of units: prompts, or items.
    pub units: usize,
    /// Seed of the resamples.
    pub seed: u64,
}

impl Bootstrap {
    /// Computes the interval of a statistic, which is given how often each unit was drawn.
    ///
    /// ```
    /// use align_core::intervals::Bootstrap;
    ///
    /// let values = [0.0, 1.0, 0.0, 1.0];
    /// let total = |weights: &[f64]| Some(values.iter().zip(weights).map(|(v, w)| v * w).sum::<f64>());
    /// let (low, high) = Bootstrap { units: 4, seed: 0 }.interval(total).unwrap();
    /// assert!((0.0..=2.0).contains(&low) && (2.0..=4.0).contains(&high));
    /// ```
    ///
    /// A resample for which the statistic is not defined is left out; `None` where that is more than half of them, or
    /// where there are fewer than two units.
    pub fn interval(&self, statistic: impl Fn(&[f64]) -> Option<f64>) -> Option<(f64, f64)> {
        if self.units < 2 {
            return None;
        }
        let mut values: Vec<f64> =
            (0..RESAMPLES as u64).filter_map(|resample| statistic(&self.weights(resample))).collect();
        if values.len() * 2 < RESAMPLES {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let tail = (1.0 - COVERAGE) / 2.0;
        let at = |share: f64| values.get((share * (values.len() - 1) as f64).round() as usize).copied();
        at(tail).zip(at(1.0 - tail))
    }

    /// Counts how often each unit comes in one resample.
    fn weights(&self, resample: u64) -> Vec<f64> {
        let mut random = RngStream::new(self.seed, Purpose::Bootstrap, resample, 0);
        let mut weights = vec![0.0; self.units];
        for _ in 0..self.units {
            if let Some(weight) = weights.get_mut(random.below(self.units)) {
                *weight += 1.0;
            }
        }
        weights
    }
}

fn weighted_mean(values: &[f64], weights: &[f64]) -> Option<f64> {
    Some(values.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f64>() / values.len() as f64)
}

/// Computes the standard error of the mean, s / √n with divisor n − 1; `None` for fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    let n = values.len();
    let freedom = n.checked_sub(1).filter(|freedom| *freedom > 0)?;
    let mean = values.iter().sum::<f64>() / n as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom as f64;
    Some((variance / n as f64).sqrt())
}

fn mean_of(what: &str, values: &[f64]) -> Result<f64> {
    if values.is_empty() {
        return Err(Error::input(what, "there is no value to average"));
    }
    if let Some(value) = values.iter().find(|v| !v.is_finite()) {
        return Err(Error::NonFinite { what: what.to_owned(), value: *value });
    }
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}

/// Computes half the length of the Student interval of the mean; `None` for fewer than two values.
pub fn half_width(values: &[f64]) -> Option<f64> {
    Some(student_quantile(values.len().checked_sub(1)?, COVERAGE) * standard_error(values)?)
}

/// Returns t with P(|T| < t) = `coverage` for Student's distribution with `freedom` >= 1 degrees of freedom.
///
/// `coverage` is in (0, 1).
pub fn student_quantile(freedom: usize, coverage: f64) -> f64 {
    // t = √ν tan θ maps the half-line to a bounded interval, where bisection needs no first guess.
    let (mut low, mut high) = (0.0, std::f64::consts::FRAC_PI_2);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if central_probability(freedom, middle) < coverage {
            low = middle;
        } else {
            high = middle;
        }
    }
    (freedom.max(1) as f64).sqrt() * (0.5 * (low + high)).tan()
}

/// Computes P(|T| < t) at t = √ν tan θ for whole ν by its finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4).
fn central_probability(freedom: usize, theta: f64) -> f64 {
    let (sine, cosine) = theta.sin_cos();
    let even = freedom.is_multiple_of(2);
    // Powers of the cosine: 0, 2, … ν − 2 for even ν; 1, 3, … ν − 2 for odd ν.
    let mut term = if even { 1.0 } else { cosine };
    let mut power = if even { 0 } else { 1 };
    let mut sum = 0.0;
    while power + 2 <= freedom {
        sum += term;
        term *= cosine * cosine * (power + 1) as f64 / (power + 2) as f64;
        power += 2;
    }
    if even { sine * sum } else { std::f64::consts::FRAC_2_PI * (theta + sine * sum) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two-sided 95 % points as printed in statistical tables (three digits after the point).
    #[test]
    fn quantiles_are_those_of_the_tables() {
        let table = [
            (1, 12.706),
            (2, 4.303),
            (3, 3.182),
            (4, 2.776),
            (5, 2.571),
            (9, 2.262),
            (10, 2.228),
            (29, 2.045),
            (30, 2.042),
            (100, 1.984),
        ];
        for (freedom, expected) in table {
            let got = student_quantile(freedom, 0.95);
            assert!((got - expected).abs() < 5.1e-4, "{freedom}: {got} against {expected}");
        }
        // Two-sided 99 %, and the normal limit 1.960.
        assert!((student_quantile(4, 0.99) - 4.604).abs() < 5.1e-4);
        assert!((student_quantile(1_000_000, 0.95) - 1.960).abs() < 5.1e-4);
    }

    #[test]
    fn one_seed_has_no_interval() {
        assert_eq!(Estimate::over_seeds("x", &[0.3]).unwrap().interval, None);
        assert!(Estimate::over_seeds("x", &[]).is_err());
        assert!(matches!(Estimate::over_seeds("x", &[1.0, f64::NAN]), Err(Error::NonFinite { .. })));
    }

    #[test]
    fn the_bootstrap_agrees_with_the_normal_approximation() {
        // 400 items, 70 % of them 1: standard error sqrt(.7 x .3 / 400) = .0229, half-width .0449.
        let values: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i % 10 < 7))).collect();
        let estimate = Estimate::over_items("x", &values, 3).unwrap();
        assert!((estimate.mean - 0.7).abs() < 1e-12);
        assert!((estimate.half_width() - 0.0449).abs() < 0.005, "{estimate:?}");
        assert_eq!(estimate, Estimate::over_items("x", &values, 3).unwrap());
    }

    proptest! {
        #[test]
        fn intervals_move_and_scale_with_the_values(
            values in prop::collection::vec(-3.0f64..3.0, 2..12), shift in -2.0f64..2.0, scale in 0.1f64..4.0,
        ) {
            let moved: Vec<f64> = values.iter().map(|v| v * scale + shift).collect();
            let (a, b) = (Estimate::over_seeds("a", &values).unwrap(), Estimate::over_seeds("b", &moved).unwrap());
            prop_assert!((b.mean - (a.mean * scale + shift)).abs() < 1e-9);
            prop_assert!((b.half_width() - a.half_width() * scale).abs() < 1e-9);
        }

        #[test]
        fn the_probability_inverts_the_quantile(freedom in 1usize..60, coverage in 0.05f64..0.999) {
            let theta = (student_quantile(freedom, coverage) / (freedom as f64).sqrt()).atan();
            prop_assert!((central_probability(freedom, theta) - coverage).abs() < 1e-9);
        }
    }
}
