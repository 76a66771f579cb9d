//! What the two programs of the `align` command line share: flags, configuration, errors, talk.
//!
//! `align` reads the command line, answers help, wrong flags and wrong configuration, and looks at data. For
//! tensor work it becomes `align-torch`, which lies beside it. **Nothing in this library may name a crate
//! that links libtorch**: `align` would then need it, and start in a quarter of a second instead of at once.

pub mod args;
pub mod cache;
mod config_file;
mod error;
pub mod front;
pub mod health;
mod launch;
pub mod manual;
pub mod metrics;
pub mod settings;
pub mod talk;
pub mod usage;

pub use error::{Error, Result, as_flags};
pub use launch::THREAD_ENVIRONMENT;
