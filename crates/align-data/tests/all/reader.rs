//! Files as people have them, good and broken.

use crate::common;

use std::io::Write;

use align_data::{BadRow, Error, Row, RowReader};
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

fn read(content: impl AsRef<[u8]>) -> Result<Vec<Result<Row, BadRow>>, Error> {
    let dir = tempfile::tempdir().unwrap();
    RowReader::open(&common::write(dir.path(), "rows.data", content))?.collect()
}

/// The rows' numbers and their `a`.
fn good(content: impl AsRef<[u8]>) -> Vec<(usize, i64)> {
    let rows = read(content).unwrap();
    rows.into_iter().map(|row| row.map(|r| (r.source.row, r.value["a"].as_i64().unwrap())).unwrap()).collect()
}

fn bad(content: impl AsRef<[u8]>) -> Vec<BadRow> {
    read(content).unwrap().into_iter().filter_map(Result::err).collect()
}

fn refused(content: impl AsRef<[u8]>) -> String {
    read(content).unwrap_err().to_string()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn json_lines_and_arrays_are_told_apart_by_content() {
    assert_eq!(good("{\"a\":1}\n{\"a\":2}\n"), [(1, 1), (2, 2)]);
    assert_eq!(good("{\"a\":1}\n{\"a\":2}"), [(1, 1), (2, 2)]);
    assert_eq!(good("{\"a\":1}\r\n\r\n  \n{\"a\":2}\r\n"), [(1, 1), (4, 2)]);
    assert_eq!(good("\u{feff}{\"a\":1}\n"), [(1, 1)]);
    assert_eq!(good("[{\"a\":1},{\"a\":2}]"), [(1, 1), (2, 2)]);
    assert_eq!(
        good("\u{feff}\n[\n  {\"a\": 1,\n   \"b\": \"],{\\\"\"},\n  {\"a\": 2, \"c\": [[1], {}]}\n]\n"),
        [(1, 1), (2, 2)]
    );
    assert_eq!(good(format!("{}{{\"a\":1}}", "\n".repeat(10_000))), [(10_001, 1)]);
    let lines: String =
        (0..3000).map(|i| format!("{{\"a\":{i},\"pad\":\"{}\"}}\n", "x".repeat(i % 97))).collect();
    assert_eq!(good(&lines).len(), 3000);
    let array = format!("[{}]", lines.trim_end().replace('\n', ",\n"));
    assert_eq!(good(&array), good(&lines));
}

#[test]
fn what_follows_an_array_is_refused_and_not_dropped() {
    assert_eq!(good("[{\"a\":1}]\n \n"), [(1, 1)]);
    assert_eq!(good(format!("[{{\"a\":1}}]{}", " ".repeat(5000))), [(1, 1)]);
    for (joined, row) in [("[{\"a\":1}]\n[{\"a\":2}]", 2), ("[]{\"a\":1}", 1)] {
        let rows = bad(joined);
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0].source.row, row);
        assert!(rows[0].problem.contains("more data after the end of the array"), "{rows:?}");
    }
}

#[test]
fn gzip_is_told_by_content_and_members_are_joined() {
    assert_eq!(good(gzip(b"{\"a\":1}\n")), [(1, 1)]);
    assert_eq!(good(gzip(b"[{\"a\":1}]")), [(1, 1)]);
    assert_eq!(good([gzip(b"{\"a\":1}\n"), gzip(b"{\"a\":2}\n")].concat()), [(1, 1), (2, 2)]);
    let whole = gzip("{\"a\": 1}\n".repeat(5000).as_bytes());
    assert!(matches!(read(&whole[..whole.len() / 2]), Err(Error::Read { .. })));
}

