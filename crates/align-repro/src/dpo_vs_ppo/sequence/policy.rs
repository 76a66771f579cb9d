//! The policy: a small GPT-2 that is made, fine-tuned on demonstrations, sampled and measured.

use std::path::Path;

use align_core::{
    CausalLm,
    align_types::{
        Completion, Generator, PromptGroup, TokenId,
        config::{OptimizerConfig, SamplingConfig, Schedule},
    },
    threads::prepare_compute_thread,
};
use align_lm::{Model, ModelConfig};
use align_losses::{Sft, SftConfig};
use align_rollout::auto_generator;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    machine::Grade,
    task::{ANSWER_TOKENS, PROMPT_TOKENS, Stream, Task},
    vocabulary::{BLANK, END, TOKENS, text},
};
use crate::{
    Error, Result,
    on_policy::study::Measured,
    progress::UnitProgress,
    style::policy::{Descent, Job, Work, divergence},
};

/// Sequences that are decoded together; it changes speed and memory, not samples.
pub(super) const SEQUENCES: usize = 128;

/// What a sampling seed is for: the streams of one use are those of no other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Use {
    /// Points of a curve and the choice of the fine-tuned policy.
    Validation = 1,
    /// What is reported.
    Test = 2,
    /// Answers that are learned from.
    Learning = 3,
}

impl Use {
    /// Makes the seed of a run's samples of this use.
    pub fn seed(self, seed: u64) -> u64 {
        seed ^ ((self as u64) << 32)
    }
}

/// Size and fine-tuning of the policy, which are the same for all arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySettings {
    /// Width; the feed-forward layers are four times as wide.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Demonstrations.
    pub demonstrations: usize,
    /// Demonstrations per step.
    pub batch: usize,
    /// Numbers of steps, tried in this order until one leads into the window.
    pub steps: Vec<u64>,
    /// Where the share of validation prompts must lie that the policy solves greedily; the nearest is taken where no
    /// number of steps leads there.
    pub window: (f64, f64),
    /// Learning rate.
    pub rate: f64,
    /// Decay of AdamW's moments.
    pub betas: (f64, f64),
    /// Weight decay.
    pub weight_decay: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// The last learning rate as a share of the first; the rate falls linearly.
    pub last_rate: f64,
}

impl PolicySettings {
    fn model(&self) -> Result<ModelConfig> {
        let keys = [
            ("model_type", json!("gpt2")),
            ("vocab_size", json!(TOKENS)),
            ("n_embd", json!(self.hidden)),
            ("n_layer", json!(self.layers)),
            ("n_head", json!(self.heads)),
            ("n_positions", json!(PROMPT_TOKENS + ANSWER_TOKENS)),
            ("activation_function", json!("gelu_new")),
            ("initializer_range", json!(0.02)),
            ("tie_word_embeddings", json!(false)),
            ("eos_token_id", json!(END)),
            ("pad_token_id", json!(BLANK)),
        ];
        let raw: Map<String, Value> = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(ModelConfig::from_json(raw, Path::new("the model's configuration"))?)
    }

    fn descent(&self, steps: u64) -> Descent {
        let optimizer = OptimizerConfig {
            learning_rate: self.rate,
            lr_scheduler: Schedule::Linear,
            warmup_steps: self.warmup,
            weight_decay: self.weight_decay,
            adam_beta1: self.betas.0,
            adam_beta2: self.betas.1,
            ..OptimizerConfig::default()
        };
        // A fall to 0 that has come to `last_rate` after the last step.
        let fall = steps.saturating_sub(self.warmup) as f64 / (1.0 - self.last_rate).max(f64::MIN_POSITIVE);
        Descent { optimizer, horizon: self.warmup + fall.round() as u64 }
    }

