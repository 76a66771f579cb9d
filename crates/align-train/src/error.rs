use std::path::{Path, PathBuf};

/// Any error that crosses threads, as closures of the caller return it.
pub use align_core::BoxError;

/// One configuration key whose value is not the one a run was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key, with the section before a dot.
    pub key: String,
    /// The value the run was started with; `None` where the key was absent.
    pub before: Option<String>,
    /// The value that was given now; `None` where the key is absent.
    pub now: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
        write!(f, "{} ({} in the run, {} now)", self.key, show(&self.before), show(&self.now))
    }
}

/// The newest whole checkpoint after a step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedStep {
    /// The steps that were done when it was written.
    pub step: u64,
    /// Its folder.
    pub folder: PathBuf,
}

/// What can go wrong in a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no room left on the device.
    #[error(
        "the disk is full: {} could not be written; checkpoints written before are whole: make room and resume",
        path.display()
    )]
    DiskFull {
        /// The file or folder that was being written.
        path: PathBuf,
    },
    /// The output folder holds something already.
    #[error("{} is not empty; resume the run in it, overwrite it, or name another folder", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that should be resumed or overwritten is not (only) a run folder.
    #[error("{} is not a run folder of this program: {why}; nothing was touched", path.display())]
    NotARunFolder {
        /// The folder.
        path: PathBuf,
        /// What speaks against it.
        why: String,
    },
    /// Another process writes this run folder.
    #[error("{} is in use by another process; wait for it or name another folder", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The configuration is not the one the run was started with.
    #[error(
        "{} was started with another configuration: {}; give the old values, or start a new run",
        path.display(),
        list(differences)
    )]
    ConfigMismatch {
        /// The run folder.
        path: PathBuf,
        /// Every key that differs, in alphabetical order.
        differences: Vec<Difference>,
    },
    /// The rows or weights that go into a run are not those it was started with.
    #[error(
        "{} was started with other inputs: its data files, its tokenizer or chat template, or its base, \
         reference or adapter have changed since; put them back, or start a new run",
        path.display()
    )]
    InputsMismatch {
        /// The checkpoint that was to be continued.
        path: PathBuf,
    },
    /// A configuration cannot be read or is out of range.
    #[error("configuration: {0}")]
    Config(String),
    /// A checkpoint contradicts itself or the model.
    #[error("checkpoint {}: {why}", path.display())]
    Checkpoint {
        /// The checkpoint's folder or file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The caller's closure could not write the model.
    #[error("the model could not be written to {}: {source}", path.display())]
    SaveModel {
        /// The folder it was to be written to.
        path: PathBuf,
        /// What the closure said.
        source: BoxError,
    },
    /// A loss or gradient is not a finite number.
    #[error("{what} is not finite ({value}) in the rows {}", rows_in_short(rows))]
    NonFinite {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The rows it was computed from, `file:row` where they have a source.
        rows: Vec<String>,
    },
    /// The micro-batches do not add up to the batch.
    #[error(
        "component {component} of the loss announced the denominator {announced}, but its parts add up to {found}"
    )]
    Denominators {
        /// Index of the component.
        component: usize,
        /// What `Objective::denominators` said for the whole batch.
        announced: f64,
        /// What the micro-batches added up to.
        found: f64,
    },
    /// A step or its evaluation failed.
    #[error("step {step}: {source}; {}", what_is_safe(*step, saved.as_ref(), torn.as_deref()))]
    Step {
        /// The step (from 1).
        step: u64,
        /// The newest whole checkpoint: of the state before the step, after it where the evaluation failed, or
        /// an older one where that could not be written. `None` when there is none.
        saved: Option<SavedStep>,
        /// The folder of the model as a step left it that failed when weights may have changed; no checkpoint, as no run
        /// goes on from the middle of a step.
        torn: Option<PathBuf>,
        /// What went wrong.
        source: Box<Error>,
    },
    /// The method that runs failed.
    #[error(transparent)]
    Method(BoxError),
    /// The caller's hook after the last step failed; the checkpoint of that step is whole.
    #[error("after the last step: {0}")]
    BeforeFinish(BoxError),
    /// The rows of a step cannot be used.
    #[error("rows {}: {source}", rows_in_short(rows))]
    Rows {
        /// The rows.
        rows: Vec<String>,
        /// What is wrong.
        source: align_core::Error,
    },
    /// The metric to keep the best checkpoint by does not exist.
    #[error("keep-best {metric}: no such metric of held-out rows; there are {}", available.join(", "))]
    UnknownMetric {
        /// What was asked for.
        metric: String,
        /// What there is.
        available: Vec<String>,
    },
    /// A compute thread could not be started or ended in a panic.
    #[error("compute thread: {0}")]
    Thread(String),
    /// A prompt source or metric sink failed.
    #[error(transparent)]
    Seam(#[from] align_core::align_types::Error),
    /// The tensor side failed.
    #[error(transparent)]
    Tensor(#[from] align_core::Error),
}

/// The result of training operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<align_core::tch::TchError> for Error {
    fn from(error: align_core::tch::TchError) -> Self {
        Self::Tensor(error.into())
    }
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            if is_full(&source) { Self::DiskFull { path } } else { Self::Io { action, path, source } }
        }
    }

    pub(crate) fn checkpoint(path: &Path, why: impl std::fmt::Display) -> Self {
        Self::Checkpoint { path: path.to_owned(), why: why.to_string() }
    }

    /// Wraps what the caller's closure said; a full disk is recognised wherever it is in the chain.
    /// Takes back an error of this crate that went through a seam; another one is the method's own.
    pub(crate) fn of_method(error: BoxError) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => *own,
            Err(foreign) => Self::Method(foreign),
        }
    }

    pub(crate) fn save_model(path: &Path, source: BoxError) -> Self {
        let path = path.to_owned();
        if tells_of_a_full_disk(&source) { Self::DiskFull { path } } else { Self::SaveModel { path, source } }
    }

    /// Wraps what the hook after the last step said, in the run folder `path`.
    pub(crate) fn before_finish(path: &Path, source: BoxError) -> Self {
        if tells_of_a_full_disk(&source) {
            return Self::DiskFull { path: path.to_owned() };
        }
        Self::BeforeFinish(source)
    }
}

