//! Properties of advantages: telescoping sums, ends of answers, counts of whitening, groups, answers that are left out.

use align_core::align_types::{Completion, PromptGroup};
use align_ppo::{
    AdvantageKind, GaeInputs, PpoConfig, RunningNormalizer, ShapingInputs, Truncated, estimate_advantages,
    gae, shape_rewards,
};
use proptest::prelude::*;

use crate::common::{
    abstained, advantages, answer, assert_close, cut_off, group, rewards, trajectory, trajectory_mut,
};

/// Shapes and estimates with KL weight 0.
fn estimate(groups: &mut [PromptGroup], config: &PpoConfig) -> align_ppo::AdvantageReport {
    shape_rewards(groups, config, ShapingInputs::default()).unwrap();
    estimate_advantages(groups, config, None).unwrap()
}

fn of(kind: AdvantageKind) -> PpoConfig {
    PpoConfig { kl_coef: 0.0, ..PpoConfig::for_advantage(kind) }
}

fn plain_ppo() -> PpoConfig {
    PpoConfig { kl_coef: 0.0, whiten_advantages: false, ..PpoConfig::default() }
}

fn with_values(mut completion: Completion, values: &[f32], after: f32) -> Completion {
    let trajectory = trajectory_mut(&mut completion);
    (trajectory.values, trajectory.value_after) = (values.to_vec(), Some(after));
    completion
}

