//! How values are read from text, with errors in plain words.

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
