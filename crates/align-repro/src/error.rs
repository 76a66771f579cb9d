use std::path::{Path, PathBuf};

/// What can go wrong with a reproduction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line asks for something that does not exist or does not fit.
    #[error("{what}: {why}")]
    Usage {
        /// The flag or name.
        what: String,
        /// What is wrong with it, and what would be accepted.
        why: String,
    },
    /// The plan of an experiment contradicts itself.
    #[error("plan of {experiment}: {why}")]
    Plan {
        /// The experiment.
        experiment: String,
        /// The contradiction, with the key.
        why: String,
    },
    /// A file or folder of the run cannot be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The answer of the operating system.
        source: std::io::Error,
    },
    /// A file of an earlier run does not hold what it should.
    #[error("{} is damaged ({why}); remove it and run again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A figure that a verdict needs is not finite.
    #[error("{what} is not finite ({value}); the run has diverged")]
    NonFinite {
        /// Which figure.
        what: String,
        /// The value.
        value: f64,
    },
    /// Data or a model that the user gave cannot be used.
    #[error("{what}: {why}")]
    Input {
        /// Which file or folder, with the row where there is one.
        what: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A worker thread ended without an answer.
    #[error("a worker thread ended without an answer; this is a bug")]
    Worker,
    /// The user stopped the run; what is finished stays on disk.
    #[error("interrupted; finished units are kept, --resume continues")]
    Interrupted,
    /// An operation on tensors failed.
    #[error(transparent)]
    Core(#[from] align_core::Error),
    /// A training step failed.
    #[error(transparent)]
    Train(#[from] align_train::Error),
    /// A data file cannot be used.
    #[error(transparent)]
    Data(#[from] align_data::Error),
    /// A model folder cannot be used.
    #[error(transparent)]
    Model(#[from] align_lm::Error),
    /// Sampling failed.
    #[error(transparent)]
    Sampling(#[from] align_core::align_types::Error),
    /// The sampling engine failed.
    #[error(transparent)]
    Rollout(#[from] align_rollout::Error),
    /// An on-policy run cannot be set up.
    #[error(transparent)]
    OnPolicy(#[from] align_ppo::IterationError),
    /// An on-policy step failed.
    #[error("{0}")]
    Step(align_core::BoxError),
}

/// The result of a reproduction's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an [`Error::Usage`].
    pub fn usage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), why: why.into() }
    }

    /// Makes an [`Error::Io`].
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// Makes an [`Error::Input`].
    pub fn input(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Input { what: what.into(), why: why.to_string() }
    }

    /// Returns the exit code of the process: 1 a failed run, 2 usage, 3 environment, 4 data and models,
    /// 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Rollout(_) => 3,
            Self::Usage { .. } => 2,
            Self::Plan { .. } | Self::NonFinite { .. } | Self::Worker | Self::OnPolicy(_) | Self::Step(_) => {
                1
            }
            Self::Train(align_train::Error::NonFinite { .. }) => 1,
            Self::Core(align_core::Error::NonFinite { .. }) => 1,
            Self::Io { .. } | Self::Core(_) | Self::Train(_) | Self::Sampling(_) => 3,
            Self::Damaged { .. } | Self::Input { .. } | Self::Data(_) | Self::Model(_) => 4,
            Self::Interrupted => 130,
        }
    }
}

impl From<align_core::tch::TchError> for Error {
    fn from(error: align_core::tch::TchError) -> Self {
        Self::Core(error.into())
    }
}

#[cfg(test)]
mod tests {
    fn is_portable<T: Send + Sync + 'static>() {}

    #[test]
    fn errors_cross_threads() {
        is_portable::<super::Error>();
    }
}
