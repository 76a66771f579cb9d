//! Trains a small Llama with PPO and a critic of its own to answer with even tokens.
//!
//! `cargo run --release -p align-ppo --example train_a_llama [-- ITERATIONS PROMPTS TOKENS [THREADS [HIDDEN LAYERS VOCAB]]]`
//!
//! Prints the share of even tokens, the KL divergence per answer and the seconds of each iteration; the share rises from
//! a half. At the end the seconds of each phase. `-- 3 64 48 2 256 6 4096` is an iteration of 64 prompts and 48 tokens
//! of 5M parameters.

use std::{sync::atomic::AtomicBool, time::Instant};

use align_core::align_types::{
    self, Completion, PromptGroup, PromptSource, Purpose, RngStream,
    config::{OptimizerConfig, SamplingConfig, Schedule},
};
use align_core::{BoxError, StepAt, Stepped, Steps};
use align_lm::{LlamaConfig, LoadOptions, Model, ModelConfig, SaveDtype, ValueNetwork};
use align_ppo::{
    CriticObjective, Parts, PolicyObjective, Ppo, PpoConfig, References, Sampler, Scorer, Settings, Truncated,
};
use align_rollout::auto_generator;
use align_train::{Compute, Engine};

/// Random prompts of eight tokens; a pure function of the step.
struct Prompts {
    number: usize,
    vocabulary: usize,
}

impl PromptSource for Prompts {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        let mut random = RngStream::new(0, Purpose::Synthetic, step, 0);
        let mut prompt = || (0..8).map(|_| random.below(self.vocabulary) as u32).collect();
        Ok((0..self.number).map(|_| PromptGroup::new(prompt(), Vec::new())).collect())
    }

    fn steps(&self) -> Option<u64> {
        None
    }
}

/// The share of even tokens. A seam like any other: nothing here is a text.
struct Even;

impl Scorer for Even {
    fn score(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<Option<f64>>>, BoxError> {
        let share = |answer: &Completion| {
            let even = answer.token_ids.iter().filter(|token| token.is_multiple_of(2)).count();
            Some(even as f64 / answer.token_ids.len() as f64)
        };
        Ok(groups.iter().map(|group| group.completions.iter().map(share).collect()).collect())
    }
}

fn main() -> Result<(), BoxError> {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|text| text.parse()).collect::<Result<_, _>>()?;
    let number = |index: usize, default: usize| numbers.get(index).copied().unwrap_or(default);
    let (iterations, prompts, tokens, threads) = (number(0, 20), number(1, 32), number(2, 8), number(3, 2));
    let (hidden, layers, vocabulary) = (number(4, 64), number(5, 2), number(6, 128));
    let config = LlamaConfig {
        vocab_size: vocabulary,
        hidden_size: hidden,
        intermediate_size: hidden * 8 / 3,
        num_hidden_layers: layers,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: hidden / 4,
        ..LlamaConfig::default()
    };
    let policy = Model::init(&ModelConfig::llama(config)?, 0)?;
    let reference = policy.frozen_copy()?;
    let folder = tempfile::tempdir()?;
    policy.save(folder.path(), SaveDtype::F32)?;
    let critic = ValueNetwork::on_folder(folder.path(), 0, &LoadOptions::default())?;

    let config =
        PpoConfig { truncated: Truncated::Score, critic_learning_rate: 1e-2, ..PpoConfig::default() };
    let sampling = SamplingConfig { max_new_tokens: tokens, ..SamplingConfig::default() };
    let settings = Settings { config, sampling, seed: 0, learning_rate: 1e-2 };
    let compute = Compute { threads, micro_batch_tokens: 1024 };
    let optimizer = |learning_rate| OptimizerConfig {
        learning_rate,
        lr_scheduler: Schedule::Constant,
        ..OptimizerConfig::default()
    };
    let objective =
        PolicyObjective::new(&settings.config, 1.0, tokens, References::frozen(Box::new(reference)))?;
    let layout = objective.layout();
    let rate = settings.learning_rate;
    let mut learner =
        Engine::new(Box::new(policy.replica()?), Box::new(objective), &optimizer(rate), compute)?;
    let objective = Box::new(CriticObjective::new(&settings.config)?);
    let rate = settings.config.critic_learning_rate;
    let mut critic = Engine::over(Box::new(critic) as _, objective, &optimizer(rate), compute)?;
    let mut generator = auto_generator(&policy, vec![0])?.with_threads(threads);
    let mut source = Prompts { number: prompts, vocabulary };
    let mut scorer = Even;
    let mut ppo = Ppo::new(
        settings,
        Parts {
            source: &mut source,
            generator: Sampler::InTurn(&mut generator),
            scorer: &mut scorer,
            policy: &mut learner,
            layout,
            critic: Some(&mut critic),
            reference_generator: None,
            ptx: None,
            eval: Vec::new(),
            observer: None,
            figures: Vec::new(),
        },
    )?;
    let stop = AtomicBool::new(false);
    for step in 1..=iterations as u64 {
        let began = Instant::now();
        let at = StepAt { step, total: iterations as u64, schedule: 1.0, stop: &stop };
        let Stepped::Done(report) = ppo.step(&at).map_err(|error| error.source)? else { break };
        let metric = |name| report.metric(name).unwrap_or(f64::NAN);
        let (score, kl) = (metric("objective/scores"), metric("objective/kl"));
        println!("{step:3}  even {score:.3}  KL {kl:.3}  {:.2} s", began.elapsed().as_secs_f64());
    }
    for (phase, seconds) in ppo.phases() {
        println!("{phase:>12} {seconds:.2} s");
    }
    Ok(())
}
