//! The experiments that train on their own samples, at a budget of seconds: the methods pass, broken ones do not, results are
//! the same bytes however they come about.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::{path::Path, sync::atomic::AtomicBool};

use align_repro::{
    Environment,
    abstain::{self, Abstain},
    experiment::Size,
    on_policy::study::{Method, MethodStudy, Options, Tamper},
    outcome::Outcome,
    report::{self, Report},
    rlhf::{self, Rlhf},
    runner::{RunOptions, run_units},
    store::Store,
    study::{Study, Texts},
    verdict::Verdict,
};
use toml::{Table, Value};

/// The plan of the quick size with other settings, given as paths and values; claims keep their criteria.
fn small(texts: &Texts, changes: &[(&str, Value)]) -> String {
    let mut plan: Table = texts.plan.parse().unwrap();
    for (path, value) in changes {
        let mut place = plan["settings"]["quick"].as_table_mut().unwrap();
        let (last, way) = {
            let mut words: Vec<&str> = path.split('.').collect();
            (words.pop().unwrap(), words)
        };
        for word in way {
            place = place[word].as_table_mut().unwrap();
        }
        assert!(place.insert(last.to_owned(), value.clone()).is_some(), "{path}");
    }
    plan.to_string()
}

fn whole(number: i64) -> Value {
    Value::Integer(number)
}

/// Twenty facts of each kind, a narrow model, few iterations.
fn few_facts(iterations: i64) -> String {
    small(
        &abstain::TEXTS,
        &[
            ("facts", whole(80)),
            ("model.hidden", whole(32)),
            ("model.feed_forward", whole(64)),
            ("sft.steps", whole(150)),
            ("sft.batch", whole(64)),
            ("more.steps", whole(4)),
            ("dpo.steps", whole(4)),
            ("on_policy.prompts", whole(80)),
            ("on_policy.iterations", whole(iterations)),
            ("on_policy.rate", Value::Float(1e-3)),
        ],
    )
}

/// Short stages of a narrow model.
fn short_stages(iterations: i64) -> String {
    small(
        &rlhf::TEXTS,
        &[
            ("train.text_steps", whole(60)),
            ("train.texts", whole(1024)),
            ("layers", whole(1)),
            ("rankings", whole(240)),
            ("on_policy.prompts", whole(64)),
            ("on_policy.iterations", whole(iterations)),
            ("test_samples", whole(8)),
            ("held_out", whole(64)),
            ("world.test_pairs", whole(100)),
        ],
    )
}

fn options(plan: String, arms: &[&str], seeds: u64, tamper: Tamper) -> Options {
    let arms = arms.iter().map(ToString::to_string).collect();
    Options {
        size: Some(Size::Quick),
        seeds: Some(seeds),
        arms,
        plan: Some(plan),
        tamper,
        ..Default::default()
    }
}

fn run_in<M: Method>(folder: &Path, texts: Texts, options: Options, resume: bool, workers: usize) -> Outcome {
    let study = MethodStudy::<M>::new(texts, options).unwrap();
    let store = Store::open(folder, &study.inputs().unwrap(), resume).unwrap();
    let stop = AtomicBool::new(false);
    let run = RunOptions { workers, stop: &stop, talk: false };
    let results = run_units(&study, &study.units().unwrap(), &store, run).unwrap();
    Outcome::judge(&study, Size::Quick, &results).unwrap()
}

fn run<M: Method>(texts: Texts, options: Options) -> Outcome {
    run_in::<M>(tempfile::tempdir().unwrap().path(), texts, options, false, 2)
}

fn mean(outcome: &Outcome, id: &str) -> f64 {
    outcome.findings.evidence.get(id).unwrap().estimate.mean
}

