//! Reference answers in the columns of a row.

use align_types::RewardItem;
use serde_json::Value;

/// Returns the reference answers of a column: its text, number or truth value, or those of a list, as text.
///
/// # Errors
/// The column is missing, empty, or holds something else; without the row, which the caller knows.
pub(super) fn references(item: &RewardItem<'_>, column: &str) -> Result<Vec<String>, String> {
    let value = item.columns.get(column).filter(|value| !value.is_null()).ok_or_else(|| {
        let others: Vec<&str> = item.columns.keys().map(String::as_str).take(10).collect();
        let others = if others.is_empty() { "no others".to_owned() } else { others.join(", ") };
        format!("the row has no column `{column}` with a reference answer; it has {others}")
    })?;
    let list = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    let texts: Option<Vec<String>> = list.iter().map(text).collect();
    match texts {
        Some(texts) if !texts.is_empty() && texts.iter().all(|text| !text.trim().is_empty()) => Ok(texts),
        Some(_) => Err(format!("the column `{column}` is empty, and no reference answer")),
        None => Err(format!(
            "the column `{column}` is no reference answer: expected text, a number, or a list of them"
        )),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
