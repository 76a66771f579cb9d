//! The arithmetic of sampling on one row of logits, in float64.
//!
//! The order is that of transformers: repetition penalty, temperature, top-k, top-p on what top-k left, min-p. Ties are
//! broken by the smaller token id everywhere, so that a result never depends on how a sort treats equals.

use std::cmp::Ordering;

use align_core::align_types::{TokenId, config::SamplingConfig};

/// The distribution of the next token: the policy at the sampling temperature, and what the filters left of it.
///
/// The buffers are kept from row to row.
#[derive(Debug, Default)]
pub struct NextToken {
    weights: Vec<f64>,
    log_total: f64,
    best: usize,
    greedy: bool,
    /// Where a penalty changed the row: log softmax(logits / temperature) of the row as it was.
    plain: Option<Plain>,
    penalised: Vec<f32>,
}

/// A row before the repetition penalty.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) logits: Vec<f32>,
    pub(crate) largest: f64,
    pub(crate) temperature: f64,
    pub(crate) log_total: f64,
}

impl Plain {
    /// Returns log softmax(logits / temperature) of a token.
    pub(crate) fn log_prob(&self, token: TokenId) -> f64 {
        let logit = self.logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        (f64::from(logit) - self.largest) / self.temperature - self.log_total
    }
}

impl NextToken {
    /// Takes a row of logits, `[V]`, and the tokens before it, the prompt and what was drawn; only a repetition penalty
    /// looks at them.
    ///
    /// Returns `false` when the logits make no distribution: a NaN, +inf, or not one finite number.
    #[must_use = "a row that makes no distribution cannot be drawn from"]
    pub fn set(&mut self, logits: &[f32], before: [&[TokenId]; 2], config: &SamplingConfig) -> bool {
        self.greedy = config.greedy;
        self.plain = None;
        let Some(total) = softmax_weights(logits, config.temperature, &mut self.weights) else {
            return false;
        };
        self.log_total = total.ln();
        if config.repetition_penalty == 1.0 {
            return self.filter(logits, config);
        }
        self.plain = Some(Plain {
            logits: logits.to_vec(),
            largest: f64::from(largest(logits)),
            temperature: config.temperature,
            log_total: self.log_total,
        });
        let mut penalised = std::mem::take(&mut self.penalised);
        penalised.clear();
        penalised.extend_from_slice(logits);
        penalise(&mut penalised, logits, before, config.repetition_penalty);
        let sound = softmax_weights(&penalised, config.temperature, &mut self.weights).is_some()
            && self.filter(&penalised, config);
        self.penalised = penalised;
        sound
    }

    fn filter(&mut self, logits: &[f32], config: &SamplingConfig) -> bool {
        let Some(best) = argmax(logits) else { return false };
        self.best = best;
        if !config.greedy {
            keep_top_k(&mut self.weights, config.top_k);
            keep_top_p(&mut self.weights, config.top_p);
            keep_min_p(&mut self.weights, config.min_p);
        }
        true
    }

    /// Draws a token by a uniform number in [0, 1); takes the most likely one when the configuration is greedy.
    pub fn draw(&self, uniform: f64) -> TokenId {
        let drawn = if self.greedy { None } else { draw(&self.weights, uniform) };
        drawn.unwrap_or(self.best) as TokenId
    }

    /// Returns log softmax(logits / temperature) of a token that the filters kept.
    ///
    /// It is the probability *before* repetition penalty, top-k, top-p and min-p: the one that the training forward
    /// gives for the same token, which is what on-policy methods compare with.
    pub fn log_prob(&self, token: TokenId) -> f64 {
        if let Some(plain) = &self.plain {
            return plain.log_prob(token);
        }
        self.weights.get(token as usize).map_or(f64::NEG_INFINITY, |w| w.ln() - self.log_total)
    }

    /// Draws a token as [`Self::draw`] does, with its [`Self::log_prob`].
    pub(crate) fn drawn(&self, uniform: f64) -> (TokenId, f64) {
        let token = self.draw(uniform);
        (token, self.log_prob(token))
    }
}

/// Finds the largest logit; ties go to the smaller id. `None` for an empty row.
pub fn argmax(logits: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (id, logit) in logits.iter().enumerate() {
        if best.is_none_or(|(_, largest)| *logit > largest) {
            best = Some((id, *logit));
        }
    }
    best.map(|(id, _)| id)
}

