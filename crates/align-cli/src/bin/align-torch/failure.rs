//! Errors of the other crates as errors of the program: which exit code, which hints.

use std::path::Path;

use align_cli::Error;
use align_core::align_types;
use align_rm::ScoringError;

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

/// The program's own error, where a crate below hands errors of its caller through.
pub struct Own(pub Error);

impl<F: Failure> From<F> for Own {
    fn from(error: F) -> Self {
        Self(error.failed())
    }
}

impl Failure for align_types::Error {
    fn failed(self) -> Error {
        match self {
            Self::Seam { what, why, source: Some(source) } => {
                let text = format!("{what}: {why}");
                through_a_seam(source, text)
            }
            Self::Prompt { index, why, source: Some(source) } => {
                through_a_seam(source, format!("prompt {index}: {why}"))
            }
            other => other.into(),
        }
    }
}

/// An error of this program that went through a reward or a sink keeps its hints and its exit code, and one of a model
/// that samples those of its kind: want of memory is no fault of the data.
fn through_a_seam(source: align_core::BoxError, text: String) -> Error {
    let source = match source.downcast::<Error>() {
        Ok(own) => return *own,
        Err(other) => other,
    };
    let source = match source.downcast::<ScoringError>() {
        Ok(scoring) => return scoring.failed(),
        Err(other) => other,
    };
    match source.downcast::<align_core::Error>() {
        Ok(core) => core.failed().with_message(|_| text),
        Err(_) => Error::data(text, []),
    }
}

impl Failure for ScoringError {
    fn failed(self) -> Error {
        let text = self.to_string();
        match self {
            Self::Core(inner) => inner.failed(),
            Self::Encode(inner) => match inner.downcast::<align_data::Error>() {
                Ok(data) => Error::from(*data),
                Err(other) => Error::data(other.to_string(), []),
            },
            Self::TooLong { .. } => {
                Error::data(text, ["lower --max-new-tokens, or leave the prompt out".to_owned()])
            }
            Self::NotFinite { model, .. } => Error::data(
                text,
                [format!(
                    "the weights of {model} are damaged, or its training diverged; --dtype f32 has the widest range"
                )],
            ),
            Self::Scale { .. } => Error::data(text, [crate::scale::measure()]),
            _ => Error::data(text, []),
        }
    }
}

impl Failure for align_core::Error {
    fn failed(self) -> Error {
        match self {
            Self::Data(inner) => inner.failed(),
            Self::Torch { ref message, .. } if is_out_of_memory(message) => out_of_memory(&self.to_string()),
            Self::Thread { .. } => Error::environment(self.to_string(), []),
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
            Self::Lora { key, value, why } => Error::usage(format!("--{key} {value}: {why}"), []),
            Self::Adapter { .. } => Error::data(
                self.to_string(),
                ["an adapter goes onto the model it was made for: --model BASE --adapter DIR".to_owned()],
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
            Self::Config(inner) => inner.failed(),
            Self::Model { source, .. } => source.failed(),
            other => Error::data(other.to_string(), []),
        }
    }
}

impl Failure for align_train::Error {
    fn failed(self) -> Error {
        use align_train::Error as Train;
        let text = self.to_string();
        match self {
            Train::NotEmpty { path } => Error::usage(
                format!("--output-dir {}: the folder is not empty", path.display()),
                ["continue the run in it with --resume, delete it with --overwrite, or name another folder"
                    .to_owned()],
            ),
            Train::ConfigMismatch { path, differences } => {
                let list: Vec<_> = differences.iter().map(ToString::to_string).collect();
                Error::usage(
                    format!("{} was started with another configuration: {}", path.display(), list.join(", ")),
                    [
                        format!("--config {} --resume has the old one", path.join("config.toml").display()),
                        "or start a new run in another --output-dir".to_owned(),
                    ],
                )
            }
            Train::NotARunFolder { .. }
            | Train::Locked { .. }
            | Train::Config(_)
            | Train::UnknownMetric { .. } => Error::usage(text, []),
            Train::DiskFull { path } => Error::environment(
                format!("the disk is full: cannot write {}", path.display()),
                ["checkpoints written before are whole: make room and repeat the command with --resume"
                    .to_owned()],
            ),
            Train::Io { .. } | Train::SaveModel { .. } | Train::Thread(_) => Error::environment(text, []),
            Train::Checkpoint { .. } => Error::data(text, [ANOTHER_CHECKPOINT.to_owned()]),
            Train::NonFinite { .. } => Error::data(text, [BAD_NUMBER.to_owned()]),
            Train::Rows { rows, source } => {
                let bad_number = matches!(source, align_core::Error::NonFinite { .. });
                let failed = source.failed();
                let failed = failed.with_message(|message| format!("rows {}: {message}", rows.join(", ")));
                if bad_number { failed.with_hint(BAD_NUMBER.to_owned()) } else { failed }
            }
            Train::Step { source, saved, .. } => {
                let of_method = matches!(*source, Train::Method(_));
                let failed = source.failed().with_message(|_| align_cli::as_flags(&text));
                let bad_number = failed.hints().iter().any(|hint| hint == BAD_NUMBER);
                match saved {
                    Some(saved) if bad_number => failed.with_hint(start_from(&saved.folder.join("model"))),
                    Some(_) if of_method => failed.with_hint(GO_ON.to_owned()),
                    _ => failed,
                }
            }
            Train::InputsMismatch { .. } => Error::usage(
                text,
                ["a new run goes into another --output-dir; --overwrite would delete this one".to_owned()],
            ),
            Train::BeforeFinish(inner) => match inner.downcast::<Error>() {
                Ok(own) => *own,
                Err(other) => Error::environment(other.to_string(), []),
            },
            Train::Seam(inner) => inner.failed(),
            Train::Method(inner) => of_method(inner),
            Train::Tensor(inner) => inner.failed(),
            _ => Error::data(text, []),
        }
    }
}

impl Failure for align_ppo::IterationError {
    fn failed(self) -> Error {
        use align_ppo::IterationError as Iteration;
        match self {
            Iteration::Core(inner @ align_core::Error::NonFinite { .. }) => {
                inner.failed().with_hint(BAD_NUMBER.to_owned())
            }
            Iteration::Core(inner) => inner.failed(),
            Iteration::Data(inner) => inner.failed(),
            Iteration::Seam(inner) => of_method(inner),
            Iteration::Write { .. } => Error::environment(self.to_string(), []),
            Iteration::Checkpoint { .. } => Error::data(self.to_string(), [ANOTHER_CHECKPOINT.to_owned()]),
            other => Error::data(align_cli::as_flags(&other.to_string()), []),
        }
    }
}

/// Finds out what a method failed with, which went through a seam that knows no types.
fn of_method(error: align_core::BoxError) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(own) => return *own,
        Err(other) => other,
    };
    let error = match error.downcast::<align_ppo::IterationError>() {
        Ok(iteration) => return iteration.failed(),
        Err(other) => other,
    };
    let error = match error.downcast::<align_train::Error>() {
        Ok(train) => return train.failed(),
        Err(other) => other,
    };
    let error = match error.downcast::<align_core::Error>() {
        Ok(core) => return core.failed(),
        Err(other) => other,
    };
    match error.downcast::<align_types::Error>() {
        Ok(data) => data.failed(),
        Err(other) => Error::data(other.to_string(), []),
    }
}

