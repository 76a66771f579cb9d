//! `align dpo` against TRL's DPO trainer, in alternation.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::median;
use super::race::{Options, Race};
use crate::{Error, Result, Workspace, process};

/// Pairs of a step.
const BATCH: usize = 8;
/// Steps of the run that shows whether memory grows, and how many lie between two looks at it.
const MANY_STEPS: usize = 1000;
const STEPS_PER_LINE: usize = 100;

/// One way of training that is compared.
struct Arm {
    name: &'static str,
    rows: &'static str,
    cached: bool,
    /// By how much the number of steps is divided.
    steps: usize,
    /// What must be reached: our pairs per second over the peer's, and our peak memory over the peer's.
    least_rate: f64,
    most_memory: f64,
}

const ARMS: [Arm; 3] = [
    Arm {
        name: "reference computed",
        rows: "pairs.jsonl",
        cached: false,
        steps: 1,
        least_rate: 3.5,
        most_memory: 0.4,
    },
    Arm {
        name: "reference cached",
        rows: "pairs.jsonl",
        cached: true,
        steps: 1,
        least_rate: 4.5,
        most_memory: 0.4,
    },
    Arm {
        name: "long pairs",
        rows: "long.jsonl",
        cached: false,
        steps: 2,
        least_rate: 1.8,
        most_memory: 0.4,
    },
];

/// What one command took; rates are those after the first step.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Usage {
    pairs_per_wall_second: f64,
    pairs_per_cpu_second: f64,
    peak_bytes: f64,
    /// Start, loading, saving and exit included.
    wall: f64,
}

/// The runs of one arm, ours beside the peer's.
struct Runs {
    name: &'static str,
    least_rate: f64,
    most_memory: f64,
    rounds: Vec<(Usage, Usage)>,
}

impl Runs {
    fn ratio(&self, number: impl Fn(&Usage) -> f64) -> f64 {
        median(self.rounds.iter().map(|(ours, peer)| number(ours) / number(peer)).collect())
    }

    fn is_fast_enough(&self) -> bool {
        self.ratio(|usage| usage.pairs_per_wall_second) >= self.least_rate
    }

    fn is_small_enough(&self) -> bool {
        self.ratio(|usage| usage.peak_bytes) <= self.most_memory
    }

    fn sides(&self, number: impl Fn(&Usage) -> f64) -> [f64; 2] {
        [
            median(self.rounds.iter().map(|(ours, _)| number(ours)).collect()),
            median(self.rounds.iter().map(|(_, peer)| number(peer)).collect()),
        ]
    }
}

/// Trains with both, prints ratios, memory over many steps, and what share of the machine's speed a step reaches.
///
/// # Errors
/// A program that is missing or fails, or output that is not understood; a target that is missed, after everything is
/// printed.
pub(super) fn run(workspace: &Workspace, race: &Race, options: &Options, as_json: bool) -> Result<()> {
    let steps = options.peer_steps.max(4);
    make(race, options, steps)?;
    let mut arms: Vec<Runs> = Vec::new();
    for round in 0..options.rounds {
        for (index, arm) in ARMS.iter().enumerate() {
            eprintln!("round {} of {}: {}", round + 1, options.rounds, arm.name);
            let pair = pair(race, arm, (steps / arm.steps).max(2))?;
            let rate = pair.0.pairs_per_wall_second / pair.1.pairs_per_wall_second;
            eprintln!("{rate:.2} times the pairs per second");
            match arms.get_mut(index) {
                Some(runs) => runs.rounds.push(pair),
                None => {
                    let Arm { name, least_rate, most_memory, .. } = *arm;
                    arms.push(Runs { name, least_rate, most_memory, rounds: vec![pair] });
                }
            }
        }
    }
    eprintln!("{MANY_STEPS} steps of one run");
    let memory = memory_over_steps(race)?;
    if as_json {
        println!("{:#}", results(&arms, &memory));
        return verdict(&arms);
    }
    print!("{}", table(&arms, &memory));
    println!();
    let mut step = workspace.cargo("bench");
    step.args(["-p", "align-train", "--bench", "step", "--", "--threads", &race.threads.to_string()]);
    step.envs([("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")]);
    process::run(&mut step)?;
    verdict(&arms)
}

