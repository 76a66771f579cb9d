//! `align ppo` against a plain PPO in PyTorch with `transformers.generate`, in alternation.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::peers;
use super::race::{Options, Race};
use super::runs::{Runs, Usage};
use crate::{Error, Result};

const MODEL: &str = "5M";
/// Prompts of an iteration, and tokens that are sampled for each.
const BATCH: &str = "64";
const NEW_TOKENS: &str = "48";
/// Prompts of the data set: the shorter half of those that are made, because a static batch pads all to the longest one
/// and the peer would spend most of its time on padding.
const PROMPTS: usize = 128;
/// What both sides can compute of a text: minus its characters over 400. A model of random weights learns it by ending
/// its answers, and by taking short tokens.
const REWARD: &str = "rule:overlong=400,400";
/// The file of the short prompts.
const SHORT: &str = "ppo-prompts.jsonl";
const SCORES: &str = "objective/scores";
/// What must be reached: iterations per second over the peer's, and peak memory over the peer's.
const LEAST_RATE: f64 = 3.0;
const MOST_MEMORY: f64 = 0.5;
/// Most difference of the two curves, in units of the peer's rise: scores of answers differ by 0.2, so that the means of
/// four iterations and three rounds differ by 0.01 by chance, a tenth of a rise of 0.1.
const MOST_GAP: f64 = 0.25;

/// What one side is told to learn by.
struct Arm {
    name: &'static str,
    learning_rate: &'static str,
    critic_learning_rate: &'static str,
    /// By how much the number of iterations is multiplied.
    iterations: usize,
}

/// The rates of the defaults, which change next to nothing in so few iterations: every iteration costs the same.
const SPEED: Arm =
    Arm { name: "iterations", learning_rate: "3e-6", critic_learning_rate: "1e-5", iterations: 1 };
/// Rates at which a small model learns in a few iterations.
const LEARNING: Arm =
    Arm { name: "learning", learning_rate: "1e-3", critic_learning_rate: "1e-3", iterations: 2 };

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
    let iterations = options.peer_steps.max(4);
    let none = Runs {
        name: SPEED.name,
        least_rate: LEAST_RATE,
        most_memory: MOST_MEMORY,
        rounds: Vec::with_capacity(options.rounds),
    };
    let (mut runs, mut phases, mut curves) = (none, [const { Vec::new() }; 2], Vec::new());
    for round in 0..options.rounds {
        eprintln!("round {} of {}: {}", round + 1, options.rounds, SPEED.name);
        let (ours, peer) = pair(race, &SPEED, iterations, round)?;
        runs.add((ours.usage, peer.usage));
        phases = [ours.phases, peer.phases];
        eprintln!("round {} of {}: {}", round + 1, options.rounds, LEARNING.name);
        let (ours, peer) = pair(race, &LEARNING, iterations, round)?;
        curves.push([ours.scores, peer.scores]);
    }
    let curves = [0, 1].map(|side| mean_curve(curves.iter().filter_map(|both| both.get(side))));
    if as_json {
        println!("{:#}", results(&runs, &phases, &curves));
    } else {
        print!("{}", report(&runs, &phases, &curves));
    }
    verdict(&runs, &curves)
}

/// Runs ours, then the peer.
fn pair(race: &Race, arm: &Arm, iterations: usize, seed: usize) -> Result<(Ran, Ran)> {
    let folder = race.folder.join("ppo");
    let iterations = (iterations * arm.iterations).to_string();
    let model = race.folder.join(MODEL);
    let prompts = race.folder.join(SHORT);
    let run = folder.join("run");
    let ours: [(&str, OsString); 5] = [
        ("--data", prompts.clone().into()),
        ("--output-dir", run.clone().into()),
        ("--max-steps", iterations.clone().into()),
        ("--lr-scheduler", "constant".into()),
        ("--log-every", "1".into()),
    ];
    let rest = ["--save-every", "0", "--samples", "0", "--no-progress"].map(OsString::from);
    let output = folder.join("peer.jsonl");
    let theirs: [(&str, OsString); 3] = [
        ("--prompts", prompts.into()),
        ("--output", output.clone().into()),
        ("--iterations", iterations.into()),
    ];
    let with = |flags: &[(&str, OsString)]| -> Vec<OsString> {
        flags.iter().flat_map(|(flag, value)| [(*flag).into(), value.clone()]).collect()
    };
    let both = with(&[
        ("--model", model.into()),
        ("--reward", REWARD.into()),
        ("--batch-size", BATCH.into()),
        ("--max-new-tokens", NEW_TOKENS.into()),
        ("--learning-rate", arm.learning_rate.into()),
        ("--critic-learning-rate", arm.critic_learning_rate.into()),
        ("--seed", seed.to_string().into()),
        ("--threads", race.threads.to_string().into()),
    ]);
    clear(&folder)?;
    let metrics = run.join("metrics.jsonl");
    let arguments = [both.clone(), with(&ours), rest.into()].concat();
    let ours = race.measure(Some(&metrics), &race.ours("ppo"), &arguments, |used| {
        let summary: Value = serde_json::from_slice(&fs::read(run.join("summary.json")).ok()?).ok()?;
        let lines = lines(&metrics)?;
        let per_iteration = lines.len() as f64;
        Some(Ran {
            usage: Usage::of(used, 1)?,
            scores: scores(&lines)?,
            phases: phases_of(summary.get("wall_time")?, per_iteration)?,
        })
    })?;
    let arguments = [both, with(&theirs)].concat();
    let script: [OsString; 2] = [race.python.clone().into(), reference(race).into()];
    let peer = race.measure(Some(&output), &script, &arguments, |used| {
        let lines = lines(&output)?;
        Some(Ran {
            usage: Usage::of(used, 1)?,
            scores: scores(&lines)?,
            phases: phases_of(lines.last()?.get("seconds")?, 1.0)?,
        })
    })?;
    Ok((ours, peer))
}

