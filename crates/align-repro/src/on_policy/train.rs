//! A run of the iteration of `align-ppo` on a small model, on one thread.

use std::path::Path;

use align_core::{
    ActorCritic, BatchReport, CausalLm, Learn, Parameter, StepAt, Stepped, Steps, ValueModel,
    align_types::{
        PromptSource, TokenId,
        config::{OptimizerConfig, SamplingConfig, Schedule},
    },
    no_grad,
};
use align_lm::{LoadOptions, Model, PolicyWithValue, ValueNetwork};
use align_losses::MovingReference;
use align_ppo::{
    ActorCriticObjective, CriticKind, CriticObjective, MeasureLayout, Parts, PolicyObjective, Ppo, PpoConfig,
    References, Sampler, Scorer, Settings,
};
use align_rollout::auto_generator;
use align_train::{Compute, Engine};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, progress::UnitProgress, style::policy::MICRO_BATCH_TOKENS};

/// [`Run::slots`] of models that the engine of processors samples.
pub const SLOTS: usize = 32;

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
    /// Learning rate of the policy, constant.
    pub rate: f64,
    /// Adam of policy and critic.
    #[serde(default)]
    pub adam: AdamSettings,
    /// Whether the head of a critic that begins with the policy starts at zero, so that every first value is 0.
    #[serde(default)]
    pub zero_values: bool,
    /// Iterations between two points of the curves.
    pub every: u64,
    /// The method, with the names of its configuration.
    pub ppo: PpoConfig,
}

/// What of Adam may differ; no weight decay, no warm-up, a constant rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamSettings {
    /// Decays of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Largest global gradient norm; 0 switches clipping off.
    pub max_grad_norm: f64,
}

impl Default for AdamSettings {
    fn default() -> Self {
        let OptimizerConfig { adam_beta1, adam_beta2, adam_epsilon, max_grad_norm, .. } =
            OptimizerConfig::default();
        Self { betas: (adam_beta1, adam_beta2), epsilon: adam_epsilon, max_grad_norm }
    }
}

impl AdamSettings {
    fn at(&self, learning_rate: f64) -> OptimizerConfig {
        OptimizerConfig {
            learning_rate,
            lr_scheduler: Schedule::Constant,
            adam_beta1: self.betas.0,
            adam_beta2: self.betas.1,
            adam_epsilon: self.epsilon,
            max_grad_norm: self.max_grad_norm,
            ..OptimizerConfig::default()
        }
    }
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
    /// Sequences that are decoded together; it changes speed and memory, not samples.
    pub slots: usize,
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
    /// Whether a point of the curves is due: every so many iterations, and after the last.
    pub is_due: bool,
    /// What it took so far.
    pub cost: Cost,
    /// The policy.
    pub policy: &'a Model,
    /// The metrics of the last iteration.
    pub report: &'a BatchReport,
}

/// What a run took, the same on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Completions that were sampled, those that were not trained on included.
    pub sampled: u64,
    /// Updates of the policy.
    pub updates: u64,
    /// Flat tokens that went forward and backward, in the policy and in a critic of its own.
    pub tokens: u64,
}

/// The policy, with its critic where they share a transformer.
enum Policy {
    Alone(Model),
    WithValue(PolicyWithValue),
}

impl Policy {
    fn load(folder: &Path, settings: &OnPolicySettings, seed: u64) -> Result<Self> {
        let model = Model::load(folder, &LoadOptions::default())?;
        let config = &settings.ppo;
        if !config.advantage.uses_critic() || config.critic != CriticKind::Shared {
            return Ok(Self::Alone(model));
        }
        let pair = PolicyWithValue::new(model, seed)?;
        if settings.zero_values {
            zero_head(&ActorCritic::parameters(&pair))?;
        }
        Ok(Self::WithValue(pair))
    }

    fn model(&self) -> &Model {
        match self {
            Self::Alone(model) => model,
            Self::WithValue(pair) => pair.policy(),
        }
    }

    /// Makes what trains it, with the layout of what that measures.
    fn learner(&self, run: &Run<'_>, temperature: f64) -> Result<(Box<dyn Learn>, MeasureLayout)> {
        let (config, limit) = (&run.settings.ppo, run.answer_tokens);
        let references = references(run.start, self.model(), config)?;
        let optimizer = run.settings.adam.at(run.settings.rate);
        Ok(match self {
            Self::Alone(model) => {
                let objective = PolicyObjective::new(config, temperature, limit, references)?;
                let layout = objective.layout();
                let model = CausalLm::replicate(model)?;
                (Box::new(Engine::new(model, Box::new(objective), &optimizer, ONE_THREAD)?), layout)
            }
            Self::WithValue(pair) => {
                let objective = ActorCriticObjective::new(config, temperature, limit, references)?;
                let layout = objective.layout();
                let pair = ActorCritic::replicate(pair)?;
                (Box::new(Engine::over(pair, Box::new(objective), &optimizer, ONE_THREAD)?), layout)
            }
        })
    }
}

/// Sets the value head of a model to zero.
fn zero_head(parameters: &[Parameter]) -> Result<()> {
    let _guard = no_grad();
    for parameter in parameters.iter().filter(|parameter| parameter.name.starts_with("v_head.")) {
        let _ = parameter.tensor.shallow_clone().f_zero_()?;
    }
    Ok(())
}

