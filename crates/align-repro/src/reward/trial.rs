//! What all arms of a seed are judged by: fresh pairs, hard pairs, pairs with noisy labels, samples for best-of-n.

use serde::{Deserialize, Serialize};

use super::{
    best_of_n::{self, Fit},
    settings::SizeSettings,
    study::{ArmResult, Checkpoint},
    world::{Answers, Stream},
};
use crate::{Result, style::policy::Requests};

/// One of the sets of scores.
type Part = fn(&Scored) -> &Vec<Vec<f64>>;

/// What all arms of a seed are judged by.
pub(super) struct Trial {
    pub pairs: Vec<Answers>,
    pub hard: Vec<Answers>,
    pub validation: Vec<Answers>,
    pub samples: Vec<Answers>,
}

/// The scores of something that scores, on all parts of a [`Trial`].
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Scored {
    pub pairs: Vec<Vec<f64>>,
    pub hard: Vec<Vec<f64>>,
    pub validation: Vec<Vec<f64>>,
    pub samples: Vec<Vec<f64>>,
}

impl Trial {
    /// Makes what the arms of a seed are judged by; without samples there is no best-of-n.
    pub fn of(settings: &SizeSettings, seed: u64, has_samples: bool) -> Self {
        let requests = Requests::split(seed);
        let world = &settings.world;
        let pairs = |hard, stream: Stream| world.test_pairs(&requests, hard, &mut stream.random(seed, 0));
        let others = |hard, stream| match settings.plain_pairs_only {
            true => Vec::new(),
            false => pairs(hard, stream),
        };
        let best = &settings.best_of_n;
        let mut random = Stream::BestOfN.random(seed, 0);
        let each = requests.test.iter().take(if has_samples { best.requests } else { 0 });
        let samples = each.map(|request| Answers {
            request: *request,
            answers: (0..best.samples).map(|_| world.answer(request, world.stuck, &mut random)).collect(),
        });
        Self {
            pairs: pairs(false, Stream::Test),
            hard: others(true, Stream::Hard),
            validation: others(false, Stream::Validation),
            samples: samples.collect(),
        }
    }

    pub fn score(&self, by: impl Fn(&[Answers]) -> Result<Vec<Vec<f64>>>) -> Result<Scored> {
        Ok(Scored {
            pairs: by(&self.pairs)?,
            hard: by(&self.hard)?,
            validation: by(&self.validation)?,
            samples: by(&self.samples)?,
        })
    }

    /// Reads scores off after so many updates and epochs.
    pub fn judge(
        &self,
        scored: &Scored,
        settings: &SizeSettings,
        seed: u64,
        (updates, epochs): (u64, f64),
        result: &mut ArmResult,
    ) -> Result<()> {
        let (accuracy, nll) = agreement(&self.pairs, &scored.pairs);
        let hard = (!self.hard.is_empty()).then(|| agreement(&self.hard, &scored.hard).0);
        result.checkpoints.push(Checkpoint { updates, epochs, accuracy, hard, nll });
        result.validation = self.validate(&scored.validation, settings.world.noise, seed);
        if !self.samples.is_empty() {
            result.curve = best_of_n::curve(&self.samples, &scored.samples, &settings.best_of_n.counts)?;
            result.fit = Fit::of(&result.curve);
        }
        Ok(())
    }

    /// Share of validation pairs that are ordered as noisy scores order them; `None` without such pairs.
    pub fn validate(&self, scores: &[Vec<f64>], noise: f64, seed: u64) -> Option<f64> {
        if self.validation.is_empty() {
            return None;
        }
        let mut random = Stream::Labels.random(seed, 1);
        let mut right = 0.0;
        for (pair, scores) in self.validation.iter().zip(scores) {
            let label = pair.gold_difference() + std::f64::consts::SQRT_2 * noise * random.normal();
            right += credit(difference(scores) * label);
        }
        Some(right / self.validation.len() as f64)
    }
}

pub(super) fn difference(scores: &[f64]) -> f64 {
    match scores {
        [first, second, ..] => first - second,
        _ => 0.0,
    }
}

/// 1 for agreement, 0 for none, one half for equal scores.
fn credit(product: f64) -> f64 {
    if product > 0.0 {
        1.0
    } else if product < 0.0 {
        0.0
    } else {
        0.5
    }
}

/// Computes accuracy and negative log-likelihood on pairs.
pub(super) fn agreement(pairs: &[Answers], scores: &[Vec<f64>]) -> (f64, f64) {
    let (mut right, mut nll) = (0.0, 0.0);
    for (pair, scores) in pairs.iter().zip(scores) {
        let margin = difference(scores) * pair.gold_difference().signum();
        right += credit(margin);
        // log(1 + e^−m) without overflow.
        nll += (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
    }
    let count = pairs.len().max(1) as f64;
    (right / count, nll / count)
}

/// Averages scores, each member with mean 0 and variance 1 over the held-out pairs before.
pub(super) fn mean_of_scores(members: &[Scored]) -> Scored {
    let parts: [Part; 4] = [|s| &s.pairs, |s| &s.hard, |s| &s.validation, |s| &s.samples];
    let mean = |part: fn(&Scored) -> &Vec<Vec<f64>>| {
        let mut sum: Vec<Vec<f64>> = Vec::new();
        for member in members {
            let (mean, deviation) = best_of_n::moments(member.pairs.iter().flatten());
            let scale = |value: &f64| (value - mean) / deviation / members.len().max(1) as f64;
            let scaled: Vec<Vec<f64>> =
                part(member).iter().map(|row| row.iter().map(scale).collect()).collect();
            if sum.is_empty() {
                sum = scaled;
            } else {
                let both = sum.iter_mut().flatten().zip(scaled.iter().flatten());
                both.for_each(|(total, value)| *total += value);
            }
        }
        sum
    };
    let [pairs, hard, validation, samples] = parts.map(mean);
    Scored { pairs, hard, validation, samples }
}