fn tells_of_a_full_disk(error: &BoxError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        // Libraries that turn an input/output error into text leave nothing else to go by.
        if io.is_some_and(is_full) || error.to_string().contains("No space left on device") {
            return true;
        }
        // What an input/output error wraps is not its source: that would be the source of the wrapped.
        cause = match io.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn list(differences: &[Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn rows_in_short(rows: &[String]) -> String {
    const SHOWN: usize = 16;
    let shown = rows.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match rows.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

fn what_is_safe(failed: u64, saved: Option<&SavedStep>, torn: Option<&Path>) -> String {
    let whole = match saved {
        None if failed == 1 && torn.is_none() => "nothing was trained yet".to_owned(),
        None => "no checkpoint was written".to_owned(),
        Some(SavedStep { step, folder }) => {
            let folder = folder.display();
            if *step == failed {
                format!("the state after it is in {folder}")
            } else if step + 1 == failed {
                format!("the state before it is in {folder}")
            } else {
                format!("the last whole checkpoint is that of step {step}, {folder}")
            }
        }
    };
    match torn {
        None => whole,
        Some(folder) => {
            format!("{whole}; the model as the step left it is in {}", folder.display())
        }
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
    fn a_full_disk_is_found_in_the_chain() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let path = Path::new("x");
        assert!(matches!(Error::io("write", path)(full()), Error::DiskFull { .. }));
        let wrapped = std::io::Error::other(std::io::Error::other(full()));
        assert!(matches!(Error::save_model(path, Box::new(wrapped)), Error::DiskFull { .. }));
        let text: BoxError = "No space left on device (os error 28)".into();
        assert!(matches!(Error::save_model(path, text), Error::DiskFull { .. }));
        assert!(matches!(Error::save_model(path, "no".into()), Error::SaveModel { .. }));
    }

    #[test]
    fn long_lists_of_rows_are_cut_in_messages() {
        let rows: Vec<String> = (1..=20).map(|row| format!("a.jsonl:{row}")).collect();
        let error = Error::NonFinite { what: "the loss", value: f64::NAN, rows };
        let text = error.to_string();
        assert!(text.contains("a.jsonl:1, a.jsonl:2") && text.ends_with("a.jsonl:16 and 4 more"), "{text}");
    }
}
