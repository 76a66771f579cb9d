//! The later phases of an iteration: log-probabilities and values, rewards of tokens, advantages, updates.

use align_core::{
    BatchReport, Learn, Packs, StepAt,
    align_types::{PromptGroup, PromptSource},
};

use super::off_policy::{OffPolicy, reweight, weights};
use super::take::Taken;
use super::{Observer, Result, Settings, timed};
use crate::minibatches::{deal, deal_with_rows, is_sampled, pack, unpack};
use crate::update::{Learners, Pace, Updated};
use crate::{
    AdvantageKind, IterationError, KlController, MeasureLayout, MeasureReport, PpoConfig, RunningNormalizer,
    RunningScale, ShapingInputs, estimate_advantages, objective_metrics, pair_samples, read_measures,
    report::weighted_metrics, shape_rewards,
};

/// Iterations in a row without anything to learn from before a run is given up. One may be bad luck.
const MOST_IDLE: u64 = 8;

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
    /// Iterations in a row that had nothing to learn from.
    pub idle: u64,
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
        let baselines =
            taken.baselines.map(|all| deal(all, config.num_mini_batches, settings.seed, at.step, 0).concat());
        let mut packs = self.plan(taken.groups, at.step, settings)?;
        let measured = self.measure(&mut packs)?;
        extra.extend(measured.mean_entropy().map(|entropy| ("policy/entropy_avg".to_owned(), entropy)));
        let off = OffPolicy::of(&sampled(&packs));
        if !self.one_step_off {
            off.check()?;
        }
        extra.extend(off.metrics());
        let clock = &mut self.clock.advantages;
        let inputs = (&self.controller, &mut self.scores, &mut self.values);
        extra.extend(timed(clock, || advantages(config, &mut packs, baselines.as_deref(), inputs))?);
        if self.one_step_off {
            packs.iter_mut().for_each(|packs| reweight(packs.groups_mut()));
        }
        let groups = sampled(&packs);
        let episodes: usize = groups.iter().map(|group| group.completions.len()).sum();
        let mut metrics = match self.one_step_off {
            true => weighted_metrics(&groups, weights),
            false => objective_metrics(&groups),
        };
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
            packs = self.plan(pairs.groups, at.step, settings)?;
        }
        let pace = Pace {
            seed: settings.seed,
            step: at.step,
            policy_rate: settings.learning_rate * at.schedule,
            critic_rate: config.critic_learning_rate * at.schedule,
            warming_up: at.step <= config.critic_warmup,
        };
        let critic = self.critic.as_deref_mut();
        let mut learners = Learners { policy: &mut *self.policy, critic };
        metrics.push(("kl_coef".to_owned(), self.controller.coef().max(config.loss_kl_coef())));
        let packs = timed(&mut self.clock.update, || learners.update(packs, config, &pace, updated))?;
        self.rest(updated, &mut metrics)?;
        if updated.begun && !pace.warming_up {
            self.policy.end_iteration().map_err(IterationError::Seam)?;
            // While the critic warms up the divergence is 0 because nothing moves.
            if let Some(kl) = kl {
                self.controller.update(kl, episodes)?;
            }
        }
        let groups = if aside.is_empty() { without_ptx(unpack(packs)) } else { aside };
        Ok(Learned { report: updated.report(&groups, metrics), groups })
    }

    /// Counts iterations that had nothing to learn from; too many of them end the run.
    fn rest(&mut self, updated: &Updated, metrics: &mut Metrics) -> Result<()> {
        self.idle = if updated.begun || updated.stopped_early { 0 } else { self.idle + 1 };
        if self.idle == 0 {
            return Ok(());
        }
        metrics.push(("val/nothing_to_learn".to_owned(), self.idle as f64));
        if self.idle < MOST_IDLE {
            return Ok(());
        }
        let why = format!(
            "{MOST_IDLE} iterations had nothing to learn from: rewards are all the same within every group or batch, or \
             every answer reaches the token limit without a score (raise max-new-tokens, or let scores of such answers \
             count with truncated = score)"
        );
        Err(IterationError::rows("samples", why))
    }

    /// Plans how each minibatch of the first epoch is computed.
    fn plan(&mut self, groups: Vec<PromptGroup>, step: u64, settings: &Settings) -> Result<Vec<Packs>> {
        let rows = match &mut self.ptx {
            Some(source) => source.batch(step - 1)?,
            None => Vec::new(),
        };
        let minibatches =
            deal_with_rows(groups, rows, settings.config.num_mini_batches, (settings.seed, step, 0));
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
    let mut metrics = shaped.metrics();
    if config.advantage != AdvantageKind::OnlineDpo {
        metrics.extend(estimate_advantages(&mut groups, config, values.as_mut())?.metrics());
    }
    Ok(metrics)
}

/// The groups that were sampled, in the order of the packs.
fn sampled(packs: &[Packs]) -> Vec<&PromptGroup> {
    packs.iter().flat_map(Packs::groups).filter(|group| is_sampled(group)).collect()
}

fn without_ptx(mut groups: Vec<PromptGroup>) -> Vec<PromptGroup> {
    groups.retain(is_sampled);
    groups
}
