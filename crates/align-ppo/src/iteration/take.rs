//! The first phases of an iteration: prompts are taken, completions sampled and scored.

use std::thread;

use align_core::{
    StepAt,
    align_types::{Generator, PromptGroup, PromptSource, config::SamplingConfig},
};

use super::{Ahead, Result, Sampler, Settings, timed};
use crate::{IterationError, RewardBaseline, Scorer, has_signal, sample, score};

/// Rounds after which an iteration is content with the groups that have a signal.
const MOST_ROUNDS: usize = 8;

/// The random streams of reference answers and held-out samples lie beyond those of training.
const REFERENCE_STREAMS: u64 = 1 << 62;
pub(super) const EVALUATION_STREAMS: u64 = 1 << 63;

/// Scored samples of an iteration.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub groups: Vec<PromptGroup>,
    /// The scores of the reference's own answers, one per group, where they are subtracted.
    pub baselines: Option<Vec<Option<f64>>>,
    /// Groups that were sampled, scored and not kept.
    discarded: usize,
    /// Groups that are missing, because too few of those sampled had a signal.
    missing: usize,
    /// What the scorer says of its calls: sums over completions, and how many completions.
    metrics: Vec<(String, f64, f64)>,
}

impl Taken {
    /// Returns what is to be said of the samples.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let means = self.metrics.iter().map(|(name, sum, count)| (name.clone(), sum / count));
        let mut metrics: Vec<(String, f64)> = means.collect();
        for (name, groups) in [("groups/discarded", self.discarded), ("groups/missing", self.missing)] {
            if groups > 0 {
                metrics.push((name.to_owned(), groups as f64));
            }
        }
        metrics
    }

    fn add_metrics(&mut self, metrics: Vec<(String, f64, usize)>) {
        for (name, mean, count) in metrics.into_iter().filter(|(_, _, count)| *count > 0) {
            let (count, sum) = (count as f64, mean * count as f64);
            match self.metrics.iter_mut().find(|(known, ..)| *known == name) {
                Some((_, sums, counts)) => {
                    *sums += sum;
                    *counts += count;
                }
                None => self.metrics.push((name, sum, count)),
            }
        }
    }
}

impl Sampler<'_> {
    pub(super) fn refresh(&mut self) -> Result<()> {
        Ok(self.here().refresh()?)
    }

    pub(super) fn here(&mut self) -> &mut dyn Generator {
        match self {
            Self::InTurn(generator) => *generator,
            Self::OneStepOff(generator) => *generator,
        }
    }
}

/// The side of an iteration that makes samples.
pub(super) struct Collector<'a> {
    pub source: &'a mut dyn PromptSource,
    pub generator: Sampler<'a>,
    pub scorer: &'a mut dyn Scorer,
    pub reference_generator: Option<&'a mut dyn Generator>,
    /// Batches taken from the source of prompts.
    pub draws: u64,
    /// Completions sampled.
    pub sampled: u64,
    /// Samples that wait for their iteration.
    pub ahead: Option<Ahead>,
    /// What the source of prompts said of the prompts at hand.
    pub source_metrics: Vec<(String, f64)>,
    pub clock: CollectorClock,
}

/// Wall time by phase, in seconds.
#[derive(Debug, Default)]
pub(super) struct CollectorClock {
    pub data: f64,
    pub sample: f64,
    pub score: f64,
}

