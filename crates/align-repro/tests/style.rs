//! KTO and UNA as wholes, at a budget of seconds: the methods pass, broken ones do not, results are the same bytes
//! however they come about.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::{path::Path, sync::atomic::AtomicBool};

use align_repro::{
    Environment,
    experiment::Size,
    kto,
    outcome::Outcome,
    report::{self, Report},
    runner::{RunOptions, run_units},
    store::Store,
    study::{Study, Texts},
    style::study::{Options, StyleStudy, Tamper},
    una,
    verdict::{ControlVerdict, Verdict},
};
use toml::{Table, Value};

/// The plan with a smaller policy, one setting and few updates; claims keep their criteria.
fn small(texts: &Texts, sft_steps: i64, updates: i64) -> String {
    let mut plan: Table = texts.plan.parse().unwrap();
    let quick = plan["settings"]["quick"].as_table_mut().unwrap();
    let mut set = |part: &str, key: &str, value: Value| {
        assert!(quick[part].as_table_mut().unwrap().insert(key.into(), value).is_some(), "{part}.{key}");
    };
    set("policy", "layers", Value::Integer(1));
    set("policy", "sft_steps", Value::Integer(sft_steps));
    set("policy", "demonstrations", Value::Integer(1024));
    set("feedback", "answers", Value::Integer(8));
    set("sweep", "rates", Value::Array(vec![Value::Float(3e-3)]));
    set("sweep", "betas", Value::Array(vec![Value::Float(0.1)]));
    set("sweep", "updates", Value::Integer(updates));
    set("sweep", "checkpoints", Value::Integer(2));
    set("sweep", "validation_samples", Value::Integer(2));
    set("sweep", "test_samples", Value::Integer(8));
    plan.to_string()
}

fn options(plan: String, arms: &[&str], tamper: Tamper) -> Options {
    let arms = arms.iter().map(ToString::to_string).collect();
    Options { size: Some(Size::Quick), seeds: Some(3), arms, plan: Some(plan), tamper, ..Default::default() }
}