proptest! {
    /// λ = 1: the values telescope, and what is left is the discounted sum of rewards less the first value.
    #[test]
    fn with_lambda_one_only_the_rewards_remain(
        steps in prop::collection::vec((-2.0f64..2.0, -2.0f64..2.0), 1..12), bootstrap in -2.0f64..2.0, gamma in 0.5f64..1.0,
    ) {
        let (rewards, values): (Vec<f64>, Vec<f64>) = steps.into_iter().unzip();
        let out = gae(&GaeInputs { rewards: &rewards, values: &values, bootstrap, gamma, lam: 1.0 }).unwrap();
        for start in 0..rewards.len() {
            let mut goal: f64 = rewards[start..].iter().enumerate().map(|(k, r)| gamma.powi(k as i32) * r).sum();
            goal += gamma.powi((rewards.len() - start) as i32) * bootstrap;
            prop_assert!((out.returns[start] - goal).abs() < 1e-9);
        }
    }

    /// λ = 0: one step and then the critic.
    #[test]
    fn with_lambda_zero_the_critic_is_trusted(
        steps in prop::collection::vec((-2.0f64..2.0, -2.0f64..2.0), 1..12), bootstrap in -2.0f64..2.0,
    ) {
        let (rewards, values): (Vec<f64>, Vec<f64>) = steps.into_iter().unzip();
        let out = gae(&GaeInputs { rewards: &rewards, values: &values, bootstrap, gamma: 0.9, lam: 0.0 }).unwrap();
        for (i, goal) in out.returns.iter().enumerate() {
            let next = values.get(i + 1).copied().unwrap_or(bootstrap);
            prop_assert!((goal - rewards[i] - 0.9 * next).abs() < 1e-9);
        }
    }

    /// Whitened over all tokens of the batch: mean 0 and variance 1 with every token counted once.
    #[test]
    fn whitening_counts_every_token_once(
        scores in prop::collection::vec((-2.0f64..2.0, 1usize..6), 2..8),
    ) {
        let completions: Vec<Completion> = scores
            .iter()
            .map(|(reward, tokens)| with_values(answer(&vec![1; *tokens], *reward), &vec![0.3; *tokens], 0.0))
            .chain([abstained(answer(&[1; 9], 0.0))])
            .collect();
        let mut groups: Vec<PromptGroup> = completions.into_iter().map(|c| group(&[0], vec![c])).collect();
        let report = estimate(&mut groups, &PpoConfig { whiten_advantages: true, ..plain_ppo() });
        let all: Vec<f64> =
            groups.iter().flat_map(|g| trajectory(&g.completions[0]).advantages.clone()).collect();
        let tokens: usize = scores.iter().map(|(_, tokens)| tokens).sum();
        prop_assert_eq!(all.len(), tokens);
        prop_assert_eq!(report.advantages.count, tokens);
        let mean = all.iter().sum::<f64>() / tokens as f64;
        let variance = all.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / tokens as f64;
        prop_assert!(mean.abs() < 1e-6, "{mean}");
        // The 1e-8 below the root shows where all advantages are nearly equal.
        let expected = report.advantages.variance / (report.advantages.variance + 1e-8);
        prop_assert!((variance - expected).abs() < 1e-6, "{variance}");
    }

    /// GRPO does not see the scale of rewards, RLOO and Dr. GRPO not their zero.
    #[test]
    fn groups_do_not_see_what_cancels(
        values in prop::collection::vec(-3.0f64..3.0, 2..7), scale in 0.5f64..20.0, shift in -5.0f64..5.0,
    ) {
        let run = |kind, f: &dyn Fn(f64) -> f64| {
            let mut groups = [rewards(&values.iter().map(|v| f(*v)).collect::<Vec<_>>())];
            estimate(&mut groups, &of(kind));
            advantages(&groups)
        };
        let spread = values.iter().fold(0.0f64, |most, v| most.max((v - values[0]).abs()));
        prop_assume!(spread > 0.5);
        for kind in [AdvantageKind::Rloo, AdvantageKind::DrGrpo] {
            assert_close(&run(kind, &|r| r + shift), &run(kind, &|r| r), 1e-9);
            // They do see the scale, which GRPO does not.
            let scaled: Vec<f64> = run(kind, &|r| r).iter().map(|a| a * scale).collect();
            assert_close(&run(kind, &|r| r * scale), &scaled, 1e-9);
        }
        let exact = |f: &dyn Fn(f64) -> f64| {
            let values: Vec<f64> = values.iter().map(|v| f(*v)).collect();
            align_ppo::group_normalised(&values, align_core::stats::Divisor::CountMinusOne, 0.0)
        };
        assert_close(&exact(&|r| scale * r + shift), &exact(&|r| r), 1e-9);
    }

    /// Another answer to another prompt, or one that abstains, changes nothing of a group.
    #[test]
    fn groups_do_not_see_each_other(values in prop::collection::vec(-3.0f64..3.0, 2..6), other in -3.0f64..3.0) {
        for kind in [AdvantageKind::Rloo, AdvantageKind::Grpo, AdvantageKind::DrGrpo, AdvantageKind::Dapo] {
            let mut alone = [rewards(&values)];
            estimate(&mut alone, &of(kind));
            let mut crowd = [rewards(&values), rewards(&[other, -other, 1.0])];
            crowd[0].completions.insert(1, abstained(answer(&[1], 0.0)));
            estimate(&mut crowd, &of(kind));
            assert_close(&advantages(&crowd[..1]), &advantages(&alone), 1e-12);
        }
    }
}

/// An answer that ended knows no value behind it; one that was cut off goes on with it, without its score.
#[test]
fn an_end_is_worth_nothing_and_a_cut_what_the_critic_says() {
    let ended = with_values(answer(&[1, 2], 1.0), &[0.0, 0.0], 5.0);
    let mut groups = [group(&[0], vec![ended.clone(), cut_off(ended.clone())])];
    estimate(&mut groups, &PpoConfig { lam: 1.0, ..plain_ppo() });
    let returns = |i: usize| trajectory(&groups[0].completions[i]).returns.clone();
    assert_eq!((returns(0), returns(1)), (vec![1.0, 1.0], vec![5.0, 5.0]));
    let mut groups = [group(&[0], vec![cut_off(ended)])];
    estimate(&mut groups, &PpoConfig { lam: 1.0, truncated: Truncated::Score, ..plain_ppo() });
    assert_eq!(trajectory(&groups[0].completions[0]).returns, [1.0, 1.0]);
}

