//! `align ppo` against a plain PPO in PyTorch with `transformers.generate`, in alternation.

mod found;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::peers;
use super::race::{Options, Race};
use super::runs::{Runs, Usage};
use crate::{Error, Result};
use found::{Case, Found};

const MODEL: &str = "5M";
/// Prompts of an iteration, and tokens that are sampled for each.
const BATCH: &str = "64";
const NEW_TOKENS: &str = "48";
/// Prompts of the shorter half; twice as many are made.
const PROMPTS: usize = 128;
/// What both sides can compute of a text: minus its characters over 400. A model of random weights learns it by ending
/// its answers, and by taking short tokens.
const REWARD: &str = "rule:overlong=400,400";
/// The file of all prompts in the model's folder, and that of their shorter half: a static batch pads all rows to the
/// longest prompt, so that the peer's time depends on how lengths differ.
const ALL: &str = "prompts.jsonl";
const SHORT: &str = "ppo-prompts.jsonl";
/// The folder of our run.
const RUN: &str = "ppo-run";
const SCORES: &str = "objective/scores";
/// What must be reached: iterations per second over the peer's, and peak memory over the peer's.
const LEAST_RATE: f64 = 3.0;
const MOST_MEMORY: f64 = 0.5;
/// Iterations of the run that shows whether memory grows, and how many lie between two looks at it.
const MANY: &str = "500";
const PER_LOOK: &str = "100";
/// The first iteration is not counted.
const LEAST_ITERATIONS: usize = 2;

/// What one side is told to learn by.
struct Arm {
    name: &'static str,
    model: &'static str,
    learning_rate: &'static str,
    critic_learning_rate: &'static str,
    /// Whether prompts are those of the shorter half alone.
    is_short: bool,
    /// By how much the number of iterations is multiplied and divided.
    iterations: (usize, usize),
}

/// The rates of the defaults, which change next to nothing in so few iterations: every iteration costs the same.
const SPEED: [Arm; 2] =
    [AS_THEY_COME, Arm { name: "their shorter half", is_short: true, iterations: (1, 1), ..AS_THEY_COME }];
const AS_THEY_COME: Arm = Arm {
    name: "prompts as they come",
    model: MODEL,
    learning_rate: "3e-6",
    critic_learning_rate: "1e-5",
    is_short: false,
    iterations: (1, 2),
};
/// A model and rates with which scores rise by many times what they differ by chance, in iterations of a few seconds.
const LEARNING: Arm = Arm {
    name: "learning",
    model: "0.8M",
    learning_rate: "3e-4",
    critic_learning_rate: "1e-3",
    is_short: true,
    iterations: (6, 1),
};

/// What one side showed: what it took, its scores by iteration, its seconds of each phase of an iteration.
struct Ran {
    usage: Usage,
    scores: Vec<f64>,
    phases: Vec<(String, f64)>,
}

/// Trains with both; prints seconds per iteration and by phase, memory, and what both learned.
///
/// # Errors
/// A program that is missing or fails, or output that is not understood; a target that is missed, after everything is
/// printed.
pub(super) fn run(race: &Race, options: &Options, as_json: bool) -> Result<()> {
    peers::make_models(race, options, 2 * PROMPTS)?;
    keep_short(race)?;
    let mut cases = SPEED.map(|arm| {
        let runs = Runs {
            name: arm.name,
            least_rate: LEAST_RATE,
            most_memory: MOST_MEMORY,
            rounds: Vec::with_capacity(options.rounds),
        };
        (arm, Case { runs, phases: Default::default() })
    });
    let mut curves = [const { Vec::new() }; 2];
    for round in 0..options.rounds {
        for (arm, case) in &mut cases {
            eprintln!("round {} of {}: {}", round + 1, options.rounds, arm.name);
            let (ours, peer) = pair(race, arm, options.peer_steps, round)?;
            case.runs.add((ours.usage, peer.usage));
            case.phases = [ours.phases, peer.phases];
        }
        eprintln!("round {} of {}: {}", round + 1, options.rounds, LEARNING.name);
        let (ours, peer) = pair(race, &LEARNING, options.peer_steps, round)?;
        curves.iter_mut().zip([ours, peer]).for_each(|(side, ran): (&mut Vec<_>, _)| side.push(ran.scores));
    }
    eprintln!("{MANY} iterations of one run");
    let memory = memory_over_iterations(race)?;
    let cases = cases.map(|(_, case)| case).into();
    let found = Found { cases, curves: curves.map(|rounds| mean_curve(&rounds)), memory };
    if as_json {
        println!("{:#}", found.json());
    } else {
        print!("{}", found.text());
    }
    found.verdict()
}

/// Runs ours, then the peer.
fn pair(race: &Race, arm: &Arm, iterations: usize, seed: usize) -> Result<(Ran, Ran)> {
    let iterations = (iterations * arm.iterations.0 / arm.iterations.1).max(LEAST_ITERATIONS).to_string();
    let model = race.folder.join(arm.model);
    let prompts = if arm.is_short { race.folder.join(SHORT) } else { model.join(ALL) };
    let both = flags(&[
        ("--model", model.into()),
        ("--batch-size", BATCH.into()),
        ("--max-new-tokens", NEW_TOKENS.into()),
        ("--learning-rate", arm.learning_rate.into()),
        ("--critic-learning-rate", arm.critic_learning_rate.into()),
        ("--seed", seed.to_string().into()),
    ]);
    let ours =
        align(race, &[both.clone(), only_ours(race, &prompts, &iterations, "1")].concat(), |used, run| {
            let summary: Value = serde_json::from_slice(&fs::read(run.join("summary.json")).ok()?).ok()?;
            let lines = lines(&run.join("metrics.jsonl"))?;
            let per_iteration = lines.len() as f64;
            Some(Ran {
                usage: Usage::of(used, 1)?,
                scores: scores(&lines)?,
                phases: phases_of(summary.get("wall_time")?, per_iteration)?,
            })
        })?;
    let output = race.folder.join("ppo-peer.jsonl");
    if output.exists() {
        fs::remove_file(&output).map_err(Error::io("delete", &output))?;
    }
    let theirs = flags(&[
        ("--reward", REWARD.into()),
        ("--prompts", prompts.into()),
        ("--output", output.clone().into()),
        ("--iterations", iterations.into()),
        ("--threads", race.threads.to_string().into()),
    ]);
    let script: [OsString; 2] = [race.python.clone().into(), reference(race).into()];
    let peer = race.measure(Some(&output), &script, &[both, theirs].concat(), |used| {
        let lines = lines(&output)?;
        Some(Ran {
            usage: Usage::of(used, 1)?,
            scores: scores(&lines)?,
            phases: phases_of(lines.last()?.get("seconds")?, 1.0)?,
        })
    })?;
    Ok((ours, peer))
}

