//! Starting other programs.

use std::process::{Command, ExitStatus, Stdio};

use crate::{Error, Result};

/// Writes a command as a user would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    // Cargo is called by its full path; the short name is what a reader can repeat.
    let name = program.file_stem().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let arguments = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(name).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Runs a command to its end and turns a failure into an error that carries its exit code.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = shown(command);
    eprintln!("$ {program}");
    let status = command.status().map_err(|source| Error::Start { program: program.clone(), source })?;
    check(program, status)
}

/// Like [`run`], but what the program writes to its stdout goes to our stderr.
pub(crate) fn run_talking(command: &mut Command) -> Result<()> {
    run(command.stdout(Stdio::from(std::io::stderr())))
}

/// True when the command starts and succeeds; its output is thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Turns a failed exit status into an error.
pub(crate) fn check(program: String, status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { Err(Error::Child { program, code: exit_code(status) }) }
}

/// The exit code to pass through: the program's own, or 128 + the signal that ended it, as shells do.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(128 + signal).unwrap_or(u8::MAX);
    }
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Replaces this process by the command, so that signals and the exit code are the program's own.
///
/// Returns only if the command could not be started (elsewhere than on Unix it runs as a child).
pub(crate) fn become_program(command: &mut Command) -> Result<()> {
    #[cfg(unix)]
    {
        eprintln!("$ {}", shown(command));
        let source = std::os::unix::process::CommandExt::exec(command);
        Err(Error::Start { program: shown(command), source })
    }
    #[cfg(not(unix))]
    run(command)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn exit_codes_and_signals_are_passed_through() {
        assert!(run(&mut shell("exit 0")).is_ok());
        assert_eq!(run(&mut shell("exit 7")).unwrap_err().exit_code(), 7);
        assert_eq!(run(&mut shell("kill -9 $$")).unwrap_err().exit_code(), 137);
    }

    #[test]
    fn a_missing_program_is_an_environment_error() {
        let mut command = Command::new("no-such-program-of-align");
        assert!(!succeeds(&mut command));
        assert_eq!(run(&mut command).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn commands_are_shown_by_short_name() {
        let mut command = Command::new("/some/where/cargo");
        command.args(["test", "--release"]);
        assert_eq!(shown(&command), "cargo test --release");
    }
}