    /// Fine-tunes a new policy with this number of steps.
    fn attempt(
        &self,
        steps: u64,
        task: &Task,
        rows: &[PromptGroup],
        (seed, progress): (u64, &UnitProgress<'_>),
    ) -> Result<FineTuned> {
        let model = Model::init(&self.model()?, seed)?;
        let job = Job {
            objective: Box::new(Sft::new(SftConfig::default())),
            rows: rows.to_vec(),
            batch: self.batch,
            steps,
            descent: self.descent(steps),
            seed,
        };
        let work = job.run(CausalLm::replicate(&model)?, progress, |_| Ok(()))?;
        let validation = greedy(&model, task, &task.validation)?;
        Ok(FineTuned { model, steps, validation, work })
    }

    /// Says whether a share lies nearer to the window than the best so far; of two that are as near the earlier one stays.
    fn is_better(&self, share: f64, best: f64) -> bool {
        self.distance(share) < self.distance(best)
    }

    /// Says how far a share lies outside the window.
    fn distance(&self, share: f64) -> f64 {
        (self.window.0 - share).max(share - self.window.1).max(0.0)
    }
}

/// A fine-tuned policy.
#[derive(Debug)]
pub struct FineTuned {
    /// The policy.
    pub model: Model,
    /// The number of steps that was chosen.
    pub steps: u64,
    /// The share of validation prompts that it solves greedily.
    pub validation: f64,
    /// What training it took.
    pub work: Work,
}

/// Makes the policy and fine-tunes it on demonstrations, with the first number of steps that leads into the window.
///
/// Every number of steps is a run of its own from the same initial weights over the same demonstrations.
///
/// # Errors
/// No number of steps, a failed step, or the user stops the run.
pub fn fine_tune(
    settings: &PolicySettings,
    task: &Task,
    seed: u64,
    progress: &UnitProgress<'_>,
) -> Result<FineTuned> {
    let mut random = Stream::Demonstrations.random(seed, 0);
    let demonstration = |_| {
        let tree = task.draw(&mut random);
        PromptGroup::new(tree.prompt(), vec![Completion::new(tree.demonstration(&mut random))])
    };
    let rows: Vec<PromptGroup> = (0..settings.demonstrations).map(demonstration).collect();
    let attempt = |steps| settings.attempt(steps, task, &rows, (seed, progress));
    let (first, rest) = settings
        .steps
        .split_first()
        .ok_or_else(|| Error::input("steps of fine-tuning", "the plan gives none"))?;
    let mut best = attempt(*first)?;
    if settings.distance(best.validation) == 0.0 {
        return Ok(best);
    }
    // Everything waits for the policy and the first number often leads there, so only the others are tried at once.
    let others = std::thread::scope(|scope| {
        let tried = rest.iter().map(|steps| {
            scope.spawn(|| {
                prepare_compute_thread();
                attempt(*steps)
            })
        });
        let tried: Vec<_> = tried.collect();
        tried.into_iter().map(|other| other.join().map_err(|_| Error::Worker)?).collect::<Result<Vec<_>>>()
    })?;
    for other in others {
        if settings.distance(best.validation) > 0.0 && settings.is_better(other.validation, best.validation) {
            best = other;
        }
    }
    Ok(best)
}

/// Samples answers: one group per prompt; `step` separates the calls of one seed.
///
/// # Errors
/// A failure of the sampling engine.
pub(super) fn sample(
    model: &Model,
    prompts: &[Vec<TokenId>],
    config: &SamplingConfig,
    step: u64,
) -> Result<Vec<PromptGroup>> {
    let mut generator = auto_generator(model, vec![END])?.with_threads(1).with_slots(SEQUENCES);
    Ok(generator.generate(prompts, config, step)?)
}

/// Settings of sampling `count` answers at temperature 1.
pub(super) fn at_random(count: usize, seed: u64) -> SamplingConfig {
    SamplingConfig {
        num_completions: count,
        max_new_tokens: ANSWER_TOKENS,
        seed,
        ..SamplingConfig::default()
    }
}

fn grades(task: &Task, groups: &[PromptGroup]) -> Vec<Vec<Grade>> {
    let grade = |group: &PromptGroup| {
        group.completions.iter().map(|answer| task.grade(&group.prompt, &answer.token_ids)).collect()
    };
    groups.iter().map(grade).collect()
}

fn share(part: usize, of: usize) -> f64 {
    part as f64 / of.max(1) as f64
}

fn passed(grades: &[Grade]) -> usize {
    grades.iter().filter(|grade| **grade == Grade::Pass).count()
}

/// Computes the share of prompts that the policy solves with its most likely tokens.
pub(super) fn greedy(model: &Model, task: &Task, prompts: &[Vec<TokenId>]) -> Result<f64> {
    let config = SamplingConfig { greedy: true, ..at_random(1, 0) };
    let grades = grades(task, &sample(model, prompts, &config, 0)?);
    Ok(share(grades.iter().map(|one| passed(one)).sum(), prompts.len()))
}

/// Computes the share of passing answers at temperature 1, one to each prompt.
pub(super) fn sampled(model: &Model, task: &Task, prompts: &[Vec<TokenId>], seed: u64) -> Result<f64> {
    let grades = grades(task, &sample(model, prompts, &at_random(1, seed), 0)?);
    Ok(share(grades.iter().map(|one| passed(one)).sum(), prompts.len()))
}

/// Reads a policy on prompts: greedy pass@1, at temperature 1 the mean pass@1 and whether any of `count` answers passes,
/// KL to the reference in nats per answer (the sum over positions of the KL of the whole next-token distributions), mean
/// of −log π of the sampled tokens in nats, and the shares of answers that fail for each reason.
///
/// # Errors
/// [`crate::Error::NonFinite`] for a policy that has diverged.
pub fn measure(
    model: &Model,
    reference: &Model,
    (task, prompts): (&Task, &[Vec<TokenId>]),
    count: usize,
    seed: u64,
) -> Result<Measured> {
    let groups = sample(model, prompts, &at_random(count, seed), 0)?;
    let grades = grades(task, &groups);
    let answers = grades.iter().map(Vec::len).sum::<usize>();
    let any = grades.iter().filter(|group| passed(group) > 0).count();
    let tokens: Vec<f32> = groups
        .iter()
        .flat_map(|group| {
            group.completions.iter().flat_map(|answer| answer.logprobs.iter().flatten().copied())
        })
        .collect();
    let surprise: f64 = tokens.iter().map(|log_prob| -f64::from(*log_prob)).sum();
    let kl = divergence(model, reference, &groups)?;
    let mut measured = Measured::default().with([
        ("greedy", greedy(model, task, prompts)?),
        ("sampled", share(grades.iter().map(|group| passed(group)).sum(), answers)),
        ("pass_at_n", share(any, prompts.len())),
        ("kl", kl / answers.max(1) as f64),
        ("entropy", surprise / tokens.len().max(1) as f64),
    ]);
    measured.sample = groups.first().and_then(|group| {
        let answer = group.completions.first()?;
        Some((text(&group.prompt), text(&answer.token_ids)))
    });
    let why = |(grade, name): (Grade, &'static str)| {
        let count = grades.iter().flatten().filter(|given| **given == grade).count();
        (grade != Grade::Pass).then(|| (name, share(count, answers)))
    };
    Ok(measured.with(Grade::ALL.into_iter().filter_map(why)))
}

#[cfg(test)]
mod tests {
    use align_train::learning_rate;