/// What the policy is held to: itself at the start, frozen or following it.
fn references(start: &Path, policy: &Model, config: &PpoConfig) -> Result<References> {
    if !config.needs_reference() {
        return Ok(References::none());
    }
    let first = Box::new(policy.frozen_copy()?);
    Ok(match config.reference_sync() {
        None => References::frozen(first),
        Some(sync) => {
            let follower = Box::new(Model::load(start, &LoadOptions::default())?);
            References::moving(MovingReference::new(follower, sync, &policy.parameters())?, first)
        }
    })
}

const ONE_THREAD: Compute = Compute { threads: 1, micro_batch_tokens: MICRO_BATCH_TOKENS };

impl Run<'_> {
    /// Trains, and returns the policy with what it took; `after` sees every iteration.
    ///
    /// # Errors
    /// A failed step, or the user stops the run.
    pub fn train(self, mut after: impl FnMut(Now<'_>) -> Result<()>) -> Result<(Model, Cost)> {
        let OnPolicySettings { samples, iterations, rate, every, ppo: config, .. } = self.settings;
        let sampling = SamplingConfig {
            num_completions: *samples,
            max_new_tokens: self.answer_tokens,
            seed: self.seed,
            ..SamplingConfig::default()
        };
        let policy = Policy::load(self.start, self.settings, self.seed)?;
        let (mut learner, layout) = policy.learner(&self, sampling.temperature)?;
        let separate = config.advantage.uses_critic() && config.critic == CriticKind::Separate;
        let mut critic = separate.then(|| self.critic()).transpose()?;
        let mut generator =
            auto_generator(policy.model(), self.stop_tokens)?.with_threads(1).with_slots(self.slots);
        let parts = Parts {
            source: self.source,
            generator: Sampler::InTurn(&mut generator),
            scorer: self.scorer,
            policy: learner.as_mut(),
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
        let mut cost = Cost::default();
        for step in 1..=*iterations {
            self.progress.share((step - 1) as f64 / *iterations as f64);
            let at = StepAt { step, total: *iterations, schedule: 1.0, stop: self.progress.stop_flag() };
            match ppo.step(&at).map_err(|error| Error::Step(error.source))? {
                Stepped::Stopped => return Err(Error::Interrupted),
                Stepped::Done(report) => {
                    cost.sampled = ppo.sampled();
                    cost.updates += updates(config, &report);
                    cost.tokens += report.tokens as u64;
                    let is_due = step.is_multiple_of((*every).max(1)) || step == *iterations;
                    after(Now { iteration: step, is_due, cost, policy: policy.model(), report: &report })?;
                }
            }
        }
        drop(ppo);
        drop(generator);
        drop(learner);
        let model = match policy {
            Policy::Alone(model) => model,
            Policy::WithValue(pair) => pair.policy().replica()?,
        };
        Ok((model, cost))
    }

    fn critic(&self) -> Result<Engine<dyn ValueModel>> {
        let config = &self.settings.ppo;
        let options = LoadOptions::default();
        let network: Box<dyn ValueModel> = Box::new(match self.critic {
            Some(folder) => ValueNetwork::from_classifier(folder, &options)?,
            None => ValueNetwork::on_folder(self.start, self.seed, &options)?,
        });
        if self.settings.zero_values && self.critic.is_none() {
            zero_head(&network.parameters())?;
        }
        let objective = Box::new(CriticObjective::new(config)?);
        let optimizer = self.settings.adam.at(config.critic_learning_rate);
        Ok(Engine::over(network, objective, &optimizer, ONE_THREAD)?)
    }
}

/// Counts the updates of an iteration whose bound on the divergence was not crossed: all minibatches but those left out.
fn updates(config: &PpoConfig, report: &BatchReport) -> u64 {
    let left_out: f64 = ["val/skipped_minibatches", "val/empty_minibatches"]
        .iter()
        .filter_map(|name| report.metric(name))
        .sum();
    ((config.num_ppo_epochs * config.num_mini_batches) as u64).saturating_sub(left_out as u64)
}

#[cfg(test)]
mod tests {
    use align_core::PackedBatch;
    use align_core::align_types::{Completion, PromptGroup};
    use align_lm::{LlamaConfig, ModelConfig};

    use super::*;

    #[test]
    fn a_head_of_zero_gives_values_of_zero() {
        let config =
            LlamaConfig { vocab_size: 8, hidden_size: 8, intermediate_size: 8, ..LlamaConfig::default() };
        let config =
            LlamaConfig { num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2, ..config };
        let config = LlamaConfig { head_dim: 4, max_position_embeddings: 8, ..config };
        let model = Model::init(&ModelConfig::llama(config).unwrap(), 1).unwrap();
        let pair = PolicyWithValue::new(model, 1).unwrap();
        let batch =
            PackedBatch::new(&[PromptGroup::new(vec![1, 2], vec![Completion::new(vec![3, 4])])]).unwrap();
        let largest = |pair: &PolicyWithValue| {
            let values = ActorCritic::logits_and_values(pair, &batch).unwrap().1;
            values.to_vecs().unwrap().concat().iter().fold(0.0f32, |largest, value| largest.max(value.abs()))
        };
        assert!(largest(&pair) > 0.0);
        zero_head(&ActorCritic::parameters(&pair)).unwrap();
        assert_eq!(largest(&pair), 0.0);
    }
}
