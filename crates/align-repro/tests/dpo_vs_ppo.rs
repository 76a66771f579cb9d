//! The experiment as a whole, at a budget of seconds: the method passes, a broken method does not, results are
//! the same bytes however they come about.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::sync::atomic::AtomicBool;

use align_repro::{
    Environment,
    dpo_vs_ppo::{DpoVsPpo, Options, PLAN, Tamper},
    experiment::Size,
    outcome::Outcome,
    report::{self, Report},
    runner::{RunOptions, run_units},
    store::Store,
    study::Study,
    verdict::{ControlVerdict, Verdict},
};
use toml::{Table, Value};

/// The plan with fewer steps; the claims keep their criteria.
fn cheap() -> String {
    let mut plan: Table = PLAN.parse().unwrap();
    set(&mut plan, &["settings", "toy"], &[("policy_steps", 400)]);
    let budget = [
        ("rows", 64),
        ("held_out", 16),
        ("sample_prompts", 2),
        ("hidden", 16),
        ("feed_forward", 32),
        ("layers", 1),
        ("sft_steps", 4),
        ("dpo_steps", 4),
        ("batch_size", 8),
        ("reward_steps", 4),
        ("ppo_prompts", 8),
        ("ppo_iterations", 2),
        ("gold_samples", 2),
    ];
    set(&mut plan, &["settings", "pairs", "made", "quick"], &budget);
    plan.to_string()
}

/// The programs of the short run with so many steps of fine-tuning, and with other numbers among the settings of the size, of
/// on-policy training and of the policy.
fn programs(
    arms: &[&str],
    tamper: Tamper,
    steps: i64,
    [size, on_policy, policy]: [&[(&str, i64)]; 3],
) -> Options {
    let mut plan: Table = PLAN.parse().unwrap();
    let quick = ["settings", "sequence", "quick"];
    set(&mut plan, &quick, size);
    set(&mut plan, &[quick.as_slice(), &["on_policy"]].concat(), on_policy);
    set(&mut plan, &[quick.as_slice(), &["policy"]].concat(), policy);
    let policy = plan["settings"]["sequence"]["quick"]["policy"].as_table_mut().unwrap();
    policy.insert("steps".into(), vec![Value::Integer(steps)].into());
    let mut options = with_seeds(1, options(arms, tamper));
    options.common.plan = Some(plan.to_string());
    options
}

/// Replaces numbers that the plan has.
fn set(plan: &mut Table, place: &[&str], values: &[(&str, i64)]) {
    let table = place.iter().fold(plan, |table, key| table[*key].as_table_mut().unwrap());
    for (key, value) in values {
        assert!(table.insert((*key).to_owned(), Value::Integer(*value)).is_some(), "{key}");
    }
}

fn options(arms: &[&str], tamper: Tamper) -> Options {
    let common = align_repro::study::Options {
        size: Some(Size::Quick),
        seeds: Some(12),
        arms: arms.iter().map(ToString::to_string).collect(),
        tamper,
        plan: Some(cheap()),
        ..Default::default()
    };
    Options { common, ..Default::default() }
}

fn with_seeds(seeds: u64, mut options: Options) -> Options {
    options.common.seeds = Some(seeds);
    options
}

fn run_in(folder: &std::path::Path, options: Options, resume: bool, workers: usize) -> Outcome {
    let study = DpoVsPpo::new(options).unwrap();
    let store = Store::open(folder, &study.inputs().unwrap(), resume).unwrap();
    let stop = AtomicBool::new(false);
    let run = RunOptions { workers, stop: &stop, talk: false };
    let results = run_units(&study, &study.units().unwrap(), &store, run).unwrap();
    Outcome::judge(&study, &results).unwrap()
}

fn run(options: Options) -> Outcome {
    run_in(tempfile::tempdir().unwrap().path(), options, false, 2)
}

const THEOREM: [&str; 9] = [
    "dpo-minimum",
    "ppo-solution-is-dpo-minimum",
    "ppo-refuses",
    "ppo-subset",
    "transient-peak",
    "transient-falls",
    "transient-never",
    "abstain-optimum",
    "answer-threshold",
];

