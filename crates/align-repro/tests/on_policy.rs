//! The experiments that train on their own samples: plans that do not fit are refused, and a broken method at a budget of
//! seconds does not pass.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::atomic::AtomicBool;

use align_repro::{
    abstain::{self, Abstain},
    curriculum::{self, Curriculum},
    experiment::Size,
    on_policy::study::{Method, MethodStudy, Options, Tamper},
    outcome::Outcome,
    runner::{RunOptions, run_units},
    store::Store,
    study::{Study, Texts},
    verdict::{ControlVerdict, Verdict},
};

fn refusal<M: Method>(texts: Texts, from: &str, to: &str) -> String {
    let plan = texts.plan.replace(from, to);
    assert_ne!(plan, texts.plan, "{from}");
    MethodStudy::<M>::new(texts, Options { plan: Some(plan), ..Default::default() })
        .err()
        .unwrap()
        .to_string()
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    for (from, to, word) in [
        ("dpo-both = { kind", "dpo-bot = { kind", "dpo-both has no settings"),
        ("of = \"ppo-free\"", "of = \"ppo-fre\"", "ppo-fre, which does not exist"),
        ("taught = { metric", "taugh = { metric", "taught has no figure"),
        ("num_ppo_epochs", "num_ppo_epoch", "num_ppo_epoch"),
    ] {
        let error = refusal::<Abstain>(abstain::TEXTS, from, to);
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn filters_and_budgets_that_do_not_fit_are_refused() {
    for (from, to, word) in [
        ("range = [0.0, 0.2]", "range = [0.2, 0.0]", "curriculum-range"),
        ("replay = 1.0", "replay = 1.1", "curriculum-replay"),
        ("estimates = 4", "estimates = 3", "some iterations of 256"),
        ("pool = 32", "pool = 64", "there are 100 of one column"),
        ("right = [0.98, ", "right = [", "6 numbers"),
    ] {
        let error = refusal::<Curriculum>(curriculum::TEXTS, from, to);
        assert!(error.contains(word), "{error}");
    }
}

/// Runs one seed of some arms of `curriculum`, in a few iterations.
fn run(changes: &[(&str, &str)], arms: &[&str], tamper: Tamper) -> Outcome {
    let mut plan = curriculum::TEXTS.plan.to_owned();
    for (from, to) in changes {
        assert!(plan.contains(from), "{from}");
        plan = plan.replace(from, to);
    }
    let arms = arms.iter().map(ToString::to_string).collect();
    let options = Options {
        size: Some(Size::Quick),
        seeds: Some(2),
        arms,
        plan: Some(plan),
        tamper,
        ..Default::default()
    };
    let study = MethodStudy::<Curriculum>::new(curriculum::TEXTS, options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), &study.inputs().unwrap(), false).unwrap();
    let stop = AtomicBool::new(false);
    let run = RunOptions { workers: 2, stop: &stop, talk: false };
    let results = run_units(&study, &study.units().unwrap(), &store, run).unwrap();
    Outcome::judge(&study, &results).unwrap()
}

fn mean(outcome: &Outcome, id: &str) -> f64 {
    outcome.findings.evidence.get(id).unwrap().estimate.mean
}

/// Without the estimates, which are three iterations, five are left.
const SHORT: (&str, &str) = ("iterations = 40", "iterations = 8");
const EDGE: &str =
    "edge = { kind = \"train\", filter = { range = [0.2, 0.8], explore = 0.0, replay = 0.1 } }";

#[test]
fn the_filter_finds_what_can_teach_and_turned_round_what_cannot() {
    let sound = run(&[SHORT], &["all", "edge"], Tamper::None);
    assert_eq!(sound.control_verdict("same-rollouts"), ControlVerdict::Holds);
    assert_eq!(sound.control_verdict("starts-easy"), ControlVerdict::Holds);
    assert_eq!(sound.control_verdict("starts-hard"), ControlVerdict::Holds);
    let turned = EDGE.replace("replay = 0.1", "replay = 1.0");
    let turned = run(&[SHORT, (EDGE, turned.as_str())], &["all", "edge"], Tamper::None);
    let [found, lost] = [&sound, &turned].map(|outcome| mean(outcome, "edge-mixed"));
    assert!(found > 0.0 && lost < 0.0, "{found} {lost}");
    assert_ne!(turned.verdict("edge-mixed"), Verdict::Reproduced);
}

#[test]
fn a_reward_for_wrong_answers_unteaches() {
    let reversed = run(&[SHORT], &["all"], Tamper::Reverse);
    assert!(mean(&reversed, "all-over-start") < 0.0, "{}", mean(&reversed, "all-over-start"));
    assert_ne!(reversed.verdict("all-over-start"), Verdict::Reproduced);
}