/// The mean of (1, 2) and not of (1, 2, 0): an abstention is not a reward of 0.
#[test]
fn an_abstention_is_left_out_and_never_a_zero() {
    for kind in AdvantageKind::ALL.into_iter().filter(|kind| *kind != AdvantageKind::OnlineDpo) {
        let answers = || {
            vec![
                with_values(answer(&[1], 1.0), &[0.0], 0.0),
                with_values(answer(&[1], 2.0), &[0.0], 0.0),
                with_values(answer(&[1], 4.0), &[0.0], 0.0),
            ]
        };
        let mut whole = [group(&[0], answers())];
        let report = estimate(&mut whole, &of(kind));
        let mut with_silent = [group(&[0], answers())];
        let mut silent = with_values(abstained(answer(&[1], 0.0)), &[0.0], 0.0);
        // What an earlier iteration left must not be learned from again.
        trajectory_mut(&mut silent).advantages = vec![9.0];
        trajectory_mut(&mut silent).returns = vec![9.0];
        with_silent[0].completions.insert(1, silent);
        let again = estimate(&mut with_silent, &of(kind));
        assert_eq!(advantages(&with_silent), advantages(&whole), "{}", kind.name());
        assert_eq!((again.answers, &again.returns), (report.answers, &report.returns));
        let left_out = trajectory(&with_silent[0].completions[1]);
        assert!(left_out.advantages.is_empty() && left_out.returns.is_empty() && left_out.rewards.is_empty());
    }
}

/// One reward is left in its group: no other answer says whether it is good.
#[test]
fn an_answer_alone_in_its_group_is_left_out_and_counted() {
    let mut groups =
        [rewards(&[1.0, 0.0]), group(&[0], vec![answer(&[1], 5.0), abstained(answer(&[1], 0.0))])];
    let report = estimate(&mut groups, &of(AdvantageKind::Rloo));
    assert_eq!((report.answers, report.alone, report.groups), (2, 1, 1));
    assert!(trajectory(&groups[1].completions[0]).advantages.is_empty());
}

#[test]
fn groups_without_signal_are_counted_and_have_no_advantage() {
    let mut groups = [rewards(&[0.1, 0.1, 0.1]), rewards(&[0.0, 1.0])];
    for kind in [AdvantageKind::Rloo, AdvantageKind::Grpo, AdvantageKind::DrGrpo] {
        let report = estimate(&mut groups, &of(kind));
        assert_eq!((report.groups, report.groups_without_signal), (2, 1));
        assert_eq!(advantages(&groups[..1]), [0.0; 3], "exactly, whatever the mean of three tenths is");
    }
}

/// REINFORCE: less the mean of the other answers of the batch: (1, 4, 7) → (1 − 5.5, 4 − 4, 7 − 2.5).
#[test]
fn reinforce_is_relative_to_the_rest_of_the_batch() {
    let mut groups = [rewards(&[1.0]), rewards(&[4.0, 7.0])];
    estimate(&mut groups, &of(AdvantageKind::Reinforce));
    assert_close(&advantages(&groups), &[-4.5, 0.0, 4.5], 1e-12);
    let mut one = [rewards(&[2.0])];
    estimate(&mut one, &of(AdvantageKind::Reinforce));
    assert_eq!(advantages(&one), [2.0]);
}

/// The KL divergence in the reward is part of the sum that RLOO compares: R = (1, 0) − β (0.5, −0.25).
#[test]
fn sums_of_rewards_hold_the_kl_divergence() {
    let mut groups = [rewards(&[1.0, 0.0])];
    for (completion, old) in groups[0].completions.iter_mut().zip([-0.5f32, -1.25]) {
        let trajectory = trajectory_mut(completion);
        (trajectory.old, trajectory.reference) = (vec![old], vec![-1.0]);
    }
    let config = PpoConfig { kl_coef: 0.2, ..PpoConfig::for_advantage(AdvantageKind::Rloo) };
    shape_rewards(&mut groups, &config, ShapingInputs { kl_coef: 0.2, ..Default::default() }).unwrap();
    estimate_advantages(&mut groups, &config, None).unwrap();
    let difference = (1.0 - 0.1) - 0.05;
    assert_close(&advantages(&groups), &[difference, -difference], 1e-12);
}