impl Collector<'_> {
    /// Takes the samples of an iteration; `None` where it was stopped meanwhile.
    pub fn take(&mut self, at: &StepAt<'_>, settings: &Settings) -> Result<Option<Taken>> {
        let dynamic = settings.config.dynamic_sampling;
        let mut taken = Taken::default();
        let (mut wanted, mut rounds) = (0, 0);
        while rounds == 0 || (dynamic && taken.groups.len() < wanted && rounds < MOST_ROUNDS) {
            if at.stopped() {
                return Ok(None);
            }
            let groups = match self.draw(settings, &mut taken) {
                // A source or a reward may give up with any error once the run is to end.
                Err(_) if at.stopped() => return Ok(None),
                drawn => drawn?,
            };
            rounds += 1;
            wanted = wanted.max(groups.len());
            let (kept, dropped): (Vec<_>, Vec<_>) =
                groups.into_iter().partition(|group| !dynamic || has_signal(group));
            // The source hears of them before the next round, which might choose them again.
            self.discard(&dropped, &mut taken);
            taken.groups.extend(kept);
        }
        // What was sampled beyond the batch was paid for, too.
        let beyond = taken.groups.split_off(wanted.min(taken.groups.len()));
        self.discard(&beyond, &mut taken);
        taken.missing = wanted - taken.groups.len();
        self.add_baselines(settings, &mut taken)?;
        Ok(if at.stopped() { None } else { Some(taken) })
    }

    fn discard(&mut self, groups: &[PromptGroup], taken: &mut Taken) {
        taken.discarded += groups.len();
        if !groups.is_empty() {
            self.source.learn(groups);
        }
    }

    /// Takes one batch of prompts, samples and scores.
    fn draw(&mut self, settings: &Settings, taken: &mut Taken) -> Result<Vec<PromptGroup>> {
        let mut groups = match self.ahead.take() {
            Some(mut ahead) => {
                self.source_metrics = std::mem::take(&mut ahead.metrics);
                ahead.into_groups()
            }
            None => {
                let (prompts, draw) = self.prompts(&taken.groups)?;
                self.source_metrics = self.source.metrics();
                let generator = self.generator.here();
                timed(&mut self.clock.sample, || sample(generator, prompts, &settings.sampling, draw))?
            }
        };
        let completions: usize = groups.iter().map(|group| group.completions.len()).sum();
        self.sampled += completions as u64;
        let scorer = &mut *self.scorer;
        timed(&mut self.clock.score, || score(scorer, &mut groups))?;
        taken.add_metrics(self.scorer.metrics());
        Ok(groups)
    }

    /// Takes the next batch of prompts beside those that the iteration has, and the number of its draw.
    fn prompts(&mut self, taken: &[PromptGroup]) -> Result<(Vec<PromptGroup>, u64)> {
        let (source, draw) = (&mut *self.source, self.draws);
        let prompts = timed(&mut self.clock.data, || source.batch_beside(draw, taken))?;
        self.draws += 1;
        Ok((prompts, draw))
    }

    /// Lets the reference answer the prompts, where its scores are subtracted.
    fn add_baselines(&mut self, settings: &Settings, taken: &mut Taken) -> Result<()> {
        let relative = settings.config.reward_baseline == RewardBaseline::Reference;
        let Some(generator) = self.reference_generator.as_deref_mut().filter(|_| relative) else {
            return Ok(());
        };
        let prompt = |group: &PromptGroup| PromptGroup { completions: Vec::new(), ..group.clone() };
        let prompts = taken.groups.iter().map(prompt).collect();
        let config = SamplingConfig { num_completions: 1, ..settings.sampling.clone() };
        let draw = REFERENCE_STREAMS + self.draws;
        let mut answers = timed(&mut self.clock.sample, || sample(generator, prompts, &config, draw))?;
        let scorer = &mut *self.scorer;
        timed(&mut self.clock.score, || score(scorer, &mut answers))?;
        let first = |group: &PromptGroup| group.completions.first().and_then(|answer| answer.reward);
        taken.baselines = Some(answers.iter().map(first).collect());
        Ok(())
    }

    /// Does some work; where sampling runs ahead, a thread samples for the next iteration meanwhile.
    pub fn beside<T>(
        &mut self,
        at: &StepAt<'_>,
        settings: &Settings,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if !matches!(self.generator, Sampler::OneStepOff(_)) || at.step >= at.total {
            return work();
        }
        let (prompts, draw) = self.prompts(&[])?;
        let Sampler::OneStepOff(generator) = &mut self.generator else { return work() };
        let generator = &mut **generator;
        let (done, sampled) = thread::scope(|scope| {
            let ahead = scope.spawn(|| sample(generator, prompts, &settings.sampling, draw));
            let done = work();
            (done, timed(&mut self.clock.sample, || ahead.join()))
        });
        let done = done?;
        self.ahead = match sampled.map_err(|_| IterationError::Thread)? {
            Ok(groups) => Some(Ahead::new(groups, self.source.metrics())),
            // The iteration is done; the next one draws this batch itself, in turn, and says what is wrong with it.
            Err(_) => {
                self.draws = draw;
                None
            }
        };
        Ok(done)
    }
}
