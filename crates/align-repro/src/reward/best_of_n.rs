//! Best-of-n under a proxy reward: what the proxy says, what gold says, and the curve of 2210.10760.

use align_core::{
    align_types::RngStream,
    evaluation::{best_of_n, best_of_n_divergence},
};
use serde::{Deserialize, Serialize};

use super::world::Answers;
use crate::Result;

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
        let points = curve.iter().map(|point| (point.distance(), point.distance().powi(2), point.gold));
        least_squares(points).map(|(a, b)| Self { a, b })
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

/// Solves r = a u − b v for a and b over points (u, v, r) by least squares; `None` where the points do not tell them apart.
pub(super) fn least_squares(points: impl Iterator<Item = (f64, f64, f64)>) -> Option<(f64, f64)> {
    let (mut uu, mut uv, mut vv, mut ru, mut rv) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (u, v, r) in points {
        uu += u * u;
        uv += u * v;
        vv += v * v;
        ru += r * u;
        rv += r * v;
    }
    let determinant = uu * vv - uv * uv;
    if determinant <= f64::EPSILON * uu * vv {
        return None;
    }
    Some(((ru * vv - rv * uv) / determinant, (ru * uv - rv * uu) / determinant))
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
///
/// # Errors
/// More of n than there are samples; rewards that are not finite.
pub fn curve(answers: &[Answers], proxy: &[Vec<f64>], counts: &[usize]) -> Result<Vec<CurvePoint>> {
    let gold: Vec<Vec<f64>> =
        answers.iter().map(|group| group.answers.iter().map(|answer| answer.gold).collect()).collect();
    let (proxy_mean, proxy_deviation) = moments(proxy.iter().flatten());
    let (gold_mean, gold_deviation) = moments(gold.iter().flatten());
    let point = |n: usize| {
        let mean = |values: &[Vec<f64>]| -> Result<f64> {
            let mut sum = 0.0;
            for (by, values) in proxy.iter().zip(values) {
                let samples: Vec<(f64, f64)> = by.iter().copied().zip(values.iter().copied()).collect();
                sum += best_of_n(&samples, n)?;
            }
            Ok(sum / answers.len().max(1) as f64)
        };
        Ok(CurvePoint {
            n,
            kl: best_of_n_divergence(n).unwrap_or(0.0),
            proxy: (mean(proxy)? - proxy_mean) / proxy_deviation,
            gold: (mean(&gold)? - gold_mean) / gold_deviation,
        })
    };
    counts.iter().map(|n| point(*n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// The curve of 2210.10760 with alpha .662 and beta .09: .662 / .18 = 3.67777778, where it is .662² / .36 = 1.21734444.
    #[test]
    fn the_peak_is_half_of_alpha_over_beta() {
        let fit = Fit { a: 0.662, b: 0.09 };
        let peak = fit.peak().unwrap();
        assert!((peak - 3.677_777_78).abs() < 1e-8 && (fit.at(peak) - 1.217_344_44).abs() < 1e-8, "{peak}");
    }
}
