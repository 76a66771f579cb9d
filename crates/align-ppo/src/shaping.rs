use std::borrow::BorrowMut;

use align_core::{
    align_types::{Completion, PromptGroup, Trajectory},
    kl,
};

use crate::answers::{check_tokens, for_each, is_truncated};
use crate::{
    Error, KlEstimator, OverlongPenalty, PpoConfig, Result, RewardBaseline, RewardScaling, RunningScale,
    Truncated, groups::all_equal,
};

/// What the rewards of tokens are made with, beside the configuration.
#[derive(Debug, Default)]
pub struct ShapingInputs<'a> {
    /// The weight β of the KL divergence now ([`KlController::coef`](crate::KlController::coef)); 0 where it is part of
    /// the loss.
    pub kl_coef: f64,
    /// The scores of the reference model's own answers, one per group, where the configuration subtracts them; `None`
    /// abstains.
    pub baselines: Option<&'a [Option<f64>]>,
    /// The running deviation of the scores, where the configuration divides by it.
    pub scale: Option<&'a mut RunningScale>,
}

/// What shaping found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ShapingReport {
    /// Answers with a score.
    pub scored: usize,
    /// Answers whose reward (or whose baseline) abstained; they are left out of everything.
    pub abstained: usize,
    /// Answers that reached the token limit.
    pub truncated: usize,
    /// Of those, how many go on with the critic's value instead of their score.
    pub bootstrapped: usize,
    /// Σ over the answers with a score of the rewards of their tokens.
    pub rewards: f64,
    /// Σ over the same answers of what their tokens are rewarded beside the reward.
    pub beside: f64,
    /// The score that all answers have, if there are at least two: nothing can be learned from it.
    pub constant: Option<f64>,
}

impl ShapingReport {
    /// Returns the numbers as metrics of an iteration, means over the answers with a score: `objective/rlhf_reward` = mean
    /// of Σ rewards of tokens, `objective/non_score_reward` = mean of what of it is not the reward (where the answer goes on
    /// with the critic's value, all of it), and `completions/bootstrapped` = share of those.
    ///
    /// Rewards that are whitened later are another thing: what they are beside the reward is no penalty.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        if self.scored == 0 {
            return Vec::new();
        }
        let mean = |sum: f64| sum / self.scored as f64;
        let mut metrics = vec![
            ("objective/non_score_reward".to_owned(), mean(self.beside)),
            ("objective/rlhf_reward".to_owned(), mean(self.rewards)),
        ];
        if self.bootstrapped > 0 {
            metrics.push(("completions/bootstrapped".to_owned(), mean(self.bootstrapped as f64)));
        }
        metrics
    }

    /// Says why this batch has nothing to teach; `None` where it has.
    pub fn nothing_to_learn(&self) -> Option<String> {
        if self.scored == 0 {
            return Some(format!("the reward abstained from all {} answers", self.abstained));
        }
        if self.bootstrapped == self.scored {
            return Some(format!(
                "all {} answers reached the token limit, and none was scored; raise max-new-tokens, or let their scores \
                 count with truncated = score",
                self.scored
            ));
        }
        let constant = self.constant?;
        Some(format!("all {} answers have the reward {constant}", self.scored))
    }
}

/// Computes the penalty of a long answer (DAPO, 2503.14476 eq. 13): 0 up to `max` − `cache` tokens, then falling to −1 at
/// `max`.
///
/// ```
/// use align_ppo::{OverlongPenalty, overlong_penalty};
///
/// let penalty = OverlongPenalty { max: 20, cache: 5 };
/// let of = |tokens| overlong_penalty(tokens, penalty);
/// assert_eq!([15, 16, 18, 20, 21].map(of), [0.0, -0.2, -0.6, -1.0, -1.0]);
/// ```
pub fn overlong_penalty(tokens: usize, penalty: OverlongPenalty) -> f64 {
    let over = tokens.saturating_sub(penalty.max.saturating_sub(penalty.cache));
    -(over as f64 / penalty.cache.max(1) as f64).min(1.0)
}

/// Largest k3 of a token, in a reward and in a loss: one that the policy has almost ruled out must not outweigh a batch.
pub(crate) const LARGEST_K3: f64 = 10.0;

/// Computes the estimate of KL(π ‖ π_ref) at a token with d = log π − log π_ref; k3 is at most 10.
///
/// ```
/// use align_ppo::{KlEstimator, kl_estimate};
///
/// assert_eq!(kl_estimate(KlEstimator::K1, -0.5), -0.5);
/// assert_eq!(kl_estimate(KlEstimator::K2, -0.5), 0.125);
/// assert!((kl_estimate(KlEstimator::K3, -0.5) - 0.14872127).abs() < 1e-8);
/// ```
pub fn kl_estimate(estimator: KlEstimator, d: f64) -> f64 {
    match estimator {
        KlEstimator::K1 => d,
        KlEstimator::K2 => 0.5 * d * d,
        KlEstimator::K3 => kl::k3_of(d).min(LARGEST_K3),
    }
}

