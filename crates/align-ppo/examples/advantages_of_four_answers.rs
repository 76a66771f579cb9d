//! `cargo run --release -p align-ppo --example advantages_of_four_answers` prints what each choice of `--advantage` makes
//! of four answers to one prompt with rewards 1, 0, 0 and 0.5; the reward abstains from a fifth, which changes nothing.

use align_core::align_types::{Completion, FinishReason, PromptGroup};
use align_ppo::{
    AdvantageKind, PpoConfig, ShapingInputs, begin_trajectories, estimate_advantages, shape_rewards,
};

fn answer(tokens: &[u32], reward: Option<f64>) -> Completion {
    Completion { reward, finish_reason: Some(FinishReason::Stop), ..Completion::new(tokens.to_vec()) }
}

fn main() -> Result<(), align_ppo::Error> {
    let rewards = [Some(1.0), Some(0.0), None, Some(0.0), Some(0.5)];
    let answers = rewards.map(|reward| answer(&[7, 2], reward)).to_vec();
    let mut groups = [PromptGroup::new(vec![1, 5], answers)];
    begin_trajectories(&mut groups);
    for completion in &mut groups[0].completions {
        if let Some(trajectory) = &mut completion.trajectory {
            // What a critic would say of the two states of each answer.
            trajectory.values = vec![0.4, 0.3];
        }
    }
    println!("{:<12}advantage of the first token; - where the reward abstained", "--advantage");
    for kind in AdvantageKind::ALL.into_iter().filter(|kind| *kind != AdvantageKind::OnlineDpo) {
        let config = PpoConfig { whiten_advantages: false, ..PpoConfig::for_advantage(kind) };
        // Without a KL divergence in the reward: there is no model here to measure it.
        shape_rewards(&mut groups, &config, ShapingInputs::default())?;
        estimate_advantages(&mut groups, &config, None)?;
        let first = |completion: &Completion| {
            let advantages = completion.trajectory.as_ref().and_then(|t| t.advantages.first().copied());
            advantages.map_or_else(|| format!("{:>8}", "-"), |advantage| format!("{advantage:>8.3}"))
        };
        println!("{:<12}{}", kind.name(), groups[0].completions.iter().map(first).collect::<String>());
    }
    Ok(())
}
