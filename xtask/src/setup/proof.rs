//! The proof that libtorch works: build the command-line program and let it compute something.
//!
//! Looking at files is not enough. With the default linker a program links even when a library is missing that
//! libtorch needs, and then fails at its start.

use std::fs;
use std::process::Command;

use super::Libtorch;
use crate::process;
use crate::{Error, Result, Workspace};

/// Runs the proof unless it was already given for this libtorch in this target folder; returns whether it ran.
///
/// `build` are the flags that choose what is built for it: those of the command that follows, because another
/// choice of packages switches on other features of shared dependencies and compiles some of them once more.
pub(super) fn prove(workspace: &Workspace, libtorch: &Libtorch, build: &[&str], again: bool) -> Result<bool> {
    let metadata = workspace.metadata()?;
    let marker = metadata.target_directory.join("xtask/libtorch-proven");
    let identity = libtorch.identity();
    if !again && fs::read_to_string(&marker).is_ok_and(|proven| proven == identity) {
        return Ok(false);
    }
    eprintln!("setup: building `align` to prove it (tch's C++ part takes some minutes the first time)");
    process::run_talking(workspace.cargo("build").arg("--release").args(build))?;
    let program = metadata.release_program("", "align");
    process::run_talking(Command::new(&program).arg("doctor").current_dir(workspace.root()))?;

    let dir = metadata.target_directory.join("xtask");
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    fs::write(&marker, identity).map_err(Error::io("write", &marker))?;
    Ok(true)
}
