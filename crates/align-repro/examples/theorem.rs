//! cargo run --release -p align-repro --example theorem
//!
//! Evaluates Theorem 4.1 of 2404.10719 on the paper's three-response example and prints the verdicts:
//!
//! reproduced  dpo-minimum                  1.0e-299
//! reproduced  ppo-solution-is-dpo-minimum  1.0e-300
//! ...

use std::sync::atomic::AtomicBool;

use align_repro::{
    Result,
    dpo_vs_ppo::{DpoVsPpo, Options},
    outcome::Outcome,
    report::figure_text,
    runner::{RunOptions, run_units},
    store::Store,
    study::{self, Study},
    verdict::Verdict,
};

fn main() -> Result<()> {
    let common = study::Options { arms: vec!["theorem".into()], ..Default::default() };
    let study = DpoVsPpo::new(Options { common, ..Default::default() })?;
    let folder = std::env::temp_dir().join(format!("align-repro-theorem-{}", std::process::id()));
    let store = Store::open(&folder, &study.inputs()?, false)?;
    let stop = AtomicBool::new(false);
    let run = RunOptions { workers: 1, stop: &stop, talk: true };
    let results = run_units(&study, &study.units()?, &store, run)?;
    let outcome = Outcome::judge(&study, &results)?;
    for judged in outcome.claims.iter().filter(|judged| judged.verdict != Verdict::NotRun) {
        let figure = figure_text(judged.evidence.as_ref());
        println!("{:11} {:28} {figure}", judged.verdict.to_string(), judged.claim.id);
    }
    std::fs::remove_dir_all(&folder).map_err(|source| align_repro::Error::Io {
        action: "remove",
        path: folder,
        source,
    })
}
