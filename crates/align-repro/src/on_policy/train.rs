//! A run of the iteration of `align-ppo` on a small model, on one thread.

use std::path::Path;

use align_core::{
    BatchReport, CausalLm, Learn, StepAt, Stepped, Steps, ValueModel,
    align_types::{
        PromptSource, TokenId,
        config::{OptimizerConfig, SamplingConfig, Schedule},
    },
};
use align_lm::{LoadOptions, Model, ValueNetwork};
use align_ppo::{
    CriticObjective, Parts, PolicyObjective, Ppo, PpoConfig, References, Sampler, Scorer, Settings,
};
use align_rollout::auto_generator;
use align_train::{Compute, Engine};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, progress::UnitProgress, style::policy::MICRO_BATCH_TOKENS};

/// What a run of the iteration takes besides its method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnPolicySettings {
    /// Prompts of an iteration.
    pub prompts: usize,
    /// Samples of each.
    pub samples: usize,
    /// Iterations.
    pub iterations: u64,
    /// Learning rate of the policy.
    pub rate: f64,
    /// Iterations between two points of the curves.
    pub every: u64,
    /// The method, with the names of its configuration.
    pub ppo: PpoConfig,
}

/// Where a run begins and what it learns from.
pub struct Run<'a> {
    /// The settings.
    pub settings: &'a OnPolicySettings,
    /// Model folder of the policy and its reference.
    pub start: &'a Path,
    /// Folder of a reward model that the critic begins with; the policy's folder without one.
    pub critic: Option<&'a Path>,
    /// Tokens that end an answer.
    pub stop_tokens: Vec<TokenId>,
    /// Most tokens of an answer.
    pub answer_tokens: usize,
    /// The prompts.
    pub source: &'a mut dyn PromptSource,
    /// The rewards.
    pub scorer: &'a mut dyn Scorer,
    /// Rows of language modelling, where the method has a weight for them.
    pub ptx: Option<&'a mut dyn PromptSource>,
    /// The seed.
    pub seed: u64,
    /// How far it is.
    pub progress: &'a UnitProgress<'a>,
}

/// How far a run is, between two iterations.
pub struct Now<'a> {
    /// Iterations that are done.
    pub iteration: u64,
    /// Completions that were sampled, those that were not trained on included.
    pub sampled: u64,
    /// The policy.
    pub policy: &'a Model,
    /// The metrics of the last iteration.
    pub report: &'a BatchReport,
}

impl Run<'_> {
    /// Trains, and returns the policy; `after` sees every iteration.
    ///
    /// # Errors
    /// A failed step, or the user stops the run.
    pub fn train(self, mut after: impl FnMut(Now<'_>) -> Result<()>) -> Result<Model> {
        let OnPolicySettings { samples, iterations, rate, ppo: config, .. } = self.settings;
        let model = Model::load(self.start, &LoadOptions::default())?;
        let sampling = SamplingConfig {
            num_completions: *samples,
            max_new_tokens: self.answer_tokens,
            seed: self.seed,
            ..SamplingConfig::default()
        };
        let references = match config.needs_reference() {
            true => References::frozen(Box::new(model.frozen_copy()?)),
            false => References::none(),
        };
        let objective = PolicyObjective::new(config, sampling.temperature, self.answer_tokens, references)?;
        let layout = objective.layout();
        let compute = Compute { threads: 1, micro_batch_tokens: MICRO_BATCH_TOKENS };
        let mut policy =
            Engine::new(CausalLm::replicate(&model)?, Box::new(objective), &constant(*rate), compute)?;
        let mut critic = config.advantage.uses_critic().then(|| self.critic(compute)).transpose()?;
        let mut generator = auto_generator(&model, self.stop_tokens)?.with_threads(1);
        let parts = Parts {
            source: self.source,
            generator: Sampler::InTurn(&mut generator),
            scorer: self.scorer,
            policy: &mut policy,
            layout,
            critic: critic.as_mut().map(|critic| critic as &mut dyn Learn),
            reference_generator: None,
            ptx: self.ptx.map(|rows| rows as &mut dyn PromptSource),
            eval: Vec::new(),
            observer: None,
            figures: Vec::new(),
        };
        let settings = Settings { config: config.clone(), sampling, seed: self.seed, learning_rate: *rate };
        let mut ppo = Ppo::new(settings, parts)?;
        for step in 1..=*iterations {
            self.progress.share((step - 1) as f64 / *iterations as f64);
            let at = StepAt { step, total: *iterations, schedule: 1.0, stop: self.progress.stop_flag() };
            match ppo.step(&at).map_err(|error| Error::Step(error.source))? {
                Stepped::Stopped => return Err(Error::Interrupted),
                Stepped::Done(report) => {
                    let sampled = ppo.sampled();
                    after(Now { iteration: step, sampled, policy: &model, report: &report })?;
                }
            }
        }
        drop(ppo);
        drop(generator);
        Ok(model)
    }

    fn critic(&self, compute: Compute) -> Result<Engine<dyn ValueModel>> {
        let config = &self.settings.ppo;
        let options = LoadOptions::default();
        let network: Box<dyn ValueModel> = Box::new(match self.critic {
            Some(folder) => ValueNetwork::from_classifier(folder, &options)?,
            None => ValueNetwork::on_folder(self.start, self.seed, &options)?,
        });
        let objective = Box::new(CriticObjective::new(config)?);
        Ok(Engine::over(network, objective, &constant(config.critic_learning_rate), compute)?)
    }
}

fn constant(learning_rate: f64) -> OptimizerConfig {
    OptimizerConfig { learning_rate, lr_scheduler: Schedule::Constant, ..OptimizerConfig::default() }
}
