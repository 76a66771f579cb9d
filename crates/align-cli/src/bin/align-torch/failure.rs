//! Errors of the other crates as errors of the program: which exit code, which hints.

use align_cli::Error;

/// Turns an error into the program's own.
///
/// The program's type lives in its library, which knows no crate that links libtorch; hence this trait instead of
/// `From`.
pub trait Failure {
    /// Turns the error into the program's own.
    fn failed(self) -> Error;
}

/// [`Failure::failed`] as a function, for `map_err`.
pub fn of(error: impl Failure) -> Error {
    error.failed()
}

impl Failure for align_core::Error {
    fn failed(self) -> Error {
        match self {
            Self::Data(inner) => inner.into(),
            Self::Torch { ref message, .. } if is_out_of_memory(message) => out_of_memory(&self.to_string()),
            Self::Torch { .. } => {
                Error::environment(self.to_string(), ["`align doctor` checks libtorch".to_owned()])
            }
            other => Error::data(other.to_string(), []),
        }
    }
}

impl Failure for align_lm::Error {
    fn failed(self) -> Error {
        match self {
            Self::Tensor(inner) => inner.failed(),
            Self::Unsupported { .. } => Error::data(self.to_string(), []),
            Self::Io { ref path, ref source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::data(
                    self.to_string(),
                    [format!(
                        "{} must be a Hugging Face model folder",
                        path.parent().unwrap_or(path).display()
                    )],
                )
            }
            Self::Contradiction { .. } => Error::data(
                self.to_string(),
                ["config.json and the weights come from different models, or one of them is damaged"
                    .to_owned()],
            ),
            Self::Weights { .. } => {
                Error::data(self.to_string(), ["fetch or copy the weights again".to_owned()])
            }
            other => Error::data(other.to_string(), []),
        }
    }
}

impl Failure for align_rollout::Error {
    fn failed(self) -> Error {
        match self {
            Self::Config(inner) => inner.into(),
            Self::Model { source, .. } => source.failed(),
            other => Error::data(other.to_string(), []),
        }
    }
}

fn is_out_of_memory(message: &str) -> bool {
    ["not enough memory", "out of memory", "can't allocate memory"]
        .iter()
        .any(|words| message.contains(words))
}

fn out_of_memory(message: &str) -> Error {
    Error::environment(
        message,
        ["lower --micro-batch-tokens, --max-length or --threads; --dry-run estimates the memory".to_owned()],
    )
}
