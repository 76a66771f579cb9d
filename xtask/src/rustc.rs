//! Compiling test programs quickly: this program stands between cargo and rustc while `cargo xtask test` builds them.
//!
//! Tests share the release profile with everything else, because torch-sys would be compiled twice otherwise. Optimising
//! the tests themselves takes most of the minutes of a first run and makes them hardly faster: they wait for libtorch and
//! for programs that stay optimised. Cargo has no setting for test programs within a profile, and a wrapper of rustc is
//! the one thing that reaches them without compiling the crates under them once more.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

/// The variable that makes this program a wrapper of rustc.
const AS_RUSTC: &str = "ALIGN_XTASK_AS_RUSTC";

/// Cargo's variable for a wrapper of rustc.
const WRAPPER: &str = "RUSTC_WRAPPER";

/// Where this program lay when it began. Cargo puts a new one in its place when it builds its tests, and the system then
/// says that the one that runs was deleted.
static THIS: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Makes a cargo command compile test programs without optimisation; a wrapper of the user's stays.
pub(crate) fn quick_tests(command: &mut Command) {
    let this = THIS.get_or_init(|| std::env::current_exe().ok());
    if let (None, Some(program)) = (std::env::var_os(WRAPPER), this.as_ref().filter(|this| this.is_file())) {
        command.env(WRAPPER, program).env(AS_RUSTC, "1");
    }
}

/// Runs rustc when cargo called this program as its wrapper; `None` when a user called it. To be called first.
pub fn wrapped() -> Option<ExitCode> {
    THIS.get_or_init(|| std::env::current_exe().ok());
    std::env::var_os(AS_RUSTC)?;
    let mut arguments = std::env::args_os().skip(1);
    let rustc = arguments.next().filter(|program| is_rustc(program))?;
    let mut command = Command::new(rustc);
    command.args(with_level(arguments.collect())).env_remove(AS_RUSTC).env_remove(WRAPPER);
    Some(match command.status() {
        Ok(status) => ExitCode::from(crate::process::exit_code(status)),
        Err(error) => {
            eprintln!("error: {} cannot be started: {error}", command.get_program().to_string_lossy());
            ExitCode::from(3)
        }
    })
}

/// Says whether an argument is the compiler's path: programs that cargo runs after compiling inherit the variables.
fn is_rustc(program: &OsStr) -> bool {
    std::env::var_os("RUSTC").is_some_and(|rustc| rustc == program)
        || std::path::Path::new(program).file_stem() == Some(OsStr::new("rustc"))
}

/// Crates whose unit tests run loops over numbers of their own: without optimisation they take minutes.
const COMPUTING: [&str; 1] = ["align_rollout"];

/// Adds the level to the arguments of a test program; the last level that rustc reads wins.
fn with_level(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let has = |wanted: &str| arguments.iter().any(|argument| argument == OsStr::new(wanted));
    if has("--test") && !COMPUTING.iter().any(|name| has(name)) {
        arguments.extend(["-C", "opt-level=0"].map(OsString::from));
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(arguments: &[&str]) -> Vec<OsString> {
        with_level(arguments.iter().map(OsString::from).collect())
    }

    #[test]
    fn only_test_programs_are_left_as_they_are() {
        assert_eq!(level(&["--crate-name", "x", "-C", "opt-level=3"]).len(), 4);
        let test = level(&["--crate-name", "x", "-C", "opt-level=3", "--test"]);
        assert_eq!(test.last().unwrap(), "opt-level=0");
        assert_eq!(level(&["--crate-name", "align_rollout", "--test"]).len(), 3);
    }

    #[test]
    fn a_user_is_not_taken_for_cargo() {
        assert!(is_rustc(OsStr::new("/some/where/rustc")) && is_rustc(OsStr::new("rustc")));
        assert!(!is_rustc(OsStr::new("test")) && !is_rustc(OsStr::new("--quiet")));
    }
}
