/// What can go wrong with plain data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration value is outside its range.
    #[error("{key} = {value}: {expected}")]
    Config {
        /// The configuration key as the user writes it (`beta`, `learning-rate`).
        key: &'static str,
        /// The value that was given.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// Two configuration values exclude each other.
    #[error("{first} and {second} exclude each other: {why}")]
    Exclusive {
        /// The first key.
        first: &'static str,
        /// The second key.
        second: &'static str,
        /// Why they cannot be given together.
        why: &'static str,
    },
    /// A reward gave a number that is none.
    #[error("{row}: the reward {reward} is {value}; a reward is a finite number, or abstains")]
    RewardNotFinite {
        /// The row of the completion.
        row: String,
        /// The reward.
        reward: String,
        /// The value.
        value: f64,
    },
    /// A reward gave another number of values than it was asked for.
    #[error(
        "{row}: the reward {reward} gave {got} values for {expected} completions, and it is unknown whose they are"
    )]
    RewardCount {
        /// The row of the first completion without a value, or of the last completion where there are too many.
        row: String,
        /// The reward.
        reward: String,
        /// How many were asked for.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// A generator failed at a prompt.
    #[error("prompt {index}: {why}")]
    Prompt {
        /// Its place in the list that was to be continued, from 0.
        index: usize,
        /// What happened.
        why: String,
        /// The error underneath, if there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A reward, generator or prompt source failed.
    #[error("{what}: {why}")]
    Seam {
        /// Which implementation, and for which row.
        what: String,
        /// What happened.
        why: String,
        /// The error underneath, if there is one.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

/// The result of operations on plain data.
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    fn is_portable<T: Send + Sync + 'static>() {}

    #[test]
    fn errors_cross_threads() {
        is_portable::<super::Error>();
    }
}
