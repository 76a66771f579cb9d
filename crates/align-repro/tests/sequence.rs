//! The programs of `dpo-vs-ppo` at a budget of seconds: every arm of pairs and positives runs, breaking the method breaks
//! the verdict, results are the same bytes however they come about.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::{path::Path, sync::atomic::AtomicBool};

use align_repro::{
    dpo_vs_ppo::{DpoVsPpo, Options, PLAN, Tamper},
    experiment::Size,
    outcome::Outcome,
    runner::{RunOptions, run_units},
    store::Store,
    study::Study,
    verdict::{ControlVerdict, Verdict},
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

/// A budget: prompts, width, layers, steps of SFT, validation prompts of a curve, answers to a test prompt.
struct Budget {
    prompts: i64,
    hidden: i64,
    layers: i64,
    steps: i64,
    rounds: i64,
    curve: i64,
    test: i64,
}

const TINY: Budget = Budget { prompts: 24, hidden: 16, layers: 1, steps: 12, rounds: 2, curve: 4, test: 1 };

/// The plan at such a budget; claims keep their criteria.
fn small(budget: &Budget) -> Table {
    let mut plan: Table = PLAN.parse().unwrap();
    let quick = plan["settings"]["sequence"]["quick"].as_table_mut().unwrap();
    let mut set = |part: Option<&str>, key: &str, value: Value| {
        let table = part.map_or(&mut *quick, |part| quick[part].as_table_mut().unwrap());
        assert!(table.insert(key.into(), value).is_some(), "{part:?}.{key}");
    };
    set(None, "prompts", Value::Integer(budget.prompts));
    set(None, "rounds", Value::Integer(budget.rounds));
    set(None, "online_rounds", Value::Integer(budget.rounds));
    set(None, "online_pairs", Value::Integer(8));
    set(None, "curve_prompts", Value::Integer(budget.curve));
    set(None, "test_samples", Value::Integer(budget.test));
    set(Some("policy"), "hidden", Value::Integer(budget.hidden));
    set(Some("policy"), "layers", Value::Integer(budget.layers));
    set(Some("policy"), "demonstrations", Value::Integer(6000));
    set(Some("policy"), "steps", Value::Array(vec![Value::Integer(budget.steps)]));
    set(Some("policy"), "warmup", Value::Integer(budget.steps / 4));
    set(Some("on_policy"), "prompts", Value::Integer(budget.prompts));
    plan
}

fn study(plan: &Table, arms: &[&str], seeds: u64, tamper: Tamper) -> DpoVsPpo {
    let common = align_repro::study::Options {
        size: Some(Size::Quick),
        seeds: Some(seeds),
        arms: arms.iter().map(ToString::to_string).collect(),
        plan: Some(plan.to_string()),
        tamper,
        ..Default::default()
    };
    DpoVsPpo::new(Options { common, ..Default::default() }).unwrap()
}

fn run_in(folder: &Path, study: &DpoVsPpo, resume: bool, workers: usize) -> Outcome {
    let store = Store::open(folder, &study.inputs().unwrap(), resume).unwrap();
    let stop = AtomicBool::new(false);
    let run = RunOptions { workers, stop: &stop, talk: false };
    let results = run_units(study, &study.units().unwrap(), &store, run).unwrap();
    Outcome::judge(study, Size::Quick, &results).unwrap()
}

/// A cell of the table of all arms.
fn cell(outcome: &Outcome, arm: &str, column: &str) -> String {
    let table = outcome.findings.tables.iter().find(|table| table.title.starts_with("Every arm")).unwrap();
    let column = table.head.iter().position(|head| head == column).unwrap();
    table.rows.iter().find(|row| row[0] == arm).unwrap()[column].clone()
}

#[test]
fn every_arm_runs_on_the_same_number_of_answers_to_the_same_bytes() {
    let study = study(&small(&TINY), &LEARNERS, 1, Tamper::None);
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = run_in(first.path(), &study, false, 2);
    for arm in LEARNERS {
        assert_eq!(cell(&whole, arm, "answers sampled"), "192.000", "{arm}");
    }
    let json = whole.to_json().unwrap();
    assert_eq!(run_in(second.path(), &study, false, 1).to_json().unwrap(), json);
    for lost in ["dpo-seed-0.json", "rft-online-seed-0.json", "dpo-frozen-seed-0.json"] {
        std::fs::remove_file(first.path().join("units").join(lost)).unwrap();
    }
    assert_eq!(run_in(first.path(), &study, true, 2).to_json().unwrap(), json);
}

#[test]
fn the_first_number_of_steps_in_the_window_is_taken_or_else_the_nearest() {
    let steps = |window: [f64; 2]| {
        let mut plan = small(&TINY);
        let policy = plan["settings"]["sequence"]["quick"]["policy"].as_table_mut().unwrap();
        policy.insert("steps".into(), vec![Value::Integer(2), Value::Integer(12)].into());
        policy.insert("window".into(), window.map(Value::Float).to_vec().into());
        let folder = tempfile::tempdir().unwrap();
        let outcome = run_in(folder.path(), &study(&plan, &["sft"], 1, Tamper::None), false, 1);
        cell(&outcome, "sft", "steps of SFT")
    };
    assert_eq!(steps([0.0, 1.0]), "2.000");
    // So small a policy solves nothing: all are as far from a window that is not reached, and the first stays.
    assert_eq!(steps([0.9, 1.0]), "2.000");
}
