//! Each practice of shaping and choosing: with it and without it.

use align_core::align_types::PromptGroup;
use align_ppo::{
    AdvantageKind, KlController, KlEstimator, OverlongPenalty, PpoConfig, RewardBaseline, RewardScaling,
    RunningNormalizer, RunningScale, ShapingInputs, ShapingReport, Truncated, check_first_ratio, has_signal,
    keep_signal, kl_estimate, objective_metrics, pair_samples, shape_rewards,
};

use crate::common::{abstained, answer, assert_close, cut_off, group, rewards, trajectory, trajectory_mut};

fn base() -> PpoConfig {
    PpoConfig { kl_coef: 0.0, truncated: Truncated::Score, ..PpoConfig::default() }
}

/// The sum of rewards of each answer.
fn totals(groups: &[PromptGroup]) -> Vec<f64> {
    groups.iter().flat_map(|g| &g.completions).map(|c| trajectory(c).rewards.iter().sum()).collect()
}

fn shape(groups: &mut [PromptGroup], config: &PpoConfig) -> ShapingReport {
    shape_rewards(groups, config, ShapingInputs::default()).unwrap()
}

#[test]
fn the_score_is_on_the_last_token_and_the_kl_on_every_one() {
    let mut groups = [group(&[0], vec![answer(&[1, 2, 3], 2.0)])];
    let known = trajectory_mut(&mut groups[0].completions[0]);
    known.old = vec![-1.0, -2.0, -0.5];
    known.reference = vec![-1.5, -1.0, -0.5];
    let config = PpoConfig { kl_coef: 0.1, ..base() };
    for (estimator, beta) in [(KlEstimator::K1, 0.1), (KlEstimator::K3, 0.1), (KlEstimator::K1, 0.4)] {
        let config = PpoConfig { kl_estimator: estimator, ..config.clone() };
        shape_rewards(&mut groups, &config, ShapingInputs { kl_coef: beta, ..Default::default() }).unwrap();
        let expected: Vec<f64> =
            [0.5, -1.0, 0.0].iter().map(|d| -beta * kl_estimate(estimator, *d)).collect();
        let expected = [expected[0], expected[1], expected[2] + 2.0];
        assert_close(&trajectory(&groups[0].completions[0]).rewards, &expected, 1e-12);
    }
    // k1 = d, k3 = exp(−d) − 1 + d.
    assert_close(&[kl_estimate(KlEstimator::K3, 0.5)], &[(-0.5f64).exp() - 0.5], 1e-12);
}

#[test]
fn a_missing_end_is_punished_where_the_limit_was_reached() {
    let mut groups = [group(&[0], vec![answer(&[1], 1.0), cut_off(answer(&[1], 1.0))])];
    shape(&mut groups, &PpoConfig { missing_eos_penalty: Some(0.75), ..base() });
    assert_eq!(totals(&groups), [1.0, 0.25]);
    shape(&mut groups, &base());
    assert_eq!(totals(&groups), [1.0, 1.0]);
    // One that goes on with the critic's value has no score, but the penalty.
    let config = PpoConfig { missing_eos_penalty: Some(0.75), truncated: Truncated::Bootstrap, ..base() };
    let report = shape(&mut groups, &config);
    assert_eq!(totals(&groups), [1.0, -0.75]);
    assert_eq!((report.truncated, report.bootstrapped), (1, 1));
    // Without a critic there is nothing to go on with.
    shape(
        &mut groups,
        &PpoConfig { truncated: Truncated::Bootstrap, ..PpoConfig::for_advantage(AdvantageKind::Grpo) },
    );
    assert_eq!(totals(&groups), [1.0, 1.0]);
}

#[test]
fn long_answers_are_punished_softly() {
    let long = |tokens: usize| answer(&vec![1; tokens], 1.0);
    let mut groups = [group(&[0], vec![long(2), long(3), long(4), long(9)])];
    let penalty = Some(OverlongPenalty { max: 4, cache: 2 });
    shape(&mut groups, &PpoConfig { overlong_penalty: penalty, ..base() });
    assert_eq!(totals(&groups), [1.0, 0.5, 0.0, 0.0]);
    shape(&mut groups, &base());
    assert_eq!(totals(&groups), [1.0; 4]);
}

