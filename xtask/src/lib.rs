//! The parts of `cargo xtask`, as a library so that the tidy tests can use them.
//!
//! Nothing here may depend on a crate of the workspace: the program that fetches libtorch must run without it.

pub mod bench;
pub mod conformance;
mod error;
mod process;
pub mod reproduce;
pub mod rustc;
pub mod setup;
pub mod test;
mod workspace;

pub use error::{Error, Result};
pub use workspace::{
    ALL_CRATES, ALL_PROGRAMS, Dependency, DependencyKind, Metadata, Package, Target, Workspace,
};
