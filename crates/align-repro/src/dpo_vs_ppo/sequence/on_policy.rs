//! Arms that train on their own samples with the iteration of `align-ppo`.

use align_core::{BoxError, align_types::PromptGroup};
use align_lm::Model;
use align_ppo::{PpoConfig, Scorer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    arms::{MODEL, START, SequenceSize},
    curves::{Curves, POINTS},
    feedback::reward,
    policy::SEQUENCES,
    task::{ANSWER_TOKENS, FreshPrompts, Task},
    vocabulary::END,
};
use crate::{
    Error, Result,
    on_policy::{
        study::{Place, Tamper},
        train::{AdamSettings, Cost, OnPolicySettings, Run},
    },
};

/// What all arms share that train on their own samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Prompts of an iteration.
    pub prompts: usize,
    /// Answers to each.
    pub samples: usize,
    /// Learning rate of the policy, constant.
    pub rate: f64,
    /// Adam of policy and critic.
    pub adam: AdamSettings,
    /// Whether the value head starts at zero.
    pub zero_values: bool,
    /// The method, with the names of its configuration.
    pub ppo: Map<String, Value>,
}

/// What one of these arms has in place of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// See [`Shared::prompts`].
    pub prompts: Option<usize>,
    /// See [`Shared::samples`].
    pub samples: Option<usize>,
    /// See [`Shared::rate`].
    pub rate: Option<f64>,
    /// Reward of an answer that passes; 1 without.
    pub reward: Option<f64>,
    /// Whether rewards are drawn by lot.
    pub random: bool,
    /// Keys of the configuration.
    pub ppo: Map<String, Value>,
}

impl Change {
    /// Puts the settings of an arm together; iterations are as many as the budget of answers allows.
    ///
    /// # Errors
    /// A configuration that the method refuses; iterations that do not divide the budget.
    pub fn settings(&self, size: &SequenceSize) -> Result<OnPolicySettings> {
        let shared = &size.on_policy;
        let mut keys = shared.ppo.clone();
        keys.extend(self.ppo.clone());
        let ppo: PpoConfig =
            serde_json::from_value(Value::Object(keys)).map_err(|e| Error::input("settings of ppo", e))?;
        ppo.validate().map_err(|e| Error::input("settings of ppo", e))?;
        let prompts = self.prompts.unwrap_or(shared.prompts);
        let samples = self.samples.unwrap_or(shared.samples);
        let (budget, each) = (size.prompts * size.samples, prompts * samples);
        if each == 0 || !budget.is_multiple_of(each) {
            let why = format!("iterations of {each} answers do not divide the budget of {budget}");
            return Err(Error::input("prompts and samples", why));
        }
        let iterations = (budget / each) as u64;
        let every = (iterations / POINTS).max(1);
        let rate = self.rate.unwrap_or(shared.rate);
        let (adam, zero_values) = (shared.adam, shared.zero_values);
        Ok(OnPolicySettings { prompts, samples, iterations, rate, adam, zero_values, every, ppo })
    }
}

/// Rewards answers by the hidden tests, or by lot.
struct Graded<'a> {
    task: &'a Task,
    tamper: Tamper,
    seed: u64,
    /// Iterations so far.
    rounds: u64,
    /// Reward of an answer that passes.
    worth: f64,
}

impl Scorer for Graded<'_> {
    fn score(&mut self, groups: &[PromptGroup]) -> std::result::Result<Vec<Vec<Option<f64>>>, BoxError> {
        let mut groups = groups.to_vec();
        reward(self.task, &mut groups, self.tamper, (self.seed, self.rounds));
        self.rounds += 1;
        let scores = |group: PromptGroup| {
            group.completions.into_iter().map(|answer| Some(answer.reward? * self.worth)).collect()
        };
        Ok(groups.into_iter().map(scores).collect())
    }
}

/// Trains the fine-tuned policy; answers without END have the reward 0 like any other that fails.
pub(super) fn train(
    change: &Change,
    task: &Task,
    curves: &mut Curves<'_>,
    place: &Place<'_, SequenceSize>,
) -> Result<(Model, Cost)> {
    let settings = change.settings(place.size)?;
    let start = place.folder(START).join(MODEL);
    let mut source = FreshPrompts::new(task.clone(), settings.prompts, place.seed);
    let tamper = if change.random { Tamper::Random } else { place.tamper };
    let worth = change.reward.unwrap_or(1.0);
    let mut scorer = Graded { task, tamper, seed: place.seed, rounds: 0, worth };
    let run = Run {
        settings: &settings,
        start: &start,
        critic: None,
        stop_tokens: vec![END],
        answer_tokens: ANSWER_TOKENS,
        slots: SEQUENCES,
        source: &mut source,
        scorer: &mut scorer,
        ptx: None,
        seed: place.seed,
        progress: &place.context.progress,
    };
    run.train(|now| if now.is_due { curves.add(now.policy, now.cost.sampled as usize) } else { Ok(()) })
}