fn run_in(folder: &Path, texts: Texts, options: Options, resume: bool, workers: usize) -> Outcome {
    let study = StyleStudy::new(texts, options).unwrap();
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

/// Turned about, the scores teach the policy to write badly; without meaning they teach it nothing.
#[test]
fn una_on_scores_learns_and_a_broken_one_does_not() {
    let run_with = |tamper| run(una::TEXTS, options(small(&una::TEXTS, 60, 16), &["score-bce"], tamper));
    let sound = run_with(Tamper::None);
    assert_eq!(sound.verdict("score-over-sft"), Verdict::Reproduced, "{}", mean(&sound, "score-over-sft"));
    assert!(sound.passes(), "{}", sound.summary());
    let reversed = run_with(Tamper::Reverse);
    assert_eq!(reversed.verdict("score-over-sft"), Verdict::NotReproduced);
    assert!(!reversed.passes());
    let random = run_with(Tamper::Random);
    assert_ne!(random.verdict("score-over-sft"), Verdict::Reproduced);
    assert!(!random.passes());
    assert!(mean(&sound, "score-over-sft") > mean(&random, "score-over-sft") + 0.2);
}

#[test]
fn kto_and_dpo_learn_and_reversed_labels_turn_the_verdicts() {
    let arms = ["dpo", "kto"];
    let run_with = |tamper| run(kto::TEXTS, options(small(&kto::TEXTS, 60, 16), &arms, tamper));
    let (sound, reversed) = (run_with(Tamper::None), run_with(Tamper::Reverse));
    for id in ["kto-over-sft", "dpo-over-sft"] {
        assert!(mean(&sound, id) > 0.0 && mean(&reversed, id) < -0.3, "{id}");
        assert_eq!(reversed.verdict(id), Verdict::NotReproduced, "{id}");
    }
    assert!(!reversed.passes());
    assert_eq!(sound.verdict("z0-matters"), Verdict::NotRun);
}

/// What is said about z0 is about z0: the verdicts change where it is lost.
#[test]
fn a_lost_z0_changes_what_is_said_about_it() {
    let run_with = |tamper| {
        let arms = ["kto-few-bad-no-z0", "kto-few-bad-wrong-z0"];
        run(kto::TEXTS, options(small(&kto::TEXTS, 60, 16), &arms, tamper))
    };
    let sound = run_with(Tamper::None);
    assert_eq!(sound.verdict("z0-above-0"), Verdict::Reproduced, "{}", mean(&sound, "z0-above-0"));
    assert_eq!(sound.control_verdict("wrong-z0-is-there"), ControlVerdict::Holds);
    let lost = run_with(Tamper::NoBaseline);
    assert_eq!(mean(&lost, "z0-above-0"), 0.0);
    assert_eq!(lost.verdict("z0-above-0"), Verdict::Inconclusive);
    assert_eq!(lost.control_verdict("wrong-z0-is-there"), ControlVerdict::DoesNotHold);
    assert!(!lost.passes());
}

#[test]
fn una_is_dpo_on_pairs_and_an_offset_spares_qrpo() {
    let arms = ["una-pairs", "qrpo-offset"];
    let plan = || small(&una::TEXTS, 4, 4);
    let sound = run(una::TEXTS, options(plan(), &arms, Tamper::None));
    for id in ["una-is-dpo", "offset-spares-qrpo"] {
        assert_eq!(sound.control_verdict(id), ControlVerdict::Holds, "{id}");
    }
    let other = run(una::TEXTS, options(plan(), &arms, Tamper::OtherPairs));
    assert_eq!(other.control_verdict("una-is-dpo"), ControlVerdict::DoesNotHold);
    assert_eq!(mean(&other, "una-is-dpo"), 3.0);
    assert!(!other.passes());
    // An objective that reads the scores themselves does see the offset.
    let plan = plan().replace("loss = \"qrpo\"", "loss = \"una-bce\"");
    let seen = run(una::TEXTS, options(plan, &["qrpo-offset"], Tamper::None));
    assert_eq!(seen.control_verdict("offset-spares-qrpo"), ControlVerdict::DoesNotHold);
}

#[test]
fn results_are_the_same_bytes_again_resumed_and_on_one_worker() {
    let arms = ["dpo-flipped", "kto-tenth", "kto-no-z0"];
    let small = || Options { seeds: Some(2), ..options(small(&kto::TEXTS, 4, 4), &arms, Tamper::None) };
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = run_in(first.path(), kto::TEXTS, small(), false, 2).to_json().unwrap();
    assert_eq!(run_in(second.path(), kto::TEXTS, small(), false, 1).to_json().unwrap(), whole);
    for lost in ["dpo-flipped-seed-1.json", "kto-tenth-seed-0.json"] {
        std::fs::remove_file(first.path().join("units").join(lost)).unwrap();
    }
    assert_eq!(run_in(first.path(), kto::TEXTS, small(), true, 2).to_json().unwrap(), whole);
}

/// λ_D n_D / (λ_U n_U) is 4/3 by the rule, with 90 % of the desirable rows lost.
#[test]
fn lost_rows_are_counted_in_the_report() {
    let arms = ["kto-tenth", "dpo", "kto", "kto-few-bad", "kto-few-bad-no-z0", "kto-few-bad-wrong-z0"];
    let outcome = run(kto::TEXTS, options(small(&kto::TEXTS, 2, 2), &arms, Tamper::None));
    let work = outcome.findings.tables.iter().find(|table| table.title == "Samples and compute").unwrap();
    let cell = |arm: &str| work.rows.iter().find(|row| row[0] == arm).unwrap()[5].clone();
    // 120 requests with 8 answers are 480 pairs.
    assert_eq!(cell("kto-tenth"), "48 / 480");
    assert_eq!(cell("dpo"), "–");
    assert_eq!(cell("kto"), "480 / 480");
    for arm in ["kto-few-bad", "kto-few-bad-no-z0", "kto-few-bad-wrong-z0"] {
        assert_eq!(cell(arm), "480 / 48", "{arm}");
    }
}

#[test]
fn reports_hold_every_claim_and_the_plan_that_was_run() {
    let study =
        StyleStudy::new(una::TEXTS, options(small(&una::TEXTS, 2, 2), &["kto"], Tamper::None)).unwrap();
    let outcome = run(una::TEXTS, options(small(&una::TEXTS, 2, 2), &["kto"], Tamper::None));
    let environment = Environment::here("cargo xtask reproduce una --quick".into(), 2, 1.0);
    let report = Report { outcome: &outcome, environment: &environment, plan: study.planned().text() };
    let (page, text) = (report::html(&report), report::markdown(&report));
    for claim in &outcome.claims {
        assert!(page.contains(&report::escape(&claim.claim.statement)), "{}", claim.claim.id);
        assert!(text.contains(&claim.claim.statement), "{}", claim.claim.id);
    }
    for table in &outcome.findings.tables {
        assert!(table.rows.iter().all(|row| row.len() == table.head.len()), "{}", table.title);
    }
    assert!(page.contains("<svg"), "the frontier is drawn");
    assert_eq!(outcome.verdict("score-over-pairs"), Verdict::NotRun);
}

#[test]
fn plans_whose_arms_have_no_settings_are_refused() {
    for (from, to, word) in [
        ("[settings.arms.kto-tenth]", "[settings.arms.kto-tent]", "kto-tenth has no settings"),
        ("like = \"kto\"", "like = \"dpo\"", "is like dpo"),
        ("balance = \"rule\"", "balance = \"none-such\"", "none-such"),
        ("keep-desirable", "keep_desirable", "keep_desirable"),
        ("keep-undesirable = 0.1", "keep-undesirable = 1.5", "not in (0, 1]"),
    ] {
        let plan = kto::TEXTS.plan.replace(from, to);
        assert_ne!(plan, kto::TEXTS.plan);
        let error =
            StyleStudy::new(kto::TEXTS, Options { plan: Some(plan), ..Default::default() }).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}
