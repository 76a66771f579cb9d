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
    rlhf::{self, Rlhf},
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

/// Runs some arms of an experiment at its quick size, with lines of the plan changed.
fn run<M: Method>(
    texts: Texts,
    changes: &[(&str, &str)],
    arms: &[&str],
    seeds: u64,
    tamper: Tamper,
) -> Outcome {
    let mut plan = texts.plan.to_owned();
    for (from, to) in changes {
        assert!(plan.contains(from), "{from}");
        plan = plan.replace(from, to);
    }
    let arms = arms.iter().map(ToString::to_string).collect();
    let options = Options {
        size: Some(Size::Quick),
        seeds: Some(seeds),
        arms,
        plan: Some(plan),
        tamper,
        ..Default::default()
    };
    let study = MethodStudy::<M>::new(texts, options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), &study.inputs().unwrap(), false).unwrap();
    let stop = AtomicBool::new(false);
    let run = RunOptions { workers: 2, stop: &stop, talk: false };
    let results = run_units(&study, &study.units().unwrap(), &store, run).unwrap();
    Outcome::judge(&study, &results).unwrap()
}

/// Runs two seeds of some arms of `curriculum`, in a few iterations.
fn columns(changes: &[(&str, &str)], arms: &[&str], tamper: Tamper) -> Outcome {
    run::<Curriculum>(curriculum::TEXTS, changes, arms, 2, tamper)
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
    let sound = columns(&[SHORT], &["all", "edge"], Tamper::None);
    assert_eq!(sound.control_verdict("same-rollouts"), ControlVerdict::Holds);
    assert_eq!(sound.control_verdict("starts-easy"), ControlVerdict::Holds);
    assert_eq!(sound.control_verdict("starts-hard"), ControlVerdict::Holds);
    let turned = EDGE.replace("replay = 0.1", "replay = 1.0");
    let turned = columns(&[SHORT, (EDGE, turned.as_str())], &["all", "edge"], Tamper::None);
    let [found, lost] = [&sound, &turned].map(|outcome| mean(outcome, "edge-mixed"));
    assert!(found > 0.0 && lost < 0.0, "{found} {lost}");
    assert_ne!(turned.verdict("edge-mixed"), Verdict::Reproduced);
}

#[test]
fn a_reward_for_wrong_answers_unteaches() {
    let reversed = columns(&[SHORT], &["all"], Tamper::Reverse);
    assert!(mean(&reversed, "all-over-start") < 0.0, "{}", mean(&reversed, "all-over-start"));
    assert_ne!(reversed.verdict("all-over-start"), Verdict::Reproduced);
}

/// Few facts and a small model, so that an arm takes a second.
const FEW_FACTS: [(&str, &str); 5] = [
    ("facts = 512", "facts = 64"),
    (
        "hidden = 128, feed_forward = 256, layers = 2, heads = 4",
        "hidden = 64, feed_forward = 128, layers = 1, heads = 4",
    ),
    ("sft = { batch = 128, steps = 400", "sft = { batch = 64, steps = 150"),
    ("prompts = 256", "prompts = 64"),
    ("iterations = 40", "iterations = 20"),
];

/// Three seeds of `abstain`, with what a wrong answer costs in PPO.
fn facts(cost: &str, tamper: Tamper) -> Outcome {
    let costs = format!("wrong = {cost} }}\nppo-free");
    let changes = [&FEW_FACTS[..], &[("wrong = -4.0 }\nppo-free", costs.as_str())]].concat();
    run::<Abstain>(abstain::TEXTS, &changes, &["sft", "ppo"], 3, tamper)
}

#[test]
fn a_reward_for_wrong_answers_makes_them_more() {
    let reversed = facts("-4.0", Tamper::Reverse);
    let found = mean(&reversed, "ppo-less-wrong");
    assert_eq!(reversed.verdict("ppo-less-wrong"), Verdict::NotReproduced, "{found}");
}

/// What the control is given, given to PPO. At the price of the plan they do: by how much decides, because an interval of
/// three seeds of so few facts does not.
#[test]
fn wrong_answers_that_cost_nothing_do_not_become_fewer() {
    let [costly, free] = ["-4.0", "0.0"].map(|cost| facts(cost, Tamper::None));
    let found = [&costly, &free].map(|outcome| mean(outcome, "ppo-less-wrong"));
    assert!(found[0] - found[1] > 0.2, "{found:?}");
    assert_ne!(free.verdict("ppo-less-wrong"), Verdict::Reproduced, "{found:?}");
}

/// Short stages of `rlhf`.
const SHORT_STAGES: [(&str, &str); 3] = [
    ("text_steps = 80", "text_steps = 40"),
    ("rankings = 240", "rankings = 160"),
    ("test_samples = 16", "test_samples = 8"),
];

#[test]
fn rankings_turned_round_make_worse_answers() {
    let stages = |tamper| run::<Rlhf>(rlhf::TEXTS, &SHORT_STAGES, &["sft", "rm", "ppo"], 3, tamper);
    let sound = stages(Tamper::None);
    assert_eq!(sound.verdict("ppo-over-sft"), Verdict::Reproduced, "{}", mean(&sound, "ppo-over-sft"));
    let reversed = stages(Tamper::Reverse);
    assert_eq!(
        reversed.verdict("ppo-over-sft"),
        Verdict::NotReproduced,
        "{}",
        mean(&reversed, "ppo-over-sft")
    );
}

/// What the control learns from, given to PPO: its reward model has seen the grades of other answers.
#[test]
fn shuffled_rankings_reproduce_nothing() {
    let given =
        [("ppo = { kind = \"ppo\", reward = \"rm\"", "ppo = { kind = \"ppo\", reward = \"rm-shuffled\"")];
    let needs = [("needs = [\"sft\", \"rm\"]", "needs = [\"sft\", \"rm-shuffled\"]")];
    let changes = [&SHORT_STAGES[..], &given, &needs].concat();
    let shuffled = run::<Rlhf>(rlhf::TEXTS, &changes, &["sft", "rm-shuffled", "ppo"], 3, Tamper::None);
    assert_ne!(shuffled.verdict("ppo-over-sft"), Verdict::Reproduced, "{}", mean(&shuffled, "ppo-over-sft"));
}
