//! The experiments on reward models as wholes, at a budget of seconds: broken ones do not pass, results are the same bytes
//! however they come about.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::{path::Path, sync::atomic::AtomicBool};

use align_repro::{
    experiment::{Experiment, Size},
    outcome::Outcome,
    report::figure::Figure,
    reward::study::{Options, RewardStudy, Tamper},
    reward_boundary, reward_overoptimisation, reward_ranking,
    runner::{RunOptions, run_units},
    store::Store,
    study::{Study, Texts},
    verdict::{ControlVerdict, Verdict},
};
use toml::{Table, Value};

/// The plan with models of one narrow layer, few texts and few samples; claims keep their criteria.
fn small(texts: &Texts) -> String {
    let mut plan: Table = texts.plan.parse().unwrap();
    let settings = plan["settings"].as_table_mut().unwrap();
    for (name, arm) in settings["arms"].as_table_mut().unwrap().iter_mut() {
        let arm = arm.as_table_mut().unwrap();
        if name.starts_with("start") || name.starts_with("other") {
            arm.insert("hidden".into(), Value::Integer(16));
            arm.insert("layers".into(), Value::Integer(1));
        }
    }
    let quick = settings["quick"].as_table_mut().unwrap();
    let mut set = |part: &str, key: &str, value: Value| {
        assert!(quick[part].as_table_mut().unwrap().insert(key.into(), value).is_some(), "{part}.{key}");
    };
    set("train", "text_steps", Value::Integer(4));
    set("train", "texts", Value::Integer(256));
    set("train", "rate", Value::Float(3e-3));
    set("world", "test_pairs", Value::Integer(200));
    if texts.name == reward_overoptimisation::TEXTS.name {
        set("best_of_n", "requests", Value::Integer(2));
        let policy = settings["policy"].as_table_mut().unwrap();
        let quick = policy["quick"].as_table_mut().unwrap()["on_policy"].as_table_mut().unwrap();
        quick.insert("iterations".into(), Value::Integer(16));
        quick.insert("prompts".into(), Value::Integer(32));
        let gain = |metric: &str| format!("metric = '{metric}'\nof = 'ppo-300'").parse::<Table>().unwrap();
        let figures = policy["figures"].as_table_mut().unwrap();
        figures.extend(["gain", "proxy-gain"].map(|name| (name.to_owned(), Value::Table(gain(name)))));
    }
    plan.to_string()
}

fn options(plan: String, arms: &[&str], tamper: Tamper) -> Options {
    let arms = arms.iter().map(ToString::to_string).collect();
    Options { size: Some(Size::Quick), seeds: Some(3), arms, plan: Some(plan), tamper, ..Default::default() }
}

fn run_in(folder: &Path, texts: Texts, options: Options, resume: bool, workers: usize) -> Outcome {
    let study = RewardStudy::new(texts, options).unwrap();
    let store = Store::open(folder, &study.inputs().unwrap(), resume).unwrap();
    let stop = AtomicBool::new(false);
    let run = RunOptions { workers, stop: &stop, talk: false };
    let results = run_units(&study, &study.units().unwrap(), &store, run).unwrap();
    Outcome::judge(&study, &results).unwrap()
}

fn run(texts: Texts, options: Options) -> Outcome {
    run_in(tempfile::tempdir().unwrap().path(), texts, options, false, 2)
}

/// A figure's mean.
fn mean(outcome: &Outcome, id: &str) -> f64 {
    outcome.findings.evidence.get(id).unwrap().estimate.mean
}

/// A control's verdict.
fn control(outcome: &Outcome, id: &str) -> ControlVerdict {
    outcome.controls.iter().find(|judged| judged.control.id == id).unwrap().verdict
}

/// Turned about, comparisons teach the contrary: best-of-n lowers gold from the first.
#[test]
fn a_reversed_reward_model_lowers_gold_at_once() {
    let arms = ["proxy-300", "gold"];
    let run_with = |tamper| {
        run(reward_overoptimisation::TEXTS, options(small(&reward_overoptimisation::TEXTS), &arms, tamper))
    };
    let (sound, reversed) = (run_with(Tamper::None), run_with(Tamper::Reverse));
    assert!(mean(&sound, "gold-rises") > 0.2, "{}", mean(&sound, "gold-rises"));
    assert!(mean(&reversed, "gold-rises") < -0.2, "{}", mean(&reversed, "gold-rises"));
    assert_eq!(reversed.verdict("gold-rises"), Verdict::NotReproduced);
    assert!(!reversed.passes());
    // Gold chosen by gold itself knows no fall.
    assert!(mean(&sound, "gold-itself") < 0.0);
}

