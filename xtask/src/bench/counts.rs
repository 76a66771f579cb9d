//! Programs that count what work takes: the benches that are called `counts`.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::gauges::{Gauge, Unit};
use crate::{ALL_CRATES, Error, Result, Workspace, process};

/// The name of these benches in every crate that has one.
const BENCH: &str = "counts";

/// Runs the programs: allocations and bytes, and instructions where valgrind is installed. Returns the numbers and the units
/// that could not be counted.
///
/// # Errors
/// A program that does not build, start or succeed, or prints something else.
pub(super) fn run(workspace: &Workspace) -> Result<(Vec<Gauge>, Vec<Unit>)> {
    let valgrind = process::succeeds(Command::new("valgrind").arg("--version"));
    if !valgrind {
        eprintln!("instructions are not counted: valgrind is not installed");
    }
    let mut gauges = Vec::new();
    for program in build(workspace, BENCH)? {
        let counted = counts(&output(&mut Command::new(&program))?);
        if counted.is_empty() {
            return Err(Error::environment(format!("{} printed no numbers", program.display()), []));
        }
        for (id, allocations, bytes) in counted {
            if valgrind {
                let value = instructions(&program, &id)?;
                gauges.push(Gauge { unit: Unit::Instructions, id: id.clone(), value });
            }
            gauges.push(Gauge { unit: Unit::Allocations, id: id.clone(), value: allocations });
            gauges.push(Gauge { unit: Unit::Bytes, id, value: bytes });
        }
    }
    Ok((gauges, if valgrind { Vec::new() } else { vec![Unit::Instructions] }))
}

/// Builds the benches of a name and returns where they are.
///
/// # Errors
/// They do not build.
pub(super) fn build(workspace: &Workspace, bench: &str) -> Result<Vec<PathBuf>> {
    let mut command = workspace.cargo("bench");
    command.args(ALL_CRATES).args(["--bench", bench, "--no-run", "--message-format=json-render-diagnostics"]);
    let messages = output(&mut command)?;
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_ours = message.pointer("/target/name").and_then(Value::as_str) == Some(bench);
        Some(PathBuf::from(message.get("executable")?.as_str().filter(|_| is_ours)?))
    };
    Ok(messages.lines().filter_map(program).collect())
}

/// Runs a command to its end and returns what it writes to stdout.
///
/// # Errors
/// It does not start or does not succeed.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let program = process::shown(command);
    eprintln!("$ {program}");
    let ran = command.stderr(Stdio::inherit()).output();
    let ran = ran.map_err(|source| Error::Start { program: program.clone(), source })?;
    process::check(program, ran.status)?;
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

/// The lines of a program: what was done, allocations, bytes.
fn counts(text: &str) -> Vec<(String, f64, f64)> {
    let count = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some((
            line.get("id")?.as_str()?.to_owned(),
            line.get("allocations")?.as_f64()?,
            line.get("bytes")?.as_f64()?,
        ))
    };
    text.lines().filter_map(count).collect()
}

/// Counts the instructions of one repetition: those of three less those of one, halved.
fn instructions(program: &std::path::Path, id: &str) -> Result<f64> {
    let count = |repeat: &str| {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
        command.args(["--only", id, "--repeat", repeat]).stdout(Stdio::null());
        let shown = process::shown(&command);
        let ran = command.output().map_err(|source| Error::Start { program: shown.clone(), source })?;
        let text = String::from_utf8_lossy(&ran.stderr);
        process::check(shown.clone(), ran.status)?;
        collected(&text).ok_or_else(|| Error::environment(format!("`{shown}` counted nothing"), []))
    };
    Ok((count("3")? - count("1")?) / 2.0)
}

/// Finds the sum that callgrind prints at its end.
fn collected(text: &str) -> Option<f64> {
    let line = text.lines().rev().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_no_counts_are_passed_over() {
        let text = "Benchmarking\n{\"id\": \"a\", \"allocations\": 3, \"bytes\": 40}\n{\"id\": \"b\"}\n";
        assert_eq!(counts(text), [("a".to_owned(), 3.0, 40.0)]);
    }

    #[test]
    fn the_sum_of_callgrind_is_found() {
        let text = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n==7== I   refs:      123,456\n";
        assert_eq!(collected(text), Some(123_456.0));
        assert_eq!(collected("==7== nothing"), None);
    }
}