#[test]
fn the_method_passes() {
    let outcome = run(options(&["theorem", "toy-h3-p1", "toy-h32-p1"], Tamper::None));
    for id in THEOREM.into_iter().chain(["h3-p1-end", "h3-p1-order"]) {
        assert_eq!(outcome.verdict(id), Verdict::Reproduced, "{id}");
    }
    assert_eq!(outcome.control_verdict("h32-p1-end"), ControlVerdict::Holds);
    assert_eq!(outcome.verdict("h8-p1-end"), Verdict::NotRun);
    assert!(outcome.passes(), "{}", outcome.summary());
}

#[test]
fn a_flipped_margin_breaks_the_theorem_and_the_control() {
    let outcome = run(options(&["theorem", "toy-h32-p1"], Tamper::FlipMargin));
    for id in
        ["dpo-minimum", "ppo-solution-is-dpo-minimum", "ppo-subset", "transient-peak", "transient-never"]
    {
        assert_eq!(outcome.verdict(id), Verdict::NotReproduced, "{id}");
    }
    // PPO does not use the DPO loss.
    assert_eq!(outcome.verdict("abstain-optimum"), Verdict::Reproduced);
    assert!(!outcome.passes());
}

#[test]
fn a_flipped_margin_or_labels_without_meaning_break_the_study() {
    for (tamper, verdict) in [
        (Tamper::None, Verdict::Reproduced),
        (Tamper::FlipMargin, Verdict::NotReproduced),
        (Tamper::ShuffleLabels, Verdict::Inconclusive),
    ] {
        let outcome = run(options(&["toy-h3-p1"], tamper));
        assert_eq!(outcome.verdict("h3-p1-order"), verdict, "{tamper:?}");
        assert_eq!(outcome.passes(), tamper == Tamper::None, "{tamper:?}");
    }
}

#[test]
fn results_are_the_same_bytes_again_resumed_and_on_one_worker() {
    let arms = ["toy-h3-p1", "pairs-sft", "pairs-dpo", "pairs-dpo-shuffled", "pairs-ppo"];
    let small = || with_seeds(2, options(&arms, Tamper::None));
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = run_in(first.path(), small(), false, 2).to_json().unwrap();
    assert_eq!(run_in(second.path(), small(), false, 1).to_json().unwrap(), whole);
    // As a kill leaves it: some units are finished, one file is half written beside its place.
    for lost in ["toy-h3-p1.json", "pairs-dpo-seed-1.json", "pairs-dpo-shuffled-seed-0.json"] {
        std::fs::remove_file(first.path().join("units").join(lost)).unwrap();
    }
    std::fs::write(first.path().join("units/toy-h3-p1.json.partial"), "{").unwrap();
    assert_eq!(run_in(first.path(), small(), true, 2).to_json().unwrap(), whole);
}

#[test]
fn one_seed_decides_nothing_about_training() {
    let one = with_seeds(1, options(&["toy-h3-p1", "pairs-dpo"], Tamper::FlipMargin));
    let outcome = run(one);
    for id in ["h3-p1-end", "pairs-accuracy", "pairs-reward", "pairs-dpo-gold"] {
        assert_eq!(outcome.verdict(id), Verdict::Inconclusive, "{id}");
    }
    assert!(outcome.passes(), "{}", outcome.summary());
    assert!(outcome.summary().contains("one seed only"), "{}", outcome.summary());
}

#[test]
fn the_first_dpo_loss_is_ln_2() {
    let outcome = run(with_seeds(2, options(&["pairs-dpo"], Tamper::None)));
    assert_eq!(outcome.control_verdict("pairs-ln2"), ControlVerdict::Holds);
}

#[test]
fn an_interrupted_run_says_so_and_keeps_what_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let study = DpoVsPpo::new(options(&["toy-h3-p1"], Tamper::None)).unwrap();
    let store = Store::open(folder.path(), &study.inputs().unwrap(), false).unwrap();
    let stop = AtomicBool::new(true);
    let run = RunOptions { workers: 2, stop: &stop, talk: false };
    let error = run_units(&study, &study.units().unwrap(), &store, run).unwrap_err();
    assert_eq!(error.exit_code(), 130);
}