/// The same for a policy that is trained on it: the reward model says that it rises, gold falls.
#[test]
fn a_policy_on_a_reversed_reward_model_loses_gold() {
    let run_with = |tamper| {
        let plan = small(&reward_overoptimisation::TEXTS);
        run(reward_overoptimisation::TEXTS, options(plan, &["ppo-300"], tamper))
    };
    let (sound, reversed) = (run_with(Tamper::None), run_with(Tamper::Reverse));
    assert!(mean(&sound, "gain") > 0.2, "{}", mean(&sound, "gain"));
    assert!(mean(&reversed, "gain") < -0.2, "{}", mean(&reversed, "gain"));
    for outcome in [&sound, &reversed] {
        assert!(mean(outcome, "proxy-gain") > 0.2, "{}", mean(outcome, "proxy-gain"));
    }
    assert_ne!(reversed.verdict("ppo-gold-rises"), Verdict::Reproduced);
    assert!(!reversed.passes());
}

/// Data without meaning give no gain of data.
#[test]
fn more_labels_without_meaning_are_no_gain() {
    let arms = ["pairs-250", "pairs-1000"];
    let run_with = |tamper| run(reward_ranking::TEXTS, options(small(&reward_ranking::TEXTS), &arms, tamper));
    let (sound, shuffled) = (run_with(Tamper::None), run_with(Tamper::Shuffle));
    assert!(mean(&sound, "some-data") > 0.0, "{}", mean(&sound, "some-data"));
    assert_ne!(shuffled.verdict("some-data"), Verdict::Reproduced);
    assert!(!shuffled.passes());
}

/// Rankings by lot or turned about teach nothing or the contrary, and the control of true labels says so.
#[test]
fn rankings_without_meaning_do_not_pass_for_true_ones() {
    let run_with = |tamper| {
        let plan = small(&reward_ranking::TEXTS).replace("count = 500", "count = 200");
        run(reward_ranking::TEXTS, options(plan, &["together-once"], tamper))
    };
    let sound = run_with(Tamper::None);
    assert_eq!(control(&sound, "true-labels"), ControlVerdict::Holds, "{}", mean(&sound, "true-labels"));
    assert!(sound.passes());
    for tamper in [Tamper::Shuffle, Tamper::Reverse] {
        let broken = run_with(tamper);
        assert_ne!(
            control(&broken, "true-labels"),
            ControlVerdict::Holds,
            "{}",
            mean(&broken, "true-labels")
        );
        assert!(!broken.passes());
    }
}

/// What is chosen at the boundary is close in gold, what is easiest is far apart; exchanged, the table says so.
#[test]
fn choices_are_what_they_are_called() {
    let arms = ["boundary", "easiest"];
    let distances = |tamper| {
        let outcome = run(reward_boundary::TEXTS, options(small(&reward_boundary::TEXTS), &arms, tamper));
        let table = outcome.findings.tables.iter().find(|table| table.title == "Data and compute").unwrap();
        let place = table.head.iter().position(|head| head.starts_with("|gold difference|")).unwrap();
        let row = |arm: &str| table.rows.iter().find(|row| row[0] == arm).unwrap();
        arms.map(|arm| row(arm)[place].parse::<f64>().unwrap())
    };
    let [boundary, easiest] = distances(Tamper::None);
    assert!(boundary < easiest, "{boundary} {easiest}");
    let swapped = distances(Tamper::OtherChoice);
    assert_eq!(swapped, [easiest, boundary]);
}

/// More labels help; turned about they do the contrary, and the verdict says so.
#[test]
fn labels_that_are_turned_about_do_not_help() {
    let run_with = |tamper| {
        // The present model has seen twenty pairs, so that four hundred are much more.
        let plan = small(&reward_boundary::TEXTS).replace("pool = 2000", "pool = 400");
        let mut plan: Table = plan.parse().unwrap();
        plan["settings"]["arms"]["present"]["rows"]["count"] = Value::Integer(20);
        let options = options(plan.to_string(), &["random"], tamper);
        run(reward_boundary::TEXTS, Options { seeds: Some(5), ..options })
    };
    let (sound, reversed) = (run_with(Tamper::None), run_with(Tamper::Reverse));
    let means = [&sound, &reversed].map(|outcome| mean(outcome, "labels-help"));
    assert_eq!(sound.verdict("labels-help"), Verdict::Reproduced, "{means:?}");
    assert_eq!(reversed.verdict("labels-help"), Verdict::NotReproduced, "{means:?}");
}

