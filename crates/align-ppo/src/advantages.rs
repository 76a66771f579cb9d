use std::borrow::BorrowMut;

use align_core::{
    align_types::{Completion, PromptGroup, Trajectory},
    stats::{Divisor, Mean},
};

use crate::answers::{check_tokens, for_each, is_truncated};
use crate::{
    AdvantageKind, Error, GROUP_EPSILON, GaeInputs, Moments, PpoConfig, Result, RunningNormalizer, Truncated,
    centred, gae, group_normalised, groups::all_equal, leave_one_out, shaping::leave_out, whiten,
};

/// What estimating advantages found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdvantageReport {
    /// Answers that have advantages.
    pub answers: usize,
    /// Answers that were left out, as no other answer to their prompt has a reward to be compared with.
    pub alone: usize,
    /// Answers that were left out because they reached the token limit (`mask_truncated`).
    pub masked: usize,
    /// Groups of at least two answers with a reward.
    pub groups: usize,
    /// Of those, the ones whose rewards are all equal.
    pub groups_without_signal: usize,
    /// Moments of the advantages of all tokens, before they were whitened.
    pub advantages: Moments,
    /// Moments of the returns of all tokens, in units of the reward; of whole answers where there is no critic.
    pub returns: Moments,
    /// 1 − Var(return − value) / Var(return), both in units of the reward: 1 for a perfect critic, 0 for a constant, below 0
    /// for worse.
    pub explained_variance: Option<f64>,
}

impl AdvantageReport {
    /// Returns the numbers as metrics of an iteration.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let mut metrics = vec![
            ("advantages/mean".to_owned(), self.advantages.mean),
            ("advantages/std".to_owned(), self.advantages.std()),
            ("returns/mean".to_owned(), self.returns.mean),
            ("returns/std".to_owned(), self.returns.std()),
        ];
        for (name, count) in [("completions/alone", self.alone), ("completions/masked", self.masked)] {
            if count > 0 {
                metrics.push((name.to_owned(), count as f64));
            }
        }
        if self.groups > 0 {
            let share = self.groups_without_signal as f64 / self.groups as f64;
            metrics.push(("groups/without_signal".to_owned(), share));
        }
        metrics.extend(self.explained_variance.map(|share| ("val/explained_variance".to_owned(), share)));
        metrics
    }
}

/// Computes the advantage of each token (`trajectory.advantages`) and, where there is a critic, what the critic learns
/// (`trajectory.returns`), from the rewards of [`shape_rewards`](crate::shape_rewards) over the whole batch.
///
/// * `ppo`: [`gae`] with the critic's values, 0 after the end of an answer, `value_after` where it was cut off and
///   bootstraps ([`Truncated`]);
/// * `a2c`: the same with λ = 1, rewards-to-go less the value;
/// * `reinforce`: the sum R of the answer's rewards less the mean of the *other* answers of the batch, for every token;
/// * `rloo`: R less the mean of the other answers to the prompt ([`leave_one_out`]);
/// * `grpo`, `dapo`: (R − mean) / (std + 10⁻⁴) over the answers to the prompt ([`group_normalised`], n − 1);
/// * `dr-grpo`: R − mean ([`centred`]).
///
/// Returns are those before whitening, over all tokens with an advantage and no others. With a normaliser the critic's
/// values are denormalised first; the normaliser then takes the returns in, and `trajectory.returns` is normalised, in
/// the critic's units as `trajectory.values` is. Answers without rewards, and those that are masked or have nothing to be
/// compared with, end up without advantages: losses leave them out and do not count them.
///
/// # Errors
/// [`Error::Input`] and [`Error::NonFinite`] name the row of values or rewards that are missing or no numbers; a batch
/// too small to whiten rewards; `online-dpo`, which has pairs instead ([`pair_samples`](crate::pair_samples)).
pub fn estimate_advantages<G: BorrowMut<PromptGroup>>(
    groups: &mut [G],
    config: &PpoConfig,
    normalizer: Option<&mut RunningNormalizer>,
) -> Result<AdvantageReport> {
    if config.normalize_values && normalizer.is_none() {
        return Err(Error::input("advantages", "values are normalised, but the normaliser is missing"));
    }
    for_each(groups, |name, completion| {
        let tokens = completion.token_ids.len();
        match completion.trajectory.as_deref_mut() {
            Some(trajectory) if !trajectory.rewards.is_empty() => {
                check_tokens("rewards", &trajectory.rewards, tokens, name)
            }
            Some(trajectory) => {
                leave_out(trajectory);
                Ok(())
            }
            None => Ok(()),
        }
    })?;
    if config.whiten_rewards {
        whiten_rewards(groups)?;
    }
    let mut report = AdvantageReport::default();
    count_signal(groups, &mut report);
    match config.advantage {
        AdvantageKind::Ppo => from_critic(groups, config, config.lam, normalizer.as_deref())?,
        AdvantageKind::A2c => from_critic(groups, config, 1.0, normalizer.as_deref())?,
        AdvantageKind::Reinforce => from_batch(groups, &mut report),
        AdvantageKind::Rloo => from_groups(groups, &mut report, leave_one_out),
        AdvantageKind::DrGrpo => from_groups(groups, &mut report, centred),
        AdvantageKind::Grpo | AdvantageKind::Dapo => from_groups(groups, &mut report, |returns| {
            group_normalised(returns, Divisor::CountMinusOne, GROUP_EPSILON)
        }),
        other => {
            let why = format!("{} has none; it learns from pairs", other.name());
            return Err(Error::input("advantages", why));
        }
    }
    if config.mask_truncated {
        mask_truncated(groups, &mut report)?;
    }
    if config.advantage.uses_critic() {
        report_critic(groups, normalizer.as_deref(), &mut report);
    }
    finish(groups, config, &mut report);
    if let Some(normalizer) = normalizer {
        normalize_returns(groups, normalizer)?;
    }
    Ok(report)
}

