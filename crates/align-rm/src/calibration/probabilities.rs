use align_core::{
    evaluation::{Prompts, verdict},
    intervals::{Bootstrap, Estimate, Over},
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Number of bins of the calibration error, of equal width over [0, 1].
const BINS: usize = 10;

/// Whether the differences of scores, as σ(d / T), are probabilities of being right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probabilities {
    /// The temperature T that differences are divided by.
    pub temperature: f64,
    /// Expected calibration error in the confidence form: the confidence max(p, 1 − p) of each pair against whether the
    /// answer that is preferred with it is the chosen one (1/2 for a tie), in ten bins of equal width, Σ |bin| / N ·
    /// |mean confidence − share right| (1706.04599 eq. 3). Which answer comes first does not matter to it. It is never below
    /// 0, and above 0 by chance in few rows.
    pub calibration_error: Estimate,
    /// Mean of (1 − p)², p the probability of the chosen answer (Brier's score); 0.25 for p = 1/2.
    pub brier: Estimate,
    /// Mean of −log p, in nats; ln 2 for p = 1/2.
    pub nll: Estimate,
    /// The bins of the calibration error that hold pairs, ascending.
    pub bins: Vec<ReliabilityBin>,
}

/// One bin of a reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// The bin: from this included to this excluded (1 is in the last).
    pub range: (f64, f64),
    /// Pairs in the bin.
    pub count: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// The share of them that is right.
    pub right: f64,
}

impl Probabilities {
    /// Measures differences r(chosen) − r(rejected), one per row of `prompts`.
    pub(super) fn of(margins: &[f64], temperature: f64, prompts: &Prompts, seed: u64) -> Result<Self> {
        if !(temperature > 0.0 && temperature.is_finite()) {
            let why = format!("{temperature} is no finite number above 0");
            return Err(Error::input("temperature of calibration", why));
        }
        let average = |what: &str, of: &dyn Fn(f64) -> f64| {
            let values = margins.iter().enumerate().map(|(row, margin)| (row, of(margin / temperature), 1.0));
            prompts.average(what, values, seed)?.ok_or_else(|| Error::input(what, "there is no pair"))
        };
        let confident: Vec<(f64, f64)> =
            margins.iter().map(|d| (sigmoid(d.abs() / temperature), verdict(*d, 0.0))).collect();
        let sums = Sums::of(&confident);
        let brier = average("Brier score", &|z| sigmoid(-z).powi(2))?;
        Ok(Self {
            temperature,
            calibration_error: Estimate {
                mean: sums.error(),
                interval: interval(&confident, prompts, seed),
                count: brier.count,
                over: Over::Items,
            },
            brier,
            nll: average("negative log-likelihood", &softplus_of_negative)?,
            bins: sums.bins(),
        })
    }
}

/// Computes the expected calibration error of (probability, outcome) in ten bins [k / 10, (k + 1) / 10), the last of which
/// holds 1: Σ |bin| / N · |mean probability − mean outcome|.
///
/// ```
/// use align_rm::calibration_error;
///
/// // Said 0.95 twice and right once.
/// assert!((calibration_error(&[(0.95, 1.0), (0.95, 0.0)])? - 0.45).abs() < 1e-12);
/// # Ok::<(), align_rm::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] for no outcome, and for a probability or an outcome outside [0, 1].
pub fn calibration_error(outcomes: &[(f64, f64)]) -> Result<f64> {
    if outcomes.is_empty() {
        return Err(Error::input("calibration error", "there is no outcome"));
    }
    let inside = |value: &f64| (0.0..=1.0).contains(value);
    if let Some((p, y)) = outcomes.iter().find(|(p, y)| !inside(p) || !inside(y)) {
        let why = format!("probability {p} with outcome {y}: both are in [0, 1]");
        return Err(Error::input("calibration error", why));
    }
    Ok(Sums::of(outcomes).error())
}

/// Number, sum of probabilities and sum of outcomes of each bin.
#[derive(Debug, Clone, Copy, Default)]
struct Sums([[f64; 3]; BINS]);

impl Sums {
    fn of(outcomes: &[(f64, f64)]) -> Self {
        let mut sums = Self::default();
        outcomes.iter().for_each(|outcome| sums.add(*outcome, 1.0));
        sums
    }

    fn add(&mut self, (probability, outcome): (f64, f64), weight: f64) {
        let bin = ((probability * BINS as f64) as usize).min(BINS - 1);
        if let Some([count, sum, right]) = self.0.get_mut(bin) {
            *count += weight;
            *sum += weight * probability;
            *right += weight * outcome;
        }
    }

    /// Σ |bin| / N · |Σ p − Σ y| / |bin|: the sizes of the bins cancel.
    fn error(&self) -> f64 {
        let total: f64 = self.0.iter().map(|[count, ..]| count).sum();
        self.0.iter().map(|[_, sum, right]| (sum - right).abs()).sum::<f64>() / total
    }

    fn bins(&self) -> Vec<ReliabilityBin> {
        let edge = |bin: usize| bin as f64 / BINS as f64;
        let filled = self.0.iter().enumerate().filter(|(_, [count, ..])| *count > 0.0);
        filled
            .map(|(bin, [count, sum, right])| ReliabilityBin {
                range: (edge(bin), edge(bin + 1)),
                count: *count as usize,
                confidence: sum / count,
                right: right / count,
            })
            .collect()
    }
}

/// Bootstraps the calibration error over the prompts that have pairs.
fn interval(outcomes: &[(f64, f64)], prompts: &Prompts, seed: u64) -> Option<(f64, f64)> {
    let bootstrap = Bootstrap { units: prompts.count, seed };
    bootstrap.interval(|weights| {
        let mut sums = Sums::default();
        for (outcome, prompt) in outcomes.iter().zip(&prompts.of_rows) {
            sums.add(*outcome, weights.get(*prompt).copied().unwrap_or(0.0));
        }
        Some(sums.error()).filter(|error| error.is_finite())
    })
}

fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 { 1.0 / (1.0 + (-z).exp()) } else { z.exp() / (1.0 + z.exp()) }
}

/// −log σ(z).
fn softplus_of_negative(z: f64) -> f64 {
    (-z).max(0.0) + (-z.abs()).exp().ln_1p()
}
