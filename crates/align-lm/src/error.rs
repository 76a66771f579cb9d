use std::path::{Path, PathBuf};

use align_core::tch::TchError;

/// What can go wrong with a model folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{}: {doing}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done with it.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("{}: not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A key of `config.json` is missing, has another type, or is outside its range.
    #[error("{}: {key} = {value}: expected {expected}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key, with the key around it where it is nested.
        key: String,
        /// Its value as JSON, or `missing`.
        value: String,
        /// What would be accepted.
        expected: String,
    },
    /// The folder asks for something that is not built.
    #[error("{}: {what} is not supported; supported: {supported}", path.display())]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// What it asks for, by name.
        what: String,
        /// What could be used instead.
        supported: String,
    },
    /// A weights file is damaged or hostile.
    #[error("{}: {why}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the tensor's name where there is one.
        why: String,
    },
    /// A pickle has more in it than tensors, or is damaged. Nothing of it was executed.
    #[error("{}: data.pkl, byte {at}: {why}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// Where the instruction starts, in bytes from the start of the pickle.
        at: usize,
        /// What it wants, by name.
        why: String,
    },
    /// The weights do not fit the configuration.
    #[error("{}: the weights do not fit config.json: {why}", dir.display())]
    Contradiction {
        /// The model folder.
        dir: PathBuf,
        /// The tensors that do not fit, the first few of many.
        why: String,
    },
    /// An adapter is damaged, or does not fit the model.
    #[error("{}: {why}", path.display())]
    Adapter {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, with the name of the layer where there is one.
        why: String,
    },
    /// The settings of a new adapter do not fit the model.
    #[error("{key} = {value}: {why}")]
    Lora {
        /// The setting as the user writes it (`lora-rank`).
        key: &'static str,
        /// Its value.
        value: String,
        /// What the model allows.
        why: String,
    },
    /// The output folder cannot be used.
    #[error("{}: {why}", path.display())]
    Output {
        /// The folder.
        path: PathBuf,
        /// Why it cannot be used.
        why: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] align_core::Error),
}

/// The result of operations on model folders.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<TchError> for Error {
    fn from(error: TchError) -> Self {
        Self::Tensor(error.into())
    }
}

impl Error {
    /// Makes a mapper from system errors, for `map_err`.
    pub(crate) fn io(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, doing, source }
    }

    /// Makes an [`Error::Adapter`].
    pub(crate) fn adapter(path: &Path, why: impl Into<String>) -> Self {
        Self::Adapter { path: path.to_owned(), why: why.into() }
    }

    /// Turns the error of a replica into one of the traits of `align-core`.
    pub(crate) fn of_replica(self) -> align_core::Error {
        match self {
            Self::Tensor(error) => error,
            other => align_core::Error::input("replica", other.to_string()),
        }
    }

    /// Makes an [`Error::Weights`].
    pub(crate) fn weights(path: &Path, why: impl Into<String>) -> Self {
        Self::Weights { path: path.to_owned(), why: why.into() }
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
