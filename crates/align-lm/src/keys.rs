use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Typed access to the keys of a JSON object; every error names the file, the key and the value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keys<'a> {
    path: &'a Path,
    parent: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, parent: "", map }
    }

    /// The object under a key, if it is there and not empty.
    pub(crate) fn object(&self, key: &'a str) -> Result<Option<Self>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) if map.is_empty() => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { path: self.path, parent: key, map })),
            Some(_) => Err(self.refuse(key, "an object")),
        }
    }

    /// The value of a key; `null` counts as absent.
    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value.clone()).map(Some).map_err(|_| self.refuse(key, expected)),
        }
    }

    /// A number of things from 1 to `most`; absent only where there is a default.
    pub(crate) fn size(&self, key: &str, most: usize, default: Option<usize>) -> Result<usize> {
        let expected = format!("a whole number from 1 to {most}");
        match self.get::<usize>(key, &expected)?.or(default) {
            Some(n) if (1..=most).contains(&n) => Ok(n),
            _ => Err(self.refuse(key, &expected)),
        }
    }

    /// A finite number above 0; absent only where there is a default.
    pub(crate) fn positive(&self, key: &str, default: Option<f64>) -> Result<f64> {
        let expected = "a finite number above 0";
        match self.get::<f64>(key, expected)?.or(default) {
            Some(x) if x > 0.0 && x.is_finite() => Ok(x),
            _ => Err(self.refuse(key, expected)),
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool> {
        self.flag_or(key, false)
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.get(key, "true or false")?.unwrap_or(default))
    }

    /// Refuses a flag that asks for something that is not built; absent, it counts as `built`.
    pub(crate) fn only(&self, key: &str, built: bool) -> Result<()> {
        match self.flag_or(key, built)? == built {
            true => Ok(()),
            false => Err(self.refuse(key, &format!("{built}: the other is not supported"))),
        }
    }

    /// A number of things that can be switched off by `null`.
    pub(crate) fn size_or_null(
        &self,
        key: &str,
        most: usize,
        default: Option<usize>,
    ) -> Result<Option<usize>> {
        self.or_null(key, default, || self.size(key, most, None))
    }

    /// A finite number above 0 that can be switched off by `null`.
    pub(crate) fn positive_or_null(&self, key: &str, default: Option<f64>) -> Result<Option<f64>> {
        self.or_null(key, default, || self.positive(key, None))
    }

    fn or_null<T>(
        &self,
        key: &str,
        default: Option<T>,
        read: impl FnOnce() -> Result<T>,
    ) -> Result<Option<T>> {
        match self.map.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(_) => read().map(Some),
        }
    }

    /// Says whether a key is there and not `null`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    pub(crate) fn path(&self) -> &Path {
        self.path
    }

    /// The error for a value that cannot be used.
    pub(crate) fn refuse(&self, key: &str, expected: &str) -> Error {
        let value = self.map.get(key).map_or_else(|| "missing".to_owned(), shortened);
        let key = if self.parent.is_empty() { key.to_owned() } else { format!("{}.{key}", self.parent) };
        Error::Config { path: self.path.to_owned(), key, value, expected: expected.to_owned() }
    }
}

fn shortened(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= MOST { text } else { text.chars().take(MOST).chain(['…']).collect() }
}

/// Reads a JSON object from a file.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read(path).map_err(Error::io(path, "cannot be read"))?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
}