#[test]
fn results_are_the_same_bytes_again_resumed_and_on_one_worker() {
    let arms = ["scores", "single", "weights", "ppo-scores"];
    let small = || {
        let plan = small(&reward_overoptimisation::TEXTS).replace("count = 600", "count = 60");
        let plan = plan.replace("iterations = 16", "iterations = 2");
        Options { seeds: Some(1), ..options(plan, &arms, Tamper::None) }
    };
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let texts = reward_overoptimisation::TEXTS;
    let outcome = run_in(first.path(), texts, small(), false, 2);
    for table in &outcome.findings.tables {
        assert!(table.rows.iter().all(|row| row.len() == table.head.len()), "{}", table.title);
    }
    // Gold of best-of-n against how far it went from the start: averaged weights are no member, the best single one is.
    let curve = outcome.findings.figures.iter().find_map(|figure| match figure {
        Figure::Lines(chart) if chart.title == "Best-of-n: gold reward" => Some(chart),
        _ => None,
    });
    let curve = curve.unwrap();
    assert_eq!(curve.x_label, "square root of the KL, nats");
    let points = |name: &str| &curve.series.iter().find(|series| series.name == name).unwrap().points;
    let members = ["member-1", "member-2", "member-3"].map(points);
    assert!(members.contains(&points("single")) && !members.contains(&points("weights")));
    let whole = outcome.to_json().unwrap();
    assert_eq!(run_in(second.path(), texts, small(), false, 1).to_json().unwrap(), whole);
    for lost in ["member-2-seed-0.json", "scores-seed-0.json", "ppo-scores-seed-0.json"] {
        std::fs::remove_file(first.path().join("units").join(lost)).unwrap();
    }
    assert_eq!(run_in(first.path(), texts, small(), true, 2).to_json().unwrap(), whole);
}

/// What an experiment runs it also says something about.
#[test]
fn every_arm_is_read_by_a_claim_or_control() {
    for texts in [reward_ranking::TEXTS, reward_overoptimisation::TEXTS, reward_boundary::TEXTS] {
        let plan = Experiment::from_plan(texts.name, texts.plan).unwrap();
        let claims = plan.claims.iter().flat_map(|claim| &claim.arms);
        let named: Vec<String> =
            claims.chain(plan.controls.iter().flat_map(|control| &control.arms)).cloned().collect();
        let read = plan.select(&named, Size::Full).unwrap();
        assert_eq!(read.len(), plan.arms.len(), "{}", texts.name);
    }
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    for (texts, from, to, word) in [
        (reward_ranking::TEXTS, "pairs-500-w8 = {", "pairs-500-w9 = {", "pairs-500-w8 has no settings"),
        (reward_ranking::TEXTS, "wider = {", "narrower = {", "wider has no figure"),
        (
            reward_ranking::TEXTS,
            "minus = { arms = [\"pairs-1000-w8\"] }",
            "minus = { arms = [\"pairs-500-w8\"] }",
            "its figure reads pairs-1000, pairs-500-w8",
        ),
        (reward_overoptimisation::TEXTS, "samples = 1024", "samples = 100", "of 100 samples"),
        (reward_overoptimisation::TEXTS, "ppo-300 = {", "ppo-30 = {", "ppo-300 has no settings"),
        (
            reward_overoptimisation::TEXTS,
            "ppo-gold-rises = {",
            "ppo-rises = {",
            "ppo-gold-rises has no figure",
        ),
        (reward_boundary::TEXTS, "present = \"present\"", "present = \"random\"", "does not need it"),
        (reward_boundary::TEXTS, "which = \"boundary\"", "which = \"middle\"", "middle"),
    ] {
        let plan = texts.plan.replace(from, to);
        assert_ne!(plan, texts.plan, "{from}");
        let error = RewardStudy::new(texts, Options { plan: Some(plan), ..Default::default() }).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}
