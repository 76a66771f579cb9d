//! The program that trains a thousand steps and says by how much it grew: the bench that is called `growth`.

use std::{path::Path, process::Command};

use serde_json::Value;

use super::counts::{build, output};
use super::gauges::{Gauge, Unit};
use crate::{Result, Workspace};

/// The name of the bench.
const BENCH: &str = "growth";
/// Where the program looks up how large it is.
const RESIDENT: &str = "/proc/self/statm";

/// Runs it. Returns the numbers and the units that could not be counted.
///
/// # Errors
/// It does not build, start or succeed.
pub(super) fn run(workspace: &Workspace) -> Result<(Vec<Gauge>, Vec<Unit>)> {
    let mut gauges = Vec::new();
    for program in build(workspace, BENCH)? {
        gauges.extend(grown(&output(&mut Command::new(&program))?));
    }
    // A program that prints nothing where the system does say how large it is has counted nothing, which the gate is to
    // see.
    let is_unknown = gauges.is_empty() && !Path::new(RESIDENT).exists();
    let skipped = if is_unknown { vec![Unit::Growth] } else { Vec::new() };
    Ok((gauges, skipped))
}

/// The lines of the program: what was done, bytes.
fn grown(text: &str) -> Vec<Gauge> {
    let gauge = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        let id = line.get("id")?.as_str()?.to_owned();
        Some(Gauge { unit: Unit::Growth, id, value: line.get("bytes")?.as_f64()? })
    };
    text.lines().filter_map(gauge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let found = grown("Finished\n{\"id\": \"train\", \"bytes\": 4096}\n{\"id\": \"b\"}\n");
        assert_eq!(found, [Gauge { unit: Unit::Growth, id: "train".into(), value: 4096.0 }]);
    }
}