#[test]
fn scores_are_clipped_after_scaling() {
    let mut groups = [rewards(&[-3.0, 1.0]), rewards(&[5.0])];
    shape(&mut groups, &PpoConfig { reward_clip: Some(2.0), ..base() });
    assert_eq!(totals(&groups), [-2.0, 1.0, 2.0]);
    // Mean 1, variance (16 + 0 + 16) / 3: a deviation of 3.2660, and 5 / 3.2660 = 1.5309.
    let config = PpoConfig { reward_scaling: RewardScaling::Running, reward_clip: Some(1.2), ..base() };
    let mut scale = RunningScale::default();
    let inputs = ShapingInputs { scale: Some(&mut scale), ..Default::default() };
    shape_rewards(&mut groups, &config, inputs).unwrap();
    let deviation = (32.0f64 / 3.0).sqrt();
    assert_close(&totals(&groups), &[-3.0 / deviation, 1.0 / deviation, 1.2], 1e-12);
    let error = shape_rewards(&mut groups, &config, ShapingInputs::default()).unwrap_err().to_string();
    assert!(error.contains("running deviation"), "{error}");
}

/// The deviation of all scores so far, in whatever batches they came; equal ones are left as they are.
#[test]
fn the_running_scale_does_not_depend_on_the_batches() {
    let scores = [1.0, 4.0, -2.0, 0.5, 7.0];
    let mean = scores.iter().sum::<f64>() / 5.0;
    let deviation = (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / 5.0).sqrt();
    for cut in 0..=5 {
        let mut scale = RunningScale::default();
        scale.update(scores[..cut].iter().copied()).unwrap();
        let mut resumed = RunningScale::default();
        resumed.restore(&scale.state()).unwrap();
        resumed.update(scores[cut..].iter().copied()).unwrap();
        assert_close(&[resumed.scale(3.0)], &[3.0 / deviation], 1e-12);
    }
    let mut equal = RunningScale::default();
    equal.update([2.0; 4].into_iter()).unwrap();
    assert_eq!(equal.scale(2.0), 2.0);
}

/// Weight 0.5 of the past: after (0, 4) and (8): mean = (.25 · 2 + .5 · 8) / .75 = 6, mean square
/// (.25 · 8 + .5 · 64) / .75 = 45.3333, variance 9.3333.
#[test]
fn the_normaliser_is_an_average_without_bias() {
    let mut normalizer = RunningNormalizer::new(0.5).unwrap();
    assert_eq!((normalizer.mean(), normalizer.std(), normalizer.normalize(3.0)), (0.0, 1.0, 3.0));
    normalizer.update([0.0, 4.0].into_iter()).unwrap();
    assert_close(&[normalizer.mean(), normalizer.std()], &[2.0, 2.0], 1e-12);
    let mut resumed = RunningNormalizer::new(0.5).unwrap();
    resumed.restore(&normalizer.state()).unwrap();
    resumed.update([8.0].into_iter()).unwrap();
    assert_close(&[resumed.mean(), resumed.std().powi(2)], &[6.0, 28.0 / 3.0], 1e-9);
    assert_close(&[resumed.denormalize(resumed.normalize(1.25))], &[1.25], 1e-12);
    resumed.update(std::iter::empty()).unwrap();
    assert_close(&[resumed.mean()], &[6.0], 1e-12);
}

#[test]
fn the_score_is_taken_against_the_reference_models_own_answer() {
    let config = PpoConfig { reward_baseline: RewardBaseline::Reference, ..base() };
    let mut groups = [rewards(&[1.0, 3.0]), rewards(&[2.0])];
    let baselines = [Some(0.5), None];
    let inputs = ShapingInputs { baselines: Some(&baselines), ..Default::default() };
    let report = shape_rewards(&mut groups, &config, inputs).unwrap();
    assert_eq!(totals(&groups), [0.5, 2.5, 0.0]);
    assert!(trajectory(&groups[1].completions[0]).rewards.is_empty(), "its baseline abstained");
    assert_eq!((report.scored, report.abstained), (2, 1));
    assert!(shape_rewards(&mut groups, &config, ShapingInputs::default()).is_err());
}

