//! The later phases of an iteration: log-probabilities and values, rewards of tokens, advantages, updates.

use align_core::{
    BatchReport, Learn, Packs, StepAt,
    align_types::{PromptGroup, PromptSource},
};

use super::off_policy::{OffPolicy, reweight};
use super::take::Taken;
use super::{Observer, Result, Settings, timed};
use crate::minibatches::{deal, pack, unpack};
use crate::update::{Learners, Pace, Updated};
use crate::{
    AdvantageKind, IterationError, KlController, MeasureLayout, MeasureReport, PpoConfig, RunningNormalizer,
    RunningScale, ShapingInputs, estimate_advantages, objective_metrics, pair_samples, read_measures,
    shape_rewards,
};

/// The side of an iteration that trains.
pub(super) struct Trainer<'a> {
    pub policy: &'a mut dyn Learn,
    pub layout: MeasureLayout,
    pub critic: Option<&'a mut dyn Learn>,
    pub ptx: Option<&'a mut dyn PromptSource>,
    /// Whether samples are one iteration older than the policy.
    pub one_step_off: bool,
    pub controller: KlController,
    pub values: Option<RunningNormalizer>,
    pub scores: RunningScale,
    pub clock: TrainerClock,
}

/// Wall time by phase, in seconds.
#[derive(Debug, Default)]
pub(super) struct TrainerClock {
    pub logprobs: f64,
    pub advantages: f64,
    pub update: f64,
}

/// An iteration that is done.
pub(super) struct Learned {
    /// The sampled groups, with everything that is known of them.
    pub groups: Vec<PromptGroup>,
    pub report: BatchReport,
}

type Metrics = Vec<(String, f64)>;

impl Trainer<'_> {
    /// Trains on scored samples.
    pub fn learn(
        &mut self,
        at: &StepAt<'_>,
        settings: &Settings,
        taken: Taken,
        observer: &mut Option<Box<Observer<'_>>>,
        updated: &mut Updated,
    ) -> Result<Learned> {
        let config = &settings.config;
        let mut extra = taken.metrics();
        let cut = |groups: Vec<PromptGroup>| cut(groups, at.step, settings);
        let baselines =
            taken.baselines.map(|all| deal(all, config.num_mini_batches, settings.seed, at.step, 0).concat());
        let mut packs = self.plan(cut(taken.groups), at.step)?;
        let measured = self.measure(&mut packs)?;
        extra.extend(measured.mean_entropy().map(|entropy| ("policy/entropy_avg".to_owned(), entropy)));
        let off = OffPolicy::of(&sampled(&packs));
        extra.extend(off.metrics());
        let clock = &mut self.clock.advantages;
        let inputs = (&self.controller, &mut self.scores, &mut self.values);
        extra.extend(timed(clock, || advantages(config, &mut packs, baselines.as_deref(), inputs))?);
        if self.one_step_off {
            packs.iter_mut().for_each(|packs| reweight(packs.groups_mut()));
        }
        let groups = sampled(&packs);
        let episodes: usize = groups.iter().map(|group| group.completions.len()).sum();
        let mut metrics = objective_metrics(&groups);
        metrics.extend(extra);
        if let Some(observe) = observer {
            observe(at.step, &groups).map_err(IterationError::Seam)?;
        }
        drop(groups);
        let kl = metrics.iter().find(|(name, _)| name == "objective/kl").map(|(_, kl)| *kl);

        // Pairs are trained on in batches of their own.
        let mut aside = Vec::new();
        if config.advantage == AdvantageKind::OnlineDpo {
            aside = without_ptx(unpack(packs));
            let pairs = pair_samples(&aside, config.mask_truncated);
            metrics.push(("groups/ties".to_owned(), pairs.ties as f64));
            if pairs.groups.is_empty() {
                let why = "no prompt has two answers of which one is better: there is nothing to learn from";
                return Err(IterationError::rows("pairs", why));
            }
            packs = self.plan(cut(pairs.groups), at.step)?;
        }
        let pace = Pace {
            seed: settings.seed,
            step: at.step,
            policy_rate: settings.learning_rate * at.schedule,
            critic_rate: config.critic_learning_rate * at.schedule,
            warming_up: at.step <= config.critic_warmup,
        };
        let critic = match &mut self.critic {
            Some(critic) => Some(&mut **critic),
            None => None,
        };
        let mut learners = Learners { policy: &mut *self.policy, critic };
        let packs = timed(&mut self.clock.update, || learners.update(packs, config, &pace, updated))?;
        if let Some(kl) = kl {
            self.controller.update(kl, episodes)?;
        }
        metrics.push(("kl_coef".to_owned(), self.controller.coef()));
        let groups = if aside.is_empty() { without_ptx(unpack(packs)) } else { aside };
        Ok(Learned { report: updated.report(&groups, metrics), groups })
    }

    /// Plans how each minibatch is computed; rows of language modelling are dealt out to all of them.
    fn plan(&mut self, mut minibatches: Vec<Vec<PromptGroup>>, step: u64) -> Result<Vec<Packs>> {
        if let Some(source) = &mut self.ptx {
            let count = minibatches.len().max(1);
            for (index, row) in source.batch(step - 1)?.into_iter().enumerate() {
                if let Some(minibatch) = minibatches.get_mut(index % count) {
                    minibatch.push(row);
                }
            }
        }
        Ok(pack(self.policy, minibatches))
    }

    /// Computes log-probabilities, entropies and values over the packs that the first epoch trains on.
    fn measure(&mut self, packs: &mut [Packs]) -> Result<MeasureReport> {
        let Self { policy, critic, layout, clock, .. } = self;
        timed(&mut clock.logprobs, || {
            let mut report = MeasureReport::default();
            for packs in packs {
                let numbers = policy.measure(packs).map_err(IterationError::Seam)?;
                report.add(read_measures(&mut packs.groups_mut(), &numbers, *layout)?);
                if let Some(critic) = critic {
                    let numbers = critic.measure(packs).map_err(IterationError::Seam)?;
                    read_measures(&mut packs.groups_mut(), &numbers, MeasureLayout::CRITIC)?;
                }
            }
            Ok(report)
        })
    }
}

