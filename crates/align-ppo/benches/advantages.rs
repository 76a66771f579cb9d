//! Time of the phases over plain data for 512 prompts with 4 answers of 48 tokens each, and of the losses over their
//! tokens, forward and backward.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed bench")]

use align_core::{
    align_types::{Completion, FinishReason, PromptGroup, Trajectory},
    tch::{Device, Kind, Tensor},
};
use align_ppo::{
    AdvantageKind, PolicyInputs, PolicyLoss, PpoConfig, ShapingInputs, ValueInputs, estimate_advantages,
    policy_loss, shape_rewards, value_loss,
};
use criterion::{Criterion, criterion_group, criterion_main};

const PROMPTS: usize = 512;
const ANSWERS: usize = 4;
const TOKENS: usize = 48;

fn batch() -> Vec<PromptGroup> {
    let answer = |index: usize| {
        let trajectory = Trajectory {
            old: vec![-1.5; TOKENS],
            reference: vec![-1.25; TOKENS],
            values: vec![0.25; TOKENS],
            value_after: Some(0.5),
            ..Trajectory::default()
        };
        Completion {
            reward: Some((index % 7) as f64),
            finish_reason: Some(FinishReason::Stop),
            trajectory: Some(Box::new(trajectory)),
            ..Completion::new(vec![3; TOKENS])
        }
    };
    (0..PROMPTS)
        .map(|row| PromptGroup::new(vec![1], (0..ANSWERS).map(|k| answer(row + k)).collect()))
        .collect()
}

fn phases(c: &mut Criterion) {
    for kind in [AdvantageKind::Ppo, AdvantageKind::Rloo, AdvantageKind::Grpo] {
        let config = PpoConfig::for_advantage(kind);
        let mut groups = batch();
        c.bench_function(&format!("shape_and_estimate/{}", kind.name()), |b| {
            b.iter(|| {
                let inputs = ShapingInputs { kl_coef: config.reward_kl_coef(), ..Default::default() };
                shape_rewards(&mut groups, &config, inputs).unwrap();
                estimate_advantages(&mut groups, &config, None).unwrap()
            });
        });
    }
}

fn losses(c: &mut Criterion) {
    align_core::threads::prepare_compute_thread();
    let tokens = (PROMPTS * ANSWERS * TOKENS) as i64;
    let draw = || Tensor::randn([tokens], (Kind::Float, Device::Cpu)) * 0.1;
    let (leaf, old, advantages) = (draw().set_requires_grad(true), draw(), draw());
    let lens = vec![TOKENS; PROMPTS * ANSWERS];
    let inputs = PolicyInputs {
        log_probs: &leaf,
        old: &old,
        advantages: &advantages,
        reference: Some(&old),
        entropy: None,
        lens: &lens,
    };
    for kind in [AdvantageKind::Ppo, AdvantageKind::Grpo] {
        let loss = PolicyLoss::of(&PpoConfig::for_advantage(kind), TOKENS);
        c.bench_function(&format!("policy_loss/{}", kind.name()), |b| {
            b.iter(|| policy_loss(&inputs, &loss).unwrap().mean().unwrap().backward());
        });
    }
    let inputs = ValueInputs { values: &leaf, old: &old, returns: &advantages };
    c.bench_function("value_loss", |b| {
        b.iter(|| value_loss(&inputs, 0.2).unwrap().mean().unwrap().backward());
    });
}

criterion_group!(benches, phases, losses);
criterion_main!(benches);