/// With the right reward wrong answers become fewer; with the wrong sign they do not.
#[test]
fn a_reward_for_refusing_lowers_wrong_answers_and_a_turned_one_does_not() {
    let run_with = |tamper| run::<Abstain>(abstain::TEXTS, options(few_facts(12), &["ppo"], 2, tamper));
    let sound = mean(&run_with(Tamper::None), "ppo-less-wrong");
    let reversed = run_with(Tamper::Reverse);
    assert!(sound > 0.1 && mean(&reversed, "ppo-less-wrong") < 0.05, "{sound} {reversed:?}");
    assert_ne!(reversed.verdict("ppo-less-wrong"), Verdict::Reproduced);
    assert!(!reversed.passes());
}

#[test]
fn three_stages_raise_gold_and_turned_rankings_lower_it() {
    let run_with = |tamper| run::<Rlhf>(rlhf::TEXTS, options(short_stages(12), &["ppo"], 2, tamper));
    let (sound, reversed) = (run_with(Tamper::None), run_with(Tamper::Reverse));
    let (up, down) = (mean(&sound, "ppo-over-sft"), mean(&reversed, "ppo-over-sft"));
    assert!(up > 0.2 && down < 0.0, "{up} {down}");
    assert_ne!(reversed.verdict("ppo-over-sft"), Verdict::Reproduced);
    assert!(!reversed.passes());
}

#[test]
fn results_are_the_same_bytes_again_resumed_and_on_one_worker() {
    let arms = ["dpo-both", "sft-informed", "ppo"];
    let small = || options(few_facts(2), &arms, 2, Tamper::None);
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = run_in::<Abstain>(first.path(), abstain::TEXTS, small(), false, 2).to_json().unwrap();
    assert_eq!(run_in::<Abstain>(second.path(), abstain::TEXTS, small(), false, 1).to_json().unwrap(), whole);
    for lost in ["dpo-both-seed-1.json", "ppo-seed-0.json"] {
        std::fs::remove_file(first.path().join("units").join(lost)).unwrap();
    }
    assert_eq!(run_in::<Abstain>(first.path(), abstain::TEXTS, small(), true, 2).to_json().unwrap(), whole);
}

#[test]
fn reports_hold_every_claim_and_a_row_for_every_arm() {
    let arms = ["ppo", "ppo-ptx"];
    let study =
        MethodStudy::<Rlhf>::new(rlhf::TEXTS, options(short_stages(1), &arms, 1, Tamper::None)).unwrap();
    let outcome = run::<Rlhf>(rlhf::TEXTS, options(short_stages(1), &arms, 1, Tamper::None));
    let environment = Environment::here("cargo xtask reproduce rlhf --quick".into(), 2, 1.0);
    let report = Report { outcome: &outcome, environment: &environment, plan: study.plan() };
    let (page, text) = (report::html(&report), report::markdown(&report));
    for claim in &outcome.claims {
        assert!(page.contains(&report::escape(&claim.claim.statement)), "{}", claim.claim.id);
        assert!(text.contains(&claim.claim.statement), "{}", claim.claim.id);
    }
    let table = &outcome.findings.tables[0];
    let rows: Vec<&str> = table.rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(rows, ["sft", "rm", "ppo", "ppo-ptx"]);
    assert!(table.rows.iter().all(|row| row.len() == table.head.len()));
    assert!(page.contains("<svg"), "the curves are drawn");
    assert_eq!(outcome.verdict("ppo-over-sft"), Verdict::Inconclusive, "one seed decides nothing");
}

#[test]
fn plans_that_do_not_fit_are_refused() {
    for (from, to, word) in [
        ("dpo-both = { kind", "dpo-bot = { kind", "dpo-both has no settings"),
        ("of = \"ppo-free\"", "of = \"ppo-fre\"", "ppo-fre, which does not exist"),
        ("taught = { metric", "taugh = { metric", "taught has no figure"),
        ("num_ppo_epochs", "num_ppo_epoch", "num_ppo_epoch"),
    ] {
        let plan = abstain::TEXTS.plan.replace(from, to);
        assert_ne!(plan, abstain::TEXTS.plan);
        let error =
            MethodStudy::<Abstain>::new(abstain::TEXTS, Options { plan: Some(plan), ..Default::default() })
                .unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}