#[test]
fn a_batch_with_nothing_to_learn_says_so() {
    let said = |groups: &mut [PromptGroup], config: &PpoConfig| shape(groups, config).nothing_to_learn();
    assert_eq!(said(&mut [rewards(&[1.0, 2.0])], &base()), None);
    let constant = said(&mut [rewards(&[0.5]), rewards(&[0.5])], &base()).unwrap();
    assert!(constant.contains("all 2 answers have the reward 0.5"), "{constant}");
    let mut silent = [group(&[0], vec![abstained(answer(&[1], 0.0)); 3])];
    assert!(said(&mut silent, &base()).unwrap().contains("abstained from all 3"));
    let mut cut = [group(&[0], vec![cut_off(answer(&[1], 1.0)), cut_off(answer(&[1], 2.0))])];
    let config = PpoConfig { truncated: Truncated::Bootstrap, ..base() };
    assert!(said(&mut cut, &config).unwrap().contains("max-new-tokens"));
}

/// More KL than the target raises the weight, less lowers it, by at most 0.2 n / horizon.
#[test]
fn the_controller_steers_to_the_target() {
    let config = PpoConfig { kl_coef: 0.1, kl_target: Some(2.0), kl_horizon: 100.0, ..Default::default() };
    let after = |kl: f64, episodes: usize| {
        let mut controller = KlController::new(&config);
        controller.update(kl, episodes).unwrap();
        controller.coef()
    };
    assert_close(&[after(2.0, 10), after(2.2, 10), after(1.8, 10)], &[0.1, 0.101, 0.099], 1e-12);
    assert_close(&[after(50.0, 10), after(0.0, 10), after(2.2, 20)], &[0.102, 0.098, 0.102], 1e-12);
    assert_close(&[after(0.0, 1_000_000)], &[0.08], 1e-12);
    let mut controller = KlController::new(&config);
    assert!(controller.update(f64::NAN, 1).is_err());
    assert_eq!(controller.coef(), 0.1);
    controller.restore(&[0.3]).unwrap();
    assert_eq!(controller.state(), [0.3]);
    assert!(controller.restore(&[]).is_err() && controller.restore(&[-1.0]).is_err());
    // In the loss the weight is fixed, and the reward has none.
    assert_eq!(KlController::new(&PpoConfig::for_advantage(AdvantageKind::Grpo)).coef(), 0.0);
}

#[test]
fn dynamic_sampling_keeps_what_can_teach() {
    let silent = group(&[0], vec![answer(&[1], 1.0), abstained(answer(&[1], 0.0))]);
    let groups = vec![rewards(&[1.0, 1.0]), rewards(&[0.0, 1.0]), rewards(&[0.0, 0.0]), silent];
    assert_eq!(groups.iter().map(has_signal).collect::<Vec<_>>(), [false, true, false, false]);
    let (kept, dropped) = keep_signal(groups.clone());
    assert_eq!((kept, dropped), (vec![groups[1].clone()], 3));
}

#[test]
fn pairs_are_the_best_and_the_worst_and_ties_are_counted() {
    let mut groups = vec![rewards(&[1.0, 3.0, -2.0, 3.0]), rewards(&[2.0, 2.0]), rewards(&[1.0])];
    groups[0].completions.push(abstained(answer(&[1], 0.0)));
    groups[0].completions[1].token_ids = vec![7];
    groups[0].completions[2].token_ids = vec![8];
    let pairs = pair_samples(&groups, false);
    assert_eq!((pairs.groups.len(), pairs.ties, pairs.without), (1, 1, 1));
    let names: Vec<_> =
        pairs.groups[0].completions.iter().map(|c| (c.name.as_str(), c.token_ids[0])).collect();
    assert_eq!(names, [("chosen", 7), ("rejected", 8)]);
    // Penalties count: they are in the shaped rewards.
    let mut cut = [group(&[0], vec![cut_off(answer(&[5], 1.0)), answer(&[6], 0.5)])];
    let config =
        PpoConfig { missing_eos_penalty: Some(2.0), ..PpoConfig::for_advantage(AdvantageKind::OnlineDpo) };
    shape(&mut cut, &config);
    assert_eq!(pair_samples(&cut, false).groups[0].completions[0].token_ids, [6]);
    assert_eq!(pair_samples(&cut, true).without, 1, "one of two is masked");
}