/// Makes the reward of each token (`trajectory.rewards`): −β · KL estimate at every token, from the log-probabilities of
/// the *rollout* policy (`old`), and the score on the last token.
///
/// The score is `completion.reward`; then, each where the configuration asks for it: less the baseline of the prompt,
/// divided by the running deviation of scores, clipped, less the penalty of a missing end, plus that of a long answer. An
/// answer at the token limit has no score where it bootstraps ([`Truncated`]), but its penalties.
///
/// An answer without a reward (the reward abstains) gets no rewards, advantages or returns: it counts nowhere, which is
/// not the same as a reward of 0.
///
/// `groups` are [`PromptGroup`]s or `&mut` of them.
///
/// # Errors
/// [`Error::NonFinite`] and [`Error::Input`] name the row of a number that is none or missing.
pub fn shape_rewards<G: BorrowMut<PromptGroup>>(
    groups: &mut [G],
    config: &PpoConfig,
    inputs: ShapingInputs<'_>,
) -> Result<ShapingReport> {
    let ShapingInputs { kl_coef, baselines, scale } = inputs;
    let mut scores = raw_scores(groups, config, baselines)?;
    let known: Vec<f64> = scores.iter().flatten().copied().collect();
    let mut report = ShapingReport { scored: known.len(), ..ShapingReport::default() };
    report.abstained = scores.len() - known.len();
    report.constant = known.first().copied().filter(|_| known.len() > 1 && all_equal(&known));
    if config.reward_scaling == RewardScaling::Running {
        let scale =
            scale.ok_or_else(|| Error::input("reward scaling", "the running deviation is missing"))?;
        scale.update(known.into_iter())?;
        scores.iter_mut().flatten().for_each(|score| *score = scale.scale(*score));
    }
    if let Some(most) = config.reward_clip {
        scores.iter_mut().flatten().for_each(|score| *score = score.clamp(-most, most));
    }
    let mut scores = scores.into_iter();
    for_each(groups, |name, completion| {
        let score = scores.next().flatten();
        let Some(score) = score else {
            leave_out(completion.trajectory.get_or_insert_default());
            return Ok(());
        };
        let cut = is_truncated(completion);
        let bootstraps = cut && config.advantage.uses_critic() && config.truncated == Truncated::Bootstrap;
        report.truncated += usize::from(cut);
        report.bootstrapped += usize::from(bootstraps);
        let penalties = penalties(completion, config);
        let last = if bootstraps { penalties } else { score + penalties };
        let sum = token_rewards(completion, config.kl_estimator, kl_coef, last, name)?;
        report.rewards += sum;
        let reward = if bootstraps { 0.0 } else { completion.reward.unwrap_or(0.0) };
        report.beside += sum - reward;
        Ok(())
    })?;
    Ok(report)
}

/// Forgets what the loss would read.
pub(crate) fn leave_out(trajectory: &mut Trajectory) {
    trajectory.rewards.clear();
    trajectory.advantages.clear();
    trajectory.returns.clear();
}

/// Lists the score of every completion, less its baseline.
fn raw_scores<G: BorrowMut<PromptGroup>>(
    groups: &[G],
    config: &PpoConfig,
    baselines: Option<&[Option<f64>]>,
) -> Result<Vec<Option<f64>>> {
    let relative = config.reward_baseline == RewardBaseline::Reference;
    let given = baselines.map_or(0, <[_]>::len);
    if relative && given != groups.len() {
        let why = format!("{given} for {} groups", groups.len());
        return Err(Error::input("scores of the reference model's answers", why));
    }
    let mut scores = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let group: &PromptGroup = group.borrow();
        let baseline = match baselines {
            Some(baselines) if relative => baselines.get(index).copied().flatten(),
            _ => Some(0.0),
        };
        for (answer, completion) in group.completions.iter().enumerate() {
            let score = completion.reward.zip(baseline).map(|(reward, baseline)| reward - baseline);
            if let Some(value) = score.filter(|score| !score.is_finite()) {
                let what = format!("the reward of {}", crate::answers::name_of(group, index, answer));
                return Err(Error::NonFinite { what, value });
            }
            scores.push(score);
        }
    }
    Ok(scores)
}

fn penalties(completion: &Completion, config: &PpoConfig) -> f64 {
    let missing = if is_truncated(completion) { config.missing_eos_penalty.unwrap_or(0.0) } else { 0.0 };
    let long =
        config.overlong_penalty.map_or(0.0, |penalty| overlong_penalty(completion.token_ids.len(), penalty));
    long - missing
}

/// Writes the rewards of an answer's tokens, and returns their sum.
fn token_rewards(
    completion: &mut Completion,
    estimator: KlEstimator,
    kl_coef: f64,
    last: f64,
    name: &dyn Fn() -> String,
) -> Result<f64> {
    let tokens = completion.token_ids.len();
    let trajectory = completion.trajectory.get_or_insert_default();
    trajectory.rewards = if kl_coef == 0.0 {
        vec![0.0; tokens]
    } else {
        check_tokens("log-probabilities", &trajectory.old, tokens, name)?;
        check_tokens("reference log-probabilities", &trajectory.reference, tokens, name)?;
        let pairs = trajectory.old.iter().zip(&trajectory.reference);
        pairs
            .map(|(old, reference)| {
                -kl_coef * kl_estimate(estimator, f64::from(*old) - f64::from(*reference))
            })
            .collect()
    };
    match trajectory.rewards.last_mut() {
        Some(reward) => {
            *reward += last;
            Ok(trajectory.rewards.iter().sum())
        }
        None => Err(Error::input(name(), "it has no token to give a reward to")),
    }
}
