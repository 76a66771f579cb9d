//! Rows from files: JSON Lines, JSON arrays and CSV, plain or gzipped, and Parquet.

use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor, Read},
    path::{Path, PathBuf},
};

use align_types::{Columns, Source};
use flate2::read::MultiGzDecoder;

#[cfg(feature = "parquet")]
use crate::parquet::ParquetRows;
use crate::{BadRow, Error, Result, csv::CsvRows, json::JsonRows, sniff};

const BOM: &[u8] = b"\xef\xbb\xbf";
/// Bytes looked at to tell what a file is.
const HEAD: usize = 4096;

/// The bytes of a file, unpacked.
pub(crate) type Input = Box<dyn BufRead + Send>;

/// One row of a file: its columns, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The columns in the file's order.
    pub value: Columns,
    /// The file and the row: the line on which it begins in JSON Lines and CSV, otherwise its number (from 1).
    pub source: Source,
}

/// Reads the rows of one file, one after the other.
///
/// What a file is is told by its content, and so is gzip: the file's name does not matter, only that CSV without
/// any well-known column must be called `.csv`. A byte-order mark, CRLF and blank lines are accepted; blank lines
/// count as lines. The file is streamed.
///
/// The cells of CSV are text, in the columns that the first line names; a column without a name is called after
/// its position (`column 1`).
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
    rows: Rows,
}

enum Rows {
    Json(JsonRows),
    Csv(CsvRows),
    #[cfg(feature = "parquet")]
    Parquet(ParquetRows),
}

impl std::fmt::Debug for RowReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowReader").field("path", &self.path).finish_non_exhaustive()
    }
}

impl RowReader {
    /// Opens a file and looks at its beginning.
    ///
    /// # Errors
    /// A file that is missing, a folder, unreadable or empty, or that is evidently something else; the message
    /// says what it looks like.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), rows: Self::rows(path)? })
    }

    fn rows(path: &Path) -> Result<Rows> {
        let read = |source| Error::Read { path: path.into(), source };
        if path.is_dir() {
            return Err(Error::WrongFile { path: path.into(), looks_like: "this is a folder".into() });
        }
        let mut raw = BufReader::with_capacity(1 << 16, File::open(path).map_err(read)?);
        let magic = raw.fill_buf().map_err(read)?;
        #[cfg(feature = "parquet")]
        if magic.starts_with(b"PAR1") {
            return Ok(Rows::Parquet(ParquetRows::open(path)?));
        }
        let mut input: Input = if magic.starts_with(&[0x1f, 0x8b]) {
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
        if sniff::is_csv(&head, path) {
            return Ok(Rows::Csv(CsvRows::open(path, Box::new(Cursor::new(head).chain(input)))?));
        }
        if let Some(looks_like) = sniff::not_json(&head) {
            return Err(Error::WrongFile { path: path.into(), looks_like });
        }
        let start = head.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(0);
        let array = head.get(start) == Some(&b'[');
        if array {
            head.drain(..=start);
        }
        Ok(Rows::Json(JsonRows::new(path.into(), Box::new(Cursor::new(head).chain(input)), array)))
    }

    /// Tells whether every value is text because the file knows nothing else, as in CSV.
    pub fn text_only(&self) -> bool {
        matches!(self.rows, Rows::Csv(_))
    }
}

impl Iterator for RowReader {
    type Item = Result<Result<Row, BadRow>>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.rows {
            Rows::Json(rows) => rows.next(),
            Rows::Csv(rows) => rows.next(),
            #[cfg(feature = "parquet")]
            Rows::Parquet(rows) => rows.next(),
        }
    }
}
