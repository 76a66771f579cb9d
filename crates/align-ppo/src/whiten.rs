use align_core::stats::{Divisor, Mean};

/// Added to the variance before the root, so that equal values give 0 and not NaN.
const EPSILON: f64 = 1e-8;

/// Mean and variance of numbers, with the count they are of.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Moments {
    /// How many numbers.
    pub count: usize,
    /// Their mean; 0 for none.
    pub mean: f64,
    /// Their variance with divisor `count`; 0 for none.
    pub variance: f64,
}

impl Moments {
    /// Computes the moments in two passes.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count();
        let n = count.max(1) as f64;
        let mean = values.clone().sum::<f64>() / n;
        let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / n;
        Self { count, mean, variance }
    }

    /// Returns the standard deviation with divisor `count`.
    pub fn std(&self) -> f64 {
        self.variance.sqrt()
    }

    /// Returns the variance with this divisor.
    pub fn variance_with(&self, divisor: Divisor) -> f64 {
        let n = self.count as f64;
        match divisor {
            Divisor::Count => self.variance,
            Divisor::CountMinusOne => self.variance * n / (n - 1.0).max(1.0),
        }
    }
}

/// Scales lists of numbers together to variance 1 and, if asked, mean 0: x ← (x − μ) / √(σ² + 10⁻⁸) (+ μ).
///
/// The statistics are those of all numbers of all lists: give it the whole batch. Answers that are left out must not be
/// there, and there is no padding. lm-human-preferences divides the variance by n, TRL by n − 1.
///
/// ```
/// use align_core::stats::{Divisor, Mean};
///
/// let mut lists = [vec![1.0], vec![3.0, 5.0]];
/// align_ppo::whiten(&mut lists, Mean::Remove, Divisor::Count);
/// assert_eq!(lists[1][0], 0.0);
/// ```
pub fn whiten<L: AsMut<[f64]> + AsRef<[f64]>>(lists: &mut [L], mean: Mean, divisor: Divisor) -> Moments {
    let moments = Moments::of(lists.iter().flat_map(|list| list.as_ref().iter().copied()));
    let scale = 1.0 / (moments.variance_with(divisor) + EPSILON).sqrt();
    let shift = if mean == Mean::Keep { moments.mean } else { 0.0 };
    for value in lists.iter_mut().flat_map(|list| list.as_mut().iter_mut()) {
        *value = (*value - moments.mean) * scale + shift;
    }
    moments
}
