//! `align score` against sequence classification of transformers, in alternation.

use std::ffi::OsString;
use std::fs;
use std::process::Command;

use serde_json::json;

use super::race::{Options, Race};
use super::runs::{self, Runs, Usage};
use super::training;
use crate::{Error, Result, process};

/// Rows that are scored by both.
struct Arm {
    name: &'static str,
    rows: &'static str,
    /// In which order the peer scores sequences.
    order: &'static str,
    /// What must be reached: our rows per second over the peer's.
    least_rate: f64,
}

/// In the order of the file, as a pipeline of transformers works, the peer pads every sequence to the longest of its
/// batch. Sorted by length it computes 313 tokens of a usual pair and we 201, 1.6 times fewer, as a prompt is computed
/// once; the rest would have to come from faster products, and both sides use those of the same library:
/// `docs/performance.md` has the arithmetic. With eight answers a prompt is computed once instead of eight times, 2.7
/// times fewer tokens.
const ARMS: [Arm; 4] = [
    Arm { name: "pairs in their order", rows: "pairs.jsonl", order: "file", least_rate: 3.0 },
    Arm { name: "pairs by length", rows: "pairs.jsonl", order: "length", least_rate: 1.6 },
    Arm { name: "long pairs by length", rows: "long.jsonl", order: "length", least_rate: 1.6 },
    Arm { name: "eight answers", rows: "answers.jsonl", order: "length", least_rate: 2.5 },
];
/// By how much the number of long pairs, and of prompts with eight answers, is divided.
const FEWER: usize = 4;
/// Our peak memory over the peer's, at most.
const MOST_MEMORY: f64 = 0.5;

/// Scores with both, and prints rates and memory.
///
/// # Errors
/// A program that is missing or fails, or output that is not understood; a target that is missed, after everything is
/// printed.
pub(super) fn run(race: &Race, options: &Options, as_json: bool) -> Result<()> {
    let rows = options.peer_samples.max(32);
    training::make(race, options, [rows, rows / FEWER])?;
    process::run_talking(
        Command::new(&race.python)
            .arg(race.scripts.join("make_scores.py"))
            .arg(&race.folder)
            .args(["--rows", &(rows / FEWER).to_string()]),
    )?;
    let mut arms: Vec<Runs> = Vec::new();
    for round in 0..options.rounds {
        for (index, Arm { name, rows, order, least_rate }) in ARMS.into_iter().enumerate() {
            eprintln!("round {} of {}: {name}", round + 1, options.rounds);
            let ours = score(race, &race.ours("score"), rows)?;
            let peer = [race.peer("score.py").as_slice(), &["--order".into(), order.into()]].concat();
            let pair = (ours, score(race, &peer, rows)?);
            match arms.get_mut(index) {
                Some(runs) => runs.add(pair),
                None => {
                    let none = Runs { name, least_rate, most_memory: MOST_MEMORY, rounds: Vec::new() };
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
        println!("{processor}; rows once models are loaded and texts are tokens, and whole commands\n");
        print!("{}", runs::table("align score / peer", &arms));
    }
    runs::verdict(&arms)
}

/// Both sides write a line per row to `OUTPUT.partial` as they go, and understand the same flags.
fn score(race: &Race, program: &[OsString], rows: &str) -> Result<Usage> {
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
    race.measure(Some(&partial), program, &arguments, Usage::of_all)
}