/// Fails where a target is missed.
fn verdict(arms: &[Runs]) -> Result<()> {
    let missed = |runs: &&Runs| !(runs.is_fast_enough() && runs.is_small_enough());
    let missed: Vec<&str> = arms.iter().filter(missed).map(|runs| runs.name).collect();
    if missed.is_empty() { Ok(()) } else { Err(Error::Missed { what: missed.join(", ") }) }
}

fn make(race: &Race, options: &Options, steps: usize) -> Result<()> {
    let mut command = Command::new(&race.python);
    command.arg(race.scripts.join("make_pairs.py")).arg(&race.folder);
    command.args(["--rows", &(steps * BATCH).to_string(), "--long-rows", &(steps / 2 * BATCH).to_string()]);
    for (flag, file) in [("--pairs", &options.text), ("--long-pairs", &options.long_text)] {
        if let Some(file) = file {
            command.arg(flag).arg(file);
        }
    }
    process::run_talking(&mut command)
}

/// Runs ours, then the peer.
fn pair(race: &Race, arm: &Arm, steps: usize) -> Result<(Usage, Usage)> {
    let mut arguments = arguments(race, "29M", arm.rows, BATCH, steps);
    if arm.cached {
        arguments.push("--precompute-ref-log-probs".into());
    }
    let read = |used: &Value| usage(used, BATCH);
    let ours = train(race, race.ours("dpo"), &[arguments.clone(), only_ours(1)].concat(), read)?;
    Ok((ours, train(race, race.peer("train.py"), &arguments, read)?))
}

/// What both sides understand.
fn arguments(race: &Race, model: &str, rows: &str, batch: usize, steps: usize) -> Vec<OsString> {
    let path = |name: &str| OsString::from(race.folder.join(name));
    vec![
        "--model".into(),
        path(model),
        "--data".into(),
        path(rows),
        "--output-dir".into(),
        path("run"),
        "--batch-size".into(),
        batch.to_string().into(),
        "--max-steps".into(),
        steps.to_string().into(),
        "--max-length".into(),
        "2048".into(),
        "--threads".into(),
        race.threads.to_string().into(),
    ]
}

/// A line for each step or some, no checkpoints but the last, no samples.
fn only_ours(log_every: usize) -> Vec<OsString> {
    let log_every = log_every.to_string();
    ["--log-every", &log_every, "--save-every", "0", "--samples", "0", "--no-progress"].map(Into::into).into()
}

fn train<T>(
    race: &Race,
    program: [OsString; 2],
    arguments: &[OsString],
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<T> {
    let folder = race.folder.join("run");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::io("delete", &folder))?;
    }
    race.measure(Some(&folder.join("metrics.jsonl")), &program, arguments, read)
}

/// Resident bytes after every [`STEPS_PER_LINE`] steps of a small model, from the line of step 1 on.
fn memory_over_steps(race: &Race) -> Result<Vec<f64>> {
    let arguments =
        [arguments(race, "0.8M", "pairs.jsonl", 2, MANY_STEPS), only_ours(STEPS_PER_LINE)].concat();
    train(race, race.ours("dpo"), &arguments, |used| {
        let resident = |line: &Value| line.get("resident_bytes")?.as_f64();
        used.get("lines")?.as_array()?.iter().map(resident).collect()
    })
}

/// Reads what `measure.py` printed of a run with a line for each step.
fn usage(used: &Value, batch: usize) -> Option<Usage> {
    let lines = used.get("lines")?.as_array()?;
    let between = |key: &str| {
        let at = |line: Option<&Value>| line?.get(key)?.as_f64();
        Some(at(lines.last())? - at(lines.first())?).filter(|seconds| *seconds > 0.0)
    };
    let pairs = (batch * lines.len().checked_sub(1)?) as f64;
    Some(Usage {
        pairs_per_wall_second: pairs / between("wall_s")?,
        pairs_per_cpu_second: pairs / between("cpu_s")?,
        peak_bytes: used.get("peak_bytes")?.as_f64()?,
        wall: used.get("wall_s")?.as_f64()?,
    })
}

