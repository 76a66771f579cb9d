use std::time::Duration;

/// What can go wrong with a reward of text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no rule of that name.
    #[error("{name}: there is no such rule{}; the rules are {known}", meant.as_ref().map_or_else(String::new, |name| format!("; did you mean {name}?")))]
    UnknownRule {
        /// The name that was given.
        name: String,
        /// The name that may have been meant.
        meant: Option<String>,
        /// The names that there are, with commas between them.
        known: String,
    },
    /// The argument of a rule is missing, or does not fit.
    #[error("{rule}: {why}")]
    Argument {
        /// The rule, as it is named on a command line.
        rule: String,
        /// What is wrong, and what would be accepted.
        why: String,
    },
    /// A name cannot be added to a registry.
    #[error("{name} cannot be added: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A row cannot be judged by a rule.
    #[error("{row}: {reward}: {why}")]
    Row {
        /// The row.
        row: String,
        /// The rule.
        reward: String,
        /// What is wrong with the row.
        why: String,
    },
    /// The weights of a sum do not fit its rewards.
    #[error("reward weights: {why}")]
    Weights {
        /// What is wrong.
        why: String,
    },
    /// The command line of a program cannot be taken apart.
    #[error("reward command `{command}`: {why}")]
    Command {
        /// The command line.
        command: String,
        /// What is wrong with it.
        why: String,
    },
    /// A program cannot be started.
    #[error("cannot start the reward command `{command}`: {source}")]
    Start {
        /// The command line.
        command: String,
        /// The answer of the operating system.
        source: std::io::Error,
    },
    /// A program answered something that is no reward.
    #[error("{row}: the reward command `{command}` answered {answer}: {why}")]
    Answer {
        /// The row that was asked for.
        row: String,
        /// The command line.
        command: String,
        /// The line that came, shortened.
        answer: String,
        /// What is wrong with it.
        why: String,
    },
    /// A program wrote on behind its last answer.
    #[error(
        "{row}: the reward command `{command}` wrote {line} behind its last answer: one line too many; it must answer every \
         line it reads once, and write nothing else on its standard output"
    )]
    Surplus {
        /// The last row that was asked for.
        row: String,
        /// The command line.
        command: String,
        /// The line that came, shortened.
        line: String,
    },
    /// A program runs, but has not read what it was asked before.
    #[error(
        "{row}: the reward command `{command}` does not read its input; it must read every line to its end"
    )]
    Unread {
        /// The row that was asked for.
        row: String,
        /// The command line.
        command: String,
    },
    /// A program ended before it had answered.
    #[error(
        "{row}: the reward command `{command}` ended ({status}) without an answer; it must answer every line it reads"
    )]
    Ended {
        /// The row that was asked for.
        row: String,
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
    },
    /// A program took too long.
    #[error("{row}: no answer of the reward command `{command}` within {} s", limit.as_secs_f64())]
    Late {
        /// The row that was asked for.
        row: String,
        /// The command line.
        command: String,
        /// The time limit of an answer.
        limit: Duration,
    },
}

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for align_types::Error {
    fn from(error: Error) -> Self {
        Self::Seam { what: "reward".into(), why: error.to_string(), source: Some(Box::new(error)) }
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
