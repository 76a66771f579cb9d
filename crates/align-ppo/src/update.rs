//! The last phase of an iteration: epochs of minibatches.

use align_core::{BatchReport, Learn, Packs, align_types::PromptGroup};

use crate::minibatches::{deal_with_rows, is_sampled, pack, unpack};
use crate::{IterationError, PpoConfig, check_first_ratio};

type Result<T, E = IterationError> = std::result::Result<T, E>;

/// The metric of the mean importance ratio.
pub(crate) const RATIO: &str = "val/ratio";
/// The metric of half the mean squared log-ratio.
pub(crate) const APPROX_KL: &str = "policy/approxkl_avg";

/// What is updated: the policy, and a critic of its own where there is one.
pub(crate) struct Learners<'l, 'a> {
    pub policy: &'l mut (dyn Learn + 'a),
    pub critic: Option<&'l mut (dyn Learn + 'a)>,
}

/// With which rates, and where in the run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub seed: u64,
    pub step: u64,
    pub policy_rate: f64,
    pub critic_rate: f64,
    /// Whether the critic alone is updated.
    pub warming_up: bool,
}

/// What the updates of an iteration gave.
#[derive(Debug, Default)]
pub(crate) struct Updated {
    /// Means over the updates.
    pub means: Means,
    /// Flat tokens of all passes that led to an update.
    pub tokens: usize,
    pub updates: u64,
    pub skipped: u64,
    /// Minibatches of which no completion has an advantage.
    pub empty: u64,
    /// Whether the bound on the divergence ended the iteration.
    pub stopped_early: bool,
    /// Whether weights may have changed.
    pub begun: bool,
    /// Whether the ratio of a first minibatch was looked at.
    checked: bool,
}

/// Means of metrics by name, in the order in which they first came.
#[derive(Debug, Default)]
pub(crate) struct Means(Vec<(String, f64, f64)>);

impl Means {
    fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, ..)| known == name) {
            Some((_, sum, count)) => {
                *sum += value;
                *count += 1.0;
            }
            None => self.0.push((name.to_owned(), value, 1.0)),
        }
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, ..)| known == name).map(|(_, sum, count)| sum / count)
    }
}

impl Learners<'_, '_> {
    /// Runs the epochs. What has been done when an error comes is in `updated`.
    ///
    /// `packs` are the minibatches of the first epoch, over which the old log-probabilities were computed; later epochs
    /// are dealt anew.
    pub fn update(
        &mut self,
        mut packs: Vec<Packs>,
        config: &PpoConfig,
        pace: &Pace,
        updated: &mut Updated,
    ) -> Result<Vec<Packs>> {
        for epoch in 0..config.num_ppo_epochs as u64 {
            if epoch > 0 && packs.len() > 1 {
                let (groups, rows) = unpack(packs).into_iter().partition(is_sampled);
                let stream = (pace.seed, pace.step, epoch);
                packs = pack(self.policy, deal_with_rows(groups, rows, config.num_mini_batches, stream));
            }
            for minibatch in &packs {
                if !teaches(minibatch) {
                    updated.empty += 1;
                    continue;
                }
                if !self.minibatch(minibatch, config, pace, updated)? {
                    updated.stopped_early = true;
                    return Ok(packs);
                }
            }
        }
        Ok(packs)
    }

    /// Updates with one minibatch; `false` when the bound on the divergence is crossed, before an update with it.
    ///
    /// Both gradients are computed before either is applied, so that one that is no number changes nothing.
    fn minibatch(
        &mut self,
        packs: &Packs,
        config: &PpoConfig,
        pace: &Pace,
        updated: &mut Updated,
    ) -> Result<bool> {
        let policy = match pace.warming_up {
            true => None,
            false => Some(self.policy.compute(packs).map_err(IterationError::Seam)?),
        };
        if let Some(report) = &policy {
            if !updated.checked && report.metric(APPROX_KL).is_some() {
                if !updated.begun {
                    check_first_ratio(&report.metrics)?;
                }
                updated.checked = true;
            }
            let above = |metric: &str, bound: Option<f64>| {
                bound.zip(report.metric(metric)).is_some_and(|(bound, value)| value > bound)
            };
            if above(APPROX_KL, config.target_kl) {
                return Ok(false);
            }
            if above(RATIO, config.max_ratio) {
                updated.skipped += 1;
                return Ok(true);
            }
        }
        let critic = match &mut self.critic {
            Some(critic) if has_advantages(packs) => {
                Some(critic.compute(packs).map_err(IterationError::Seam)?)
            }
            _ => None,
        };
        updated.begun = true;
        if let Some(report) = policy {
            updated.means.add("loss", report.loss);
            updated.count("grad_norm", &report);
            self.policy.apply(pace.policy_rate).map_err(IterationError::Seam)?;
        }
        if let (Some(report), Some(critic)) = (critic, &mut self.critic) {
            // Its loss is its only component, which it reports itself.
            updated.count("critic/grad_norm", &report);
            critic.apply(pace.critic_rate).map_err(IterationError::Seam)?;
        }
        updated.updates += 1;
        Ok(true)
    }
}

/// Says whether a minibatch has anything to learn from: an advantage, a pair, or a row of language modelling.
fn teaches(packs: &Packs) -> bool {
    let mut completions = packs.groups().into_iter().flat_map(|group| &group.completions);
    has_advantages(packs) || completions.any(|answer| !answer.name.is_empty() || answer.trajectory.is_none())
}

fn has_advantages(packs: &Packs) -> bool {
    let completions = packs.groups().into_iter().flat_map(|group| &group.completions);
    let mut trajectories = completions.filter_map(|answer| answer.trajectory.as_deref());
    trajectories.any(|trajectory| !trajectory.advantages.is_empty())
}

impl Updated {
    /// Makes the report of the iteration; `metrics` come first.
    pub fn report(&self, groups: &[PromptGroup], mut metrics: Vec<(String, f64)>) -> BatchReport {
        // While the critic warms up, what it minimises is all there is.
        let of = |name: &str, critics: &str| {
            self.means.get(name).or_else(|| self.means.get(critics)).unwrap_or(0.0)
        };
        let means = self.means.0.iter().filter(|(name, ..)| !["loss", "grad_norm"].contains(&name.as_str()));
        metrics.extend(means.map(|(name, sum, count)| (name.clone(), sum / count)));
        for (name, count) in [
            ("val/skipped_minibatches", self.skipped),
            ("val/empty_minibatches", self.empty),
            ("val/stopped_early", u64::from(self.stopped_early)),
        ] {
            if count > 0 {
                metrics.push((name.to_owned(), count as f64));
            }
        }
        let (loss, grad_norm) = (of("loss", "loss/value_avg"), of("grad_norm", "critic/grad_norm"));
        let (groups, tokens) = (groups.len(), self.tokens);
        BatchReport { loss, grad_norm, metrics, counts: Vec::new(), groups, tokens }
    }

    fn count(&mut self, grad_norm: &str, report: &BatchReport) {
        self.tokens += report.tokens;
        self.means.add(grad_norm, report.grad_norm);
        report.metrics.iter().for_each(|(name, value)| self.means.add(name, *value));
    }
}
