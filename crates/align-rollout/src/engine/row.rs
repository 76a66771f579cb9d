//! The distribution of the next token, computed by the kernels.
//!
//! It is the arithmetic of [`crate::sampling`] with exponentials in float32: sums are float64, the order of the filters
//! and the treatment of ties are the same.

use std::cmp::Ordering;

use align_core::align_types::{TokenId, config::SamplingConfig};

use super::kernels::{Instructions, floats, floats_mut};
use super::lanes::{Lane, SEGMENT, WIDTH};
use crate::sampling::{Plain, penalise};

/// The weights of all tokens, and those that the filters left.
#[derive(Debug, Default)]
pub(crate) struct Row {
    weights: Vec<Lane>,
    sums: Vec<f64>,
    log_total: f64,
    best: TokenId,
    greedy: bool,
    filtered: bool,
    kept: Vec<(f32, TokenId)>,
    maxima: Vec<f32>,
    /// The row as it was where a penalty changed it.
    plain: Option<Plain>,
}

impl Row {
    /// Takes a row of logits of which the first `vocab` count, and the tokens before it; `false` when they make no
    /// distribution. A repetition penalty is written into the logits.
    pub(crate) fn set(
        &mut self,
        kernels: Instructions,
        logits: &mut [Lane],
        vocab: usize,
        before: [&[TokenId]; 2],
        config: &SamplingConfig,
    ) -> bool {
        floats_mut(logits).iter_mut().skip(vocab).for_each(|padding| *padding = f32::NEG_INFINITY);
        self.plain = None;
        let Some(mut largest) = kernels.largest(logits) else { return false };
        let mut total = self.weigh(kernels, logits, largest, config);
        self.log_total = total.ln();
        if config.repetition_penalty != 1.0 {
            let plain = Plain {
                logits: floats(logits).to_vec(),
                largest: f64::from(largest),
                temperature: config.temperature,
                log_total: self.log_total,
            };
            penalise(floats_mut(logits), &plain.logits, before, config.repetition_penalty);
            self.plain = Some(plain);
            let Some(penalised) = kernels.largest(logits) else { return false };
            largest = penalised;
            total = self.weigh(kernels, logits, largest, config);
        }
        self.greedy = config.greedy;
        if config.greedy {
            self.best = floats(logits).iter().position(|x| *x == largest).unwrap_or(0) as TokenId;
        }
        let cuts = config.top_p < 1.0 || config.min_p > 0.0 || (1..vocab).contains(&config.top_k);
        self.filtered = !config.greedy && cuts;
        if self.filtered {
            self.filter(config, vocab, total);
        }
        total.is_finite()
    }

    /// Computes the weights of all tokens, the largest being 1, and returns their sum.
    fn weigh(
        &mut self,
        kernels: Instructions,
        logits: &[Lane],
        largest: f32,
        config: &SamplingConfig,
    ) -> f64 {
        self.weights.resize(logits.len(), Lane::default());
        self.sums.resize(logits.len().div_ceil(SEGMENT), 0.0);
        let inverse = (1.0 / config.temperature) as f32;
        kernels.exponentials(logits, largest, inverse, &mut self.weights, &mut self.sums);
        self.sums.iter().sum()
    }

    /// Draws a token by a uniform number in [0, 1); the most likely one when the configuration is greedy.
    pub(crate) fn draw(&self, uniform: f64) -> TokenId {
        if self.greedy {
            return self.best;
        }
        if self.filtered {
            return self.draw_kept(uniform);
        }
        let target = uniform * self.sums.iter().sum::<f64>();
        let mut before = 0.0;
        for (segment, sum) in
            self.weights.chunks(SEGMENT).zip(&self.sums).enumerate().map(|(i, s)| ((i, s.0), s.1))
        {
            if before + sum > target {
                return self.draw_within(segment.0 * SEGMENT * WIDTH, segment.1, target - before);
            }
            before += sum;
        }
        // Rounding can leave the whole sum at the target; it then belongs to the last token that has a weight.
        floats(&self.weights).iter().rposition(|weight| *weight > 0.0).unwrap_or(0) as TokenId
    }

