use std::path::PathBuf;

/// Why a command stopped, sorted by who can do something about it; each has its exit code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Help, a version or a completion script was asked for and is on stdout (exit code 0).
    #[error("nothing is left to do")]
    Answered,
    /// The command line or the configuration is wrong (exit code 2).
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do, one line each.
        hints: Vec<String>,
    },
    /// Something of this machine is missing or full: libtorch, a device, memory, the disk (exit code 3).
    #[error("{message}")]
    Environment {
        /// What is missing.
        message: String,
        /// What to do, one line each.
        hints: Vec<String>,
    },
    /// Data or a model cannot be used (exit code 4).
    #[error("{message}")]
    Data {
        /// What is wrong, with file and row.
        message: String,
        /// What to do, one line each.
        hints: Vec<String>,
    },
    /// A file could not be written (exit code 3).
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The user stopped the run, and its state is saved (exit code 130).
    #[error("interrupted{}", if *step > 0 { format!(" after step {step}") } else { String::new() })]
    Interrupted {
        /// The last finished step; 0 where the command has none.
        step: u64,
        /// How to go on, one line each.
        hints: Vec<String>,
    },
    /// The reader of stdout went away (exit code 0: `align ... | head` is no failure).
    #[error("stdout is closed")]
    Closed,
}

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an [`Error::Usage`].
    pub fn usage(message: impl Into<String>, hints: impl IntoIterator<Item = String>) -> Self {
        Self::Usage { message: message.into(), hints: hints.into_iter().collect() }
    }

    /// Makes an [`Error::Environment`].
    pub fn environment(message: impl Into<String>, hints: impl IntoIterator<Item = String>) -> Self {
        Self::Environment { message: message.into(), hints: hints.into_iter().collect() }
    }

    /// Makes an [`Error::Data`].
    pub fn data(message: impl Into<String>, hints: impl IntoIterator<Item = String>) -> Self {
        Self::Data { message: message.into(), hints: hints.into_iter().collect() }
    }

    /// Returns a function that wraps an IO error with the file that could not be written.
    pub fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Write { path, source }
    }

    /// Puts the message into a wider one.
    #[must_use]
    pub fn with_message(self, wider: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Usage { message, hints } => Self::Usage { message: wider(&message), hints },
            Self::Environment { message, hints } => Self::Environment { message: wider(&message), hints },
            Self::Data { message, hints } => Self::Data { message: wider(&message), hints },
            other => other,
        }
    }

    /// Adds a hint behind those that are there.
    #[must_use]
    pub fn with_hint(mut self, hint: String) -> Self {
        if let Self::Usage { hints, .. }
        | Self::Environment { hints, .. }
        | Self::Data { hints, .. }
        | Self::Interrupted { hints, .. } = &mut self
        {
            hints.push(hint);
        }
        self
    }

    /// Keeps the hints that `keep` accepts.
    #[must_use]
    pub(crate) fn retain_hints(mut self, keep: impl Fn(&str) -> bool) -> Self {
        if let Self::Usage { hints, .. }
        | Self::Environment { hints, .. }
        | Self::Data { hints, .. }
        | Self::Interrupted { hints, .. } = &mut self
        {
            hints.retain(|hint| keep(hint));
        }
        self
    }

    /// Returns the exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Answered | Self::Closed => 0,
            Self::Usage { .. } => 2,
            Self::Environment { .. } | Self::Write { .. } => 3,
            Self::Data { .. } => 4,
            Self::Interrupted { .. } => 130,
        }
    }

    /// Says what the user can do, one line each.
    pub fn hints(&self) -> Vec<String> {
        match self {
            Self::Usage { hints, .. }
            | Self::Environment { hints, .. }
            | Self::Data { hints, .. }
            | Self::Interrupted { hints, .. } => hints.clone(),
            Self::Write { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                vec!["free some space, or write to a folder on another disk".to_owned()]
            }
            Self::Answered | Self::Closed | Self::Write { .. } => Vec::new(),
        }
    }
}

impl From<align_types::Error> for Error {
    fn from(error: align_types::Error) -> Self {
        match error {
            align_types::Error::Config { key, value, expected } => {
                Self::usage(format!("--{key} {value}: expected {}", as_flags(expected)), [])
            }
            align_types::Error::Exclusive { first, second, why } => {
                let flag =
                    |name: &str| if name.contains(' ') { name.to_owned() } else { format!("--{name}") };
                Self::usage(format!("{} and {} exclude each other: {why}", flag(first), flag(second)), [])
            }
            other => Self::data(other.to_string(), []),
        }
    }
}

impl From<align_data::Error> for Error {
    fn from(error: align_data::Error) -> Self {
        use align_data::Error as Data;
        match error {
            Data::Config { key, value, expected } => {
                Self::usage(format!("--{key} {value}: expected {expected}"), [])
            }
            Data::Write { path, source } => Self::Write { path, source },
            Data::BadRows { shown, count, rows } => {
                let mut message = format!("{count} of {rows} rows cannot be used");
                shown.iter().for_each(|bad| message.push_str(&format!("\n  {}", as_flags(&bad.to_string()))));
                if count > shown.len() {
                    message.push_str(&format!("\n  and {} more", count - shown.len()));
                }
                Self::data(message, advice(&["correct these rows", "--bad-rows skip drops them"]))
            }
            Data::WrongFormat { row, found, hint } => {
                Self::data(format!("{row}: {found}"), [as_flags(&hint)])
            }
            Data::NoGoodRow { .. } => Self::data(
                as_flags(&error.to_string()),
                advice(&["correct the file, or leave it out", "--columns names the columns of all files"]),
            ),
            Data::TooLong { row, tokens, limit, count } => Self::data(
                format!("{row}: {tokens} tokens, the limit is {limit} ({count} rows are over it)"),
                advice(&["raise --max-length", "--truncation keep-start or keep-end cuts rows"]),
            ),
            Data::NothingLeft { .. } => Self::data(
                as_flags(&error.to_string()),
                advice(&["`align data check FILE --model DIR` shows the lengths", "raise --max-length"]),
            ),
            other => Self::data(as_flags(&other.to_string()), []),
        }
    }
}

/// Settings as messages of the other crates write them, and as a user of this program gives them.
const FLAGS: &[(&str, &str)] = &[
    ("set sft-on-chosen", "give --sft-on-chosen"),
    ("map them: columns ", "map them: --columns "),
    ("rename or map the columns", "rename the columns or map them with --columns NAME=COLUMN"),
    ("within max-length", "within --max-length"),
    ("use greedy", "use --greedy"),
    ("raise max-new-tokens", "raise --max-new-tokens"),
    ("with truncated = score", "with --truncated score"),
];

/// Writes settings in a message of another crate as flags.
pub fn as_flags(text: &str) -> String {
    FLAGS.iter().fold(text.to_owned(), |text, (setting, flag)| text.replace(setting, flag))
}

/// Makes hints, each a piece of advice that stands alone.
fn advice(hints: &[&str]) -> Vec<String> {
    hints.iter().map(|hint| (*hint).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_contract() {
        assert_eq!(Error::Answered.exit_code(), 0);
        assert_eq!(Error::usage("x", []).exit_code(), 2);
        assert_eq!(Error::environment("x", []).exit_code(), 3);
        assert_eq!(Error::data("x", []).exit_code(), 4);
        assert_eq!(Error::Interrupted { step: 3, hints: vec![] }.exit_code(), 130);
    }

    #[test]
    fn a_full_disk_has_a_hint() {
        let error = Error::write("/f")(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!((error.exit_code(), error.hints().len()), (3, 1));
    }
}
