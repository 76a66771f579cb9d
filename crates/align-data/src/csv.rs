//! Rows from CSV as RFC 4180 describes it: commas, quoted cells that may hold line ends, names in the first line.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use align_types::{Columns, Source};
use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder};
use serde_json::Value;

use crate::{
    BadRow, Error, Result,
    format::truth,
    reader::{Input, Row},
    sniff,
};

/// The records of a CSV file, one after the other.
pub(crate) struct CsvRows {
    path: PathBuf,
    reader: Reader<Watched>,
    names: Vec<String>,
    record: ByteRecord,
    /// Whether lines end with LF alone; the library counts a line when it meets the LF.
    line_feeds: bool,
    done: bool,
}

/// Input that remembers its length and its last bytes.
struct Watched {
    input: Input,
    length: u64,
    last: u8,
    last_visible: u8,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.input.read(buffer)?;
        let read = buffer.get(..n).unwrap_or_default();
        self.length += n as u64;
        self.last = read.last().copied().unwrap_or(self.last);
        self.last_visible =
            read.iter().rev().find(|b| !matches!(b, b'\r' | b'\n')).copied().unwrap_or(self.last_visible);
        Ok(n)
    }
}

impl CsvRows {
    /// Reads the names of the columns.
    pub(crate) fn open(path: &Path, input: Input) -> Result<Self> {
        let watched = Watched { input, length: 0, last: 0, last_visible: 0 };
        let mut reader = ReaderBuilder::new().flexible(true).has_headers(false).from_reader(watched);
        let mut record = ByteRecord::new();
        reader.read_byte_record(&mut record).map_err(|error| read_error(path, error))?;
        let line_feeds = reader.position().line() > 1;
        let wrong = |looks_like: String| Error::WrongFile { path: path.into(), looks_like };
        let mut names: Vec<String> = vec![];
        for (i, name) in record.iter().enumerate() {
            let name = match sniff::utf8(name, "name of a CSV column").map_err(wrong)?.trim() {
                "" => format!("column {}", i + 1),
                name => name.to_owned(),
            };
            if names.contains(&name) {
                return Err(wrong(format!("two columns of this CSV file are called `{name}`; rename one")));
            }
            names.push(name);
        }
        Ok(Self { path: path.into(), reader, names, record, line_feeds, done: false })
    }

    /// The line on which the record that was read last begins.
    fn line(&self) -> usize {
        let after = self.reader.position();
        let inside = self.record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
        let watched = self.reader.get_ref();
        // A last line feed inside a cell that is left open is counted with the cell.
        let unended = self.quote_left_open() || (after.byte() == watched.length && watched.last != b'\n');
        let ending = u64::from(self.line_feeds && !unended);
        usize::try_from(after.line().saturating_sub(inside + ending)).unwrap_or(usize::MAX)
    }

    /// Tells whether the file ends inside a quoted cell: the library takes the end for a closing quote.
    fn quote_left_open(&self) -> bool {
        let watched = self.reader.get_ref();
        let at_end = self.reader.position().byte() == watched.length;
        let last_cell = self.record.iter().next_back().unwrap_or_default();
        at_end && last_cell.contains(&b'\n') && watched.last_visible != b'"'
    }

    fn value(&self) -> Result<Columns, String> {
        if self.quote_left_open() {
            return Err("a quote that opens a cell of this row is never closed".into());
        }
        if self.record.len() != self.names.len() {
            return Err(format!(
                "{} cells, but the first line names {} columns: {}; put cells with commas, quotes or line ends in quotes",
                self.record.len(),
                self.names.len(),
                sniff::excerpt(self.record.as_slice(), 0)
            ));
        }
        let mut value = Columns::new();
        for (name, cell) in self.names.iter().zip(self.record.iter()) {
            let text = sniff::utf8(cell, &format!("column `{name}`"))?;
            value.insert(name.clone(), Value::String(text.to_owned()));
        }
        Ok(value)
    }
}

impl Iterator for CsvRows {
    type Item = Result<Result<Row, BadRow>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {
                let source = Source { file: self.path.clone(), row: self.line() };
                let row = match self.value() {
                    Ok(value) => Ok(Row { value, source }),
                    Err(problem) => Err(BadRow { source, problem }),
                };
                Some(Ok(row))
            }
            Ok(false) => {
                self.done = true;
                None
            }
            Err(error) => {
                self.done = true;
                Some(Err(read_error(&self.path, error)))
            }
        }
    }
}

fn read_error(path: &Path, error: csv::Error) -> Error {
    let text = error.to_string();
    let source = match error.into_kind() {
        ErrorKind::Io(source) => source,
        _ => std::io::Error::other(text),
    };
    Error::Read { path: path.into(), source }
}

/// Gives the cells of known columns the types that their text spells: CSV knows nothing but text.
pub(crate) fn typed(row: &mut Columns) {
    for (name, value) in row.iter_mut() {
        let Value::String(text) = &*value else { continue };
        let meant = match name.as_str() {
            "label" | "kto_tag" | "tag" => as_label(text),
            "score" => text.trim().parse().ok().and_then(serde_json::Number::from_f64).map(Value::Number),
            "messages" | "conversations" | "completions" | "ranks" | "tools" => {
                parsed(text).filter(Value::is_array)
            }
            "prompt" | "chosen" | "rejected" | "completion" => parsed(text).filter(are_turns),
            _ => None,
        };
        if let Some(meant) = meant {
            *value = meant;
        }
    }
}

fn as_label(text: &str) -> Option<Value> {
    match text.trim() {
        "" => Some(Value::Null),
        "0" => Some(Value::Bool(false)),
        "1" => Some(Value::Bool(true)),
        word => truth(&Value::String(word.into())).map(Value::Bool),
    }
}

fn parsed(text: &str) -> Option<Value> {
    if !text.trim_start().starts_with(['[', '{']) {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Tells whether a value is turns of a conversation, not a text that happens to be JSON.
fn are_turns(value: &Value) -> bool {
    let is_turn = |turn: &Value| turn.get("role").is_some() || turn.get("from").is_some();
    match value {
        Value::Array(turns) => !turns.is_empty() && turns.iter().all(is_turn),
        other => is_turn(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_of_known_columns_get_their_types() {
        let turns = r#"[{"role": "user", "content": "hi"}]"#;
        let Value::Object(mut row) = json!({
            "label": "True", "kto_tag": "0", "tag": "", "score": " 2.5 ", "ranks": "[1, 2]", "messages": turns,
            "prompt": "[1, 2]", "chosen": turns, "text": "1", "input": ""
        }) else {
            return;
        };
        typed(&mut row);
        let turns: Value = serde_json::from_str(turns).unwrap();
        let expected = json!({
            "label": true, "kto_tag": false, "tag": null, "score": 2.5, "ranks": [1, 2], "messages": turns,
            "prompt": "[1, 2]", "chosen": turns, "text": "1", "input": ""
        });
        assert_eq!(Value::Object(row), expected);
        let Value::Object(mut odd) = json!({"label": "spam", "score": "nan", "messages": "[1"}) else {
            return;
        };
        let before = odd.clone();
        typed(&mut odd);
        assert_eq!(odd, before);
    }
}
