//! How far the policy is from the one that sampled.

use align_core::align_types::{Completion, PromptGroup};

use crate::IterationError;

/// Largest weight of a token (truncated importance sampling, as in IMPALA, 1802.01561).
const MOST_WEIGHT: f64 = 2.0;

/// Differences between log-probabilities of training and of sampling, over all tokens.
///
/// Where sampling and training take turns they are rounding; where sampling runs ahead, they are one iteration's change.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct OffPolicy {
    tokens: f64,
    sum: f64,
    largest: f64,
    weights: f64,
    /// The row of the largest difference.
    worst: String,
}

/// Largest mean difference where sampling and training take turns: rounding leaves some 10⁻⁶ in float32 and 10⁻² in
/// bfloat16; another temperature, filter or weights leave more.
const MOST_DIFFERENCE: f64 = 0.05;

impl OffPolicy {
    pub fn of(groups: &[&PromptGroup]) -> Self {
        let mut found = Self::default();
        for (index, group) in groups.iter().enumerate() {
            for difference in group.completions.iter().flat_map(differences) {
                found.tokens += 1.0;
                found.sum += difference.abs();
                found.weights += weight(difference);
                if difference.abs() > found.largest {
                    found.largest = difference.abs();
                    found.worst = group.describe(index);
                }
            }
        }
        found
    }

    /// Checks that the samples are the policy's own.
    pub fn check(&self) -> Result<(), IterationError> {
        let mean = self.sum / self.tokens.max(1.0);
        if mean <= MOST_DIFFERENCE {
            return Ok(());
        }
        let why = format!(
            "log-probabilities of sampling differ from those of training by {mean:.3} per token on average and by {:.3} at \
             most; the sampler has another temperature or other weights",
            self.largest
        );
        Err(IterationError::rows(&self.worst, why))
    }

    /// Returns the figures under the names of TRL; none where the sampler said no log-probabilities.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        if self.tokens == 0.0 {
            return Vec::new();
        }
        vec![
            ("sampling/sampling_logp_difference/mean".to_owned(), self.sum / self.tokens),
            ("sampling/sampling_logp_difference/max".to_owned(), self.largest),
            ("sampling/importance_sampling_ratio/mean".to_owned(), self.weights / self.tokens),
        ]
    }
}

/// log π − log μ of each token, π the policy before the updates and μ the one that sampled.
fn differences(answer: &Completion) -> Vec<f64> {
    let (Some(sampler), Some(trajectory)) = (&answer.logprobs, &answer.trajectory) else { return Vec::new() };
    trajectory.old.iter().zip(sampler).map(|(old, sampler)| f64::from(*old) - f64::from(*sampler)).collect()
}

fn weight(difference: f64) -> f64 {
    difference.exp().min(MOST_WEIGHT)
}

/// The weight of each token of an answer, π / μ, at most 2.
pub(super) fn weights(answer: &Completion) -> Vec<f64> {
    differences(answer).into_iter().map(weight).collect()
}

/// Weights the advantage of each token by π / μ, at most 2: the samples are those of an older policy, while the clipped
/// ratio of the updates begins at 1.
pub(super) fn reweight(groups: Vec<&mut PromptGroup>) {
    for answer in groups.into_iter().flat_map(|group| &mut group.completions) {
        let weights = weights(answer);
        if let Some(trajectory) = &mut answer.trajectory {
            let weighted = trajectory.advantages.iter_mut().zip(weights);
            weighted.for_each(|(advantage, weight)| *advantage *= weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use align_core::align_types::Trajectory;

    use super::*;

    #[test]
    fn tokens_that_became_likelier_weigh_more_up_to_a_bound() {
        let trajectory = Trajectory {
            old: vec![-1.0, -1.0, -1.0],
            advantages: vec![3.0, 3.0, 3.0],
            ..Trajectory::default()
        };
        let answer = Completion {
            logprobs: Some(vec![-1.0, -1.5, -3.0]),
            trajectory: Some(Box::new(trajectory)),
            ..Completion::new(vec![4, 5, 6])
        };
        let mut group = PromptGroup::new(vec![1], vec![answer]);
        let found = OffPolicy::of(&[&group]);
        assert_eq!((found.tokens, found.largest), (3.0, 2.0));
        reweight(vec![&mut group]);
        let advantages = &group.completions[0].trajectory.as_ref().unwrap().advantages;
        // 3 · exp(0), 3 · exp(1/2), 3 · min(exp(2), 2).
        assert_eq!(advantages[0], 3.0);
        assert!((advantages[1] - 3.0 * 0.5f64.exp()).abs() < 1e-12);
        assert_eq!(advantages[2], 6.0);
    }

    #[test]
    fn a_sampler_without_log_probabilities_weighs_nothing() {
        let group = PromptGroup::new(vec![1], vec![Completion::new(vec![2])]);
        assert!(OffPolicy::of(&[&group]).metrics().is_empty());
    }
}
