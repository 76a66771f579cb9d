//! JSON lines of a run folder, of which the last may be torn: the run may be writing it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A line that is an object, and where it stands.
pub(super) struct Line {
    place: String,
    object: Map<String, Value>,
}

impl Line {
    /// Makes the error of a line that is not what it should be.
    pub fn refuse(&self, why: &str) -> Error {
        Error::data(format!("{}: {why}", self.place), [HINT.to_owned()])
    }

    /// Takes the object.
    pub fn object(&self) -> &Map<String, Value> {
        &self.object
    }

    /// Reads the step.
    pub fn step(&self) -> Result<u64> {
        let step = self.object.get("step").and_then(Value::as_u64);
        step.ok_or_else(|| self.refuse("it has no `step`"))
    }

    /// Reads a text; empty when there is none.
    pub fn text(&self, key: &str) -> &str {
        self.object.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

const HINT: &str =
    "the file was changed by something else than the run; remove the line to report the others";

/// Hands on every line of a file, and says whether the last one is torn; a file that is not there has none.
///
/// # Errors
/// A file that cannot be read, a line that is no object, whatever `each` returns.
pub(super) fn each(path: &Path, mut each: impl FnMut(&Line) -> Result<()>) -> Result<bool> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let mut torn = false;
    for (index, text) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let place = format!("{}:{}", path.display(), index + 1);
        match serde_json::from_slice(text) {
            Ok(Value::Object(object)) => each(&Line { place, object })?,
            Ok(_) => return Err(Error::data(format!("{place}: it is no JSON object"), [HINT.to_owned()])),
            // Lines are written whole, so that what has no end yet is the last one of a run that is under way.
            Err(_) if !text.ends_with(b"\n") => torn = true,
            Err(error) => {
                return Err(Error::data(format!("{place}: it is no JSON: {error}"), [HINT.to_owned()]));
            }
        }
    }
    Ok(torn)
}

/// Makes the error of a file that is there and cannot be read.
pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::data(format!("cannot read {}: {error}", path.display()), [])
}
