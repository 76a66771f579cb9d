//! Mixtures and stored rows: proportions, order, and the same rows again.

use crate::common;

use align_data::{
    BadRows, DataConfig, Kind, MixedRows, PromptGroup, PromptSource, Rows, ShuffledRows, load_rows,
    store_rows,
};
use proptest::prelude::*;

fn rows(n: usize) -> Vec<PromptGroup> {
    (0..n).map(|i| PromptGroup::new(vec![i as u32], vec![])).collect()
}

fn mix(sets: &[(usize, f64)], batch: usize, seed: u64) -> MixedRows {
    MixedRows::new(sets.iter().map(|(n, weight)| (rows(*n), *weight)), batch, seed, 100).unwrap()
}

#[test]
fn sets_keep_their_proportions_and_no_row_comes_again_too_soon() {
    let mut source = mix(&[(30, 1.0), (10, 3.0)], 7, 3);
    assert_eq!((source.shares(), source.steps_per_epoch()), (&[10, 30][..], 6));
    // An epoch takes 10 of 30 rows of the first set, and all of the second three times.
    let mut seen = [vec![0; 30], vec![0; 10]];
    for step in 0..18 {
        for (set, row) in source.indices(step) {
            seen[set][row] += 1;
        }
    }
    assert_eq!(seen, [vec![1; 30], vec![9; 10]]);
    assert_eq!((0..6).map(|step| source.indices(step).len()).collect::<Vec<_>>(), [7, 7, 7, 7, 7, 5]);
    // The sets are shuffled among each other, and each epoch anew.
    let first: Vec<_> = (0..6).flat_map(|step| source.indices(step)).collect();
    let second: Vec<_> = (6..12).flat_map(|step| source.indices(step)).collect();
    assert_ne!(first, second);
    let changes = first.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
    assert!(changes > 5, "{first:?}");
    assert_ne!(mix(&[(30, 1.0), (10, 3.0)], 7, 4).indices(0), source.indices(0));
}

#[test]
fn mixtures_that_make_no_sense_are_refused() {
    let says = |sets: Vec<(Vec<PromptGroup>, f64)>, batch| {
        MixedRows::new(sets, batch, 0, 1).unwrap_err().to_string()
    };
    assert!(says(vec![], 1).contains("nothing is left"));
    assert!(says(vec![(rows(3), 1.0), (rows(0), 1.0)], 1).contains("nothing is left"));
    assert!(says(vec![(rows(3), 1.0), (rows(3), 0.0)], 1).contains("data-weights = 0: a positive number"));
    assert!(says(vec![(rows(3), 1.0)], 0).contains("batch-size"));
}

#[test]
fn stored_rows_are_those_in_memory_in_the_same_order() {
    let (tokenizer, template) = common::tokenizer("plain");
    let dir = tempfile::tempdir().unwrap();
    let lines = |from: usize, to: usize| -> String {
        let line = |i| match i % 10 {
            9 => "{broken\n".to_owned(),
            _ => format!(
                "{{\"prompt\": \"The cat {i}\", \"chosen\": \" is é {i}\", \"rejected\": \" no\", \"x\": [{i}.1, null]}}\n"
            ),
        };
        (from..to).map(line).collect()
    };
    let files = [
        common::write(dir.path(), "a.jsonl", lines(0, 700)),
        common::write(dir.path(), "b", lines(700, 1000)),
    ];
    let config = DataConfig { bad_rows: BadRows::Skip, ..Default::default() };
    let kinds = &[Kind::Preference];
    let (memory, report) = load_rows(&files, kinds, &tokenizer, Some(&template), &config).unwrap();
    let (store, same) = store_rows(dir.path(), &files, kinds, &tokenizer, Some(&template), &config).unwrap();
    assert_eq!(report, same);
    assert_eq!((store.len(), report.bad_count), (900, 100));
    assert!(store.bytes() > 0 && store.get(900).is_err());
    let stored = Rows::from(store);
    for (i, row) in memory.iter().enumerate() {
        assert_eq!(&stored.get(i).unwrap(), row);
    }
    let mut shuffled = [Rows::from(memory), stored].map(|rows| ShuffledRows::new(rows, 7, 5, 500).unwrap());
    for step in [3, 0, 300, 128, 129] {
        let [a, b] = &mut shuffled;
        assert_eq!(a.batch(step).unwrap(), b.batch(step).unwrap());
    }
    // The file has no name: nothing is left behind, even while it is open.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    assert!(store_rows(&dir.path().join("absent"), &files, kinds, &tokenizer, None, &config).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    // A run that begins at any step sees the rows of the run that came from the first.
    #[test]
    fn a_step_does_not_depend_on_the_steps_before(sizes in proptest::collection::vec((5_usize..40, 0.2_f64..5.0), 1..4), batch in 1_usize..9, seed: u64, start in 0_u64..30) {
        let mut whole = mix(&sizes, batch, seed);
        let all: Vec<_> = (0..start + 10).map(|step| whole.indices(step)).collect();
        let mut resumed = mix(&sizes, batch, seed);
        for step in start..start + 10 {
            prop_assert_eq!(&resumed.indices(step), &all[step as usize]);
        }
        let total: usize = sizes.iter().map(|(n, _)| n).sum();
        prop_assert_eq!(whole.shares().iter().sum::<usize>(), total);
        // Over any number of whole epochs, the rows of a set are taken equally often, to within one.
        let mut seen: Vec<Vec<usize>> = sizes.iter().map(|(n, _)| vec![0; *n]).collect();
        for step in 0..3 * whole.steps_per_epoch() {
            for (set, row) in whole.indices(step) {
                seen[set][row] += 1;
            }
        }
        for counts in seen {
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }
    }
}
