//! Kills at random moments: a resumed run ends with the bytes of an uninterrupted one.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use align_types::{Purpose, RngStream};
use support::{Answer, command, json_lines, tiny_llama, write_demonstrations, write_pairs};

/// Kills of each run, each at a random moment.
const KILLS: u64 = 3;

fn survives_kills(method: &str, threads: usize) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 20);
    write_demonstrations(folder, "demonstrations.jsonl", 20);
    let data = if method == "dpo" { "pairs.jsonl" } else { "demonstrations.jsonl" };
    let line = |run: &str| {
        format!(
            "{method} --model {} --data {{{data}}} --eval-data {{{data}}} --eval-every 4 --output-dir {{{run}}} \
             --max-steps 12 --save-every 2 --log-every 1 --learning-rate 1e-3 --batch-size 6 --samples 1 \
             --threads {threads}",
            tiny_llama().display()
        )
    };
    let begun = Instant::now();
    finish(folder, &line("whole"));
    let whole = begun.elapsed();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    eprintln!("{method} on {threads} threads: kills from seed {seed}");
    for kill in 0..KILLS {
        let run = format!("run{kill}");
        // Anywhere between the start of the program and its end, twice in the same run.
        for again in 0..2 {
            let share = RngStream::new(seed, Purpose::Synthetic, kill, again).uniform();
            let mut child = command(folder, &format!("{} --resume", line(&run))).spawn().unwrap();
            std::thread::sleep(Duration::from_secs_f64(whole.as_secs_f64() * share));
            // A run that was quicker is finished, and finished again below.
            child.kill().unwrap();
            child.wait().unwrap();
        }
        finish(folder, &format!("{} --resume", line(&run)));
        let weights = |run: &str| fs::read(folder.join(run).join("model/model.safetensors")).unwrap();
        assert!(weights("whole") == weights(&run), "{method}, {threads} threads, kill {kill}, seed {seed}");
        let numbers = |run: &str| -> Vec<(u64, String)> {
            let lines = json_lines(&folder.join(run).join("metrics.jsonl"));
            lines.iter().map(|line| (line["step"].as_u64().unwrap(), line["loss"].to_string())).collect()
        };
        assert_eq!(numbers("whole"), numbers(&run), "every step is logged once, with the same loss");
    }
}

fn finish(folder: &Path, line: &str) {
    Answer::of(&command(folder, line).output().unwrap()).ok();
}

#[test]
fn dpo_on_one_thread() {
    survives_kills("dpo", 1);
}

#[test]
fn dpo_on_two_threads() {
    survives_kills("dpo", 2);
}

#[test]
fn sft_on_one_thread() {
    survives_kills("sft", 1);
}

#[test]
fn sft_on_two_threads() {
    survives_kills("sft", 2);
}
