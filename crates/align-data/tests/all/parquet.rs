//! Parquet as pyarrow writes it (`fixtures/text/make_parquet.py`), and damaged.

#![cfg(feature = "parquet")]

use crate::common;

use align_data::{BadRow, DataConfig, Error, Row, RowReader, load_unpaired};

fn read(content: &[u8]) -> Result<Vec<Result<Row, BadRow>>, Error> {
    let dir = tempfile::tempdir().unwrap();
    RowReader::open(&common::write(dir.path(), "rows.data", content))?.collect()
}

#[test]
fn rows_are_those_that_were_written() {
    let rows: Vec<Row> =
        RowReader::open(&common::fixture("rows.parquet")).unwrap().map(|row| row.unwrap().unwrap()).collect();
    let expected = common::read_json("rows.json");
    assert_eq!(rows.len(), 50);
    for (i, (row, expected)) in rows.iter().zip(expected.as_array().unwrap()).enumerate() {
        assert_eq!(row.source.row, i + 1);
        assert_eq!(&serde_json::Value::Object(row.value.clone()), expected);
    }
}

#[test]
fn they_are_loaded_like_any_others() {
    let (tokenizer, template) = common::tokenizer("plain");
    let files = [common::fixture("rows.parquet")];
    let (groups, report) =
        load_unpaired(&files, &tokenizer, Some(&template), &DataConfig::default()).unwrap();
    assert_eq!((groups.len(), report.bad_count), (50, 0));
    assert_eq!(groups.iter().filter(|g| g.completions[0].label == Some(true)).count(), 25);
    assert_eq!(report.ignored_columns, ["score", "small", "count", "note", "meta"]);
}

#[test]
fn damaged_files_are_refused() {
    let whole = std::fs::read(common::fixture("rows.parquet")).unwrap();
    for end in [4, 100, whole.len() / 2, whole.len() - 1] {
        assert!(matches!(read(&whole[..end]), Err(Error::Read { .. })), "{end}");
    }
    // One byte changed anywhere: some other rows, or an error, never a panic.
    let mut refused = 0;
    for at in (4..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        refused += usize::from(read(&damaged).is_err());
    }
    assert!(refused > 0);
}
