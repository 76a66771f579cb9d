//! `align dpo` against TRL's DPO trainer, in alternation.

use std::ffi::OsString;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::median;
use super::race::{Options, Race};
use super::runs::{self, Runs, Usage};
use crate::{Error, Result, Workspace, process};

/// Pairs of a step.
const BATCH: usize = 8;
/// Steps of the run that shows whether memory grows, and how many lie between two looks at it.
const MANY_STEPS: usize = 1000;
const STEPS_PER_LINE: usize = 100;
/// How many times itself the memory may become between the halves of that run. One gradient kept per step would make it
/// seven times itself.
const MOST_GROWTH: f64 = 1.2;

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

/// Trains with both, prints ratios, memory over many steps, and what share of the machine's speed a step reaches.
///
/// # Errors
/// A program that is missing or fails, or output that is not understood; a target that is missed, after everything is
/// printed.
pub(super) fn run(workspace: &Workspace, race: &Race, options: &Options, as_json: bool) -> Result<()> {
    let steps = options.peer_steps.max(4);
    make(race, options, [steps * BATCH, steps / 2 * BATCH])?;
    let mut arms: Vec<Runs> = Vec::new();
    for round in 0..options.rounds {
        for (index, arm) in ARMS.iter().enumerate() {
            eprintln!("round {} of {}: {}", round + 1, options.rounds, arm.name);
            let pair = pair(race, arm, (steps / arm.steps).max(2))?;
            match arms.get_mut(index) {
                Some(runs) => runs.add(pair),
                None => {
                    let Arm { name, least_rate, most_memory, .. } = *arm;
                    arms.push(Runs { name, least_rate, most_memory, rounds: Vec::new() }.with(pair));
                }
            }
        }
    }
    eprintln!("{MANY_STEPS} steps of one run");
    let memory = memory_over_steps(race)?;
    if as_json {
        println!("{:#}", results(&arms, &memory));
        return verdict(&arms, &memory);
    }
    print!("{}", table(&arms, &memory));
    println!();
    let mut step = workspace.cargo("bench");
    step.args(["-p", "align-train", "--bench", "step", "--", "--threads", &race.threads.to_string()]);
    step.envs([("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")]);
    process::run(&mut step)?;
    verdict(&arms, &memory)
}

/// Fails where a target is missed; memory that grows is named where nothing else is.
fn verdict(arms: &[Runs], memory: &[f64]) -> Result<()> {
    runs::verdict(arms)?;
    let grown = growth(memory);
    if grown <= MOST_GROWTH {
        return Ok(());
    }
    Err(Error::Missed { what: format!("memory over {MANY_STEPS} steps, which grew to {grown:.2} of itself") })
}

/// The median of the later half of the looks at memory over that of the earlier, without the first look: single ones differ by
/// what the step at that moment works on.
fn growth(memory: &[f64]) -> f64 {
    let (_, after) = memory.split_at(memory.len().min(1));
    let (early, late) = after.split_at(after.len() / 2);
    median(late.to_vec()) / median(early.to_vec())
}

/// Makes models and pairs: so many rows, and so many long ones.
pub(super) fn make(race: &Race, options: &Options, [rows, long]: [usize; 2]) -> Result<()> {
    let mut command = Command::new(&race.python);
    command.arg(race.scripts.join("make_pairs.py")).arg(&race.folder);
    command.args(["--rows", &rows.to_string(), "--long-rows", &long.to_string()]);
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
    let read = |used: &Value| Usage::of(used, BATCH);
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

fn results(arms: &[Runs], memory: &[f64]) -> Value {
    json!({
        "schema": 1,
        "processor": super::processor(),
        "cases": arms.iter().map(Runs::json).collect::<Vec<_>>(),
        "resident_bytes_every_100_steps": memory,
    })
}

fn table(arms: &[Runs], memory: &[f64]) -> String {
    let megabytes: Vec<String> = memory.iter().map(|bytes| format!("{:.0}", bytes / 1e6)).collect();
    format!(
        "{}; steps after the first\n\n{}\nresident MB at step 1 and every {STEPS_PER_LINE} steps of 0.8M parameters: {}\n",
        super::processor(),
        runs::table("align dpo / TRL", arms),
        megabytes.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_grows_is_missed() {
        let steady = [189.0, 240.0, 256.0, 243.0, 240.0, 240.0, 235.0, 242.0, 265.0, 253.0, 260.0];
        assert!((growth(&steady) - 253.0 / 240.0).abs() < 1e-12);
        assert!(verdict(&[], &steady).is_ok());
        let leak: Vec<f64> = (0..11).map(|look| 240.0 + 20.0 * f64::from(look)).collect();
        assert!(verdict(&[], &leak).unwrap_err().to_string().contains("memory over 1000 steps"));
    }
}
