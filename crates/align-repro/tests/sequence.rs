//! The programs of `dpo-vs-ppo` at a budget of seconds, at which nothing passes and nothing is learned: what every arm samples,
//! and the rule for the steps of fine-tuning.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{path::Path, sync::atomic::AtomicBool};

use align_repro::{
    dpo_vs_ppo::{DpoVsPpo, Options, PLAN},
    experiment::Size,
    runner::{RunOptions, run_units},
    store::Store,
    study::Study,
};
use toml::{Table, Value};

const LEARNERS: [&str; 9] = [
    "dpo-published",
    "dpo",
    "dpo-shuffled",
    "dpo-with-sft",
    "rft",
    "rft-online",
    "dpo-iterative",
    "dpo-online",
    "dpo-frozen",
];

/// The plan at a budget at which nothing is learned.
fn small() -> Table {
    let mut plan: Table = PLAN.parse().unwrap();
    let quick = plan["settings"]["sequence"]["quick"].as_table_mut().unwrap();
    let mut set = |part: &[&str], key: &str, value: i64| {
        let table = part.iter().fold(&mut *quick, |table, part| table[*part].as_table_mut().unwrap());
        assert!(table.insert(key.into(), Value::Integer(value)).is_some(), "{part:?}.{key}");
    };
    let budget = [("prompts", 32), ("rounds", 2), ("online_rounds", 2), ("online_pairs", 8)];
    budget.into_iter().for_each(|(key, value)| set(&[], key, value));
    [("curve_prompts", 4), ("test_samples", 1)].into_iter().for_each(|(key, value)| set(&[], key, value));
    let policy = [("hidden", 16), ("layers", 1), ("demonstrations", 1000), ("warmup", 4)];
    policy.into_iter().for_each(|(key, value)| set(&["policy"], key, value));
    let policy = plan["settings"]["sequence"]["quick"]["policy"].as_table_mut().unwrap();
    policy.insert("steps".into(), vec![Value::Integer(12)].into());
    plan
}

fn study(plan: &Table, arms: &[&str]) -> DpoVsPpo {
    let arms = arms.iter().map(ToString::to_string).collect();
    let plan = Some(plan.to_string());
    let common = align_repro::study::Options { size: Some(Size::Quick), arms, plan, ..Default::default() };
    DpoVsPpo::new(Options { common, ..Default::default() }).unwrap()
}

fn run_in(folder: &Path, study: &DpoVsPpo) {
    let store = Store::open(folder, &study.inputs().unwrap(), false).unwrap();
    let stop = AtomicBool::new(false);
    let run = RunOptions { workers: 2, stop: &stop, talk: false };
    run_units(study, &study.units().unwrap(), &store, run).unwrap();
}

/// A number of an arm with seed 0.
fn number(folder: &Path, arm: &str, metric: &str) -> f64 {
    let text = std::fs::read_to_string(folder.join(format!("units/{arm}-seed-0.json"))).unwrap();
    let unit: serde_json::Value = serde_json::from_str(&text).unwrap();
    unit["metrics"][metric].as_f64().unwrap()
}

/// 32 prompts with 8 answers each, whoever samples them.
#[test]
fn every_arm_samples_the_same_number_of_answers() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &study(&small(), &LEARNERS));
    for arm in LEARNERS {
        assert_eq!(number(folder.path(), arm, "answers"), 256.0, "{arm}");
    }
}

#[test]
fn the_first_number_of_steps_in_the_window_is_taken_and_of_two_that_are_as_far_the_first() {
    let steps = |window: [f64; 2]| {
        let mut plan = small();
        let policy = plan["settings"]["sequence"]["quick"]["policy"].as_table_mut().unwrap();
        policy.insert("steps".into(), vec![Value::Integer(2), Value::Integer(12)].into());
        policy.insert("window".into(), window.map(Value::Float).to_vec().into());
        let folder = tempfile::tempdir().unwrap();
        run_in(folder.path(), &study(&plan, &["sft"]));
        number(folder.path(), "sft", "sft_steps")
    };
    assert_eq!(steps([0.0, 1.0]), 2.0);
    // So small a policy solves nothing: both are as far from a window that is not reached, and the first stays.
    assert_eq!(steps([0.9, 1.0]), 2.0);
}
