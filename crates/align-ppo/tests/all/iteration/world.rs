//! A world of a few tokens: a tabular policy, its sampler in plain Rust, a reward that counts tokens.

use std::ops::RangeInclusive;
use std::sync::atomic::AtomicBool;

use align_core::align_types::{
    self, Completion, FinishReason, Generator, PromptGroup, PromptSource, Purpose, RngStream, TokenId,
    config::{OptimizerConfig, SamplingConfig, Schedule},
};
use align_core::tch::Tensor;
use align_core::{
    ActorCritic, BatchReport, BoxError, CausalLm, Learn, Packs, Parameter, StepAt, Stepped, Steps, ValueModel,
};
use align_losses::MovingReference;
use align_ppo::{
    ActorCriticObjective, CriticKind, CriticObjective, Figure, IterationError, Observer, OnlineDpoObjective,
    Parts, PolicyObjective, Ppo, PpoConfig, References, Sampler, Scorer, Settings,
};
use align_testkit::{BigramActorCritic, BigramLm, TabularValues};
use align_train::{Compute, Engine};

/// Tokens; 0 ends an answer.
pub const VOCAB: usize = 6;
/// The token that the reward counts.
pub const GOOD: TokenId = 3;

/// Samples from a table of logits that it copies when it is refreshed.
pub struct TableSampler {
    model: BigramLm,
    table: Vec<f32>,
    temperature: Option<f64>,
}

impl TableSampler {
    pub fn new(model: &BigramLm) -> Self {
        let mut sampler = Self { model: alias(model), table: Vec::new(), temperature: None };
        sampler.refresh().unwrap();
        sampler
    }

    fn log_probs(&self, token: TokenId, temperature: f64) -> Vec<f64> {
        let row = &self.table[token as usize * VOCAB..][..VOCAB];
        let logits: Vec<f64> = row.iter().map(|logit| f64::from(*logit) / temperature).collect();
        let most = logits.iter().copied().fold(f64::MIN, f64::max);
        let sum = logits.iter().map(|logit| (logit - most).exp()).sum::<f64>().ln() + most;
        logits.iter().map(|logit| logit - sum).collect()
    }

    fn answer(&self, prompt: &[TokenId], config: &SamplingConfig, random: &mut RngStream) -> Completion {
        let mut answer = Completion { logprobs: Some(vec![]), ..Completion::new(vec![]) };
        let mut token = *prompt.last().unwrap();
        answer.finish_reason = Some(FinishReason::Length);
        while answer.token_ids.len() < config.max_new_tokens {
            let log_probs = self.log_probs(token, self.temperature.unwrap_or(config.temperature));
            let mut left = random.uniform();
            let drawn = log_probs.iter().position(|lp| {
                left -= lp.exp();
                left < 0.0
            });
            token = drawn.unwrap_or(VOCAB - 1) as TokenId;
            answer.token_ids.push(token);
            answer.logprobs.as_mut().unwrap().push(log_probs[token as usize] as f32);
            if token == 0 {
                answer.finish_reason = Some(FinishReason::Stop);
                break;
            }
        }
        answer
    }
}

/// The same storage, for another owner.
pub fn alias(model: &BigramLm) -> BigramLm {
    BigramLm::sharing(model)
}

impl Generator for TableSampler {
    fn generate(
        &mut self,
        prompts: &[Vec<TokenId>],
        config: &SamplingConfig,
        step: u64,
    ) -> align_types::Result<Vec<PromptGroup>> {
        let group = |(index, prompt): (usize, &Vec<TokenId>)| {
            let answer = |sample: usize| {
                let rank = ((index as u64) << 32) | sample as u64;
                let mut random = RngStream::new(config.seed, Purpose::Sampling, step, rank);
                self.answer(prompt, config, &mut random)
            };
            PromptGroup::new(prompt.clone(), (0..config.num_completions).map(answer).collect())
        };
        Ok(prompts.iter().enumerate().map(group).collect())
    }

    fn refresh(&mut self) -> align_types::Result<()> {
        self.table = Vec::<f32>::try_from(self.model.table().detach().reshape([-1])).unwrap();
        Ok(())
    }
}

/// Prompts of one token each, in turn; it remembers how many groups it was told of.
#[derive(Default)]
pub struct Prompts {
    pub size: usize,
    pub told: f64,
    /// What it was asked and told: how many prompts it gave, or how many groups it heard of, negative.
    pub heard: Vec<i64>,
}

impl PromptSource for Prompts {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        self.heard.push(self.size as i64);
        let prompt = |i: usize| vec![1 + ((step as usize * self.size + i) % (VOCAB - 1)) as TokenId];
        Ok((0..self.size).map(|i| PromptGroup::new(prompt(i), vec![])).collect())
    }

    fn steps(&self) -> Option<u64> {
        None
    }

    fn learn(&mut self, sampled: &[PromptGroup]) {
        assert!(
            sampled.iter().all(|group| group.completions.iter().all(|answer| answer.trajectory.is_some()))
        );
        self.told += sampled.len() as f64;
        self.heard.push(-(sampled.len() as i64));
    }

    fn state(&self) -> Vec<f64> {
        vec![self.told]
    }

    fn restore(&mut self, state: &[f64]) -> align_types::Result<()> {
        self.told = state[0];
        Ok(())
    }
}