/// Two answers of 2 and 1 tokens: Σ (old − ref) = .5 and −.1, over two answers .2, over three tokens .4 / 3.
#[test]
fn metrics_of_an_iteration() {
    let mut groups = [
        group(&[0], vec![answer(&[1, 2], 2.0), cut_off(answer(&[3], -1.0))]),
        // A language-modelling row.
        group(&[0], vec![align_core::align_types::Completion::new(vec![9; 50])]),
        group(&[0], vec![abstained(answer(&[3], 0.0))]),
    ];
    for (row, answer, old, reference) in [
        (0, 0, vec![-1.0f32, -1.0], vec![-1.25f32, -1.25]),
        (0, 1, vec![-0.5], vec![-0.4]),
        (2, 0, vec![-1.0], vec![-1.0]),
    ] {
        let known = trajectory_mut(&mut groups[row].completions[answer]);
        (known.old, known.first_reference) = (old.clone(), old.iter().map(|lp| lp - 1.0).collect());
        known.reference = reference;
    }
    let config = PpoConfig { kl_coef: 0.1, truncated: Truncated::Score, ..PpoConfig::default() };
    let inputs = ShapingInputs { kl_coef: 0.1, ..Default::default() };
    let shaped = shape_rewards(&mut groups[..1], &config, inputs).unwrap();
    let metrics = [objective_metrics(&groups), shaped.metrics()].concat();
    let get =
        |name: &str| metrics.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name}")).1;
    let third = 1.0 / 3.0;
    for (name, expected) in [
        ("objective/kl", 0.4 * third),
        ("objective/kl_per_token", 0.4 / 4.0),
        ("objective/kl_first_reference", 4.0 * third),
        ("objective/entropy", 3.5 * third),
        ("objective/scores", 0.5),
        // Of 2 and -1.
        ("objective/scores_std", 1.5),
        ("objective/non_score_reward", -0.02),
        ("objective/rlhf_reward", 0.48),
        ("val/num_eos_tokens", 2.0),
        ("completions/clipped_ratio", third),
        ("completions/mean_length", 4.0 * third),
        ("completions/most_frequent_share", 2.0 * third),
        ("completions/abstained", third),
    ] {
        assert!((get(name) - expected).abs() < 1e-6, "{name} = {} and not {expected}", get(name));
    }
    assert!(objective_metrics::<PromptGroup>(&[]).is_empty());
    // The answer at the token limit goes on with the critic's value: its −1 is in no reward, the divergence is.
    let config = PpoConfig { truncated: Truncated::Bootstrap, ..config };
    let inputs = ShapingInputs { kl_coef: 0.1, ..Default::default() };
    let shaped = shape_rewards(&mut groups[..1], &config, inputs).unwrap().metrics();
    let get = |name: &str| shaped.iter().find(|(known, _)| known == name).unwrap().1;
    for (name, expected) in [
        ("objective/non_score_reward", (-0.05 + 0.01) / 2.0),
        ("objective/rlhf_reward", (1.95 + 0.01) / 2.0),
        ("completions/bootstrapped", 0.5),
    ] {
        assert!((get(name) - expected).abs() < 1e-6, "{name} = {} and not {expected}", get(name));
    }
}

#[test]
fn a_first_ratio_that_is_not_one_is_named() {
    let of = |approx: f64| check_first_ratio(&[("policy/approxkl_avg".to_owned(), approx)]);
    of(0.0).unwrap();
    // A root mean square of 0.9e-4 and of 2e-4.
    of(0.5 * 0.9e-4 * 0.9e-4).unwrap();
    let error = of(0.5 * 2e-4 * 2e-4).unwrap_err().to_string();
    assert!(error.contains("2.000e-4") && error.contains("temperature"), "{error}");
    assert!(of(f64::NAN).is_err());
    check_first_ratio(&[]).unwrap();
}