fn reference(race: &Race) -> PathBuf {
    race.scripts.with_file_name("ppo").join("reference.py")
}

/// Writes the shorter half of the model's prompts, in their order.
fn keep_short(race: &Race) -> Result<()> {
    let path = race.folder.join(MODEL).join("prompts.jsonl");
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

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(Error::io("delete", folder))?;
    }
    fs::create_dir_all(folder).map_err(Error::io("create", folder))
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
fn mean_curve<'a>(curves: impl Iterator<Item = &'a Vec<f64>>) -> Vec<f64> {
    let mut sums: Vec<f64> = Vec::new();
    let mut count = 0.0;
    for curve in curves {
        sums.resize(curve.len(), 0.0);
        sums.iter_mut().zip(curve).for_each(|(sum, score)| *sum += score);
        count += 1.0;
    }
    sums.into_iter().map(|sum| sum / count).collect()
}

/// The mean of the first and of the last third of a curve.
fn ends(curve: &[f64]) -> [f64; 2] {
    let third = (curve.len() / 3).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    [
        mean(curve.get(..third).unwrap_or(curve)),
        mean(curve.get(curve.len().saturating_sub(third)..).unwrap_or(curve)),
    ]
}

/// By how much the curves differ at their ends, in units of the peer's rise; infinite where the peer learned nothing or a
/// score is no number.
fn gap([ours, peer]: &[Vec<f64>; 2]) -> f64 {
    let ([_, ours], [first, peer]) = (ends(ours), ends(peer));
    let rise = peer - first;
    let gap = (ours - peer).abs() / rise;
    if rise > 0.0 && gap.is_finite() { gap } else { f64::INFINITY }
}

/// Fails where a target is missed.
fn verdict(runs: &Runs, curves: &[Vec<f64>; 2]) -> Result<()> {
    let missed: Vec<String> = [
        (!runs.is_fast_enough(), "seconds per iteration"),
        (!runs.is_small_enough(), "peak memory"),
        (gap(curves) > MOST_GAP, "the curve that is learned"),
    ]
    .into_iter()
    .filter(|(is_missed, _)| *is_missed)
    .map(|(_, what)| what.to_owned())
    .collect();
    if missed.is_empty() { Ok(()) } else { Err(Error::Missed { what: missed.join(", ") }) }
}

