//! Intervals: Student over seeds, bootstrap over items.

use align_core::align_types::{Purpose, RngStream};
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
    /// Held-out items of one run: says nothing about another run.
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
    /// use align_repro::interval::Estimate;
    ///
    /// let estimate = Estimate::over_seeds("difference", &[1.0, 2.0, 3.0])?;
    /// let (low, high) = estimate.interval.unwrap_or_default();
    /// // s = 1, t(2) = 4.3027, half-width 4.3027 / sqrt(3) = 2.4842
    /// assert!((low + 0.4842).abs() < 1e-3 && (high - 4.4842).abs() < 1e-3);
    /// # Ok::<(), align_repro::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a value that is not finite; [`Error::Usage`] for no value.
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
        let mut means: Vec<f64> = (0..RESAMPLES as u64)
            .map(|resample| {
                let mut random = RngStream::new(seed, Purpose::Bootstrap, resample, 0);
                let draw = |_| values.get(random.below(values.len())).copied().unwrap_or(mean);
                (0..values.len()).map(draw).sum::<f64>() / values.len() as f64
            })
            .collect();
        means.sort_by(f64::total_cmp);
        let tail = (1.0 - COVERAGE) / 2.0;
        let at = |share: f64| means.get((share * (means.len() - 1) as f64).round() as usize).copied();
        let interval = at(tail).zip(at(1.0 - tail));
        Ok(Self { mean, interval, count: values.len(), over: Over::Items })
    }

    /// Returns half the length of the interval; 0 without one.
    pub fn half_width(&self) -> f64 {
        self.interval.map_or(0.0, |(low, high)| (high - low) / 2.0)
    }
}

fn mean_of(what: &str, values: &[f64]) -> Result<f64> {
    if values.is_empty() {
        return Err(Error::usage(what, "there is no value to average"));
    }
    if let Some(value) = values.iter().find(|v| !v.is_finite()) {
        return Err(Error::NonFinite { what: what.to_owned(), value: *value });
    }
    Ok(values.iter().sum::<f64>() / values.len() as f64)
}

/// Computes half the length of the Student interval of the mean; `None` for fewer than two values.
pub fn half_width(values: &[f64]) -> Option<f64> {
    let n = values.len();
    let freedom = n.checked_sub(1).filter(|f| *f > 0)?;
    let mean = values.iter().sum::<f64>() / n as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / freedom as f64;
    Some(student_quantile(freedom, COVERAGE) * (variance / n as f64).sqrt())
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
