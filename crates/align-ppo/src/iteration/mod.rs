//! The iteration: sample, score, log-probabilities, rewards of tokens, advantages, updates.

mod evaluate;
mod learn;
mod off_policy;
mod parts;
mod state;
mod take;

use std::path::Path;
use std::time::Instant;

use align_core::{
    BatchReport, BoxError, Evaluation, StepAt, StepError, Stepped, Steps, align_types::PromptGroup,
};

use learn::{Trainer, TrainerClock};

pub use parts::{Figure, Observer, Parts, Sampler, Settings};
use state::{Ahead, State};
use take::{Collector, CollectorClock};

use crate::update::Updated;
use crate::{IterationError, KlController, RunningNormalizer, RunningScale};

/// The result of an iteration's phases.
type Result<T, E = IterationError> = std::result::Result<T, E>;

/// The folder of the critic in a checkpoint.
const CRITIC: &str = "critic";

/// On-policy training, one iteration per step of a run.
///
/// 1. prompts are taken from the source, and completions sampled and scored ([`sample`](crate::sample),
///    [`score`](crate::score));
/// 2. minibatches and packs are drawn, and log-probabilities of policy and reference and values are computed over them
///    ([`read_measures`](crate::read_measures)), so that the importance ratio before the first update is exactly 1;
/// 3. rewards of tokens ([`shape_rewards`](crate::shape_rewards)), then advantages and returns
///    ([`estimate_advantages`](crate::estimate_advantages)) follow from those numbers alone;
/// 4. epochs of minibatches update the policy and its critic; the source hears what became of its prompts.
///
/// Each phase is a function of its own over plain data. A run drives it through [`Steps`]; nothing else is needed to
/// iterate by hand.
pub struct Ppo<'a> {
    settings: Settings,
    collector: Collector<'a>,
    trainer: Trainer<'a>,
    eval: Vec<PromptGroup>,
    observer: Option<Box<Observer<'a>>>,
    figures: Vec<Figure<'a>>,
}

/// Adds the seconds of some work to a phase.
fn timed<T>(phase: &mut f64, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    *phase += began.elapsed().as_secs_f64();
    done
}

impl<'a> Ppo<'a> {
    /// Puts the parts together.
    ///
    /// # Errors
    /// Settings that contradict themselves or the parts.
    pub fn new(settings: Settings, parts: Parts<'a>) -> Result<Self> {
        let Settings { config, sampling, .. } = &settings;
        config.validate()?;
        sampling.validate()?;
        config.check_samples(sampling.num_completions)?;
        if sampling.greedy {
            let why =
                "greedy answers are no samples: all answers to a prompt are the same, and none explores";
            return Err(IterationError::rows("sampling", why));
        }
        parts.check(config)?;
        let Parts { source, generator, scorer, policy, layout, critic, .. } = parts;
        let Parts { reference_generator, ptx, eval, observer, figures, .. } = parts;
        let trainer = Trainer {
            controller: KlController::new(config),
            values: config.normalize_values.then(RunningNormalizer::default),
            scores: RunningScale::default(),
            idle: 0,
            clock: TrainerClock::default(),
            one_step_off: matches!(generator, Sampler::OneStepOff(_)),
            policy,
            layout,
            critic,
            ptx,
        };
        let collector = Collector {
            draws: 0,
            sampled: 0,
            ahead: None,
            source_metrics: Vec::new(),
            clock: CollectorClock::default(),
            source,
            generator,
            scorer,
            reference_generator,
        };
        Ok(Self { settings, collector, trainer, eval, observer, figures })
    }

    /// Counts the completions that were sampled for training so far, those that were not trained on included.
    pub fn sampled(&self) -> u64 {
        self.collector.sampled
    }

    /// Returns the running mean and deviation that the critic's values are in units of, where the configuration
    /// normalises them: a value v stands for v · std + mean.
    pub fn value_scale(&self) -> Option<&RunningNormalizer> {
        self.trainer.values.as_ref()
    }

