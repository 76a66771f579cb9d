//! `align score` against sequence classification of transformers, in alternation.

use std::ffi::OsString;
use std::fs;
use std::process::Command;

use serde_json::json;

use super::race::{Options, Race};
use super::runs::{self, Runs, Usage};
use super::training;
use crate::{Error, Result, process};

/// Name and rows of each arm, and by how much the number of rows is divided.
const ARMS: [(&str, &str, usize); 2] = [("pairs", "pairs.jsonl", 1), ("long pairs", "long.jsonl", 4)];
/// What must be reached: our pairs per second over the peer's, and our peak memory over the peer's.
const LEAST_RATE: f64 = 3.0;
const MOST_MEMORY: f64 = 0.5;

/// Scores with both, and prints rates and memory.
///
/// # Errors
/// A program that is missing or fails, or output that is not understood; a target that is missed, after everything is
/// printed.
pub(super) fn run(race: &Race, options: &Options, as_json: bool) -> Result<()> {
    let rows = options.peer_samples.max(32);
    training::make(race, options, [rows, rows / ARMS[1].2])?;
    process::run_talking(
        Command::new(&race.python).arg(race.scripts.join("make_scores.py")).arg(&race.folder),
    )?;
    let mut arms: Vec<Runs> = Vec::new();
    for round in 0..options.rounds {
        for (index, (name, rows, _)) in ARMS.into_iter().enumerate() {
            eprintln!("round {} of {}: {name}", round + 1, options.rounds);
            let pair = (score(race, race.ours("score"), rows)?, score(race, race.peer("score.py"), rows)?);
            match arms.get_mut(index) {
                Some(runs) => runs.add(pair),
                None => {
                    let none =
                        Runs { name, least_rate: LEAST_RATE, most_memory: MOST_MEMORY, rounds: Vec::new() };
                    arms.push(none.with(pair));
                }
            }
        }
    }
    let processor = super::processor();
    if as_json {
        let cases: Vec<_> = arms.iter().map(Runs::json).collect();
        println!("{:#}", json!({ "schema": 1, "processor": processor, "cases": cases }));
    } else {
        println!("{processor}; rows after the first, and whole commands\n");
        print!("{}", runs::table("align score / peer", &arms));
    }
    runs::verdict(&arms)
}

/// Both sides write a line per row to `OUTPUT.partial` as they go, and understand the same flags.
fn score(race: &Race, program: [OsString; 2], rows: &str) -> Result<Usage> {
    let [output, partial] = ["scores.jsonl", "scores.jsonl.partial"].map(|name| race.folder.join(name));
    for file in [&output, &partial] {
        if file.exists() {
            fs::remove_file(file).map_err(Error::io("delete", file))?;
        }
    }
    let arguments: [OsString; 8] = [
        "--model".into(),
        race.folder.join("29M-score").into(),
        "--data".into(),
        race.folder.join(rows).into(),
        "--output".into(),
        output.into(),
        "--threads".into(),
        race.threads.to_string().into(),
    ];
    race.measure(Some(&partial), &program, &arguments, |used| Usage::of(used, 1))
}