#[test]
fn reports_hold_every_claim_and_no_text_of_others_as_markup() {
    let mut outcome = run(options(&["theorem", "toy-h3-p1"], Tamper::None));
    outcome.findings.samples.push(align_repro::study::Sample {
        prompt: "</pre><script>alert(1)</script>".into(),
        answers: vec![("<b>".into(), "``` | <img src=x onerror=1>".into())],
    });
    let environment = Environment::here("cargo xtask reproduce dpo-vs-ppo --data '<x>'".into(), 2, 1.0);
    let report = Report { outcome: &outcome, environment: &environment, plan: PLAN };
    let page = report::html(&report);
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("<b>"));
    // Self-contained: the only address is the paper's.
    for part in page.split("http").skip(1) {
        assert!(part.starts_with("s://arxiv.org/abs/2404.10719"), "{}", &part[..40]);
    }
    let text = report::markdown(&report);
    let table = report::text_table(&outcome);
    for claim in &outcome.claims {
        assert!(page.contains(&report::escape(&claim.claim.statement)), "{}", claim.claim.id);
        assert!(table.contains(&claim.claim.id));
        assert!(text.contains(&claim.verdict.to_string()));
    }
    assert!(page.matches("<svg").count() >= 5, "curves and cells are drawn");
    // Elements that need an end have one.
    for tag in ["table", "tr", "td", "figure", "svg", "pre", "dl", "div", "p", "ul", "li", "section"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

/// PPO of the short run; the fine-tuned policy stays, only what it is rewarded for changes.
#[test]
fn a_random_reward_breaks_the_short_run_of_the_programs() {
    let folder = tempfile::tempdir().unwrap();
    let run_with = |tamper, resume| {
        let few = [("curve_prompts", 4), ("test_samples", 4)];
        run_in(folder.path(), programs(&["ppo-shared"], tamper, 180, [&few, &[], &[]]), resume, 1)
    };
    let sound = run_with(Tamper::None, false);
    assert_eq!(sound.verdict("smoke-ppo"), Verdict::Reproduced, "{:?}", sound.findings.evidence);
    std::fs::remove_file(folder.path().join("units/ppo-shared-seed-0.json")).unwrap();
    let broken = run_with(Tamper::RandomReward, true);
    assert_eq!(broken.verdict("smoke-ppo"), Verdict::NotReproduced, "{:?}", broken.findings.evidence);
    assert!(!broken.passes());
}

#[test]
fn the_programs_give_the_same_bytes_again_resumed_and_on_one_worker() {
    let arms = ["ppo-shared", "grpo", "dpo-iterative", "dpo-shuffled"];
    let small = || {
        let size = [("prompts", 32), ("test_samples", 1), ("curve_prompts", 4), ("rounds", 2)];
        let policy = [("hidden", 16), ("layers", 1), ("demonstrations", 640), ("warmup", 4)];
        with_seeds(2, programs(&arms, Tamper::None, 10, [&size, &[("prompts", 64)], &policy]))
    };
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = run_in(first.path(), small(), false, 2);
    let bytes = whole.to_json().unwrap();
    assert_eq!(run_in(second.path(), small(), false, 1).to_json().unwrap(), bytes);
    for lost in ["samples-seed-1", "ppo-shared-seed-0", "dpo-shuffled-seed-1"] {
        std::fs::remove_file(first.path().join("units").join(format!("{lost}.json"))).unwrap();
    }
    assert_eq!(run_in(first.path(), small(), true, 2).to_json().unwrap(), bytes);
    // 32 prompts with 8 answers each, or as many iterations as that budget allows.
    let table = whole.findings.tables.iter().find(|table| table.title == "What every arm took").unwrap();
    let place = table.head.iter().position(|head| head == "answers sampled").unwrap();
    for row in table.rows.iter().filter(|row| arms.contains(&row[0].as_str())) {
        assert_eq!(row[place], "256", "{row:?}");
    }
}