/// Divides the logits above 0 of all tokens that came before by the penalty and multiplies the others (1909.05858,
/// section 4.1, with the sign that transformers gives it), each once however often it came.
///
/// `plain` are the logits without penalty; tokens outside the row are passed over.
pub fn penalise(logits: &mut [f32], plain: &[f32], before: [&[TokenId]; 2], penalty: f64) {
    let penalty = penalty as f32;
    for token in before.into_iter().flatten() {
        if let (Some(logit), Some(plain)) = (logits.get_mut(*token as usize), plain.get(*token as usize)) {
            *logit = if *plain < 0.0 { plain * penalty } else { plain / penalty };
        }
    }
}

fn largest(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Writes exp((logit - max) / temperature) for every logit and returns their sum.
///
/// `None` when the row makes no distribution: a NaN, +inf, or not one finite number.
pub fn softmax_weights(logits: &[f32], temperature: f64, weights: &mut Vec<f64>) -> Option<f64> {
    let max = f64::from(largest(logits));
    weights.clear();
    weights.extend(logits.iter().map(|logit| ((f64::from(*logit) - max) / temperature).exp()));
    // `f32::max` passes over NaN, the sum does not; an infinite maximum makes the difference NaN.
    let total: f64 = weights.iter().sum();
    (total > 0.0 && total.is_finite()).then_some(total)
}

/// Orders tokens from the most to the least likely; equals by id.
fn by_likelihood(a: &(f64, usize), b: &(f64, usize)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Sets the weights of all tokens to 0 that are less likely than `last`.
fn drop_after(weights: &mut [f64], last: (f64, usize)) {
    for (id, weight) in weights.iter_mut().enumerate() {
        if by_likelihood(&(*weight, id), &last) == Ordering::Greater {
            *weight = 0.0;
        }
    }
}

/// Keeps the `k` most likely tokens and sets the other weights to 0; 0 keeps all.
///
/// Exactly `k` are kept. (transformers keeps every token that ties with the last one.)
pub fn keep_top_k(weights: &mut [f64], k: usize) {
    if k == 0 || k >= weights.len() {
        return;
    }
    let mut order: Vec<(f64, usize)> = weights.iter().copied().zip(0..).collect();
    let last = *order.select_nth_unstable_by(k - 1, by_likelihood).1;
    drop_after(weights, last);
}

/// Keeps the smallest set of most likely tokens whose share of the weights reaches `p` (1904.09751, section 3.1)
/// and sets the other weights to 0; the token that crosses `p` is kept. 1 and above keep all.
pub fn keep_top_p(weights: &mut [f64], p: f64) {
    if p >= 1.0 {
        return;
    }
    let total: f64 = weights.iter().sum();
    // All tokens with less than this together have less than 1 - p, so the set is complete without them: the
    // long tail of a vocabulary need not be sorted.
    let least = (1.0 - p) * total / weights.len().max(1) as f64;
    let mut order: Vec<(f64, usize)> =
        weights.iter().copied().zip(0..).filter(|(w, _)| *w >= least).collect();
    order.sort_unstable_by(by_likelihood);
    let mut before = 0.0;
    let kept = order.iter().take_while(|(weight, _)| {
        let needed = before < p * total;
        before += weight;
        needed
    });
    if let Some(last) = kept.last().copied() {
        drop_after(weights, last);
    }
}

/// Keeps the tokens whose weight is at least `p` times the largest (2407.01082, section 3) and sets the other weights to
/// 0; 0 keeps all.
pub fn keep_min_p(weights: &mut [f64], p: f64) {
    let least = p * weights.iter().copied().fold(0.0, f64::max);
    for weight in weights {
        if *weight < least {
            *weight = 0.0;
        }
    }
}

/// Draws an index with probability proportional to its weight, by inversion of the distribution function.
///
/// `uniform` is in [0, 1). An index of weight 0 is never drawn. `None` when no weight is positive.
pub fn draw(weights: &[f64], uniform: f64) -> Option<usize> {
    let target = uniform * weights.iter().sum::<f64>();
    let mut reached = 0.0;
    let found = weights.iter().position(|weight| {
        reached += weight;
        reached > target
    });
    // Rounding can leave the whole sum at the target; it then belongs to the last index that has a weight.
    found.or_else(|| weights.iter().rposition(|weight| *weight > 0.0))
}
