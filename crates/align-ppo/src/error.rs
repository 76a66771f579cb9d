//! What goes wrong in the mathematics has names in `align-core` (a shape, an input with its row, a number that is none);
//! an enum of our own around it would say nothing more. The iteration has one, because its seams fail in their own ways.

use std::path::{Path, PathBuf};

use align_core::BoxError;
pub use align_core::{Error, Result};

/// What can go wrong in an iteration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IterationError {
    /// The mathematics: settings, shapes, numbers that are none, with their rows.
    #[error(transparent)]
    Core(#[from] Error),
    /// Plain data: a configuration, a generator or a source of prompts that failed.
    #[error(transparent)]
    Data(#[from] align_core::align_types::Error),
    /// Rows that an iteration cannot use.
    #[error("{what}: {why}")]
    Rows {
        /// Which row, or which phase.
        what: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A scorer, a model or another part failed.
    #[error(transparent)]
    Seam(BoxError),
    /// The thread that samples for the next iteration panicked.
    #[error("the thread that samples for the next iteration panicked; this is a bug")]
    Thread,
    /// What goes on from step to step cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        source: BoxError,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: BoxError,
    },
    /// What goes on from step to step is missing from a checkpoint, or damaged in it.
    #[error("{}: it is missing or damaged: {source}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BoxError,
    },
}

impl IterationError {
    pub(crate) fn rows(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Rows { what: what.into(), why: why.into() }
    }

    pub(crate) fn write(path: &Path, source: impl Into<BoxError>) -> Self {
        Self::Write { path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn read(path: &Path, source: impl Into<BoxError>) -> Self {
        Self::Read { path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn checkpoint(path: &Path, source: impl Into<BoxError>) -> Self {
        Self::Checkpoint { path: path.to_owned(), source: source.into() }
    }
}
