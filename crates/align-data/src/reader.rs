//! Rows from JSON Lines and JSON arrays, plain or gzipped.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use align_types::{Columns, Source};
use flate2::read::MultiGzDecoder;

use crate::{BadRow, Error, Result, sniff};

const BOM: &[u8] = b"\xef\xbb\xbf";
/// Bytes looked at to tell what a file is.
const HEAD: usize = 4096;

/// One row of a file: its columns, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The columns in the file's order.
    pub value: Columns,
    /// The file and the row: the line of JSON Lines, the element (from 1) of an array.
    pub source: Source,
}

/// Reads the rows of one file, one after the other.
///
/// JSON Lines and JSON arrays are told apart by their content, and so is gzip: the file's name does not matter.
/// A byte-order mark, CRLF and blank lines are accepted; blank lines count as lines. The file is streamed.
///
/// A row that is broken is an `Err` among the others and reading goes on after it, as far as that is possible:
/// after broken JSON inside an array nothing more can be told apart.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("rows.jsonl");
/// std::fs::write(&path, "{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n")?;
/// let rows: Vec<_> = align_data::RowReader::open(&path)?.collect::<Result<_, _>>()?;
/// assert_eq!(rows[1].as_ref().map(|row| row.source.row), Ok(3));
/// # Ok(())
/// # }
/// ```
pub struct RowReader {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    /// Whether rows are the elements of an array, otherwise they are lines.
    array: bool,
    /// Lines or elements read so far.
    row: usize,
    /// Whether no row has been read yet.
    first: bool,
    done: bool,
}

impl std::fmt::Debug for RowReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowReader").field("path", &self.path).field("row", &self.row).finish_non_exhaustive()
    }
}

impl RowReader {
    /// Opens a file and looks at its beginning.
    ///
    /// # Errors
    /// A file that is missing, a folder, unreadable or empty, or that is evidently something else; the message
    /// says what it looks like.
    pub fn open(path: &Path) -> Result<Self> {
        let read = |source| Error::Read { path: path.into(), source };
        if path.is_dir() {
            return Err(Error::WrongFile { path: path.into(), looks_like: "this is a folder".into() });
        }
        let mut raw = BufReader::with_capacity(1 << 16, File::open(path).map_err(read)?);
        let zipped = raw.fill_buf().map_err(read)?.starts_with(&[0x1f, 0x8b]);
        let mut input: Box<dyn BufRead + Send> = if zipped {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(raw)))
        } else {
            Box::new(raw)
        };

        let mut head = Vec::with_capacity(HEAD);
        input.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(read)?;
        if head.starts_with(BOM) {
            head.drain(..BOM.len());
        }
        // A file may begin with any number of blank lines; they count, so they are kept for the reader.
        while head.iter().all(u8::is_ascii_whitespace) {
            let before = head.len();
            input.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(read)?;
            if head.len() == before {
                return Err(Error::Empty { path: path.into() });
            }
        }
        if let Some(looks_like) = sniff::not_json(&head) {
            return Err(Error::WrongFile { path: path.into(), looks_like });
        }
        let start = head.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(0);
        let array = head.get(start) == Some(&b'[');
        if array {
            head.drain(..=start);
        }
        let input = Box::new(std::io::Cursor::new(head).chain(input));
        Ok(Self { path: path.into(), input, array, row: 0, first: true, done: false })
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
        let mut bytes = Vec::new();
        let end = scan_element(&mut self.input, &mut bytes).map_err(|e| self.read_error(e))?;
        let blank = bytes.iter().all(u8::is_ascii_whitespace);
        self.done = end != ElementEnd::Comma;
        if blank && end == ElementEnd::Bracket {
            return Ok(None);
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

    fn parse(&self, bytes: &[u8]) -> Result<Row, BadRow> {
        let bytes = bytes.trim_ascii();
        if let Err(error) = std::str::from_utf8(bytes) {
            let at = error.valid_up_to();
            let byte = bytes.get(at).copied().unwrap_or(0);
            return Err(self.bad(format!(
                "invalid UTF-8: byte 0x{byte:02x} at byte {} of the row: {}; save the file as UTF-8",
                at + 1,
                sniff::excerpt(bytes, at)
            )));
        }
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

impl Iterator for RowReader {
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
