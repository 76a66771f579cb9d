use std::{borrow::Borrow, collections::HashMap};

use align_core::align_types::{Completion, FinishReason, PromptGroup, TokenId, Trajectory};

use crate::{Error, Result, groups::all_equal};

/// Largest root mean square of the log-ratio before the first update of an iteration: rounding leaves some 10⁻⁶, a
/// temperature or dropout that was forgotten far more.
const FIRST_RATIO_TOLERANCE: f64 = 1e-4;

/// Sums of one iteration's samples, from which its `objective/…` metrics are made.
#[derive(Debug, Default)]
struct Sums {
    answers: f64,
    scored: f64,
    tokens: f64,
    ended: f64,
    known_ends: f64,
    score: f64,
    scores: Vec<f64>,
    entropy: f64,
    kl: Option<f64>,
    kl_first: Option<f64>,
}

/// The weight of each token of an answer in the estimates of KL; 1 beyond its end.
type Weights = Vec<f64>;

fn difference(a: &[f32], b: &[f32], weights: &Weights) -> f64 {
    let weights = weights.iter().copied().chain(std::iter::repeat(1.0));
    a.iter().zip(b).zip(weights).map(|((a, b), weight)| (f64::from(*a) - f64::from(*b)) * weight).sum()
}

impl Sums {
    fn add(&mut self, trajectory: &Trajectory, weights: &Weights) {
        self.entropy -= trajectory.old.iter().map(|lp| f64::from(*lp)).sum::<f64>();
        if !trajectory.reference.is_empty() {
            *self.kl.get_or_insert_default() += difference(&trajectory.old, &trajectory.reference, weights);
        }
        if !trajectory.first_reference.is_empty() {
            *self.kl_first.get_or_insert_default() +=
                difference(&trajectory.old, &trajectory.first_reference, weights);
        }
    }
}

/// Computes the metrics of an iteration from its filled groups; those of which nothing is known are left out.
///
/// Means are over answers (episodes), sums over their tokens:
///
/// * `objective/kl` = mean of Σ (log π_old − log π_ref), `objective/kl_per_token` = the same sum / tokens,
///   `objective/kl_first_reference` = as the first, to the reference that training began with;
/// * `objective/entropy` = mean of Σ −log π_old (TRL's estimate from the samples);
/// * `objective/scores` = mean reward, `objective/scores_std` = its standard deviation (biased); what the tokens are
///   rewarded is in [`ShapingReport::metrics`](crate::ShapingReport::metrics);
/// * `val/num_eos_tokens` = answers that ended by themselves (a count, as TRL's), `completions/clipped_ratio` = share that
///   reached the token limit, `completions/mean_length` = mean tokens, `completions/most_frequent_share` = share of
///   the most frequent answer, `completions/abstained` = share without a reward.
///
/// Completions without a trajectory (language-modelling rows) do not count.
pub fn objective_metrics<G: Borrow<PromptGroup>>(groups: &[G]) -> Vec<(String, f64)> {
    weighted_metrics(groups, |_| Weights::new())
}

/// As [`objective_metrics`] of samples from another policy: in the estimates of KL each token has the weight that
/// `weights` gives, π / μ for samples of μ.
pub(crate) fn weighted_metrics<G: Borrow<PromptGroup>>(
    groups: &[G],
    weights: impl Fn(&Completion) -> Weights,
) -> Vec<(String, f64)> {
    let mut sums = Sums::default();
    let mut counts: HashMap<&[TokenId], usize> = HashMap::new();
    for completion in groups.iter().flat_map(|group| &Borrow::<PromptGroup>::borrow(group).completions) {
        let Some(trajectory) = completion.trajectory.as_deref() else { continue };
        sums.answers += 1.0;
        sums.tokens += completion.token_ids.len() as f64;
        *counts.entry(&completion.token_ids).or_default() += 1;
        if let Some(reason) = completion.finish_reason {
            sums.known_ends += 1.0;
            sums.ended += f64::from(u8::from(reason == FinishReason::Stop));
        }
        sums.add(trajectory, &weights(completion));
        if let Some(reward) = completion.reward {
            sums.scored += 1.0;
            sums.score += reward;
            sums.scores.push(reward);
        }
    }
    let most = counts.into_values().max().unwrap_or(0) as f64;
    let mut metrics = Vec::new();
    let mut push = |name: &str, sum: f64, count: f64| {
        if count > 0.0 {
            metrics.push((name.to_owned(), sum / count));
        }
    };
    if let Some(kl) = sums.kl {
        push("objective/kl", kl, sums.answers);
        push("objective/kl_per_token", kl, sums.tokens);
    }
    if let Some(kl) = sums.kl_first {
        push("objective/kl_first_reference", kl, sums.answers);
    }
    push("objective/entropy", sums.entropy, sums.answers);
    push("objective/scores", sums.score, sums.scored);
    push("objective/scores_std", deviation(&sums.scores) * sums.scored, sums.scored);
    // A count, where any end is known.
    push("val/num_eos_tokens", sums.ended, sums.known_ends.min(1.0));
    push("completions/clipped_ratio", sums.known_ends - sums.ended, sums.known_ends);
    push("completions/mean_length", sums.tokens, sums.answers);
    push("completions/most_frequent_share", most, sums.answers);
    push("completions/abstained", sums.answers - sums.scored, sums.answers);
    metrics
}

/// Computes the standard deviation (biased); of equal numbers it is exactly 0.
fn deviation(numbers: &[f64]) -> f64 {
    if all_equal(numbers) {
        return 0.0;
    }
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    (numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / count).sqrt()
}

/// Checks what must hold before the first update of an iteration: the importance ratio of every token is 1.
///
/// It reads `policy/approxkl_avg` = mean of (log ρ)² / 2, in which errors of either sign add up.
///
/// # Errors
/// [`Error::Input`] says how far off it is and what usually differs.
pub fn check_first_ratio(metrics: &[(String, f64)]) -> Result<()> {
    let Some((_, approx)) = metrics.iter().find(|(name, _)| name == "policy/approxkl_avg") else {
        return Ok(());
    };
    let off = (2.0 * approx).sqrt();
    if off <= FIRST_RATIO_TOLERANCE {
        return Ok(());
    }
    let why = format!(
        "log-probabilities differ by {off:.3e} per token (root mean square) although no weight has changed since they were \
         measured; the two passes do not see the same tokens, temperature, dropout or weights"
    );
    Err(Error::input("the importance ratio before the first update", why))
}