/// Returns the trajectories of the answers that have rewards.
fn rewarded<G: BorrowMut<PromptGroup>>(groups: &mut [G]) -> Vec<&mut Trajectory> {
    let completions = groups.iter_mut().flat_map(|group| group.borrow_mut().completions.iter_mut());
    let trajectories = completions.filter_map(|completion| completion.trajectory.as_deref_mut());
    trajectories.filter(|trajectory| !trajectory.rewards.is_empty()).collect()
}

fn trajectory(completion: &Completion) -> Option<&Trajectory> {
    completion.trajectory.as_deref().filter(|trajectory| !trajectory.rewards.is_empty())
}

fn whiten_rewards<G: BorrowMut<PromptGroup>>(groups: &mut [G]) -> Result<()> {
    let mut lists: Vec<&mut Vec<f64>> = rewarded(groups).into_iter().map(|t| &mut t.rewards).collect();
    let fewest = PpoConfig::FEWEST_TO_WHITEN;
    if lists.len() < fewest {
        let why = format!("{} answers have one; whiten-rewards needs at least {fewest} of them", lists.len());
        return Err(Error::input("rewards", why));
    }
    let mut slices: Vec<Slice<'_>> = lists.iter_mut().map(|list| Slice(list)).collect();
    whiten(&mut slices, Mean::Keep, Divisor::Count);
    Ok(())
}

/// A list that can be whitened where it is.
struct Slice<'a>(&'a mut [f64]);

impl AsRef<[f64]> for Slice<'_> {
    fn as_ref(&self) -> &[f64] {
        self.0
    }
}

impl AsMut<[f64]> for Slice<'_> {
    fn as_mut(&mut self) -> &mut [f64] {
        self.0
    }
}

fn count_signal<G: BorrowMut<PromptGroup>>(groups: &[G], report: &mut AdvantageReport) {
    for group in groups {
        let group: &PromptGroup = group.borrow();
        let rewards: Vec<f64> =
            group.completions.iter().filter(|c| trajectory(c).is_some()).filter_map(|c| c.reward).collect();
        if rewards.len() > 1 {
            report.groups += 1;
            report.groups_without_signal += usize::from(all_equal(&rewards));
        }
    }
}

fn from_critic<G: BorrowMut<PromptGroup>>(
    groups: &mut [G],
    config: &PpoConfig,
    lam: f64,
    normalizer: Option<&RunningNormalizer>,
) -> Result<()> {
    let value = |raw: f32| normalizer.map_or(f64::from(raw), |n| n.denormalize(f64::from(raw)));
    for_each(groups, |name, completion| {
        let tokens = completion.token_ids.len();
        let bootstraps = is_truncated(completion) && config.truncated == Truncated::Bootstrap;
        let Some(trajectory) = completion.trajectory.as_deref_mut().filter(|t| !t.rewards.is_empty()) else {
            return Ok(());
        };
        check_tokens("values", &trajectory.values, tokens, name)?;
        let bootstrap = match (bootstraps, trajectory.value_after) {
            (false, _) => 0.0,
            (true, Some(after)) if after.is_finite() => value(after),
            (true, Some(after)) => {
                let what = format!("the value of the state behind {}", name());
                return Err(Error::NonFinite { what, value: f64::from(after) });
            }
            (true, None) => {
                let why = "it was cut off, and the value of the state behind it is not known";
                return Err(Error::input(name(), why));
            }
        };
        let values: Vec<f64> = trajectory.values.iter().map(|raw| value(*raw)).collect();
        let inputs =
            GaeInputs { rewards: &trajectory.rewards, values: &values, bootstrap, gamma: config.gamma, lam };
        let out = gae(&inputs)?;
        (trajectory.advantages, trajectory.returns) = (out.advantages, out.returns);
        Ok(())
    })
}