/// What to do about a loss or gradient that is no number.
const BAD_NUMBER: &str = "lower --learning-rate, or look at these rows; NaN in the weights of a model that reads them does it \
                          too";

/// What to do about a checkpoint that is damaged.
const ANOTHER_CHECKPOINT: &str = "delete that checkpoint's folder to continue from the one before";

/// What to do where something beside the model failed.
const GO_ON: &str =
    "when that is mended, repeat the command with --resume to go on after the last checkpoint";

/// A run that was stopped cannot go on with other rows or another rate; a new one can begin with its weights.
fn start_from(model: &Path) -> String {
    let flag = if model.join("adapter_config.json").exists() { "adapter" } else { "model" };
    format!("to go on with other settings or rows, start a new run with --{flag} {}", model.display())
}

fn is_out_of_memory(message: &str) -> bool {
    ["not enough memory", "out of memory", "can't allocate memory"]
        .iter()
        .any(|words| message.contains(words))
}

fn out_of_memory(message: &str) -> Error {
    Error::environment(
        message,
        [
            "lower --micro-batch-tokens",
            "lower --max-length",
            "lower --threads",
            "--dry-run estimates the memory",
        ]
        .map(str::to_owned),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(message: &str) -> align_core::Error {
        align_core::tch::TchError::Torch(message.to_owned()).into()
    }

    /// Want of memory and a broken libtorch are the machine's, wherever in sampling they come up.
    #[test]
    fn what_the_machine_lacks_while_sampling_is_not_blamed_on_the_data() {
        let memory = "DefaultCPUAllocator: not enough memory: you tried to allocate 17179869184 bytes";
        let sampling = |prompt: Option<usize>, message: &str| {
            let error =
                align_rollout::Error::Model { doing: "decoding".into(), prompt, source: core(message) };
            align_ppo::IterationError::from(align_types::Error::from(error)).failed()
        };
        for prompt in [None, Some(2)] {
            let failed = sampling(prompt, memory);
            assert_eq!(failed.exit_code(), 3, "{failed}");
            assert!(failed.hints().iter().any(|hint| hint.contains("--dry-run")), "{:?}", failed.hints());
            assert!(failed.to_string().contains(memory), "{failed}");
            assert_eq!(sampling(prompt, "no kernel").exit_code(), 3);
        }
        assert!(sampling(Some(2), memory).to_string().starts_with("prompt 2: "));
        let number = align_rollout::Error::NonFinite { prompt: 1, position: 3 };
        assert_eq!(of(align_types::Error::from(number)).exit_code(), 4);
    }
}