/// Truncated answers out of the loss, but still in the statistics of their group (DAPO's overlong filtering).
#[test]
fn masked_answers_have_no_term() {
    let config = PpoConfig { mask_truncated: true, ..of(AdvantageKind::DrGrpo) };
    let mut groups = [group(&[0], vec![answer(&[1], 1.0), answer(&[1], 0.0), cut_off(answer(&[1], 5.0))])];
    let report = estimate(&mut groups, &config);
    assert_eq!((report.answers, report.masked), (2, 1));
    assert_close(&advantages(&groups), &[-1.0, -2.0], 1e-12);
    let off = PpoConfig { mask_truncated: false, ..config };
    assert_eq!(estimate(&mut groups, &off).answers, 3);
}

#[test]
fn whitened_rewards_keep_their_mean_and_need_a_batch() {
    let config = PpoConfig { whiten_rewards: true, ..plain_ppo() };
    let batch = |n: usize| -> Vec<PromptGroup> {
        (0..n).map(|i| group(&[0], vec![with_values(answer(&[1], i as f64), &[0.0], 0.0)])).collect()
    };
    let mut groups = batch(8);
    estimate(&mut groups, &config);
    // Rewards 0..7: mean 3.5, variance 63 / 12 = 5.25.
    let expected: Vec<f64> = (0..8).map(|i| (f64::from(i) - 3.5) / (5.25f64 + 1e-8).sqrt() + 3.5).collect();
    assert_close(&advantages(&groups), &expected, 1e-12);
    let mut few = batch(7);
    shape_rewards(&mut few, &config, ShapingInputs::default()).unwrap();
    let error = estimate_advantages(&mut few, &config, None).unwrap_err().to_string();
    assert!(error.contains("7 answers") && error.contains("at least 8"), "{error}");
}

/// A critic that predicts normalised returns: the same advantages as one that predicts the returns themselves.
#[test]
fn normalised_values_give_the_same_advantages() {
    let mut normalizer = RunningNormalizer::new(0.5).unwrap();
    normalizer.update([1.0, 5.0].into_iter()).unwrap();
    // Mean 3, standard deviation 2: values 0.5 and −1 stand for 4 and 1.
    let answers = |values: &[f32]| vec![with_values(answer(&[1, 2], 6.0), values, 0.0)];
    let mut plain = [group(&[0], answers(&[4.0, 1.0]))];
    let expected = estimate(&mut plain, &plain_ppo());
    let config = PpoConfig { normalize_values: true, ..plain_ppo() };
    let mut normalised = [group(&[0], answers(&[0.5, -1.0]))];
    shape_rewards(&mut normalised, &config, ShapingInputs::default()).unwrap();
    assert!(estimate_advantages(&mut normalised, &config, None).is_err(), "the normaliser is missing");
    let report = estimate_advantages(&mut normalised, &config, Some(&mut normalizer)).unwrap();
    let (a, b) = (trajectory(&plain[0].completions[0]), trajectory(&normalised[0].completions[0]));
    assert_close(&b.advantages, &a.advantages, 1e-9);
    assert_close(&[report.returns.mean], &[expected.returns.mean], 1e-9);
    // Returns are normalised with what was learned from them, in the units in which the critic speaks.
    let in_units: Vec<f64> = a.returns.iter().map(|r| normalizer.normalize(*r)).collect();
    assert_close(&b.returns, &in_units, 1e-9);
    assert_eq!(b.values, [0.5, -1.0]);
}

/// Values equal to the returns explain all of them, a constant nothing.
#[test]
fn explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant() {
    let run = |values: [f32; 2]| {
        let mut groups: Vec<PromptGroup> = [1.0f64, 3.0]
            .iter()
            .zip(values)
            .map(|(reward, value)| group(&[0], vec![with_values(answer(&[1], *reward), &[value], 0.0)]))
            .collect();
        estimate(&mut groups, &plain_ppo()).explained_variance.unwrap()
    };
    assert_close(&[run([1.0, 3.0]), run([2.0, 2.0])], &[1.0, 0.0], 1e-12);
}
