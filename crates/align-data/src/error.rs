use std::path::PathBuf;

use crate::report::BadRow;

/// What can go wrong between a file of text and token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system or the decompressor said.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not what a data file can be.
    #[error("{}: {looks_like}; expected JSON Lines (one object per line), a JSON array of objects or CSV, plain or gzipped, or Parquet", path.display())]
    WrongFile {
        /// The file.
        path: PathBuf,
        /// What it looks like instead.
        looks_like: String,
    },
    /// A file has no rows.
    #[error("{}: the file has no rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The rows of a file have a layout that the caller cannot use.
    #[error("{row}: {found}; {hint}")]
    WrongFormat {
        /// The row that was looked at.
        row: align_types::Source,
        /// What the rows are, or which columns they have.
        found: String,
        /// The nearest format, what is missing, and what to do.
        hint: String,
    },
    /// A prompt with an answer that is to be scored cannot become token ids.
    #[error("{item}: {why}")]
    Item {
        /// The row, or the position of the item.
        item: String,
        /// What is wrong.
        why: String,
    },
    /// Rows cannot be used, and the configuration says to refuse then.
    #[error("{}", bad_rows(shown, *count, *rows))]
    BadRows {
        /// The first ten of them.
        shown: Vec<BadRow>,
        /// How many there are.
        count: usize,
        /// How many rows were read.
        rows: usize,
    },
    /// No row of a file can be used, so that skipping bad rows would leave the file out.
    #[error("{}: none of the {rows} rows can be used; the first: {first}", path.display())]
    NoGoodRow {
        /// The file.
        path: PathBuf,
        /// How many rows it has.
        rows: usize,
        /// The first of them and what is wrong with it.
        first: BadRow,
    },
    /// Rows are longer than the limit, and the configuration says to cut nothing.
    #[error(
        "{row}: {tokens} tokens, the limit is {limit} ({count} rows are over it); raise max-length, or set truncation to keep-start or keep-end"
    )]
    TooLong {
        /// The first row over the limit.
        row: String,
        /// Its length in tokens.
        tokens: usize,
        /// The limit in tokens.
        limit: usize,
        /// How many rows are over the limit.
        count: usize,
    },
    /// No row was left.
    #[error(
        "nothing is left of {rows} rows: {bad} bad, {no_room} of which max-length leaves nothing to train on, {too_long} \
         over the limit and not cut{}", example.as_ref().map(|e| format!("; the first: {e}")).unwrap_or_default()
    )]
    NothingLeft {
        /// Rows read.
        rows: usize,
        /// Bad rows dropped.
        bad: usize,
        /// Rows dropped because of their length.
        no_room: usize,
        /// Rows dropped because nothing of them may be cut.
        too_long: usize,
        /// The first bad row and what is wrong with it, or else the first that is too long.
        example: Option<String>,
    },
    /// A chat template cannot be parsed, or does not render a conversation.
    #[error("chat template{}: {message}", line.map(|l| format!(", line {l}")).unwrap_or_default())]
    Template {
        /// The line of the template, if it is known.
        line: Option<usize>,
        /// What is wrong.
        message: String,
    },
    /// A folder has no tokenizer.
    #[error("{}: no tokenizer; looked for {looked_for}{hint}", folder.display())]
    NoTokenizer {
        /// The folder.
        folder: PathBuf,
        /// The names of the files that would do.
        looked_for: &'static str,
        /// What else was found there, and what to do with it.
        hint: String,
    },
    /// A tokenizer file is broken, or a tokenizer failed on a text.
    #[error("tokenizer {what}: {message}")]
    Tokenizer {
        /// The file or the operation.
        what: String,
        /// What is wrong.
        message: String,
    },
    /// A configuration value is of no use.
    #[error("{key} = {value}: {expected}")]
    Config {
        /// The configuration key.
        key: String,
        /// The value that was given.
        value: String,
        /// What would be accepted.
        expected: String,
    },
}

/// The result of data operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn bad_rows(shown: &[BadRow], count: usize, rows: usize) -> String {
    let mut text = format!("{count} of {rows} rows cannot be used");
    for bad in shown {
        text.push_str(&format!("\n  {bad}"));
    }
    if count > shown.len() {
        text.push_str(&format!("\n  and {} more", count - shown.len()));
    }
    text.push_str("\n  correct them, or drop them with bad-rows = skip");
    text
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
    fn bad_rows_are_listed_and_counted() {
        let source = align_types::Source { file: "a.jsonl".into(), row: 3 };
        let error =
            Error::BadRows { shown: vec![BadRow { source, problem: "no good".into() }], count: 12, rows: 90 };
        let text = error.to_string();
        assert!(
            text.contains("12 of 90") && text.contains("a.jsonl:3: no good") && text.contains("11 more"),
            "{text}"
        );
    }
}