/// Any function of an answer as a scorer.
pub struct ByTokens<F>(pub F);

impl<F: FnMut(&Completion) -> Option<f64>> Scorer for ByTokens<F> {
    fn score(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<Option<f64>>>, BoxError> {
        Ok(groups.iter().map(|group| group.completions.iter().map(&mut self.0).collect()).collect())
    }
}

/// The share of the good token in an answer.
pub fn share(answer: &Completion) -> f64 {
    answer.token_ids.iter().filter(|token| **token == GOOD).count() as f64 / answer.token_ids.len() as f64
}

/// Keeps the reports of the gradients that were computed.
pub struct Recorded {
    pub learner: Box<dyn Learn>,
    pub reports: Vec<BatchReport>,
    pub keeps: bool,
    /// What is added to everything that is measured.
    pub off: f64,
}

impl Learn for Recorded {
    fn parameters(&self) -> &[Parameter] {
        self.learner.parameters()
    }
    fn pack(&self, groups: Vec<PromptGroup>) -> Packs {
        self.learner.pack(groups)
    }
    fn measure(&mut self, packs: &Packs) -> Result<Vec<Vec<f64>>, BoxError> {
        let mut numbers = self.learner.measure(packs)?;
        numbers.iter_mut().flatten().for_each(|number| *number += self.off);
        Ok(numbers)
    }
    fn compute(&mut self, packs: &Packs) -> Result<BatchReport, BoxError> {
        let report = self.learner.compute(packs)?;
        if self.keeps {
            self.reports.push(report.clone());
        }
        Ok(report)
    }
    fn apply(&mut self, learning_rate: f64) -> Result<(), BoxError> {
        self.learner.apply(learning_rate)
    }
    fn end_iteration(&mut self) -> Result<(), BoxError> {
        self.learner.end_iteration()
    }
    fn save(&self, folder: &std::path::Path, weights: bool) -> Result<(), BoxError> {
        self.learner.save(folder, weights)
    }
    fn load(&mut self, folder: &std::path::Path, weights: bool) -> Result<(), BoxError> {
        self.learner.load(folder, weights)
    }
}

pub fn optimizer(rate: f64) -> OptimizerConfig {
    OptimizerConfig { learning_rate: rate, lr_scheduler: Schedule::Constant, ..OptimizerConfig::default() }
}

pub fn compute(threads: usize) -> Compute {
    Compute { threads, micro_batch_tokens: 64 }
}

/// What an iteration may have beside what every one has.
#[derive(Default)]
pub struct Extras<'a> {
    pub ptx: Option<&'a mut dyn PromptSource>,
    pub eval: Vec<PromptGroup>,
    pub observer: Option<Box<Observer<'a>>>,
    pub figures: Vec<Figure<'a>>,
    /// Spoils what the parts are checked for.
    pub spoil: Option<fn(&mut Parts<'_>)>,
}

/// Everything that a run owns; [`World::run`] lends it to an iteration.
pub struct World {
    pub model: BigramLm,
    pub values: Tensor,
    pub settings: Settings,
    pub prompts: Prompts,
    pub threads: usize,
    pub one_step_off: bool,
    /// Whether reports of gradients are kept.
    pub keeps: bool,
    /// A temperature of the sampler that nobody is told of.
    pub sampler_temperature: Option<f64>,
    /// By how much what the policy measures is off what it trains with.
    pub off: f64,
}

impl World {
    pub fn new(config: PpoConfig, samples: usize) -> Self {
        let sampling = SamplingConfig {
            num_completions: samples,
            max_new_tokens: 5,
            seed: 1,
            ..SamplingConfig::default()
        };
        let values =
            Tensor::zeros([VOCAB as i64], (align_core::tch::Kind::Float, align_core::tch::Device::Cpu));
        Self {
            model: BigramLm::uniform(VOCAB as i64),
            values,
            settings: Settings { config, sampling, seed: 5, learning_rate: 0.05 },
            prompts: Prompts { size: 16, ..Prompts::default() },
            threads: 1,
            one_step_off: false,
            keeps: true,
            off: 0.0,
            sampler_temperature: None,
        }
    }

    fn references(&self) -> References {
        let config = &self.settings.config;
        let copy = || Box::new(BigramLm::new(self.model.table()));
        match config.reference_sync() {
            Some(sync) => {
                let moving = MovingReference::new(copy(), sync, &CausalLm::parameters(&self.model)).unwrap();
                References::moving(moving, copy())
            }
            None => References::frozen(copy()),
        }
    }