#[test]
fn broken_rows_are_named_and_reading_goes_on() {
    let rows = bad("{\"a\":1}\n{\"a\": tru}\n[1]\n\"text\"\n{\"a\":5}\n");
    assert_eq!(rows.iter().map(|r| r.source.row).collect::<Vec<_>>(), [2, 3, 4]);
    assert!(
        rows[0].problem.contains("broken JSON at byte 10") && rows[0].problem.contains("tru"),
        "{}",
        rows[0]
    );
    assert!(rows[1].problem.contains("a list"), "{}", rows[1]);
    assert!(rows[2].problem.contains("a string"), "{}", rows[2]);

    let long = format!("{{\"a\": \"{}\", \"b\" 3}}\n", "word ".repeat(1000));
    let rows = bad(&long);
    assert!(rows[0].problem.contains("\"b\" 3}") && rows[0].problem.len() < 200, "{}", rows[0]);

    let rows = bad(b"{\"a\": \"ok\"}\n{\"a\": \"\xff\"}\n{\"a\": 1}\n");
    assert!(rows[0].problem.contains("0xff at byte 8"), "{}", rows[0]);
    assert_eq!(rows[0].source.row, 2);

    // The first row broken, and the rest good.
    let rows = read("{\"a\": 1\n{\"a\": 2}\n").unwrap();
    assert_eq!(rows.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true]);

    let rows = bad("[{\"a\": 1}, {\"a\": }, 3, {\"a\": 4}]");
    assert_eq!(rows.iter().map(|r| r.source.row).collect::<Vec<_>>(), [2, 3]);
    let rows = bad("[{\"a\": 1}, {\"a\": 2");
    assert!(rows[0].problem.contains("cut off"), "{}", rows[0]);
    let rows = bad(format!("{{\"a\": {}1{}}}", "[".repeat(500), "]".repeat(500)));
    assert!(rows[0].problem.contains("recursion"), "{}", rows[0]);
}

#[test]
fn files_that_are_something_else_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path| RowReader::open(path).unwrap_err();
    assert!(matches!(open(&dir.path().join("missing.jsonl")), Error::Read { .. }));
    assert!(open(dir.path()).to_string().contains("folder"));
    for empty in ["", "\n\n", "\u{feff}"] {
        assert!(matches!(read(empty), Err(Error::Empty { .. })), "{empty:?}");
    }
    assert!(read("[]").unwrap().is_empty());
    assert!(refused("a,b\n1,2\n").contains("CSV"));
    assert!(refused("Once upon a time.\nThe end.\n").contains("plain text"));
    assert!(refused(b"PAR1\0\0\0").contains("Parquet"));
    assert!(refused(b"\x80\x02\0\0junk").contains("binary"));
    assert!(refused(gzip(b"once upon a time")).contains("plain text"));
    assert!(
        refused("{\n \"version\": 1,\n \"rows\": [{\"a\": 1}, {\"a\": 2}]\n}\n").contains("rows (2 rows)")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let _ = read(gzip(&bytes));
        let _ = read([b"{".as_slice(), &bytes].concat());
        let _ = read([b"[".as_slice(), &bytes].concat());
    }

    #[test]
    fn json_like_text_makes_no_panic_and_ends(text in "[\\[\\]{}\",:\\\\a1 \n]{0,60}") {
        let rows = read(&text).map(|rows| rows.len()).unwrap_or(0);
        prop_assert!(rows <= text.len() + 1);
    }

    #[test]
    fn rows_that_are_written_are_read_back(values in prop::collection::vec(("\\PC{0,20}", any::<i64>()), 1..20), array: bool, pretty: bool, zipped: bool) {
        let rows: Vec<_> = values.iter().map(|(text, n)| serde_json::json!({"a": n, text: text})).collect();
        let text = match (array, pretty) {
            (true, true) => serde_json::to_string_pretty(&rows).unwrap(),
            (true, false) => serde_json::to_string(&rows).unwrap(),
            _ => rows.iter().map(|r| format!("{r}\n")).collect(),
        };
        let content = if zipped { gzip(text.as_bytes()) } else { text.into_bytes() };
        let back: Vec<_> = read(content).unwrap().into_iter().map(|r| serde_json::Value::Object(r.unwrap().value)).collect();
        prop_assert_eq!(back, rows);
    }
}
