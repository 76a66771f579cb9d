//! Guesses what a file is that is not rows of JSON, for messages.

use std::path::Path;

use align_types::Columns;
use serde_json::Value;

use crate::{config::COLUMNS, format::is_alias};

/// Says what the beginning of a file looks like when it cannot be rows of JSON.
pub(crate) fn not_json(head: &[u8]) -> Option<String> {
    let start = head.trim_ascii_start();
    let known: &[(&[u8], &str)] = &[
        (
            b"PAR1",
            "this looks like a Parquet file, which this build does not read (feature `parquet`), or a gzipped one; convert it to JSON Lines, or unpack it",
        ),
        (b"PK\x03\x04", "this looks like a zip archive (or a PyTorch checkpoint); unpack it first"),
        (b"ARROW1", "this looks like an Arrow file; convert it to JSON Lines first"),
        (b"GGUF", "this looks like a GGUF model"),
        (b"(\xb5/\xfd", "this looks like a zstd archive; unpack it first"),
        (b"BZh", "this looks like a bzip2 archive; unpack it first"),
        (b"\xfd7zXZ", "this looks like an xz archive; unpack it first"),
        (b"\xff\xfe", "this looks like UTF-16 text; save it as UTF-8"),
        (b"\xfe\xff", "this looks like UTF-16 text; save it as UTF-8"),
        (b"%PDF", "this looks like a PDF"),
        (b"<", "this looks like HTML or XML (a download that failed?)"),
        (
            b"version https://git-lfs",
            "this is a Git LFS pointer, not the data; fetch the file with git lfs pull",
        ),
    ];
    if let Some((_, says)) = known.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some((*says).into());
    }
    // safetensors: eight bytes of header length, then a JSON header.
    if head.get(8) == Some(&b'{') && head.get(4..8) == Some(&[0; 4]) {
        return Some("this looks like a safetensors file, that is a model; a data file is wanted".into());
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some("this looks like a tar archive; unpack it first".into());
    }
    match start.first() {
        Some(b'{' | b'[') | None => None,
        _ if head.contains(&0) => Some("this looks like a binary file".into()),
        _ => Some(text_like(start)),
    }
}

fn text_like(head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if let Ok(value @ (Value::String(_) | Value::Number(_))) = serde_json::from_str::<Value>(first) {
        return format!("the first line is {}, not an object", json_kind(&value));
    }
    let separator = |c: char| first.matches(c).count() > 0 && lines.clone().take(1).any(|l| l.contains(c));
    let shown = excerpt(first.as_bytes(), 0);
    if separator('\t') {
        format!("this looks like tab-separated values ({shown}); convert it to JSON Lines first")
    } else if separator(',') && !first.ends_with(['.', ':', '?', '!']) && !first.contains(", ") {
        format!("this looks like CSV ({shown}) with columns of unknown names; call the file .csv if it is")
    } else {
        format!(
            "this looks like plain text ({shown}); put each text into an object like {{\"text\": \"...\"}}"
        )
    }
}

/// Tells whether a file is CSV: by its name, or by a first line of several names with a known one among them.
pub(crate) fn is_csv(head: &[u8], path: &Path) -> bool {
    let start = head.trim_ascii_start();
    if matches!(start.first(), Some(b'{' | b'[' | b'<') | None) || head.contains(&0) {
        return false;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if name.ends_with(".csv") || name.ends_with(".csv.gz") {
        return true;
    }
    let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let names: Vec<_> = line.trim().split(',').map(|name| name.trim_matches('"')).collect();
    let known = |name: &&str| COLUMNS.contains(name) || is_alias(name);
    names.len() > 1 && names.iter().all(|name| name.chars().count() <= 40) && names.iter().any(known)
}

/// Takes bytes for text.
pub(crate) fn utf8<'a>(bytes: &'a [u8], of: &str) -> Result<&'a str, String> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or(0);
        format!(
            "invalid UTF-8: byte 0x{byte:02x} at byte {} of the {of}: {}; save the file as UTF-8",
            at + 1,
            excerpt(bytes, at)
        )
    })
}