    /// Lends everything to an iteration.
    pub fn run<T>(
        &mut self,
        scorer: &mut dyn Scorer,
        work: impl FnOnce(&mut Ppo<'_>) -> T,
    ) -> (T, Recorded, Option<Recorded>) {
        self.run_with(scorer, Extras::default(), |ppo| work(ppo.as_mut().unwrap()))
    }

    /// As [`Self::run`] with more parts, and whatever comes of putting them together.
    pub fn run_with<T>(
        &mut self,
        scorer: &mut dyn Scorer,
        extras: Extras<'_>,
        work: impl FnOnce(&mut Result<Ppo<'_>, IterationError>) -> T,
    ) -> (T, Recorded, Option<Recorded>) {
        let (config, temperature) = (self.settings.config.clone(), self.settings.sampling.temperature);
        let references = self.references();
        let limit = self.settings.sampling.max_new_tokens;
        let model: Box<dyn CausalLm> = Box::new(alias(&self.model));
        let (rate, threads) = (optimizer(self.settings.learning_rate), compute(self.threads));
        let shared = config.critic == CriticKind::Shared;
        let (learner, layout): (Box<dyn Learn>, _) = if shared {
            let objective = ActorCriticObjective::new(&config, temperature, limit, references).unwrap();
            let layout = objective.layout();
            let critic = TabularValues::sharing(&self.values);
            let pair: Box<dyn ActorCritic> =
                Box::new(BigramActorCritic { policy: alias(&self.model), critic });
            (Box::new(Engine::over(pair, Box::new(objective), &rate, threads).unwrap()), layout)
        } else if config.advantage == align_ppo::AdvantageKind::OnlineDpo {
            let objective = OnlineDpoObjective::new(&config, temperature, references).unwrap();
            let layout = objective.layout();
            (Box::new(Engine::new(model, Box::new(objective), &rate, threads).unwrap()), layout)
        } else {
            let objective = PolicyObjective::new(&config, temperature, limit, references).unwrap();
            let layout = objective.layout();
            (Box::new(Engine::new(model, Box::new(objective), &rate, threads).unwrap()), layout)
        };
        let mut policy = Recorded { learner, reports: vec![], keeps: self.keeps, off: self.off };
        let mut critic = (config.advantage.uses_critic() && !shared).then(|| {
            let values: Box<dyn ValueModel> = Box::new(TabularValues::sharing(&self.values));
            let objective = Box::new(CriticObjective::new(&config).unwrap());
            let rate = optimizer(config.critic_learning_rate);
            let learner = Engine::over(values, objective, &rate, compute(self.threads)).unwrap();
            Recorded { learner: Box::new(learner), reports: vec![], keeps: self.keeps, off: 0.0 }
        });
        let mut sampler = TableSampler::new(&self.model);
        sampler.temperature = self.sampler_temperature;
        let mut reference_sampler = TableSampler::new(&BigramLm::new(self.model.table()));
        let relative = config.reward_baseline == align_ppo::RewardBaseline::Reference;
        let done = {
            let generator = match self.one_step_off {
                true => Sampler::OneStepOff(&mut sampler),
                false => Sampler::InTurn(&mut sampler),
            };
            let critic: Option<&mut dyn Learn> = match &mut critic {
                Some(critic) => Some(critic),
                None => None,
            };
            let reference_generator: Option<&mut dyn Generator> =
                if relative { Some(&mut reference_sampler) } else { None };
            let Extras { ptx, eval, observer, figures, spoil } = extras;
            let mut parts = Parts {
                source: &mut self.prompts,
                generator,
                scorer,
                policy: &mut policy,
                layout,
                critic,
                reference_generator,
                ptx: ptx.map(|rows| rows as &mut dyn PromptSource),
                eval,
                observer,
                figures,
            };
            if let Some(spoil) = spoil {
                spoil(&mut parts);
            }
            work(&mut Ppo::new(self.settings.clone(), parts))
        };
        (done, policy, critic)
    }
}

/// Does the first steps of a run that has no more, and returns the reports.
pub fn steps(ppo: &mut Ppo<'_>, count: u64) -> Vec<BatchReport> {
    steps_of(ppo, 1..=count, count)
}

/// Does some steps of a run of `total`, and returns the reports.
pub fn steps_of(ppo: &mut Ppo<'_>, range: RangeInclusive<u64>, total: u64) -> Vec<BatchReport> {
    let stop = AtomicBool::new(false);
    let step = |step| {
        let at = StepAt { step, total, schedule: 1.0, stop: &stop };
        match ppo.step(&at).unwrap() {
            Stepped::Done(report) => report,
            Stepped::Stopped => panic!("nobody stopped it"),
        }
    };
    range.map(step).collect()
}

pub fn series(reports: &[BatchReport], name: &str) -> Vec<f64> {
    reports
        .iter()
        .map(|report| report.metric(name).unwrap_or_else(|| panic!("{name} in {report:?}")))
        .collect()
}

pub fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}
