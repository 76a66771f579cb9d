/// An error of code that this crate calls without knowing it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong while completions are sampled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A sampling setting is outside its range.
    #[error(transparent)]
    Config(#[from] align_core::align_types::Error),
    /// A prompt cannot be continued.
    #[error("prompt {index}: {why}")]
    Prompt {
        /// Its place in the list of prompts, from 0.
        index: usize,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// Stop strings were asked for, but tokens cannot be turned into text.
    #[error("stop strings need text: give the generator a decoder, or stop at token ids only")]
    NoDecoder,
    /// The decoder refused the tokens of a sample.
    #[error("prompt {prompt}, {}", self.reason())]
    Decode {
        /// The prompt, from 0.
        prompt: usize,
        /// The sample of the prompt, from 0.
        sample: usize,
        /// What the decoder said.
        #[source]
        source: BoxError,
    },
    /// The logits of a row do not make a distribution.
    #[error("prompt {prompt}: {}", self.reason())]
    NonFinite {
        /// The prompt, from 0.
        prompt: usize,
        /// Tokens before the row, prompt included.
        position: usize,
    },
    /// The engine does not know the architecture.
    #[error(
        "the engine samples from models of the Llama shape, in float32 and on the CPU; use the tensor backend"
    )]
    Unsupported,
    /// A thread of the engine ended without its results.
    #[error("a sampling thread broke down; its message is above, please report it")]
    Thread,
    /// The model failed.
    #[error("{doing}: {source}")]
    Model {
        /// What it was asked to do.
        doing: String,
        /// The prompt that it was given, from 0, where it was one alone.
        prompt: Option<usize>,
        /// What it said.
        #[source]
        source: align_core::Error,
    },
}

/// The result of sampling.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Returns the place of the prompt that the error is about in the list that was given, from 0.
    pub fn prompt(&self) -> Option<usize> {
        match self {
            Self::Prompt { index: prompt, .. }
            | Self::Decode { prompt, .. }
            | Self::NonFinite { prompt, .. } => Some(*prompt),
            Self::Model { prompt, .. } => *prompt,
            _ => None,
        }
    }

    /// Says what happened without the prompt: for those who know the row that it came from.
    pub fn reason(&self) -> String {
        match self {
            Self::Prompt { why, .. } => why.clone(),
            Self::Decode { sample, source, .. } => {
                format!("sample {sample}: the tokens cannot be decoded: {source}")
            }
            Self::NonFinite { position, .. } => format!(
                "the logits after token {position} hold NaN or +inf, or nothing but -inf; the weights of the model are \
                 damaged or its training diverged"
            ),
            Self::Model { prompt: Some(_), source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }
}

impl From<Error> for align_core::align_types::Error {
    fn from(error: Error) -> Self {
        let (prompt, why) = (error.prompt(), error.reason());
        let source: Option<BoxError> = match error {
            Error::Config(inner) => return inner,
            Error::Model { source, .. } => Some(Box::new(source)),
            Error::Decode { source, .. } => Some(source),
            Error::Prompt { .. }
            | Error::NoDecoder
            | Error::NonFinite { .. }
            | Error::Unsupported
            | Error::Thread => None,
        };
        match prompt {
            Some(index) => Self::Prompt { index, why, source },
            None => Self::Seam { what: "sampling".to_owned(), why, source },
        }
    }
}

impl Error {
    /// Makes the wrapper that says what the model was asked to do.
    pub(crate) fn model(doing: impl Into<String>) -> impl FnOnce(align_core::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Model { doing, prompt: None, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_portable<T: Send + Sync + 'static>() {}

    #[test]
    fn errors_cross_threads() {
        is_portable::<Error>();
    }

    #[test]
    fn the_seam_keeps_what_happened_and_where() {
        let source = || align_core::Error::input("slot 0", "full");
        let error = Error::Model { doing: "packing".into(), prompt: None, source: source() };
        let seam = align_core::align_types::Error::from(error);
        assert_eq!(seam.to_string(), "sampling: packing: slot 0: full");
        assert!(std::error::Error::source(&seam).is_some());
        let errors = [
            Error::Model { doing: "prompt 3".into(), prompt: Some(3), source: source() },
            Error::Prompt { index: 3, why: "is empty".into() },
            Error::Decode { prompt: 3, sample: 1, source: "no such piece".into() },
            Error::NonFinite { prompt: 3, position: 7 },
        ];
        for error in errors {
            let text = error.to_string();
            let seam = align_core::align_types::Error::from(error);
            let at = matches!(seam, align_core::align_types::Error::Prompt { index: 3, .. });
            assert!(at && text.starts_with("prompt 3"), "{text}: {seam}");
            // The prompt is said once.
            assert_eq!(seam.to_string().matches("prompt 3").count(), 1, "{seam}");
        }
    }
}
