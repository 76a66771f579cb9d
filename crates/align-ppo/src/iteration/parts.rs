use align_core::{
    BoxError, Error, Learn,
    align_types::{Generator, PromptGroup, PromptSource, config::SamplingConfig},
};

use crate::{AdvantageKind, CriticKind, MeasureLayout, PpoConfig, RewardBaseline, Scorer};

/// What an iteration is made of. Everything is a seam: put an own generator, reward or model in place of ours.
pub struct Parts<'a> {
    /// The prompts of each iteration, without completions.
    pub source: &'a mut dyn PromptSource,
    /// Samples from the policy; it is [refreshed](Generator::refresh) after the updates of each iteration.
    pub generator: Sampler<'a>,
    /// Scores samples.
    pub scorer: &'a mut dyn Scorer,
    /// Policy, objective and optimiser: a [`PolicyObjective`](crate::PolicyObjective), an
    /// [`ActorCriticObjective`](crate::ActorCriticObjective) where the critic shares its transformer, or an
    /// [`OnlineDpoObjective`](crate::OnlineDpoObjective).
    pub policy: &'a mut dyn Learn,
    /// What the objective of the policy measures (`layout()` of the objective).
    pub layout: MeasureLayout,
    /// A critic of its own, with its [`CriticObjective`](crate::CriticObjective) and optimiser; it must plan batches as
    /// the policy does, with the same number of workers.
    pub critic: Option<&'a mut dyn Learn>,
    /// Samples the reference's own answers, where rewards are differences to theirs.
    pub reference_generator: Option<&'a mut dyn Generator>,
    /// Rows of language modelling for PPO-ptx: one batch per iteration, shared out among its minibatches.
    pub ptx: Option<&'a mut dyn PromptSource>,
    /// Held-out prompts, without completions.
    pub eval: Vec<PromptGroup>,
    /// Sees the scored samples of each iteration.
    pub observer: Option<Box<Observer<'a>>>,
    /// Further figures of an evaluation, such as a held-out loss on earlier data. Without held-out prompts the first of
    /// them stands for the loss.
    pub figures: Vec<Figure<'a>>,
}

impl Parts<'_> {
    /// Checks that what the configuration needs is there, and nothing that it does not read.
    pub(super) fn check(&self, config: &PpoConfig) -> Result<(), Error> {
        let wrong = |what: &str, why: &str| Err(Error::input(what, why));
        let separate = config.advantage.uses_critic() && config.critic == CriticKind::Separate;
        let shared = config.advantage.uses_critic() && !separate;
        match (separate, self.critic.is_some()) {
            (true, false) => return wrong("critic", "these advantages need one of its own"),
            (false, true) => return wrong("critic", "nothing reads one of its own here"),
            _ => {}
        }
        if self.layout.values != shared {
            return wrong(
                "policy",
                "a critic on its transformer goes with critic = shared, and only with it",
            );
        }
        let relative = config.reward_baseline == RewardBaseline::Reference;
        if relative != self.reference_generator.is_some() {
            return wrong(
                "reference generator",
                "it goes with reward_baseline = reference, and only with it",
            );
        }
        if (config.ptx_coef > 0.0) != self.ptx.is_some() {
            return wrong("rows of language modelling", "they go with ptx_coef > 0, and only with it");
        }
        if matches!(self.generator, Sampler::OneStepOff(_)) && config.advantage == AdvantageKind::OnlineDpo {
            return wrong("generator", "online-dpo has no advantages to weight: sample in turn");
        }
        Ok(())
    }
}

/// Who samples, and when.
pub enum Sampler<'a> {
    /// Each iteration samples, then trains on its samples.
    InTurn(&'a mut dyn Generator),
    /// While an iteration trains, a thread samples for the next one, from the weights before these updates: the samples
    /// are one iteration old when they are trained on, and each token's advantage is weighted by the ratio between the
    /// policy and the one that sampled it.
    OneStepOff(&'a mut (dyn Generator + Send)),
}

/// Sees the scored samples of an iteration (from 1).
pub type Observer<'a> = dyn FnMut(u64, &[&PromptGroup]) -> Result<(), BoxError> + 'a;

/// A further figure of an evaluation. Its name is known before it is measured, which may take long.
pub struct Figure<'a> {
    /// The name, without `eval/`.
    pub name: String,
    /// Measures the policy as it is.
    pub measure: Box<dyn FnMut() -> Result<f64, BoxError> + 'a>,
}

/// How iterations are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The method.
    pub config: PpoConfig,
    /// How completions are sampled.
    pub sampling: SamplingConfig,
    /// Seed of every random stream.
    pub seed: u64,
    /// Peak learning rate of the policy.
    pub learning_rate: f64,
}
