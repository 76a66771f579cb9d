//! The order of rows.

use align_data::{PromptGroup, PromptOrder, PromptSource, ShuffledRows, hold_out};
use proptest::prelude::*;

fn rows(n: u32) -> Vec<PromptGroup> {
    (0..n).map(|i| PromptGroup::new(vec![i], vec![])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_epoch_is_a_permutation(n in 1_u32..60, batch in 1_usize..20, seed: u64, epoch in 0_u64..4) {
        let mut source = ShuffledRows::new(rows(n), batch, seed, 1000).unwrap();
        let per_epoch = source.steps_per_epoch();
        prop_assert_eq!(per_epoch, u64::from(n).div_ceil(batch as u64));
        let steps = epoch * per_epoch..(epoch + 1) * per_epoch;
        let batches: Vec<_> = steps.map(|step| source.batch(step).unwrap()).collect();
        // Only the last batch of an epoch may be smaller.
        prop_assert!(batches.iter().rev().skip(1).all(|b| b.len() == batch));
        let mut seen: Vec<_> = batches.iter().flatten().map(|g| g.prompt[0]).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_is_a_function_of_the_step(n in 1_u32..40, batch in 1_usize..9, seed: u64, steps in prop::collection::vec(0_u64..50, 1..20)) {
        let mut in_order = ShuffledRows::new(rows(n), batch, seed, 50).unwrap();
        let all: Vec<_> = (0..50).map(|step| in_order.batch(step).unwrap()).collect();
        let mut jumping = ShuffledRows::new(rows(n), batch, seed, 50).unwrap();
        for step in steps {
            prop_assert_eq!(&jumping.batch(step).unwrap(), &all[step as usize]);
        }
    }

    #[test]
    fn iterations_are_full_and_go_round(n in 1_usize..40, batch in 1_usize..90, seed: u64, steps in 1_u64..12) {
        let mut source = PromptOrder::new(rows(n as u32), batch, seed, steps).unwrap();
        let all: Vec<Vec<usize>> = (0..steps).map(|step| source.indices(step)).collect();
        prop_assert!(all.iter().all(|taken| taken.len() == batch));
        let flat = all.concat();
        for pass in flat.chunks(n) {
            let mut seen = pass.to_vec();
            seen.sort_unstable();
            seen.dedup();
            prop_assert_eq!(seen.len(), pass.len(), "no prompt comes again before all have come");
        }
        // As a resumed run asks: a later step alone.
        let mut resumed = PromptOrder::new(rows(n as u32), batch, seed, steps).unwrap();
        prop_assert_eq!(&resumed.indices(steps - 1), &all[steps as usize - 1]);
    }

    #[test]
    fn rows_held_out_are_apart(n in 1_usize..50, out in 0_usize..60, seed: u64) {
        let (rest, held) = hold_out((0..n).collect(), out, seed);
        prop_assert_eq!(held.len(), out.min(n - 1));
        prop_assert!(rest.is_sorted() && held.is_sorted());
        let mut all = [rest.clone(), held.clone()].concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
        prop_assert_eq!(hold_out((0..n).collect(), out, seed), (rest, held));
    }
}

#[test]
fn epochs_and_seeds_have_their_own_order() {
    let order = |seed, epoch: u64| {
        let mut source = ShuffledRows::new(rows(50), 50, seed, 10).unwrap();
        source.indices(epoch)
    };
    let going_round = |step| PromptOrder::new(rows(50), 50, 0, 10).unwrap().indices(step);
    assert_ne!(going_round(0), going_round(1));
    assert_eq!(PromptOrder::new(rows(3), 2, 0, 10).unwrap().indices(u64::MAX).len(), 2);
    assert_ne!(order(0, 0), order(0, 1));
    assert_ne!(order(0, 0), order(1, 0));
    assert_ne!(hold_out((0..50).collect::<Vec<_>>(), 9, 0), hold_out((0..50).collect(), 9, 1));
}

#[test]
fn sources_that_serve_nothing_are_refused() {
    assert!(ShuffledRows::new(vec![], 2, 0, 1).is_err());
    assert!(ShuffledRows::new(rows(3), 0, 0, 1).is_err());
    assert!(PromptOrder::new(vec![], 2, 0, 1).is_err());
    assert!(PromptOrder::new(rows(3), 0, 0, 1).is_err());
    assert_eq!(PromptOrder::new(rows(3), 2, 0, 7).unwrap().steps(), Some(7));
    assert_eq!(ShuffledRows::new(rows(3), 2, 0, 7).unwrap().steps(), Some(7));
}