/// The minibatches of the first epoch.
fn cut(groups: Vec<PromptGroup>, step: u64, settings: &Settings) -> Vec<Vec<PromptGroup>> {
    deal(groups, settings.config.num_mini_batches, settings.seed, step, 0)
}

/// Makes rewards of tokens, advantages and returns over the whole batch; `baselines` are in the order of the packs.
fn advantages(
    config: &PpoConfig,
    packs: &mut [Packs],
    baselines: Option<&[Option<f64>]>,
    (controller, scores, values): (&KlController, &mut RunningScale, &mut Option<RunningNormalizer>),
) -> Result<Metrics> {
    let mut groups: Vec<&mut PromptGroup> =
        packs.iter_mut().flat_map(Packs::groups_mut).filter(|group| is_sampled(group)).collect();
    let inputs = ShapingInputs { kl_coef: controller.coef(), baselines, scale: Some(scores) };
    let shaped = shape_rewards(&mut groups, config, inputs)?;
    if shaped.scored == 0 || shaped.bootstrapped == shaped.scored {
        let why = shaped.nothing_to_learn().unwrap_or_default();
        return Err(IterationError::rows("rewards", why));
    }
    let mut metrics = shaped.metrics();
    if config.advantage != AdvantageKind::OnlineDpo {
        metrics.extend(estimate_advantages(&mut groups, config, values.as_mut())?.metrics());
    }
    Ok(metrics)
}

fn is_sampled(group: &PromptGroup) -> bool {
    group.completions.iter().any(|answer| answer.trajectory.is_some())
}

/// The groups that were sampled, in the order of the packs.
fn sampled(packs: &[Packs]) -> Vec<&PromptGroup> {
    packs.iter().flat_map(Packs::groups).filter(|group| is_sampled(group)).collect()
}

fn without_ptx(mut groups: Vec<PromptGroup>) -> Vec<PromptGroup> {
    groups.retain(is_sampled);
    groups
}