/// Resident bytes of a long run of a small model, from its first iteration on.
fn memory_over_iterations(race: &Race) -> Result<Vec<f64>> {
    let small = flags(&[
        ("--model", race.folder.join("0.8M").into()),
        ("--batch-size", "4".into()),
        ("--max-new-tokens", "16".into()),
    ]);
    align(race, &[small, only_ours(race, &race.folder.join(SHORT), MANY, PER_LOOK)].concat(), |used, _| {
        let resident = |line: &Value| line.get("resident_bytes")?.as_f64();
        used.get("lines")?.as_array()?.iter().map(resident).collect()
    })
}

/// Runs `align ppo`; what is read is told where its folder is.
fn align<T>(race: &Race, arguments: &[OsString], read: impl FnOnce(&Value, &Path) -> Option<T>) -> Result<T> {
    let run = race.folder.join(RUN);
    if run.exists() {
        fs::remove_dir_all(&run).map_err(Error::io("delete", &run))?;
    }
    race.measure(Some(&run.join("metrics.jsonl")), &race.ours("ppo"), arguments, |used| read(used, &run))
}

/// What `align ppo` is told in its own words: no checkpoints but the last, no samples.
fn only_ours(race: &Race, prompts: &Path, iterations: &str, log_every: &str) -> Vec<OsString> {
    let mut arguments = flags(&[
        ("--reward", REWARD.into()),
        ("--data", prompts.into()),
        ("--output-dir", race.folder.join(RUN).into()),
        ("--max-steps", iterations.into()),
        ("--lr-scheduler", "constant".into()),
        ("--log-every", log_every.into()),
        ("--save-every", "0".into()),
        ("--samples", "0".into()),
        ("--threads", race.threads.to_string().into()),
    ]);
    arguments.push("--no-progress".into());
    arguments
}

fn flags(flags: &[(&str, OsString)]) -> Vec<OsString> {
    flags.iter().flat_map(|(flag, value)| [(*flag).into(), value.clone()]).collect()
}

fn reference(race: &Race) -> PathBuf {
    race.scripts.with_file_name("ppo").join("reference.py")
}

/// Writes the shorter half of the model's prompts, in their order.
fn keep_short(race: &Race) -> Result<()> {
    let path = race.folder.join(MODEL).join(ALL);
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let file = race.folder.join(SHORT);
    fs::write(&file, shorter_half(&text)).map_err(Error::io("write", &file))
}

fn shorter_half(text: &str) -> String {
    let mut lengths: Vec<usize> = text.lines().map(str::len).collect();
    lengths.sort_unstable();
    let most = lengths.get(lengths.len() / 2).copied().unwrap_or(usize::MAX);
    text.lines().filter(|line| line.len() < most).map(|line| format!("{line}\n")).collect()
}

fn lines(path: &Path) -> Option<Vec<Value>> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().map(|line| serde_json::from_str(line).ok()).collect()
}

fn scores(lines: &[Value]) -> Option<Vec<f64>> {
    lines.iter().map(|line| line.get(SCORES)?.as_f64()).collect()
}

/// Reads the seconds of each phase, divided by a number of iterations.
fn phases_of(seconds: &Value, iterations: f64) -> Option<Vec<(String, f64)>> {
    let phase = |(name, value): (&String, &Value)| Some((name.clone(), value.as_f64()? / iterations));
    seconds.as_object()?.iter().map(phase).collect()
}

/// The mean over rounds, iteration by iteration.
fn mean_curve(curves: &[Vec<f64>]) -> Vec<f64> {
    let mut sums: Vec<f64> = Vec::new();
    let mut count = 0.0;
    for curve in curves {
        sums.resize(curve.len(), 0.0);
        sums.iter_mut().zip(curve).for_each(|(sum, score)| *sum += score);
        count += 1.0;
    }
    sums.into_iter().map(|sum| sum / count).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_longest_prompts_are_left_out() {
        assert_eq!(shorter_half("aaaa\nb\ncc\nddd\n"), "b\ncc\n");
        assert_eq!(shorter_half(""), "");
    }

    #[test]
    fn curves_of_rounds_are_averaged() {
        assert_eq!(mean_curve(&[vec![1.0, 2.0], vec![3.0, 6.0]]), [2.0, 4.0]);
    }

    #[test]
    fn seconds_are_those_of_an_iteration() {
        let seconds = json!({ "sample": 6.0, "update": 12.0 });
        let expected = [("sample".to_owned(), 2.0), ("update".to_owned(), 4.0)];
        assert_eq!(phases_of(&seconds, 3.0).unwrap(), expected);
        assert_eq!(phases_of(&json!({ "sample": "long" }), 1.0), None);
    }
}
