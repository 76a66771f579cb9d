//! JSON as Python's `json.dumps` writes it.

use serde_json::Value;

/// The options of `json.dumps` that templates use.
#[derive(Debug, Default)]
pub(crate) struct Style<'a> {
    pub indent: Option<usize>,
    /// Between items, and between a key and its value.
    pub separators: Option<(&'a str, &'a str)>,
    pub sort_keys: bool,
    pub ensure_ascii: bool,
}

/// Writes a value.
pub(crate) fn write(value: &Value, style: &Style<'_>) -> String {
    let mut out = String::new();
    // Python's item separator loses its space when lines are broken.
    let default = if style.indent.is_some() { (",", ": ") } else { (", ", ": ") };
    put(&mut out, value, style, style.separators.unwrap_or(default), 0);
    out
}

fn put(out: &mut String, value: &Value, style: &Style<'_>, separators: (&str, &str), depth: usize) {
    let list = |out: &mut String, open: char, close: char, items: Vec<(Option<&String>, &Value)>| {
        out.push(open);
        let empty = items.is_empty();
        for (i, (key, item)) in items.into_iter().enumerate() {
            if i > 0 {
                out.push_str(separators.0);
            }
            break_line(out, style, depth + 1);
            if let Some(key) = key {
                string(out, key, style.ensure_ascii);
                out.push_str(separators.1);
            }
            put(out, item, style, separators, depth + 1);
        }
        if !empty {
            break_line(out, style, depth);
        }
        out.push(close);
    };
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) if n.is_f64() => out.push_str(&float(n.as_f64().unwrap_or(0.0))),
        Value::Number(n) => out.push_str(&n.to_string()),
        Value::String(s) => string(out, s, style.ensure_ascii),
        Value::Array(items) => list(out, '[', ']', items.iter().map(|item| (None, item)).collect()),
        Value::Object(map) => {
            let mut items: Vec<_> = map.iter().map(|(key, item)| (Some(key), item)).collect();
            if style.sort_keys {
                items.sort_by_key(|(key, _)| *key);
            }
            list(out, '{', '}', items);
        }
    }
}

fn break_line(out: &mut String, style: &Style<'_>, depth: usize) {
    if let Some(indent) = style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent * depth));
    }
}

fn string(out: &mut String, text: &str, ensure_ascii: bool) {
    // serde_json escapes exactly what Python escapes when ASCII is not asked for.
    let quoted = serde_json::to_string(text).unwrap_or_default();
    if !ensure_ascii {
        out.push_str(&quoted);
        return;
    }
    for c in quoted.chars() {
        // Python writes DEL as it is: it is ASCII.
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
}

/// Writes a float as Python's `repr`: shortest digits, an exponent below 1e-4 and from 1e16.
fn float(x: f64) -> String {
    let size = x.abs();
    if x != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(positive) => ('-', positive),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = x.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // The expected texts are those of Python 3.11's json.dumps.
    #[test]
    fn python_writes_the_same() {
        let value =
            json!({"b": [1, 2.0, 1e16, 1e-5, 0.1], "a": {"x": null, "y": "é\"<&>\n\u{1}"}, "e": [], "o": {}});
        let plain = Style::default();
        assert_eq!(
            write(&value, &plain),
            r#"{"b": [1, 2.0, 1e+16, 1e-05, 0.1], "a": {"x": null, "y": "é\"<&>\n\u0001"}, "e": [], "o": {}}"#
        );
        let tight = Style { separators: Some((",", ":")), sort_keys: true, ensure_ascii: true, ..plain };
        assert_eq!(
            write(&value, &tight),
            r#"{"a":{"x":null,"y":"\u00e9\"<&>\n\u0001"},"b":[1,2.0,1e+16,1e-05,0.1],"e":[],"o":{}}"#
        );
        let lines = Style { indent: Some(2), ..Style::default() };
        assert_eq!(write(&json!({"a": [1, []]}), &lines), "{\n  \"a\": [\n    1,\n    []\n  ]\n}");
        assert_eq!(
            write(&json!("😀"), &Style { ensure_ascii: true, ..Style::default() }),
            r#""\ud83d\ude00""#
        );
    }
}
