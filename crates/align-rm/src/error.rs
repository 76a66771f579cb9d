//! What goes wrong in the mathematics has names in `align-core` (a shape, an input with its row, a number that is none);
//! an enum of our own around it would say nothing more. Scoring has one, because it reads files and asks a tokenizer that
//! it does not know.

use std::path::PathBuf;

use align_core::BoxError;
pub use align_core::{Error, Result};

/// What can go wrong where a reward model scores rows or texts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScoringError {
    /// The mathematics: shapes, inputs, threads, libtorch.
    #[error(transparent)]
    Core(#[from] Error),
    /// A prompt with its answer cannot become tokens of the model; the message names the item.
    #[error(transparent)]
    Encode(BoxError),
    /// A prompt with its answer was encoded as something else than one prompt with one answer.
    #[error(
        "{row}: its encoding has {got} answers; a prompt with one answer is one prompt group with one completion"
    )]
    Encoding {
        /// The item.
        row: String,
        /// Completions of the group that came.
        got: usize,
    },
    /// A prompt with its answer is longer than the model takes.
    #[error("{row}: prompt and answer have {tokens} tokens of the reward model, whose context is {context}")]
    TooLong {
        /// The item.
        row: String,
        /// Its tokens, of prompt and answer.
        tokens: usize,
        /// The most that the model takes.
        context: usize,
    },
    /// A score is no number.
    #[error("{row}: its reward is {value}")]
    NotFinite {
        /// The row.
        row: String,
        /// The model, as it is named in messages.
        model: String,
        /// The score.
        value: f64,
    },
    /// The file with the scale of a model is missing, damaged, or one of other weights.
    #[error("{}: {why}", path.display())]
    Scale {
        /// The file; the folder where there is none.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The answer of the operating system.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    fn is_portable<T: Send + Sync + 'static>() {}

    #[test]
    fn errors_cross_threads() {
        is_portable::<super::ScoringError>();
    }
}
