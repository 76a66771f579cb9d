//! Each practice changes what it says it changes.

use align_core::align_types::{Completion, PromptGroup};
use align_core::{BoxError, Steps};
use align_ppo::{AdvantageKind, PpoConfig, RewardBaseline, RewardScaling, Scorer, Truncated};

use super::config;
use super::world::{ByTokens, Extras, World, mean, series, share, steps};

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

/// Once the first of four updates has pushed the ratio over the bound, the other three change nothing: neither policy nor
/// critic, nor their moments.
#[test]
fn a_skipped_minibatch_changes_nothing() {
    let learn = |num_ppo_epochs: usize| {
        let config = PpoConfig { num_ppo_epochs, max_ratio: Some(1.000_000_1), ..config(AdvantageKind::Ppo) };
        let mut world = World::new(config, 1);
        let folder = tempfile::tempdir().unwrap();
        let mut reward = ByTokens(|answer: &Completion| Some(share(answer)));
        let (reports, ..) = world.run(&mut reward, |ppo| {
            let reports = steps(ppo, 1);
            ppo.save(folder.path()).unwrap();
            reports
        });
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let saved = ["optimizer.safetensors", "critic/optimizer.safetensors"].map(read);
        let table = Vec::<f32>::try_from(world.model.table().detach().reshape([-1])).unwrap();
        let values = Vec::<f32>::try_from(&world.values).unwrap();
        (reports[0].metric("val/skipped_minibatches"), table, values, saved)
    };
    let (skipped, policy, values, saved) = learn(4);
    assert_eq!(skipped, Some(3.0));
    assert_eq!((None, policy, values, saved), learn(1));
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

/// The weight is that of the policy: 1 makes the reference what the policy is, and a small one leaves it nearly where it was.
#[test]
fn the_weight_of_a_moving_reference_is_the_policys() {
    let divergences = |weight: f64| {
        let (reports, _) = run(PpoConfig { ref_ema: Some(weight), ..config(AdvantageKind::Ppo) }, 1, 12);
        ["objective/kl", "objective/kl_first_reference"].map(|name| series(&reports, name))
    };
    let [near, far] = divergences(1.0);
    assert!(near.iter().all(|kl| kl.abs() < 1e-6) && mean(&far[8..]) > 0.05, "{near:?} {far:?}");
    let [near, far] = divergences(0.01);
    assert!(mean(&near[8..]) > 0.8 * mean(&far[8..]), "{near:?} {far:?}");
}

#[test]
fn scores_are_divided_by_their_deviation() {
    let scaled = PpoConfig { reward_scaling: RewardScaling::Running, ..config(AdvantageKind::Ppo) };
    let mut world = World::new(scaled, 1);
    let (reports, ..) =
        world.run(&mut ByTokens(|answer: &Completion| Some(100.0 * share(answer))), |ppo| steps(ppo, 2));
    // Nothing was seen before the first iteration, and nothing has moved in it: there is no penalty.
    let [scores, deviation, shaped] = ["objective/scores", "objective/scores_std", "objective/rlhf_reward"]
        .map(|name| reports[0].metric(name).unwrap());
    assert!(deviation > 10.0 && (shaped - scores / deviation).abs() < 1e-6, "{scores} {deviation} {shaped}");
}

/// Rewards around 50: values that are normalised are there at once, and their loss is in units of their own. The first returns
/// are made with values of 0 and so a little lower.
#[test]
fn normalised_values_reach_a_far_mean_at_once() {
    let learn = |normalize_values: bool| {
        let mut world = World::new(PpoConfig { normalize_values, ..config(AdvantageKind::Ppo) }, 1);
        let mut reward = ByTokens(|answer: &Completion| Some(50.0 + share(answer)));
        let ((reports, scale), ..) = world.run(&mut reward, |ppo| {
            let reports = steps(ppo, 10);
            (reports, ppo.value_scale().map(|scale| (scale.mean(), scale.std())))
        });
        let last = |name: &str| reports[9].metric(name).unwrap();
        // What the critic is wrong by on average, in units of the reward, and its loss.
        (last("advantages/mean").abs(), last("loss/value_avg"), last("returns/mean"), scale)
    };
    let (error, loss, returns, scale) = learn(true);
    let (mean, deviation) = scale.unwrap();
    assert!((mean - 50.0).abs() < 2.0 && deviation < 3.0, "{mean} {deviation}");
    assert!(error < 1.0 && loss < 5.0 && (returns - 50.0).abs() < 1.0, "{error} {loss} {returns}");
    // Without, a rate of .05 has not come far after forty updates.
    let (error, loss, returns, scale) = learn(false);
    assert!(
        scale.is_none() && error > 30.0 && loss > 450.0 && (returns - 50.0).abs() < 1.0,
        "{error} {loss}"
    );
}

/// RLOO on two answers: the advantage of each token is the difference of the rewards, times π / μ where the answers are those
/// of an older policy.
#[test]
fn samples_of_an_older_policy_are_weighted() {
    let weights = |one_step_off: bool| {
        let mut seen = Vec::new();
        let config = PpoConfig { kl_coef: 0.0, whiten_advantages: false, ..config(AdvantageKind::Rloo) };
        let mut world = World::new(config, 2);
        world.one_step_off = one_step_off;
        let extras = Extras {
            observer: Some(Box::new(|step, groups| {
                for group in groups {
                    let [first, second] = [0, 1].map(|index| &group.completions[index]);
                    for (answer, other) in [(first, second), (second, first)] {
                        let advantage = answer.reward.unwrap() - other.reward.unwrap();
                        let known = answer.trajectory.as_deref().unwrap();
                        let sampler = answer.logprobs.as_ref().unwrap();
                        for ((got, old), sampler) in known.advantages.iter().zip(&known.old).zip(sampler) {
                            let weight = (f64::from(*old) - f64::from(*sampler)).exp().min(2.0);
                            let expected = if one_step_off { weight * advantage } else { advantage };
                            assert!((got - expected).abs() < 1e-9, "step {step}: {got} and not {expected}");
                            seen.push((step, weight));
                        }
                    }
                }
                Ok(())
            })),
            ..Extras::default()
        };
        let mut reward = ByTokens(|answer: &Completion| Some(share(answer)));
        world.run_with(&mut reward, extras, |ppo| steps(ppo.as_mut().unwrap(), 4));
        seen
    };
    // The first samples are the policy's own, later ones those of the policy before its last updates.
    let is_apart = |weight: f64| (weight - 1.0).abs() > 0.01;
    let late = weights(true);
    let (first, later): (Vec<_>, Vec<_>) = late.iter().partition(|(step, _)| *step == 1);
    assert!(!first.iter().any(|(_, weight)| is_apart(*weight)), "{first:?}");
    assert!(later.iter().filter(|(_, weight)| is_apart(*weight)).count() > later.len() / 2, "{later:?}");
    assert!(!weights(false).iter().any(|(_, weight)| is_apart(*weight)));
}

/// Samples of an older policy say of the divergence of this one what they weigh, Σ over tokens of π / μ (log π − log π_ref).
#[test]
fn the_divergence_of_an_older_policys_samples_is_weighted() {
    let mut expected = Vec::new();
    let mut world = World::new(config(AdvantageKind::Ppo), 1);
    world.one_step_off = true;
    let extras = Extras {
        observer: Some(Box::new(|_, groups| {
            let mut sums = [0.0, 0.0];
            for answer in groups.iter().flat_map(|group| &group.completions) {
                let known = answer.trajectory.as_deref().unwrap();
                let tokens = known.old.iter().zip(&known.reference).zip(answer.logprobs.as_ref().unwrap());
                for ((old, reference), sampler) in tokens {
                    let (old, reference, sampler) =
                        (f64::from(*old), f64::from(*reference), f64::from(*sampler));
                    sums[0] += (old - sampler).exp().min(2.0) * (old - reference);
                    sums[1] += old - reference;
                }
            }
            expected.push(sums.map(|sum| sum / 16.0));
            Ok(())
        })),
        ..Extras::default()
    };
    let mut reward = ByTokens(|answer: &Completion| Some(share(answer)));
    let (reports, ..) = world.run_with(&mut reward, extras, |ppo| steps(ppo.as_mut().unwrap(), 12));
    let found = series(&reports, "objective/kl");
    let weighted: Vec<f64> = expected.iter().map(|sums| sums[0]).collect();
    align_testkit::assert_close(&found, &weighted, 1e-9);
    // In the second iteration the samples are the reference's own, on whose answers every other policy is less likely.
    assert!(expected[1][1] < 0.0 && found[1] > expected[1][1], "{expected:?}");
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

/// Scores are the prompt's alone, so that the reference's answer to the same prompt takes each of them away, in whatever
/// minibatch it is: before the first update nothing else is in a reward.
#[test]
fn each_answer_has_the_reference_answer_to_its_own_prompt() {
    struct ByPrompt;
    impl Scorer for ByPrompt {
        fn score(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<Option<f64>>>, BoxError> {
            let of = |group: &PromptGroup| vec![Some(f64::from(group.prompt[0])); group.completions.len()];
            Ok(groups.iter().map(of).collect())
        }
    }
    let relative = PpoConfig {
        reward_baseline: RewardBaseline::Reference,
        num_mini_batches: 3,
        truncated: Truncated::Score,
        ..config(AdvantageKind::Ppo)
    };
    let mut answers = 0;
    let extras = Extras {
        observer: Some(Box::new(|_, groups| {
            for answer in groups.iter().flat_map(|group| &group.completions) {
                let rewards = &answer.trajectory.as_deref().unwrap().rewards;
                assert!(rewards.iter().sum::<f64>().abs() < 1e-4, "{rewards:?}");
                answers += 1;
            }
            Ok(())
        })),
        ..Extras::default()
    };
    World::new(relative, 1).run_with(&mut ByPrompt, extras, |ppo| steps(ppo.as_mut().unwrap(), 1));
    assert!(answers >= 16, "{answers}");
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
    // Each batch that was drawn was told of before the next one, and in the end every group that was sampled.
    let heard = &world.prompts.heard;
    assert!(heard.windows(2).all(|pair| pair[0] < 0 || pair[1] < 0), "{heard:?}");
    assert_eq!(2.0 * world.prompts.told, sampled as f64);
}

/// One prompt of five has a signal, and after two batches none.
#[test]
fn what_dynamic_sampling_does_not_find_is_counted() {
    struct OfOnePrompt {
        calls: usize,
        most: usize,
    }
    impl Scorer for OfOnePrompt {
        fn score(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<Option<f64>>>, BoxError> {
            let of = |group: &PromptGroup| match group.prompt[0] {
                1 if self.calls < self.most => {
                    (0..group.completions.len()).map(|index| Some(index as f64)).collect()
                }
                _ => vec![Some(0.0); group.completions.len()],
            };
            let scores = groups.iter().map(of).collect();
            self.calls += 1;
            Ok(scores)
        }

        // The first batch has the mean 1 over one completion, each other one 0 over three.
        fn metrics(&self) -> Vec<(String, f64, usize)> {
            let (mean, count) = if self.calls == 1 { (1.0, 1) } else { (0.0, 3) };
            vec![("rewards/made-up/mean".to_owned(), mean, count)]
        }
    }
    let mut world = World::new(config(AdvantageKind::Dapo), 2);
    world.prompts.size = 5;
    let (reports, ..) = world.run(&mut OfOnePrompt { calls: 0, most: 9 }, |ppo| steps(ppo, 1));
    let get = |name: &str| reports[0].metric(name);
    // Five are wanted: there is one of them in each of the first five batches.
    assert_eq!((get("groups/discarded"), get("groups/missing")), (Some(20.0), None));
    assert_eq!(get("rewards/made-up/mean"), Some(1.0 / 13.0));
    let (reports, policy, _) = world.run(&mut OfOnePrompt { calls: 0, most: 2 }, |ppo| steps(ppo, 1));
    let get = |name: &str| reports[0].metric(name);
    assert_eq!((get("groups/discarded"), get("groups/missing")), (Some(38.0), Some(3.0)));
    assert_eq!(policy.reports[0].groups, 2);
    let none = &mut ByTokens(|_: &Completion| Some(1.0));
    let (reports, ..) = world.run(none, |ppo| steps(ppo, 1));
    let get = |name: &str| reports[0].metric(name);
    assert_eq!((get("groups/discarded"), get("groups/missing")), (Some(40.0), Some(5.0)));
}
