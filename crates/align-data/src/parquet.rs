//! Rows from Parquet files.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use align_types::{Columns, Source};
use parquet::{
    errors::ParquetError,
    file::reader::SerializedFileReader,
    record::{Field, reader::RowIter},
};
use serde_json::{Number, Value};

use crate::{BadRow, Error, Result, reader::Row};

/// The rows of a Parquet file, one after the other.
pub(crate) struct ParquetRows {
    path: PathBuf,
    rows: RowIter<'static>,
    row: usize,
    done: bool,
}

impl ParquetRows {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let rows = guarded(path, || {
            SerializedFileReader::new(file).map(|reader| RowIter::from_file_into(Box::new(reader)))
        })?;
        Ok(Self { path: path.into(), rows, row: 0, done: false })
    }
}

impl Iterator for ParquetRows {
    type Item = Result<Result<Row, BadRow>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let rows = &mut self.rows;
        match guarded(&self.path, || rows.next().transpose()) {
            Ok(None) => {
                self.done = true;
                None
            }
            Ok(Some(row)) => {
                self.row += 1;
                let source = Source { file: self.path.clone(), row: self.row };
                let column = |(name, field): (String, Field)| match plain(field) {
                    Ok(value) => Ok((name, value)),
                    Err(problem) => {
                        Err(BadRow { source: source.clone(), problem: format!("`{name}` {problem}") })
                    }
                };
                let value = row.into_columns().into_iter().map(column).collect::<Result<Columns, _>>();
                Some(Ok(value.map(|value| Row { value, source })))
            }
            Err(error) => {
                self.done = true;
                Some(Err(error))
            }
        }
    }
}

/// Runs an operation of the library, which on some broken files panics instead of returning an error.
fn guarded<T>(path: &Path, operation: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    let says = match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the file is damaged".into(),
    };
    Err(Error::Read { path: path.into(), source: std::io::Error::other(says) })
}

/// Turns a value into JSON. Dates and times, which no column of ours has, become text.
fn plain(field: Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => Value::Bool(b),
        Field::Byte(n) => n.into(),
        Field::Short(n) => n.into(),
        Field::Int(n) => n.into(),
        Field::Long(n) => n.into(),
        Field::UByte(n) => n.into(),
        Field::UShort(n) => n.into(),
        Field::UInt(n) => n.into(),
        Field::ULong(n) => n.into(),
        Field::Float16(x) => number(f64::from(x))?,
        // A float32 column means the decimal number that was written, not its 17 digits as float64.
        Field::Float(x) => number(x.to_string().parse().unwrap_or(f64::from(x)))?,
        Field::Double(x) => number(x)?,
        Field::Str(text) => Value::String(text),
        // Text columns without the annotation that they are text.
        Field::Bytes(bytes) => Value::String(
            String::from_utf8(bytes.data().to_vec()).map_err(|_| "holds bytes that are no UTF-8 text")?,
        ),
        Field::Group(row) => Value::Object(
            row.into_columns()
                .into_iter()
                .map(|(name, field)| Ok((name, plain(field)?)))
                .collect::<Result<_, String>>()?,
        ),
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().cloned().map(plain).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => Value::Object(
            map.entries()
                .iter()
                .map(|(key, value)| {
                    let key = plain(key.clone())?;
                    Ok((key.as_str().map_or_else(|| key.to_string(), str::to_owned), plain(value.clone())?))
                })
                .collect::<Result<_, String>>()?,
        ),
        other => Value::String(other.to_string()),
    })
}

fn number(x: f64) -> Result<Value, String> {
    Number::from_f64(x).map(Value::Number).ok_or_else(|| format!("is {x}; a finite number is expected"))
}