/// The same advantage for every token of an answer.
fn spread(trajectories: Vec<&mut Trajectory>, advantages: Vec<f64>) {
    for (trajectory, advantage) in trajectories.into_iter().zip(advantages) {
        trajectory.advantages = vec![advantage; trajectory.rewards.len()];
        trajectory.returns.clear();
    }
}

fn sums(trajectories: &[&mut Trajectory]) -> Vec<f64> {
    trajectories.iter().map(|trajectory| trajectory.rewards.iter().sum()).collect()
}

fn from_batch<G: BorrowMut<PromptGroup>>(groups: &mut [G], report: &mut AdvantageReport) {
    let trajectories = rewarded(groups);
    let returns = sums(&trajectories);
    report.returns = Moments::of(returns.iter().copied());
    // A single answer has nothing to be compared with, and REINFORCE without a baseline is still unbiased.
    let advantages = if returns.len() == 1 { returns } else { leave_one_out(&returns) };
    spread(trajectories, advantages);
}

fn from_groups<G: BorrowMut<PromptGroup>>(
    groups: &mut [G],
    report: &mut AdvantageReport,
    advantages: impl Fn(&[f64]) -> Vec<f64>,
) {
    let mut all = Vec::new();
    for group in groups.iter_mut() {
        let trajectories = rewarded(std::slice::from_mut(group));
        let returns = sums(&trajectories);
        if returns.len() < 2 {
            report.alone += returns.len();
            trajectories.into_iter().for_each(leave_out);
            continue;
        }
        let advantages = advantages(&returns);
        all.extend(returns);
        spread(trajectories, advantages);
    }
    report.returns = Moments::of(all.iter().copied());
}

fn mask_truncated<G: BorrowMut<PromptGroup>>(groups: &mut [G], report: &mut AdvantageReport) -> Result<()> {
    for_each(groups, |_, completion| {
        let cut = is_truncated(completion);
        let trajectory = completion.trajectory.as_deref_mut().filter(|t| cut && !t.advantages.is_empty());
        if let Some(trajectory) = trajectory {
            trajectory.advantages.clear();
            trajectory.returns.clear();
            report.masked += 1;
        }
        Ok(())
    })
}

fn report_critic<G: BorrowMut<PromptGroup>>(
    groups: &mut [G],
    normalizer: Option<&RunningNormalizer>,
    report: &mut AdvantageReport,
) {
    let value = |raw: f32| normalizer.map_or(f64::from(raw), |n| n.denormalize(f64::from(raw)));
    let trajectories = rewarded(groups);
    let tokens = || trajectories.iter().flat_map(|t| t.returns.iter().zip(&t.values));
    report.returns = Moments::of(tokens().map(|(goal, _)| *goal));
    let residual = Moments::of(tokens().map(|(goal, raw)| goal - value(*raw)));
    if report.returns.variance > 0.0 {
        report.explained_variance = Some(1.0 - residual.variance / report.returns.variance);
    }
}

/// Whitens where that is asked for, and counts.
fn finish<G: BorrowMut<PromptGroup>>(groups: &mut [G], config: &PpoConfig, report: &mut AdvantageReport) {
    let mut trajectories = rewarded(groups);
    trajectories.retain(|trajectory| !trajectory.advantages.is_empty());
    report.answers = trajectories.len();
    let mut lists: Vec<Slice<'_>> = trajectories.into_iter().map(|t| Slice(&mut t.advantages)).collect();
    report.advantages = if config.whiten_advantages {
        whiten(&mut lists, Mean::Remove, Divisor::Count)
    } else {
        Moments::of(lists.iter().flat_map(|list| list.0.iter().copied()))
    };
}

fn normalize_returns<G: BorrowMut<PromptGroup>>(
    groups: &mut [G],
    normalizer: &mut RunningNormalizer,
) -> Result<()> {
    let mut trajectories = rewarded(groups);
    normalizer.update(trajectories.iter().flat_map(|t| t.returns.iter().copied()))?;
    for goal in trajectories.iter_mut().flat_map(|t| t.returns.iter_mut()) {
        *goal = normalizer.normalize(*goal);
    }
    Ok(())
}
