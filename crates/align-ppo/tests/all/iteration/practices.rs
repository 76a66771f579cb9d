//! Each practice changes what it says it changes.

use align_core::align_types::Completion;
use align_ppo::{AdvantageKind, PpoConfig, RewardBaseline};

use super::config;
use super::world::{ByTokens, World, mean, series, share, steps};

fn run(
    config: PpoConfig,
    samples: usize,
    count: u64,
) -> (Vec<align_core::BatchReport>, super::world::Recorded) {
    let mut world = World::new(config, samples);
    let (reports, policy, _) =
        world.run(&mut ByTokens(|answer: &Completion| Some(share(answer))), |ppo| steps(ppo, count));
    (reports, policy)
}

#[test]
fn an_iteration_ends_at_the_bound_on_its_divergence() {
    let free = PpoConfig { num_ppo_epochs: 6, ..config(AdvantageKind::Ppo) };
    let (_, policy) = run(free.clone(), 1, 2);
    assert_eq!(policy.reports.len(), 12);
    let (reports, policy) = run(PpoConfig { target_kl: Some(1e-4), ..free }, 1, 2);
    assert!(policy.reports.len() < 12, "{}", policy.reports.len());
    assert_eq!(reports[0].metric("val/stopped_early"), Some(1.0));
}

#[test]
fn a_minibatch_of_extreme_ratios_is_skipped() {
    let wild = PpoConfig {
        num_ppo_epochs: 4,
        cliprange: 0.9,
        max_ratio: Some(1.000_001),
        ..config(AdvantageKind::Ppo)
    };
    let (reports, _) = run(wild, 1, 3);
    assert!(reports.iter().any(|report| report.metric("val/skipped_minibatches") > Some(0.0)), "{reports:?}");
}

#[test]
fn the_critic_warms_up_alone() {
    let mut world = World::new(PpoConfig { critic_warmup: 2, ..config(AdvantageKind::Ppo) }, 1);
    let before = world.model.table().copy();
    let mut reward = ByTokens(|answer: &Completion| Some(share(answer)));
    let (_, policy, critic) = world.run(&mut reward, |ppo| steps(ppo, 2));
    assert_eq!(world.model.table(), &before);
    assert_eq!((policy.reports.len(), critic.unwrap().reports.len()), (0, 8));
}

#[test]
fn an_adaptive_weight_follows_the_divergence() {
    let adaptive = PpoConfig { kl_target: Some(1e-3), kl_horizon: 50.0, ..config(AdvantageKind::Ppo) };
    let (reports, _) = run(adaptive, 1, 6);
    let weights = series(&reports, "kl_coef");
    // Nothing has moved at first, so that β falls; later the divergence is far above the target.
    assert!(weights[0] == 0.05 && weights[1] < 0.05 && weights[5] > weights[2], "{weights:?}");
}

#[test]
fn a_moving_reference_is_nearer_than_the_first() {
    let (reports, _) = run(PpoConfig { ref_ema: Some(0.5), ..config(AdvantageKind::Ppo) }, 1, 12);
    let (near, far) = (series(&reports, "objective/kl"), series(&reports, "objective/kl_first_reference"));
    assert!(mean(&near[8..]) < 0.5 * mean(&far[8..]), "{near:?} {far:?}");
}

#[test]
fn the_reference_answers_beside() {
    let relative = PpoConfig { reward_baseline: RewardBaseline::Reference, ..config(AdvantageKind::Ppo) };
    let (reports, _) = run(relative, 1, 8);
    let (scores, shaped) = (series(&reports, "objective/scores"), series(&reports, "objective/rlhf_reward"));
    // The reference stays at a sixth; what is left of the reward is what the policy is ahead.
    let ahead: Vec<f64> = scores.iter().zip(&shaped).map(|(score, shaped)| score - shaped).collect();
    assert!((mean(&ahead) - 1.0 / 6.0).abs() < 0.1, "{ahead:?}");
}

/// Whitening changes the rewards that are learned from; what they are beside the score is said of them as they were.
#[test]
fn whitened_rewards_are_reported_as_they_were_before() {
    let plain = config(AdvantageKind::Ppo);
    let (reports, _) = run(PpoConfig { whiten_rewards: true, ..plain }, 1, 2);
    // Nothing has moved in the first iteration: there is no divergence, and no penalty was asked for.
    assert!(reports[0].metric("objective/non_score_reward").unwrap().abs() < 1e-6, "{:?}", reports[0]);
    let shaped = reports[0].metric("objective/rlhf_reward").unwrap();
    assert!((shaped - reports[0].metric("objective/scores").unwrap()).abs() < 1e-6, "{shaped}");
    // The returns are those of the whitened ones, whose variance is 1.
    assert!(reports[0].metric("returns/std").unwrap() > 1.0, "{:?}", reports[0]);
}

#[test]
fn groups_without_a_signal_are_replaced_and_counted() {
    // Rewards of 0 and 1: many groups of two have none to learn from.
    let mut world = World::new(config(AdvantageKind::Dapo), 2);
    let reward = |answer: &Completion| Some(f64::from(u8::from(share(answer) > 0.0)));
    let (done, policy, _) = world.run(&mut ByTokens(reward), |ppo| (steps(ppo, 3), ppo.sampled()));
    let (reports, sampled) = done;
    let discarded: f64 = reports.iter().filter_map(|report| report.metric("groups/discarded")).sum();
    assert!(discarded > 0.0);
    assert_eq!(sampled as f64, 2.0 * (3.0 * 16.0 + discarded));
    assert!(policy.reports.iter().all(|report| report.groups == 16));
}