    /// Runs an iteration; what was done when an error comes is in `updated`. `None` where it was stopped before anything
    /// changed.
    fn iterate(&mut self, at: &StepAt<'_>, updated: &mut Updated) -> Result<Option<BatchReport>> {
        let before = self.state();
        let done = self.collect_and_learn(at, updated);
        if !updated.begun && !matches!(done, Ok(Some(_))) {
            // Samples are drawn again, from the same streams; running moments have seen none of them.
            if let Err(error) = self.set(before) {
                updated.begun = true;
                return Err(done.err().unwrap_or(error));
            }
        }
        done
    }

    fn collect_and_learn(&mut self, at: &StepAt<'_>, updated: &mut Updated) -> Result<Option<BatchReport>> {
        let Self { settings, collector, trainer, observer, .. } = self;
        let Some(taken) = collector.take(at, settings)? else { return Ok(None) };
        let source_metrics = collector.source_metrics.clone();
        let learned =
            collector.beside(at, settings, || trainer.learn(at, settings, taken, observer, updated))?;
        collector.source.learn(&learned.groups);
        let mut report = learned.report;
        report.metrics.extend(source_metrics);
        report.metrics.push(("episodes".to_owned(), collector.sampled as f64));
        let generator = &mut collector.generator;
        timed(&mut collector.clock.sample, || generator.refresh())?;
        Ok(Some(report))
    }

    fn state(&self) -> State {
        let (collector, trainer) = (&self.collector, &self.trainer);
        State {
            draws: collector.draws,
            sampled: collector.sampled,
            controller: trainer.controller.state(),
            values: trainer.values.as_ref().map(RunningNormalizer::state).unwrap_or_default(),
            scores: trainer.scores.state(),
            source: collector.source.state(),
            idle: trainer.idle,
            ahead: collector.ahead.clone(),
        }
    }

    fn set(&mut self, state: State) -> Result<()> {
        let (collector, trainer) = (&mut self.collector, &mut self.trainer);
        trainer.controller.restore(&state.controller)?;
        if let Some(values) = &mut trainer.values {
            values.restore(&state.values)?;
        }
        trainer.scores.restore(&state.scores)?;
        trainer.idle = state.idle;
        collector.source.restore(&state.source)?;
        (collector.draws, collector.sampled, collector.ahead) = (state.draws, state.sampled, state.ahead);
        Ok(())
    }
}

impl Steps for Ppo<'_> {
    fn step(&mut self, at: &StepAt<'_>) -> std::result::Result<Stepped, StepError> {
        let mut updated = Updated::default();
        match self.iterate(at, &mut updated) {
            Ok(Some(report)) => Ok(Stepped::Done(report)),
            Ok(None) => Ok(Stepped::Stopped),
            Err(error) if updated.begun => Err(StepError::torn(error)),
            Err(error) => Err(StepError::intact(error)),
        }
    }

    fn save(&self, folder: &Path) -> std::result::Result<(), BoxError> {
        self.trainer.policy.save(folder, false)?;
        if let Some(critic) = &self.trainer.critic {
            let place = folder.join(CRITIC);
            std::fs::create_dir(&place).map_err(|error| IterationError::write(&place, error))?;
            critic.save(&place, true)?;
        }
        Ok(self.state().save(folder)?)
    }

    fn load(&mut self, folder: &Path) -> std::result::Result<(), BoxError> {
        self.trainer.policy.load(folder, false)?;
        if let Some(critic) = &mut self.trainer.critic {
            critic.load(&folder.join(CRITIC), true)?;
        }
        self.set(State::load(folder)?)
            .map_err(|error| IterationError::checkpoint(&State::path(folder), error))?;
        // The policy may have been given its weights after the generator was made.
        Ok(self.collector.generator.refresh()?)
    }

    fn evaluation_metrics(&mut self) -> std::result::Result<Option<Vec<String>>, BoxError> {
        Ok(self.names_of_evaluation())
    }

    fn evaluate(&mut self, _: &StepAt<'_>) -> std::result::Result<Option<Evaluation>, BoxError> {
        Ok(self.evaluate_prompts()?)
    }

    fn phases(&self) -> Vec<(&'static str, f64)> {
        let CollectorClock { data, sample, score } = self.collector.clock;
        let TrainerClock { logprobs, advantages, update } = self.trainer.clock;
        vec![
            ("data", data),
            ("sample", sample),
            ("score", score),
            ("logprobs", logprobs),
            ("advantages", advantages),
            ("update", update),
        ]
    }
}