/// Says what one big object holds, and where its rows probably are.
pub(crate) fn one_object(object: &Columns) -> String {
    let keys: Vec<_> = object.keys().map(String::as_str).take(8).collect();
    let rows = object.iter().find_map(|(key, value)| {
        value
            .as_array()
            .filter(|list| list.first().is_some_and(Value::is_object))
            .map(|list| (key, list.len()))
    });
    let hint =
        rows.map_or(String::new(), |(key, n)| format!("; save the list under {key} ({n} rows) on its own"));
    format!("this is one JSON object (keys {}), not rows{hint}", keys.join(", "))
}

/// Names the type of a JSON value.
pub(crate) fn json_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Shows about 60 characters around an offset, on one line and in quotes.
pub(crate) fn excerpt(bytes: &[u8], at: usize) -> String {
    // Four bytes per character at most, so that the window always holds enough of them.
    let at = at.min(bytes.len());
    let from = at.saturating_sub(120);
    let to = (at + 240).min(bytes.len());
    let before = String::from_utf8_lossy(bytes.get(from..at).unwrap_or_default());
    let after = String::from_utf8_lossy(bytes.get(at..to).unwrap_or_default());
    let skip = before.chars().count().saturating_sub(30);
    let room = 60 - before.chars().count().min(30);
    let left = if from > 0 || skip > 0 { "..." } else { "" };
    let right = if after.chars().count() > room || to < bytes.len() { "..." } else { "" };
    let shown: String = before.chars().skip(skip).chain(after.chars().take(room)).collect();
    format!("`{left}{}{right}`", shown.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_and_show_the_place() {
        let text = format!("{}HERE{}", "a".repeat(500), "b".repeat(500));
        let shown = excerpt(text.as_bytes(), 500);
        assert!(shown.contains("aaaHEREbbb") && shown.chars().count() < 75, "{shown}");
        assert_eq!(excerpt(b"{\"a\": 1", 7), "`{\"a\": 1`");
        assert_eq!(excerpt("é".repeat(4).as_bytes(), 1000), "`éééé`");
        assert!(!excerpt(b"a\nb", 0).contains('\n'));
    }

    #[test]
    fn other_files_are_named() {
        let says = |head: &[u8]| not_json(head).unwrap_or_default();
        assert!(says(b"PAR1\x15\x04").contains("Parquet"));
        assert!(says(b"\x40\0\0\0\0\0\0\0{\"__metadata__\":").contains("safetensors"));
        assert!(says(b"prompt,chosen,rejected\na,b,c\n").contains("CSV"));
        assert!(says(b"system\tdoc\nx\ty\n").contains("tab-separated"));
        assert!(
            says(b"First Citizen:\nBefore we proceed any further, hear me speak.").contains("plain text")
        );
        assert!(says(b"\x7fELF\0\0").contains("binary"));
        assert!(says(b"<!DOCTYPE html>").contains("HTML"));
        assert_eq!(not_json(b"  {\"a\": 1}"), None);
    }

    #[test]
    fn csv_is_told_by_name_or_by_its_columns() {
        let csv = |head: &str, name: &str| is_csv(head.as_bytes(), Path::new(name));
        assert!(csv("prompt,chosen,rejected\na,b,c\n", "rows"));
        assert!(csv("\"id\",\"question\"\r\n1,a\n", "rows.txt"));
        assert!(csv("a\n1\n", "ROWS.CSV") && csv("a;b\n", "rows.csv.gz"));
        assert!(!csv("{\"prompt\": 1, \"chosen\": 2}", "rows.csv") && !csv("", "rows.csv"));
        assert!(!csv("Dear reader, the prompt is this, and the answer that\n", "rows"));
        assert!(!csv("a,b\n1,2\n", "rows"));
    }
}