    use super::*;

    fn settings() -> PolicySettings {
        PolicySettings {
            hidden: 16,
            layers: 1,
            heads: 2,
            demonstrations: 1,
            batch: 1,
            steps: vec![1],
            window: (0.2, 0.4),
            rate: 1e-3,
            betas: (0.9, 0.98),
            weight_decay: 0.01,
            warmup: 50,
            last_rate: 0.05,
        }
    }

    #[test]
    fn the_rate_rises_and_falls_to_a_twentieth() {
        let descent = settings().descent(220);
        let rate = |step| learning_rate(&descent.optimizer, step, descent.horizon);
        assert_eq!((rate(1), rate(50)), (2e-5, 1e-3));
        // Half of the way from step 50 to 220, and its end; the horizon is a whole number of steps.
        assert!((rate(135) / 1e-3 - 0.525).abs() < 1e-3, "{}", rate(135));
        assert!((rate(220) / 1e-3 - 0.05).abs() < 1e-3, "{}", rate(220));
    }

    #[test]
    fn shares_outside_the_window_are_as_far_as_its_nearer_edge() {
        for (share, distance) in [(0.1, 0.1), (0.2, 0.0), (0.3, 0.0), (0.4, 0.0), (0.55, 0.15)] {
            assert!((settings().distance(share) - distance).abs() < 1e-12, "{share}");
        }
    }

    #[test]
    fn the_nearest_share_wins_and_the_first_of_two_that_are_as_near() {
        let chosen = |shares: &[f64]| {
            let better = |best, share: &f64| if settings().is_better(*share, best) { *share } else { best };
            shares.iter().fold(f64::INFINITY, better)
        };
        for (shares, expected) in [
            ([0.05, 0.15, 0.1], 0.15),
            ([0.5, 0.45, 0.55], 0.45),
            ([0.1, 0.3, 0.35], 0.3),
            ([0.3, 0.25, 0.35], 0.3),
        ] {
            assert_eq!(chosen(&shares), expected);
        }
    }

    /// Embeddings of 18 tokens and 27 places; a block of two norms, four matrices and their biases; a norm; 18 outputs.
    #[test]
    fn the_policy_has_the_size_of_the_plan() {
        let size = PolicySettings { hidden: 128, layers: 2, heads: 4, ..settings() };
        let model = Model::init(&size.model().unwrap(), 0).unwrap();
        let parameters: usize = CausalLm::parameters(&model).iter().map(|one| one.tensor.numel()).sum();
        let block = 4 * 128 + (128 * 384 + 384) + (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128);
        assert_eq!(parameters, (18 + 27) * 128 + 2 * block + 2 * 128 + 18 * 128);
    }
}