fn results(runs: &Runs, [ours, peer]: &[Vec<(String, f64)>; 2], curves: &[Vec<f64>; 2]) -> Value {
    let object = |phases: &[(String, f64)]| -> Value {
        phases
            .iter()
            .map(|(name, seconds)| (name.clone(), json!(seconds)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    json!({
        "schema": 1,
        "processor": super::processor(),
        "cases": [runs.json()],
        "seconds_by_phase": { "align": object(ours), "peer": object(peer) },
        "scores": { "align": curves[0], "peer": curves[1], "gap": gap(curves) },
    })
}

fn report(runs: &Runs, [ours, peer]: &[Vec<(String, f64)>; 2], curves: &[Vec<f64>; 2]) -> String {
    let mut text = format!(
        "{}; {MODEL} parameters, {BATCH} prompts, {NEW_TOKENS} new tokens; iterations after the first\n\n",
        super::processor()
    );
    // Writing to a String cannot fail.
    let mut line = |name: &str, [ours, peer]: [f64; 2], ratio: f64, target: String| {
        let _ = writeln!(text, "{name:28} {ours:>9.2} {peer:>9.2} {ratio:>7.2}   {target}");
    };
    let mark = |good: bool| if good { "" } else { " MISSED" };
    let seconds = |number: fn(&Usage) -> f64| runs.sides(number).map(|rate| 1.0 / rate);
    line(
        "wall seconds per iteration",
        seconds(|usage| usage.pairs_per_wall_second),
        runs.ratio(|usage| usage.pairs_per_wall_second),
        format!("at least {LEAST_RATE}{}", mark(runs.is_fast_enough())),
    );
    line(
        "CPU seconds per iteration",
        seconds(|usage| usage.pairs_per_cpu_second),
        runs.ratio(|usage| usage.pairs_per_cpu_second),
        String::new(),
    );
    line("whole command, s", runs.sides(|u| u.wall), runs.ratio(|u| 1.0 / u.wall), String::new());
    line(
        "peak memory, MB",
        runs.sides(|usage| usage.peak_bytes / 1e6),
        runs.ratio(|usage| usage.peak_bytes),
        format!("at most {MOST_MEMORY}{}", mark(runs.is_small_enough())),
    );
    for (side, phases) in [("align", ours), ("peer", peer)] {
        let list: Vec<String> = phases.iter().map(|(name, seconds)| format!("{name} {seconds:.2}")).collect();
        let _ = writeln!(text, "\n{side}, seconds of an iteration by phase: {}", list.join(", "));
    }
    let _ = writeln!(
        text,
        "\n{SCORES} at rates {} and {}",
        LEARNING.learning_rate, LEARNING.critic_learning_rate
    );
    let _ = writeln!(text, "{:>9} {:>9} {:>9}", "iteration", "align", "peer");
    for (index, (ours, peer)) in curves[0].iter().zip(&curves[1]).enumerate() {
        let _ = writeln!(text, "{:>9} {ours:>9.3} {peer:>9.3}", index + 1);
    }
    let gap = gap(curves);
    let _ = writeln!(
        text,
        "difference at the end in units of the peer's rise: {gap:.2}   at most {MOST_GAP}{}",
        mark(gap <= MOST_GAP)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(rate: f64, peak_bytes: f64) -> Runs {
        let usage = |rate: f64, peak_bytes: f64| Usage {
            pairs_per_wall_second: rate,
            pairs_per_cpu_second: rate,
            peak_bytes,
            wall: 1.0,
        };
        let rounds = vec![(usage(rate, peak_bytes), usage(0.125, 2e9))];
        Runs { name: "iterations", least_rate: LEAST_RATE, most_memory: MOST_MEMORY, rounds }
    }

    #[test]
    fn what_is_missed_is_named() {
        let same = [vec![0.0, 0.5, 1.0], vec![0.0, 0.5, 1.0]];
        verdict(&runs(0.375, 1e9), &same).unwrap();
        let missed = |runs: &Runs, curves| verdict(runs, curves).unwrap_err();
        assert_eq!(missed(&runs(0.37, 1e9), &same).exit_code(), 1);
        assert!(missed(&runs(0.37, 1.1e9), &same).to_string().contains("iteration, peak memory"));
        let flat = [vec![0.0, 0.0, 0.0], vec![0.0, 0.5, 1.0]];
        assert!(missed(&runs(0.375, 1e9), &flat).to_string().contains("curve"));
        let text = report(&runs(0.25, 1e9), &[vec![("sample".into(), 1.0)], vec![]], &flat);
        assert!(text.contains("4.00      8.00    2.00   at least 3 MISSED"), "{text}");
        assert!(text.contains("sample 1.00") && text.contains("1.00   at most 0.25 MISSED"), "{text}");
    }

    #[test]
    fn the_longest_prompts_are_left_out() {
        assert_eq!(shorter_half("aaaa\nb\ncc\nddd\n"), "b\ncc\n");
        assert_eq!(shorter_half(""), "");
    }

    #[test]
    fn curves_are_compared_at_their_ends() {
        // Thirds of 6 are means of 2: the peer rises from 1 to 5, ours ends at 4.
        let curves = [vec![1.0, 1.0, 2.0, 3.0, 4.0, 4.0], vec![0.0, 2.0, 3.0, 4.0, 4.0, 6.0]];
        assert_eq!(gap(&curves), 0.25);
        assert_eq!(
            gap(&[vec![1.0; 3], vec![1.0; 3]]),
            f64::INFINITY,
            "a peer that does not learn shows nothing"
        );
        assert_eq!(mean_curve([vec![1.0, 2.0], vec![3.0, 6.0]].iter()), [2.0, 4.0]);
    }
}
