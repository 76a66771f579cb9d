//! How values are read from text, with errors in plain words.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;

/// Reads one of some names, which stand beside their help, as a value that has them in its serialised form.
pub(super) fn choice<T>(names: &'static [(&'static str, &'static str)]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    let values = names.iter().map(|(name, help)| PossibleValue::new(*name).help(*help));
    PossibleValuesParser::new(values).try_map(|name| serde_json::from_value(name.into()))
}

/// As [`choice`], of values that have `_` in their serialised form where the names have `-`.
pub(super) fn snake_choice<T>(
    names: &'static [(&'static str, &'static str)],
) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    let values = names.iter().map(|(name, help)| PossibleValue::new(*name).help(*help));
    PossibleValuesParser::new(values).try_map(|name| serde_json::from_value(name.replace('-', "_").into()))
}

/// Reads `on` or `off`.
pub(super) fn switch() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["on", "off"]).map(|word| word == "on")
}

/// Reads a number; ranges, NaN and infinity are judged by the configuration's `validate()`.
pub(super) fn number(text: &str) -> Result<f64, String> {
    text.trim().parse().map_err(|_| "expected a number, such as 0.1 or 2e-5".to_owned())
}

/// Reads a count.
pub(super) fn count(text: &str) -> Result<u64, String> {
    whole(text, u64::MAX)
}

/// Reads a count that fits this machine's memory.
pub(super) fn size(text: &str) -> Result<usize, String> {
    whole(text, usize::MAX)
}

fn whole<T: std::str::FromStr + std::fmt::Display>(text: &str, most: T) -> Result<T, String> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().map_err(|_| match digits {
        true => format!("expected a whole number of at most {most}"),
        false => "expected a whole number of at least 0".to_owned(),
    })
}

/// Reads `NAME=COLUMN`.
pub(super) fn column(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, column)) if !name.is_empty() && !column.is_empty() => Ok(text.to_owned()),
        _ => Err("expected NAME=COLUMN, such as prompt=question".to_owned()),
    }
}
