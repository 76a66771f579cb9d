//! The rules of the workspace that a compiler does not check, as ordinary tests.
//!
//! They read text and `cargo metadata`, not syntax trees, so they can be wrong in rare cases. A line that is right
//! although a rule objects carries, on itself or on the line above, a comment that names the rule and the reason:
//!
//! ```text
//! // tidy: allow(tensor-operator): both operands are strings
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

mod arrows;
mod conformance;
mod files;
mod network;
mod panics;
mod source;
mod torch_calls;
mod words;

use std::path::{Path, PathBuf};

use xtask::{Metadata, Workspace};

/// Fails with one line per problem.
fn expect_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{} problem(s):\n  {}\n", problems.len(), problems.join("\n  "));
}

fn workspace() -> (Workspace, Metadata) {
    let workspace = Workspace::locate().unwrap();
    let metadata = workspace.metadata().unwrap();
    (workspace, metadata)
}

/// All Rust files below a folder, sorted.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for child in std::fs::read_dir(dir).into_iter().flatten() {
        let path = child.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
