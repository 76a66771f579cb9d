//! Prompts at the edge of ability.

use std::collections::BTreeSet;

use align_data::{Curriculum, PromptGroup, PromptSource};
use align_types::{Completion, Purpose, RngStream, Source, config::CurriculumConfig};
use proptest::prelude::*;

fn prompts(n: usize) -> Vec<PromptGroup> {
    let row = |i: usize| PromptGroup {
        source: Some(Source { file: "prompts.jsonl".into(), row: i + 1 }),
        ..PromptGroup::new(vec![i as u32], vec![])
    };
    (0..n).map(row).collect()
}

fn rewarded(mut group: PromptGroup, rewards: &[f64]) -> PromptGroup {
    let answer = |reward: &f64| Completion { reward: Some(*reward), ..Completion::new(vec![1]) };
    group.completions = rewards.iter().map(answer).collect();
    group
}

fn source(n: usize, config: CurriculumConfig, batch_size: usize, seed: u64) -> Curriculum {
    Curriculum::new(prompts(n), config, batch_size, seed, 1000).unwrap()
}

fn metric(source: &Curriculum, name: &str) -> Option<f64> {
    let name = format!("curriculum/{name}");
    source.metrics().into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

fn rows(batch: &[PromptGroup]) -> Vec<u32> {
    batch.iter().map(|group| group.prompt[0]).collect()
}

/// Draws by weight alone: nothing explored, nothing replayed.
fn by_weight() -> CurriculumConfig {
    CurriculumConfig { explore: 0.0, replay: 0.0, ..Default::default() }
}

/// p (1 − p) + 0.01 is 0.26, 0.22, 0.17 and 0.17 for the rates 0.5, 0.3, 0.2 and 0.8: shares of 0.82. The others are
/// outside the range.
#[test]
fn prompts_are_drawn_as_often_as_their_weights_say() {
    let rates = [0.5, 0.3, 0.2, 0.8, 0.19, 0.81, 0.0, 1.0].map(Some);
    let mut source = source(8, by_weight(), 1, 3).with_estimates(&rates).unwrap();
    let draws = 40_000_u32;
    let mut counts = [0_u32; 8];
    for step in 0..draws {
        counts[source.indices(step.into())[0]] += 1;
    }
    let expected = [0.26, 0.22, 0.17, 0.17].map(|weight| weight / 0.82);
    for (count, share) in counts.into_iter().zip(expected) {
        // Five standard errors of a share of so many draws.
        let error = 5.0 * (share * (1.0 - share) / f64::from(draws)).sqrt();
        assert!((f64::from(count) / f64::from(draws) - share).abs() < error, "{counts:?}");
    }
    assert_eq!(counts[4..], [0; 4]);
    assert_eq!(metric(&source, "filtered"), Some(0.5));
    // Half the prompts are inside, and two places are to be filled: with replacement some batch would have one twice.
    let mut pairs = self::source(8, by_weight(), 2, 3).with_estimates(&rates).unwrap();
    assert!(
        (0..500)
            .all(|step| rows(&pairs.batch(step).unwrap()).into_iter().collect::<BTreeSet<_>>().len() == 2)
    );
}

/// From 1/2 on, eight failures leave 0.8⁸ / 2, and two answers with rewards 1 and 0 leave 1/2 where it is.
#[test]
fn estimates_are_moving_averages_of_success() {
    let mut source = source(4, CurriculumConfig::default(), 4, 0);
    assert_eq!(source.rate(0), None);
    let all = prompts(4);
    source.learn(&[
        rewarded(all[0].clone(), &[0.0; 8]),
        rewarded(all[1].clone(), &[1.0, 0.0]),
        rewarded(all[2].clone(), &[0.25]),
    ]);
    let close = |row: usize, expected: f64| (source.rate(row).unwrap() - expected).abs() < 1e-12;
    assert!(close(0, 0.5 * 0.8_f64.powi(8)) && close(1, 0.5));
    assert!(close(2, 0.8 * 0.5 + 0.2 * 0.25));
    assert_eq!(source.rate(3), None);
}

#[test]
fn a_threshold_makes_success_of_rewards() {
    let config = CurriculumConfig { threshold: Some(-1.0), decay: 0.0, ..Default::default() };
    let mut source = source(2, config, 2, 0);
    source.learn(&[rewarded(prompts(2)[1].clone(), &[-2.0, -1.0, -0.5, 7.0])]);
    assert_eq!(source.rate(1), Some(0.5));
}

#[test]
fn unseen_prompts_come_first_and_then_in_their_share() {
    let config = CurriculumConfig { replay: 0.0, ..Default::default() };
    let mut source = source(40, config, 8, 1);
    let first = source.batch(0).unwrap();
    assert_eq!((metric(&source, "unseen"), metric(&source, "success")), (Some(1.0), None));
    source.learn(&first.into_iter().map(|group| rewarded(group, &[1.0, 0.0])).collect::<Vec<_>>());
    // Eight are known and at the edge. A quarter of each batch is new until all are known: 32 prompts in 16 batches.
    let mut seen: BTreeSet<u32> = BTreeSet::new();
    for step in 1..=16 {
        let batch = source.batch(step).unwrap();
        assert_eq!(metric(&source, "unseen"), Some(0.25), "step {step}");
        seen.extend(rows(&batch));
        source.learn(&batch.into_iter().map(|group| rewarded(group, &[1.0, 0.0])).collect::<Vec<_>>());
    }
    source.batch(17).unwrap();
    assert_eq!((metric(&source, "unseen"), metric(&source, "success")), (Some(0.0), Some(0.5)));
    assert!((0..40).all(|row| source.rate(row).is_some()));
}

#[test]
fn a_filter_that_leaves_nothing_does_not_starve_the_run() {
    let rates: Vec<_> = (0..10).map(|i| Some(if i % 2 == 0 { 0.0 } else { 1.0 })).collect();
    let mut all_outside = source(10, by_weight(), 4, 0).with_estimates(&rates).unwrap();
    assert_eq!(all_outside.batch(0).unwrap().len(), 4);
    assert_eq!((metric(&all_outside, "fallback"), metric(&all_outside, "filtered")), (Some(1.0), Some(1.0)));
    // Without a floor all these weights are 0, and every prompt must still be possible.
    let flat = CurriculumConfig { floor: 0.0, ..by_weight() };
    let mut flat = source(10, flat, 4, 0).with_estimates(&rates).unwrap();
    let taken: BTreeSet<u32> = (0..100).flat_map(|step| rows(&flat.batch(step).unwrap())).collect();
    assert_eq!(taken.len(), 10);
    // One inside: it comes always, the others fill up.
    let mut one = source(10, by_weight(), 4, 0);
    one = one.with_estimates(&[&rates[..9], &[Some(0.5)]].concat()).unwrap();
    assert!((0..20).all(|step| rows(&one.batch(step).unwrap()).contains(&9)));
    assert_eq!(metric(&one, "fallback"), Some(0.75));
}

#[test]
fn a_batch_larger_than_the_data_goes_round() {
    let mut source = source(3, CurriculumConfig::default(), 8, 0);
    let batch = rows(&source.batch(0).unwrap());
    let count = |row| batch.iter().filter(|taken| **taken == row).count();
    let mut counts = [count(0), count(1), count(2)];
    counts.sort_unstable();
    assert_eq!(counts, [2, 3, 3]);
}

/// What is solved always is left out while others are at the edge, unless some of it is replayed.
#[test]
fn replay_brings_mastered_prompts_back() {
    let rates: Vec<_> = (0..20).map(|i| Some(if i < 10 { 0.5 } else { 1.0 })).collect();
    let mastered = |replay| {
        let config = CurriculumConfig { explore: 0.0, replay, ..Default::default() };
        let mut source = source(20, config, 5, 2).with_estimates(&rates).unwrap();
        let taken: BTreeSet<u32> = (0..200).flat_map(|step| rows(&source.batch(step).unwrap())).collect();
        let share = metric(&source, "replayed").unwrap();
        (taken.into_iter().filter(|row| *row >= 10).count(), share)
    };
    assert_eq!(mastered(0.0), (0, 0.0));
    // One place of five.
    assert_eq!(mastered(0.2), (10, 0.2));
}

/// A share of less than one place is a place every so often, never none; two shares never take more than there is.
#[test]
fn shares_hold_over_steps_in_small_batches_too() {
    let rates: Vec<_> = (0..40).map(|i| Some(if i < 20 { 0.5 } else { 1.0 })).collect();
    let config = CurriculumConfig { explore: 0.0, replay: 0.1, ..Default::default() };
    let mut small = source(40, config, 4, 2).with_estimates(&rates).unwrap();
    let mastered = |batch: &[PromptGroup]| rows(batch).iter().filter(|row| **row >= 20).count();
    let replayed: usize = (0..100).map(|step| mastered(&small.batch(step).unwrap())).sum();
    assert_eq!(replayed, 40);
    let halves = CurriculumConfig { explore: 0.5, replay: 0.5, ..Default::default() };
    let rates: Vec<_> = (0..40).map(|i| (i < 20).then_some(1.0)).collect();
    let mut one = source(40, halves, 1, 2).with_estimates(&rates).unwrap();
    let mut shares = |name: &str| -> f64 {
        (0..10).map(|step| (one.batch(step).unwrap().len() == 1, metric(&one, name).unwrap()).1).sum()
    };
    assert_eq!((shares("unseen"), shares("replayed")), (5.0, 5.0));
}

/// A step that needs more prompts gets others, as long as there are any.
#[test]
fn more_prompts_of_a_step_are_others() {
    let mut source = source(10, CurriculumConfig::default(), 4, 0);
    let first = source.batch(0).unwrap();
    let second = source.batch_beside(1, &first).unwrap();
    let taken: BTreeSet<u32> = rows(&first).into_iter().chain(rows(&second)).collect();
    assert_eq!(taken.len(), 8);
    let both: Vec<PromptGroup> = first.into_iter().chain(second).collect();
    let third = rows(&source.batch_beside(2, &both).unwrap());
    let others = third.iter().filter(|row| !taken.contains(row)).count();
    assert_eq!((third.len(), others), (4, 2));
}

#[test]
fn groups_are_matched_by_source_or_else_by_tokens() {
    let mut source = source(3, CurriculumConfig { decay: 0.0, ..Default::default() }, 2, 0);
    let mut cut = rewarded(prompts(3)[1].clone(), &[1.0]);
    cut.prompt = vec![99];
    let mut elsewhere = rewarded(prompts(3)[2].clone(), &[1.0]);
    elsewhere.source = Some(Source { file: "others.jsonl".into(), row: 3 });
    let nowhere = rewarded(PromptGroup::new(vec![0], vec![]), &[1.0]);
    let without_number = rewarded(prompts(3)[0].clone(), &[f64::NAN]);
    let mut abstained = prompts(3)[0].clone();
    abstained.completions = vec![Completion::new(vec![1])];
    source.learn(&[cut, elsewhere, nowhere, without_number, abstained]);
    assert_eq!([0, 1, 2].map(|row| source.rate(row)), [None, Some(1.0), None]);

    let plain = [vec![1], vec![2], vec![1]].map(|tokens| PromptGroup::new(tokens, vec![]));
    let mut source = Curriculum::new(plain.to_vec(), CurriculumConfig::default(), 2, 0, 9).unwrap();
    source.learn(&[rewarded(plain[0].clone(), &[1.0])]);
    assert_eq!(source.rate(0), source.rate(2), "two rows with the same tokens are one prompt");
    assert_eq!((source.rate(0).is_some(), source.rate(1)), (true, None));
}

/// A policy that solves prompt i with probability i / 59: of the prompts that a run samples, those drawn by the curriculum
/// must teach more, p (1 − p), than all of them do on average (1/6 for probabilities spread evenly).
#[test]
fn a_run_stays_at_the_edge_of_what_the_policy_can() {
    let (n, steps) = (60, 80);
    let mut source = source(n, CurriculumConfig::default(), 12, 5);
    let mut taught = 0.0;
    let mut count = 0.0;
    for step in 0..steps {
        let mut coin = RngStream::new(5, Purpose::Synthetic, step, 0);
        let batch = source.batch(step).unwrap();
        assert_eq!(batch.len(), 12);
        let solve = |group: PromptGroup| {
            let p = f64::from(group.prompt[0]) / (n - 1) as f64;
            let rewards: Vec<f64> = (0..4).map(|_| f64::from(u8::from(coin.uniform() < p))).collect();
            (p, rewarded(group, &rewards))
        };
        let (solved, groups): (Vec<f64>, Vec<PromptGroup>) = batch.into_iter().map(solve).unzip();
        source.learn(&groups);
        if step >= steps / 2 {
            taught += solved.iter().map(|p| p * (1.0 - p)).sum::<f64>();
            count += solved.len() as f64;
        }
    }
    assert!(taught / count > 0.19, "{}", taught / count);
    // The estimates are of this policy: those of easy prompts above those of hard ones.
    let mean = |rows: std::ops::Range<usize>| {
        let rates: Vec<f64> = rows.filter_map(|row| source.rate(row)).collect();
        rates.iter().sum::<f64>() / rates.len() as f64
    };
    assert!(mean(0..15) < 0.3 && mean(45..60) > 0.7);
}

#[test]
fn what_cannot_be_used_is_refused() {
    let config = CurriculumConfig::default;
    assert!(Curriculum::new(vec![], config(), 2, 0, 1).is_err());
    assert!(Curriculum::new(prompts(2), config(), 0, 0, 1).is_err());
    let wrong = CurriculumConfig { range: (0.9, 0.1), ..config() };
    let message = Curriculum::new(prompts(2), wrong, 2, 0, 1).unwrap_err().to_string();
    assert!(message.starts_with("curriculum-range = 0.9,0.1"), "{message}");
    for rates in [vec![Some(0.5)], vec![Some(0.5), Some(1.5)], vec![None, Some(f64::NAN)]] {
        assert!(source(2, config(), 2, 0).with_estimates(&rates).is_err());
    }
}

/// Rewards of a batch that differ by step and prompt.
fn reward(batch: Vec<PromptGroup>, seed: u64, step: u64) -> Vec<PromptGroup> {
    let mut coin = RngStream::new(seed, Purpose::Synthetic, step, 1);
    batch.into_iter().map(|group| rewarded(group, &[coin.uniform(), coin.uniform()])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..Default::default() })]

    #[test]
    fn a_restored_run_goes_on_as_if_nothing_had_happened(
        n in 1_usize..40, batch in 1_usize..12, seed: u64, stop in 0_u64..12,
    ) {
        let run = |source: &mut Curriculum, steps: std::ops::Range<u64>| -> Vec<Vec<u32>> {
            steps.map(|step| {
                let groups = source.batch(step).unwrap();
                let taken = rows(&groups);
                source.learn(&reward(groups, seed, step));
                taken
            }).collect()
        };
        let config = CurriculumConfig { decay: 0.5, ..Default::default() };
        let mut whole = source(n, config.clone(), batch, seed);
        let all = run(&mut whole, 0..16);
        prop_assert!(all.iter().all(|taken| taken.len() == batch));
        let mut begun = source(n, config.clone(), batch, seed);
        run(&mut begun, 0..stop);
        let mut resumed = source(n, config, batch, seed);
        resumed.restore(&begun.state()).unwrap();
        prop_assert_eq!(run(&mut resumed, stop..16), &all[stop as usize..]);
        prop_assert_eq!(resumed.state(), whole.state());
        prop_assert_eq!(resumed.metrics(), whole.metrics());
    }

    #[test]
    fn no_state_is_taken_on_trust(
        head in prop::collection::vec(prop_oneof![Just(1.0), Just(3.0), any::<f64>()], 0..3),
        each in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), Just(2.0), any::<f64>()], 0..12),
    ) {
        let state = [head, each].concat();
        let mut source = source(3, CurriculumConfig::default(), 2, 0);
        let before = source.state();
        match source.restore(&state) {
            Ok(()) => prop_assert_eq!(source.state(), state),
            Err(_) => prop_assert_eq!(source.state(), before),
        }
        prop_assert_eq!(source.batch(0).unwrap().len(), 2);
    }
}

#[test]
fn the_state_says_what_it_lacks() {
    let cases = [
        (vec![], "at least 2"),
        (vec![2.0, 3.0], "layout"),
        (vec![1.0, 4.0], "the data have 3"),
        (vec![1.0, 3.0, 0.0], "groups of 3"),
        (vec![1.0, 3.0, 3.0, 0.5, 1.0], "row 3"),
        (vec![1.0, 3.0, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0], "out of order"),
        (vec![1.0, 3.0, 1.0, 1.5, 1.0], "success rate 1.5"),
        (vec![1.0, 3.0, 1.0, 0.5, 0.5], "0.5 answers"),
    ];
    for (state, what) in cases {
        let message = source(3, CurriculumConfig::default(), 2, 0).restore(&state).unwrap_err().to_string();
        assert!(message.contains(what), "{message}");
    }
}
