//! What can go wrong, sorted by who can do something about it.

use std::path::{Path, PathBuf};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A reason to stop, with the exit code that belongs to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line asks for something that does not exist or contradicts itself (exit code 2).
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hints: Vec<String>,
    },
    /// Something is missing on this machine: network, Python, a compiler, a platform (exit code 3).
    #[error("{message}")]
    Environment {
        /// What is missing.
        message: String,
        /// What to do about it.
        hints: Vec<String>,
    },
    /// A file or folder could not be read or written (exit code 3).
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// The verb: "read", "create", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A program could not be started (exit code 3).
    #[error("could not start `{program}`: {source}")]
    Start {
        /// The command line.
        program: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A program ran and failed; its exit code is passed through.
    #[error("`{program}` failed with exit code {code}")]
    Child {
        /// The command line.
        program: String,
        /// Its exit code; 128 + n when signal n ended it.
        code: u8,
    },
    /// A bench ran to its end and a target was missed (exit code 1).
    #[error("missed: {what}")]
    Missed {
        /// What was measured.
        what: String,
    },
}

impl Error {
    /// Makes a [`Error::Usage`].
    pub fn usage(message: impl Into<String>, hints: impl IntoIterator<Item = String>) -> Self {
        Self::Usage { message: message.into(), hints: hints.into_iter().collect() }
    }

    /// Makes an [`Error::Environment`].
    pub fn environment(message: impl Into<String>, hints: impl IntoIterator<Item = String>) -> Self {
        Self::Environment { message: message.into(), hints: hints.into_iter().collect() }
    }

    /// Returns a function that wraps an IO error with what was tried on which path.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// What the user can do, one line each.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Usage { hints, .. } | Self::Environment { hints, .. } => hints.clone(),
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                vec![
                    "free some space, or set ALIGN_CACHE_DIR to a folder on another disk (2 GB are needed)"
                        .into(),
                ]
            }
            Self::Io { .. } | Self::Start { .. } | Self::Child { .. } | Self::Missed { .. } => Vec::new(),
        }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Missed { .. } => 1,
            Self::Usage { .. } => 2,
            Self::Environment { .. } | Self::Io { .. } | Self::Start { .. } => 3,
            Self::Child { code, .. } => *code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_contract() {
        let io = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Error::usage("x", []).exit_code(), 2);
        assert_eq!(Error::environment("x", []).exit_code(), 3);
        assert_eq!(Error::io("write", Path::new("f"))(io()).exit_code(), 3);
        assert_eq!(Error::Start { program: "p".into(), source: io() }.exit_code(), 3);
        assert_eq!(Error::Child { program: "p".into(), code: 101 }.exit_code(), 101);
    }

    #[test]
    fn a_full_disk_says_where_else_to_go() {
        let error =
            Error::io("write", Path::new("/c/f"))(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert!(error.to_string().starts_with("could not write /c/f: "), "{error}");
        assert!(error.hints().iter().any(|hint| hint.contains("ALIGN_CACHE_DIR")));
    }
}