fn results(arms: &[Runs], memory: &[f64]) -> Value {
    let side = |usage: &Usage| {
        json!({
            "pairs_per_wall_second": usage.pairs_per_wall_second,
            "pairs_per_cpu_second": usage.pairs_per_cpu_second,
            "peak_bytes": usage.peak_bytes,
            "wall_s": usage.wall,
        })
    };
    let arm = |runs: &Runs| {
        let rounds: Vec<Value> = runs
            .rounds
            .iter()
            .map(|(ours, peer)| json!({ "align": side(ours), "peer": side(peer) }))
            .collect();
        json!({
            "case": runs.name,
            "pairs_per_wall_second_ratio": runs.ratio(|u| u.pairs_per_wall_second),
            "pairs_per_cpu_second_ratio": runs.ratio(|u| u.pairs_per_cpu_second),
            "peak_memory_ratio": runs.ratio(|u| u.peak_bytes),
            "rounds": rounds,
        })
    };
    json!({
        "schema": 1,
        "processor": super::processor(),
        "cases": arms.iter().map(arm).collect::<Vec<_>>(),
        "resident_bytes_every_100_steps": memory,
    })
}

/// Medians of both sides and of the ratios of each round, each beside what it must be.
fn table(arms: &[Runs], memory: &[f64]) -> String {
    let mut text = format!("{}; steps after the first\n\n", super::processor());
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:20} {:>17} {:>17} {:>15} {:>6} {:>6}   {:>7}",
        "align dpo / TRL", "pairs/wall s", "pairs/cpu s", "peak MB", "wall", "cpu", "memory"
    );
    for runs in arms {
        let both = |number: fn(&Usage) -> f64, digits: usize| {
            let [ours, peer] = runs.sides(number);
            format!("{ours:.digits$} / {peer:.digits$}")
        };
        let (rate, peak) = (runs.ratio(|u| u.pairs_per_wall_second), runs.ratio(|u| u.peak_bytes));
        let mark = |good: bool| if good { "" } else { " MISSED" };
        let _ = writeln!(
            text,
            "{:20} {:>17} {:>17} {:>15} {rate:>6.2} {:>6.2}   {peak:>7.2}   at least {}{}, at most {}{}",
            runs.name,
            both(|u| u.pairs_per_wall_second, 2),
            both(|u| u.pairs_per_cpu_second, 2),
            both(|u| u.peak_bytes / 1e6, 0),
            runs.ratio(|u| u.pairs_per_cpu_second),
            runs.least_rate,
            mark(runs.is_fast_enough()),
            runs.most_memory,
            mark(runs.is_small_enough()),
        );
    }
    let megabytes: Vec<String> = memory.iter().map(|bytes| format!("{:.0}", bytes / 1e6)).collect();
    let _ = writeln!(
        text,
        "\nresident MB at step 1 and every {STEPS_PER_LINE} steps of 0.8M parameters: {}",
        megabytes.join(" ")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 steps of 8 pairs in the 4 seconds after the first line, of which 2 had the processor: 4 and 8 pairs a second.
    #[test]
    fn the_first_step_is_not_counted() {
        let line = |wall: f64, cpu: f64| json!({ "wall_s": wall, "cpu_s": cpu });
        let lines = [line(10.0, 5.0), line(12.0, 6.0), line(14.0, 7.0)];
        let used = json!({ "wall_s": 20.0, "cpu_s": 9.0, "peak_bytes": 1000, "lines": lines });
        let expected =
            Usage { pairs_per_wall_second: 4.0, pairs_per_cpu_second: 8.0, peak_bytes: 1000.0, wall: 20.0 };
        assert_eq!(usage(&used, 8), Some(expected));
        let one = json!({ "wall_s": 20.0, "cpu_s": 9.0, "peak_bytes": 1000, "lines": [lines[0]] });
        assert_eq!(usage(&one, 8), None, "one step has no rate");
    }

    #[test]
    fn a_target_that_is_missed_is_marked() {
        let side = |rate: f64, peak_bytes: f64| Usage {
            pairs_per_wall_second: rate,
            pairs_per_cpu_second: rate,
            peak_bytes,
            wall: 1.0,
        };
        let runs = |rate| Runs {
            name: "arm",
            least_rate: 3.5,
            most_memory: 0.4,
            rounds: vec![(side(rate, 1e9), side(1.0, 4e9))],
        };
        let text = table(&[runs(3.0)], &[1e8, 2e8]);
        assert!(text.contains("3.5 MISSED") && !text.contains("0.4 MISSED"), "{text}");
        assert!(text.contains(": 100 200"), "{text}");
        assert_eq!(verdict(&[runs(4.0), runs(3.0)]).unwrap_err().exit_code(), 1);
        assert!(!table(&[runs(4.0)], &[]).contains("MISSED"));
        verdict(&[runs(4.0)]).unwrap();
    }
}
