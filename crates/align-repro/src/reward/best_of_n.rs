//! Best-of-n under a proxy reward: what the proxy says, what gold says, and the curve of 2210.10760.

use align_core::align_types::RngStream;
use serde::{Deserialize, Serialize};

use super::world::Answers;

/// Best-of-n at one n, averaged over requests. Both rewards have mean 0 and variance 1 over the samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Samples to choose from.
    pub n: usize,
    /// KL to the sampler in nats, log n − (n − 1)/n: exact where no two samples are alike, else an upper bound.
    pub kl: f64,
    /// What the proxy says of its choice.
    pub proxy: f64,
    /// What gold says of it.
    pub gold: f64,
}

impl CurvePoint {
    /// The square root of the KL, the paper's d.
    pub fn distance(&self) -> f64 {
        self.kl.max(0.0).sqrt()
    }
}

/// The curve R(d) = d (a − b d) of 2210.10760, section 3.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// Slope at the start.
    pub a: f64,
    /// What bends it down.
    pub b: f64,
}

impl Fit {
    /// Fits gold by least squares; d = 0 says nothing and is left out. `None` for fewer than two other points.
    pub fn of(curve: &[CurvePoint]) -> Option<Self> {
        // Normal equations of R = a d − b d².
        let (mut dd, mut ddd, mut dddd, mut rd, mut rdd) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for point in curve {
            let (d, r) = (point.distance(), point.gold);
            dd += d * d;
            ddd += d.powi(3);
            dddd += d.powi(4);
            rd += r * d;
            rdd += r * d * d;
        }
        let determinant = dd * dddd - ddd * ddd;
        if determinant <= f64::EPSILON * dd * dddd {
            return None;
        }
        let a = (rd * dddd - rdd * ddd) / determinant;
        let b = (rd * ddd - rdd * dd) / determinant;
        Some(Self { a, b })
    }

    /// Where gold is highest, a / (2 b); `None` for a curve that does not bend down.
    pub fn peak(&self) -> Option<f64> {
        (self.a > 0.0 && self.b > 0.0).then(|| self.a / (2.0 * self.b))
    }

    /// The curve at a distance.
    pub fn at(&self, distance: f64) -> f64 {
        distance * (self.a - self.b * distance)
    }
}

/// Draws a reward that has nothing to do with the answers.
pub fn nothing(answers: &[Answers], random: &mut RngStream) -> Vec<Vec<f64>> {
    answers.iter().map(|group| group.answers.iter().map(|_| random.normal()).collect()).collect()
}

/// Mean and standard deviation over all samples.
pub(super) fn moments<'a>(values: impl Iterator<Item = &'a f64> + Clone) -> (f64, f64) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt().max(f64::MIN_POSITIVE))
}

/// Computes the curve of a proxy over the samples of all requests.
pub fn curve(answers: &[Answers], proxy: &[Vec<f64>], counts: &[usize]) -> Vec<CurvePoint> {
    let gold: Vec<Vec<f64>> =
        answers.iter().map(|group| group.answers.iter().map(|answer| answer.gold).collect()).collect();
    let (proxy_mean, proxy_deviation) = moments(proxy.iter().flatten());
    let (gold_mean, gold_deviation) = moments(gold.iter().flatten());
    let point = |n: &usize| {
        let mean = |values: &[Vec<f64>]| {
            let each = proxy.iter().zip(values).map(|(by, values)| best_of_n(by, values, *n));
            each.sum::<f64>() / answers.len().max(1) as f64
        };
        let count = *n as f64;
        CurvePoint {
            n: *n,
            kl: count.ln() - (count - 1.0) / count,
            proxy: (mean(proxy) - proxy_mean) / proxy_deviation,
            gold: (mean(&gold) - gold_mean) / gold_deviation,
        }
    };
    counts.iter().map(point).collect()
}

/// Estimates the mean value of the sample that `by` likes best among n, over all choices of n of the N samples:
/// Σ_{i ≥ n} C(i − 1, n − 1) / C(N, n) · value of the i-th in ascending order of `by`; equal ones share their mean.
fn best_of_n(by: &[f64], values: &[f64], n: usize) -> f64 {
    let mut order: Vec<(f64, f64)> = by.iter().copied().zip(values.iter().copied()).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let count = order.len();
    let mut rest = order.as_slice();
    // The share of choices whose best is among the first i: C(i, n) / C(N, n).
    let share = |i: usize| -> f64 {
        let ratios = (0..n).map(|k| i.saturating_sub(k) as f64 / (count - k.min(count - 1)) as f64);
        ratios.product()
    };
    let (mut done, mut sum) = (0, 0.0);
    while let Some((first, _)) = rest.first() {
        let equal = rest.iter().take_while(|(score, _)| score == first).count().max(1);
        let (block, after) = rest.split_at(equal);
        let mean = block.iter().map(|(_, value)| value).sum::<f64>() / equal as f64;
        sum += mean * (share(done + equal) - share(done));
        done += equal;
        rest = after;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golds ascending by proxy (3, 1, 2, 0): counted by hand over all subsets.
    #[test]
    fn best_of_n_counts_subsets() {
        let (by, gold) = ([1.0, 2.0, 3.0, 4.0], [3.0, 1.0, 2.0, 0.0]);
        for (n, expected) in [(1, 1.5), (2, 5.0 / 6.0), (3, 0.5), (4, 0.0)] {
            assert!((best_of_n(&by, &gold, n) - expected).abs() < 1e-12, "{n}");
        }
        // Without a preference the mean is left.
        assert!((best_of_n(&[0.0; 4], &gold, 3) - 1.5).abs() < 1e-12);
    }

    #[test]
    fn the_fit_finds_its_own_curve() {
        let fit = Fit { a: 0.5, b: 0.1 };
        let point = |n: usize| {
            let kl = (n as f64).ln() - (n as f64 - 1.0) / n as f64;
            CurvePoint { n, kl, proxy: 0.0, gold: fit.at(kl.sqrt()) }
        };
        let found = Fit::of(&[1, 4, 16, 64].map(point)).unwrap();
        assert!((found.a - 0.5).abs() < 1e-9 && (found.b - 0.1).abs() < 1e-9, "{found:?}");
        // a / (2 b).
        assert!((found.peak().unwrap() - 2.5).abs() < 1e-9);
        assert_eq!(Fit::of(&[point(1), point(4)]), None);
    }
}
