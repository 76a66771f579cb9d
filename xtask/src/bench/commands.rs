//! Commands that should answer at once.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use super::median;
use crate::{Error, Metadata, Result, Workspace, process};

/// Arguments of `align`, and the seconds that the command may take; files are seen from the root.
const COMMANDS: [(&[&str], f64); 3] =
    [(&["--help"], 0.4), (&["data", "check", "fixtures/trl/pairs.jsonl"], 0.4), (&["doctor"], 1.0)];

const RUNS: usize = 7;

/// What a command took.
#[derive(Debug)]
pub(super) struct Answer {
    command: String,
    /// Median of the wall seconds.
    seconds: f64,
    most: f64,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        json!({ "command": self.command, "median_s": self.seconds, "limit_s": self.most })
    }

    pub(super) fn line(&self) -> String {
        let verdict = if self.seconds <= self.most { "within" } else { "ABOVE" };
        format!("{:46} {:>7.3} s   {verdict} {} s", self.command, self.seconds, self.most)
    }
}

/// Builds the programs and times the commands.
///
/// # Errors
/// A command that does not build, start or succeed.
pub(super) fn run(workspace: &Workspace, metadata: &Metadata) -> Result<Vec<Answer>> {
    process::run_talking(workspace.cargo("build").args(["--release", "-p", "align-cli"]))?;
    let program = metadata.release_program("", "align");
    COMMANDS.iter().map(|(arguments, most)| answer(workspace.root(), &program, arguments, *most)).collect()
}

fn answer(root: &Path, program: &Path, arguments: &[&str], most: f64) -> Result<Answer> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root).stdout(Stdio::null()).stderr(Stdio::null());
    let shown = process::shown(&command);
    let mut seconds = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let begin = Instant::now();
        let status = command.status().map_err(|source| Error::Start { program: shown.clone(), source })?;
        seconds.push(begin.elapsed().as_secs_f64());
        process::check(shown.clone(), status)?;
    }
    Ok(Answer { command: shown, seconds: median(seconds), most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_command_is_marked() {
        let answer = |seconds| Answer { command: "align --help".into(), seconds, most: 0.4 }.line();
        assert!(answer(0.1).contains("within 0.4 s"));
        assert!(answer(0.5).contains("ABOVE 0.4 s"));
    }

    #[test]
    fn a_failing_command_is_an_error() {
        let root = Path::new("/");
        assert!(answer(root, Path::new("true"), &[], 1.0).is_ok());
        assert_eq!(answer(root, Path::new("false"), &[], 1.0).unwrap_err().exit_code(), 1);
    }
}
