use std::borrow::Borrow;

use align_core::align_types::{Completion, PromptGroup};

use crate::{answers::is_truncated, groups::all_equal};

/// Says whether a group can teach something: at least two of its answers have a reward, and not all the same.
pub fn has_signal(group: &PromptGroup) -> bool {
    let rewards: Vec<f64> = group.completions.iter().filter_map(|completion| completion.reward).collect();
    rewards.len() > 1 && !all_equal(&rewards)
}

/// Keeps the groups with a signal (dynamic sampling, 2503.14476 section 3.2) and counts the others, whose rollouts were
/// paid for all the same.
///
/// It goes by `completion.reward`, before any penalty. Where rewards are 0 and 1, what is left out is what all answers
/// get right and what all get wrong.
///
/// ```
/// use align_core::align_types::{Completion, PromptGroup};
///
/// let scored = |reward| Completion { reward: Some(reward), ..Completion::new(vec![1]) };
/// let group = |rewards: [f64; 2]| PromptGroup::new(vec![0], rewards.map(scored).to_vec());
/// let (kept, dropped) = align_ppo::keep_signal(vec![group([0.0, 1.0]), group([1.0, 1.0])]);
/// assert_eq!((kept.len(), dropped), (1, 1));
/// ```
pub fn keep_signal(groups: Vec<PromptGroup>) -> (Vec<PromptGroup>, usize) {
    let sampled = groups.len();
    let kept: Vec<PromptGroup> = groups.into_iter().filter(has_signal).collect();
    let dropped = sampled - kept.len();
    (kept, dropped)
}

/// The pairs of a batch of samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pairs {
    /// Groups of two answers, the better one first, named `chosen` and `rejected`.
    pub groups: Vec<PromptGroup>,
    /// Prompts whose answers are all equally good.
    pub ties: usize,
    /// Prompts of which fewer than two answers have a reward.
    pub without: usize,
}

/// Pairs the best and the worst answer to each prompt (online DPO, 2402.04792; best and worst of k: 2404.10719).
///
/// An answer counts what its `trajectory.rewards` sum up to ([`shape_rewards`](crate::shape_rewards) with a KL weight of
/// 0), or its reward where there are none. With `mask_truncated` answers at the token limit are no candidates. Of several
/// best or worst answers the first is taken: samples come in no order.
pub fn pair_samples<G: Borrow<PromptGroup>>(groups: &[G], mask_truncated: bool) -> Pairs {
    let mut pairs = Pairs::default();
    for group in groups {
        let group: &PromptGroup = group.borrow();
        let candidates: Vec<(f64, &Completion)> = group
            .completions
            .iter()
            .filter(|completion| !(mask_truncated && is_truncated(completion)))
            .filter_map(|completion| Some((score(completion)?, completion)))
            .collect();
        let Some((first, rest)) = candidates.split_first().filter(|(_, rest)| !rest.is_empty()) else {
            pairs.without += 1;
            continue;
        };
        let (mut best, mut worst) = (first, first);
        for candidate in rest {
            best = if candidate.0 > best.0 { candidate } else { best };
            worst = if candidate.0 < worst.0 { candidate } else { worst };
        }
        if best.0 <= worst.0 {
            pairs.ties += 1;
            continue;
        }
        let named =
            |name: &str, completion: &Completion| Completion { name: name.into(), ..completion.clone() };
        let completions = vec![named("chosen", best.1), named("rejected", worst.1)];
        pairs.groups.push(PromptGroup { completions, ..without_completions(group) });
    }
    pairs
}

fn without_completions(group: &PromptGroup) -> PromptGroup {
    PromptGroup {
        prompt: group.prompt.clone(),
        completions: Vec::new(),
        source: group.source.clone(),
        columns: group.columns.clone(),
    }
}

fn score(completion: &Completion) -> Option<f64> {
    let reward = completion.reward?;
    let shaped = completion.trajectory.as_deref().map(|t| &t.rewards).filter(|rewards| !rewards.is_empty());
    Some(shaped.map_or(reward, |rewards| rewards.iter().sum())).filter(|score| score.is_finite())
}
