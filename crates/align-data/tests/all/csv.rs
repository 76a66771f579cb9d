//! CSV as people have it, good and broken.

use crate::common;

use std::io::Write;

use align_data::{BadRow, DataConfig, Error, Row, RowReader, load_scored, load_unpaired};
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

fn read(content: impl AsRef<[u8]>) -> Result<Vec<Result<Row, BadRow>>, Error> {
    let dir = tempfile::tempdir().unwrap();
    RowReader::open(&common::write(dir.path(), "rows.csv", content))?.collect()
}

fn good(content: impl AsRef<[u8]>) -> Vec<(usize, String)> {
    let plain = |row: Result<Row, BadRow>| {
        let row = row.unwrap_or_else(|bad| panic!("{bad}"));
        (row.source.row, serde_json::to_string(&row.value).unwrap())
    };
    read(content).unwrap().into_iter().map(plain).collect()
}

#[test]
fn rows_are_named_by_the_line_on_which_they_begin() {
    let expected =
        [(2, r#"{"a":"1","b":"x\ny, \"z\""}"#), (4, r#"{"a":"2","b":""}"#), (5, r#"{"a":"3","b":"w"}"#)];
    let expected: Vec<_> = expected.map(|(row, json)| (row, json.to_owned())).into();
    let text = "a,b\n1,\"x\ny, \"\"z\"\"\"\n2,\n3,w";
    for content in [text.to_owned(), format!("{text}\n"), format!("\u{feff}{text}")] {
        assert_eq!(good(&content), expected, "{content:?}");
        let crlf = content.replace('\n', "\r\n");
        let rows: Vec<_> =
            good(&crlf).into_iter().map(|(row, json)| (row, json.replace("\\r", ""))).collect();
        assert_eq!(rows, expected, "{crlf:?}");
    }
    let mut encoder = GzEncoder::new(vec![], Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    assert_eq!(good(encoder.finish().unwrap()), expected);
    // Blank lines count as lines.
    let rows = good("a,b\n\n1,2\n\n\n3,4\n");
    assert_eq!(rows.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [3, 6]);
}

#[test]
fn columns_without_a_name_are_called_after_their_position() {
    assert_eq!(good(",text\n0,a\n"), [(2, r#"{"column 1":"0","text":"a"}"#.to_owned())]);
    assert_eq!(good("text\na\n"), [(2, r#"{"text":"a"}"#.to_owned())]);
    let error = read("a,b,a\n1,2,3\n").unwrap_err().to_string();
    assert!(error.contains("two columns") && error.contains("`a`"), "{error}");
    assert!(read("a,b\n").unwrap().is_empty());
}

#[test]
fn broken_rows_are_named_and_reading_goes_on() {
    let rows = read(b"a,b\n1,2\n3\n4,5,6\n7,\xff\n8,9\n").unwrap();
    let bad: Vec<_> = rows.iter().filter_map(|row| row.as_ref().err()).collect();
    assert_eq!(bad.iter().map(|bad| bad.source.row).collect::<Vec<_>>(), [3, 4, 5]);
    assert!(bad[0].problem.contains("1 cells") && bad[1].problem.contains("3 cells"), "{bad:?}");
    assert!(bad[2].problem.contains("0xff") && bad[2].problem.contains("`b`"), "{}", bad[2]);
    assert_eq!(rows.iter().filter(|row| row.is_ok()).count(), 2);

    let rows = read("a,b\n1,2\n3,\"open\n4,5\n6,7\n").unwrap();
    let bad = rows.last().unwrap().as_ref().unwrap_err();
    assert!(bad.source.row == 3 && bad.problem.contains("never closed"), "{bad}");
    // A cell with line ends at the end of the file is none of these.
    assert!(read("a,b\n3,\"whole\n4,5\"\n\n").unwrap().iter().all(Result::is_ok));
}

#[test]
fn cells_become_labels_scores_and_messages() {
    let (tokenizer, template) = common::tokenizer("plain");
    let dir = tempfile::tempdir().unwrap();
    let turn = |role: &str| format!("\"[{{\"\"role\"\": \"\"{role}\"\", \"\"content\"\": \"\"hi\"\"}}]\"");
    let content = format!(
        "question,completion,label\n{},{},True\n{},{},0\n",
        turn("user"),
        turn("assistant"),
        turn("user"),
        turn("assistant")
    );
    let file = common::write(dir.path(), "labels.csv", content);
    let columns = [("prompt".to_owned(), "question".to_owned())].into();
    let config = DataConfig { columns, ..Default::default() };
    let (groups, report) = load_unpaired(&[file], &tokenizer, Some(&template), &config).unwrap();
    assert!(report.files[0].conversational);
    assert_eq!(groups.iter().map(|g| g.completions[0].label).collect::<Vec<_>>(), [Some(true), Some(false)]);

    let file = common::write(dir.path(), "scores", "prompt,completion,score\na, b,2.5\na, c,nan\n");
    let error = load_scored(&[file], &tokenizer, None, &DataConfig::default()).unwrap_err().to_string();
    assert!(error.contains("scores:3") && error.contains("score"), "{error}");
}

fn quoted(cell: &str) -> String {
    format!("\"{}\"", cell.replace('"', "\"\""))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_was_quoted_comes_back(cells in proptest::collection::vec(("[ -~\n\r\té]{0,12}", "[ -~\n,\"]{0,12}"), 1..6)) {
        let rows: String = cells.iter().map(|(a, b)| format!("{},{}\n", quoted(a), quoted(b))).collect();
        let back = read(format!("first,second\n{rows}")).unwrap();
        prop_assert_eq!(back.len(), cells.len());
        for (row, (a, b)) in back.into_iter().zip(&cells) {
            let row = row.unwrap();
            prop_assert_eq!((row.value["first"].as_str(), row.value["second"].as_str()), (Some(a.as_str()), Some(b.as_str())));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::sample::select(b"a,\"\n\r\xff\xef{".to_vec()), 0..60)) {
        if let Ok(rows) = read(&bytes) {
            for row in rows.into_iter().flatten() {
                prop_assert!(row.source.row >= 1);
            }
        }
    }
}
