//! The phases of an iteration one by one, with a model, a sampler, a reward and an optimiser that are not ours: a table of
//! three logits, answers of one token, plain gradient ascent.
//!
//! `cargo run --release -p align-ppo --example phases_by_hand`
//!
//! Prints the probabilities of the three tokens, which start equal and end near those of the optimum under a KL
//! divergence, proportional to exp(reward / β): 0.09, 0.24, 0.67.

use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream, Trajectory};
use align_core::tch::{Kind, Tensor};
use align_core::{BoxError, no_grad};
use align_ppo::{
    AdvantageKind, PolicyInputs, PolicyLoss, PpoConfig, ShapingInputs, estimate_advantages, policy_loss,
    shape_rewards,
};

const BETA: f64 = 0.5;
const REWARDS: [f64; 3] = [0.0, 0.5, 1.0];

/// Draws `count` answers to one prompt and scores them.
fn sample(log_probs: &[f32], reference: &[f32], count: usize, step: u64) -> PromptGroup {
    let mut random = RngStream::new(0, Purpose::Sampling, step, 0);
    let answer = |_| {
        let mut left = random.uniform() as f32;
        let drawn = log_probs.iter().position(|lp| {
            left -= lp.exp();
            left < 0.0
        });
        let token = drawn.unwrap_or(log_probs.len() - 1);
        let trajectory = Trajectory {
            old: vec![log_probs[token]],
            reference: vec![reference[token]],
            ..Trajectory::default()
        };
        Completion {
            reward: Some(REWARDS[token]),
            trajectory: Some(Box::new(trajectory)),
            ..Completion::new(vec![token as u32])
        }
    };
    PromptGroup::new(vec![0], (0..count).map(answer).collect())
}

fn main() -> Result<(), BoxError> {
    let config = PpoConfig { kl_coef: BETA, ..PpoConfig::for_advantage(AdvantageKind::Rloo) };
    let mut logits = Tensor::from_slice(&[0.0f32; 3]).set_requires_grad(true);
    let reference = Vec::<f32>::try_from(logits.detach().log_softmax(0, Kind::Float))?;
    for step in 0..300 {
        let log_probs = logits.log_softmax(0, Kind::Float);
        let mut groups = [sample(&Vec::<f32>::try_from(log_probs.detach())?, &reference, 64, step)];
        shape_rewards(&mut groups, &config, ShapingInputs { kl_coef: BETA, ..ShapingInputs::default() })?;
        estimate_advantages(&mut groups, &config, None)?;

        let answers = &groups[0].completions;
        let tokens: Vec<i64> = answers.iter().map(|answer| i64::from(answer.token_ids[0])).collect();
        let of = |read: fn(&Trajectory) -> f64| -> Tensor {
            let known = answers.iter().filter_map(|answer| answer.trajectory.as_deref()).map(read);
            Tensor::from_slice(&known.collect::<Vec<f64>>())
        };
        let inputs = PolicyInputs {
            log_probs: &log_probs.index_select(0, &Tensor::from_slice(&tokens)),
            old: &of(|trajectory| f64::from(trajectory.old[0])),
            advantages: &of(|trajectory| trajectory.advantages[0]),
            reference: None,
            entropy: None,
            lens: &vec![1; answers.len()],
        };
        let loss = policy_loss(&inputs, &PolicyLoss::of(&config, 1))?.mean()?;
        logits.zero_grad();
        loss.backward();
        let _guard = no_grad();
        logits -= logits.grad() * 0.5;
    }
    let probabilities = Vec::<f32>::try_from(logits.detach().softmax(0, Kind::Float))?;
    println!("{probabilities:.2?}");
    Ok(())
}
