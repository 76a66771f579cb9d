//! Rows from JSON Lines and JSON arrays.

use std::{
    io::{BufRead, Read},
    path::PathBuf,
};

use align_types::Source;

use crate::{
    BadRow, Error, Result,
    reader::{Input, Row},
    sniff,
};

/// Lines or elements, one after the other.
pub(crate) struct JsonRows {
    path: PathBuf,
    input: Input,
    /// Whether rows are the elements of an array, otherwise they are lines.
    array: bool,
    /// Lines or elements read so far.
    pub row: usize,
    /// Whether no row has been read yet.
    first: bool,
    /// Whether the bracket that ends the array was read.
    closed: bool,
    done: bool,
}

impl JsonRows {
    /// Reads lines, or the elements of an array whose opening bracket has been read.
    pub(crate) fn new(path: PathBuf, input: Input, array: bool) -> Self {
        Self { path, input, array, row: 0, first: true, closed: false, done: false }
    }

    fn bad(&self, problem: String) -> BadRow {
        BadRow { source: Source { file: self.path.clone(), row: self.row }, problem }
    }

    fn read_error(&mut self, source: std::io::Error) -> Error {
        self.done = true;
        Error::Read { path: self.path.clone(), source }
    }

    /// Reads one line that is not blank; `None` at the end.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.input.read_until(b'\n', &mut line);
            if read.map_err(|e| self.read_error(e))? == 0 {
                return Ok(None);
            }
            self.row += 1;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(line));
            }
        }
    }

    fn line(&mut self) -> Result<Option<Result<Row, BadRow>>> {
        let Some(mut line) = self.next_line()? else { return Ok(None) };
        let first = std::mem::replace(&mut self.first, false);
        let cut_off = |bytes: &[u8]| {
            serde_json::from_slice::<serde::de::IgnoredAny>(bytes.trim_ascii()).is_err_and(|e| e.is_eof())
        };
        // A first line that ends too early may be the beginning of one object over many lines.
        if first && cut_off(&line) {
            let first_line = line.len();
            self.input.read_to_end(&mut line).map_err(|e| self.read_error(e))?;
            if let Ok(serde_json::Value::Object(object)) = serde_json::from_slice(line.trim_ascii()) {
                let looks_like = sniff::one_object(&object);
                return Err(Error::WrongFile { path: self.path.clone(), looks_like });
            }
            let rest = line.split_off(first_line.min(line.len()));
            self.input = Box::new(std::io::Cursor::new(rest));
        }
        Ok(Some(self.parse(&line)))
    }

    fn element(&mut self) -> Result<Option<Result<Row, BadRow>>> {
        if self.closed {
            return self.after_array();
        }
        let mut bytes = Vec::new();
        let end = scan_element(&mut self.input, &mut bytes).map_err(|e| self.read_error(e))?;
        let blank = bytes.iter().all(u8::is_ascii_whitespace);
        self.closed = end == ElementEnd::Bracket;
        if blank && self.closed {
            return self.after_array();
        }
        self.row += 1;
        if end == ElementEnd::File {
            self.done = true;
            let shown = sniff::excerpt(&bytes, bytes.len());
            return Ok(Some(Err(self.bad(format!(
                "the array ends in the middle of this element: {shown}; the file is cut off, or a bracket is missing"
            )))));
        }
        let row = self.parse(&bytes);
        Ok(Some(row))
    }

    /// Refuses what follows the array: two files joined end to end would lose the second without a word.
    fn after_array(&mut self) -> Result<Option<Result<Row, BadRow>>> {
        let mut rest = Vec::new();
        (&mut self.input).take(1 << 10).read_to_end(&mut rest).map_err(|e| self.read_error(e))?;
        while rest.iter().all(u8::is_ascii_whitespace) {
            if rest.is_empty() {
                return Ok(None);
            }
            rest.clear();
            (&mut self.input).take(1 << 10).read_to_end(&mut rest).map_err(|e| self.read_error(e))?;
        }
        self.done = true;
        self.row += 1;
        let shown = sniff::excerpt(rest.trim_ascii_start(), 0);
        Ok(Some(Err(self.bad(format!(
            "more data after the end of the array: {shown}; join files as JSON Lines, or as one array"
        )))))
    }

    fn parse(&self, bytes: &[u8]) -> Result<Row, BadRow> {
        let bytes = bytes.trim_ascii();
        sniff::utf8(bytes, "row").map_err(|problem| self.bad(problem))?;
        match serde_json::from_slice::<serde_json::Value>(bytes) {
            Ok(serde_json::Value::Object(value)) => {
                Ok(Row { value, source: Source { file: self.path.clone(), row: self.row } })
            }
            Ok(other) => Err(self.bad(format!(
                "{} where an object such as {{\"prompt\": ...}} is expected: {}",
                sniff::json_kind(&other),
                sniff::excerpt(bytes, 0)
            ))),
            Err(error) => {
                let at = byte_offset(bytes, error.line(), error.column());
                let text = error.to_string();
                let what = text.rsplit_once(" at line").map_or(text.as_str(), |(what, _)| what);
                Err(self.bad(format!(
                    "broken JSON at byte {}: {what}: {}",
                    at + 1,
                    sniff::excerpt(bytes, at)
                )))
            }
        }
    }
}

impl Iterator for JsonRows {
    type Item = Result<Result<Row, BadRow>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = if self.array { self.element() } else { self.line() };
        if !matches!(item, Ok(Some(_))) {
            self.done = true;
        }
        item.transpose()
    }
}

#[derive(Debug, PartialEq)]
enum ElementEnd {
    Comma,
    Bracket,
    File,
}

/// Reads up to the comma or bracket that ends an element of the array, minding strings and nesting.
fn scan_element(input: &mut dyn BufRead, element: &mut Vec<u8>) -> std::io::Result<ElementEnd> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(ElementEnd::File);
        }
        let mut end = None;
        let mut used = 0;
        for &byte in buffer {
            used += 1;
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'{' | b'[' => depth += 1,
                b',' if depth == 0 => end = Some(ElementEnd::Comma),
                b']' if depth == 0 => end = Some(ElementEnd::Bracket),
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if end.is_some() {
                break;
            }
        }
        let kept = used - usize::from(end.is_some());
        element.extend(buffer.iter().take(kept));
        input.consume(used);
        if let Some(end) = end {
            return Ok(end);
        }
    }
}

/// Turns line and column (both from 1) into an offset in bytes.
fn byte_offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let before: usize =
        bytes.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column.saturating_sub(1)).min(bytes.len())
}