    fn draw_within(&self, first: usize, segment: &[Lane], target: f64) -> TokenId {
        let weights = floats(segment);
        let mut reached = 0.0;
        let found = weights.iter().position(|weight| {
            reached += f64::from(*weight);
            reached > target
        });
        let found = found.or_else(|| weights.iter().rposition(|weight| *weight > 0.0));
        (first + found.unwrap_or(0)) as TokenId
    }

    fn draw_kept(&self, uniform: f64) -> TokenId {
        let target = uniform * self.kept.iter().map(|(weight, _)| f64::from(*weight)).sum::<f64>();
        let mut reached = 0.0;
        let found = self.kept.iter().find(|(weight, _)| {
            reached += f64::from(*weight);
            reached > target
        });
        found.or(self.kept.last()).map_or(self.best, |(_, id)| *id)
    }

    /// Returns log softmax(logits / temperature) of a token that can be drawn, without penalty and filters.
    pub(crate) fn log_prob(&self, token: TokenId) -> f64 {
        if let Some(plain) = &self.plain {
            return plain.log_prob(token);
        }
        let weight = floats(&self.weights).get(token as usize).copied();
        weight.map_or(f64::NEG_INFINITY, |weight| f64::from(weight).ln() - self.log_total)
    }

    /// Draws a token as [`Self::draw`] does, with its [`Self::log_prob`].
    pub(crate) fn drawn(&self, uniform: f64) -> (TokenId, f64) {
        let token = self.draw(uniform);
        (token, self.log_prob(token))
    }

    /// Keeps what top-k, then top-p, then min-p leave, in the order of ids.
    fn filter(&mut self, config: &SamplingConfig, vocab: usize, total: f64) {
        let by_k = (1..vocab).contains(&config.top_k);
        // The largest weight is 1.
        let least = config.min_p as f32;
        let bound = if by_k {
            self.kth_maximum(config.top_k)
        } else if config.top_p >= 1.0 {
            least
        } else {
            // All tokens with less than this together have less than 1 - p: the set is complete without them.
            ((1.0 - config.top_p) * total / vocab.max(1) as f64) as f32
        };
        let weights = floats(&self.weights).iter().copied().take(vocab);
        self.kept.clear();
        self.kept.extend(weights.zip(0..).filter(|(weight, _)| *weight >= bound && *weight > 0.0));
        let mut total = total;
        if by_k && config.top_k < self.kept.len() {
            self.kept.select_nth_unstable_by(config.top_k - 1, by_likelihood);
            self.kept.truncate(config.top_k);
        }
        if by_k {
            total = self.kept.iter().map(|(weight, _)| f64::from(*weight)).sum();
        }
        if config.top_p < 1.0 {
            self.kept.sort_unstable_by(by_likelihood);
            let mut before = 0.0;
            let needed = self.kept.iter().take_while(|(weight, _)| {
                let needed = before < config.top_p * total;
                before += f64::from(*weight);
                needed
            });
            let needed = needed.count();
            self.kept.truncate(needed);
        }
        self.kept.retain(|(weight, _)| *weight >= least);
        self.kept.sort_unstable_by_key(|(_, id)| *id);
    }

    /// A weight that at least `k` tokens reach: the k-th largest of the lanes' maxima, which are tokens themselves.
    fn kth_maximum(&mut self, k: usize) -> f32 {
        self.maxima.clear();
        self.maxima.extend(self.weights.iter().map(|lane| lane.0.iter().copied().fold(0.0, f32::max)));
        if k > self.maxima.len() {
            return 0.0;
        }
        *self.maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
    }
}

/// Orders tokens from the most to the least likely; equals by id.
fn by_likelihood(a: &(f32, TokenId), b: &(f32, TokenId)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}
