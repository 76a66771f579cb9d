//! How `align` becomes `align-torch`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, Result};

/// Variables that must be there before libtorch is loaded, and their values unless the user set others.
///
/// Compute threads are those of `--threads`; the pools inside libtorch get one each, and wait without
/// spinning: spinning costs several times the work as soon as anything else runs on the machine.
pub const THREAD_ENVIRONMENT: &[(&str, &str)] =
    &[("OMP_WAIT_POLICY", "PASSIVE"), ("OMP_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1")];

/// Finds `align-torch` beside this program.
///
/// # Errors
/// [`Error::Environment`] when it is not there.
pub fn torch_program() -> Result<PathBuf> {
    let here = std::env::current_exe().map_err(|error| Error::environment(error.to_string(), []))?;
    let program = here.with_file_name(format!("align-torch{}", std::env::consts::EXE_SUFFIX));
    if program.is_file() {
        return Ok(program);
    }
    Err(Error::environment(
        format!("align-torch is not there ({}): this command needs it", program.display()),
        [
            "build both programs: cargo build --release -p align-cli".to_owned(),
            "keep align and align-torch in the same folder".to_owned(),
        ],
    ))
}

/// Becomes `align-torch` with the same arguments; returns only when that is impossible.
pub fn become_torch(arguments: &[OsString]) -> Error {
    let program = match torch_program().and_then(|program| check_libraries(&program).map(|()| program)) {
        Ok(program) => program,
        Err(error) => return error,
    };
    let mut command = Command::new(&program);
    command.args(arguments);
    for (name, value) in THREAD_ENVIRONMENT {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    let error = replace_process(command);
    Error::environment(format!("cannot start {}: {error}", program.display()), [])
}

#[cfg(unix)]
fn replace_process(mut command: Command) -> std::io::Error {
    std::os::unix::process::CommandExt::exec(&mut command)
}

#[cfg(not(unix))]
fn replace_process(mut command: Command) -> std::io::Error {
    match command.status() {
        Ok(status) => std::process::exit(status.code().unwrap_or(3)),
        Err(error) => error,
    }
}

/// Asks the loader whether every library of `align-torch` is there, without running anything of them: the
/// loader's own message would come with an exit code that means nothing here.
fn check_libraries(program: &Path) -> Result<()> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let Ok(listed) = Command::new(program).env("LD_TRACE_LOADED_OBJECTS", "1").output() else {
        return Ok(());
    };
    let missing = missing_libraries(&String::from_utf8_lossy(&listed.stdout));
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::environment(
        format!("libtorch does not load: {} not found", missing.join(", ")),
        [
            "put libtorch where this program was built to look for it: cargo xtask setup".to_owned(),
            "or name its folder: export LD_LIBRARY_PATH=/path/to/libtorch/lib".to_owned(),
            "or build against another one: LIBTORCH=/path/to/libtorch cargo build --release -p align-cli"
                .to_owned(),
        ],
    ))
}

fn missing_libraries(listed: &str) -> Vec<String> {
    let name = |line: &str| line.trim().strip_suffix("=> not found").map(|name| name.trim().to_owned());
    listed.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_libraries_are_read_from_the_loaders_list() {
        let listed = "\tlibtorch_cpu.so => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x0)\n";
        assert_eq!(missing_libraries(listed), ["libtorch_cpu.so"]);
    }
}
