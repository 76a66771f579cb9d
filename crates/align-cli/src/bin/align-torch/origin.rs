//! What the rows of an output file were made with.

use std::path::{Path, PathBuf};

use align_cli::{Error, Result};
use align_rm::NORMALIZATION_FILE;
use serde_json::{Map, Value, json};

use crate::failure;

/// Settings that change no row, so that a resumed command may have others.
const ASIDE: [&str; 6] = ["output", "threads", "device", "micro_batch_tokens", "report", "subset_column"];

/// Extensions of the files of a model folder that decide what the model answers.
const DECISIVE: [&str; 5] = ["safetensors", "bin", "json", "jinja", "model"];

/// Command, settings and content of model and data, by which rows made with others are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    settings: Map<String, Value>,
    /// The files of model and data; none where the description was read back.
    inputs: Vec<PathBuf>,
}

impl Origin {
    /// Describes a command.
    ///
    /// # Errors
    /// [`Error::Data`] for a file of model, adapter or data that cannot be read.
    pub fn new(
        command: &str,
        settings: &toml::Table,
        model: &Path,
        adapter: Option<&Path>,
        data: &Path,
    ) -> Result<Self> {
        let mut map = Map::new();
        map.insert("command".into(), json!(command));
        for (key, value) in settings.iter().filter(|(key, _)| !ASIDE.contains(&key.as_str())) {
            map.insert(key.clone(), json!(value));
        }
        let mut inputs = model_files(model)?;
        map.insert("model_sha256".into(), json!(digest(&decisive(&map, &inputs))?));
        if let Some(adapter) = adapter {
            let files = model_files(adapter)?;
            map.insert("adapter_sha256".into(), json!(digest(&decisive(&map, &files))?));
            inputs.extend(files);
        }
        map.insert("data_sha256".into(), json!(digest(&[data.to_owned()])?));
        inputs.push(data.to_owned());
        Ok(Self { settings: map, inputs })
    }

    /// Adds a folder that the command reads beside the model.
    ///
    /// # Errors
    /// [`Error::Data`] for a file that cannot be read.
    pub fn with_folder(mut self, name: &str, folder: &Path) -> Result<Self> {
        let files = model_files(folder)?;
        let digest = digest(&decisive(&self.settings, &files))?;
        self.settings.insert(format!("{name}_sha256"), json!(digest));
        self.inputs.extend(files);
        Ok(self)
    }

    /// Reads what was written by [`Self::text`]; `None` where there is no such file.
    ///
    /// # Errors
    /// [`Error::Data`] for a file that is none of ours.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| unreadable(path, &error))?,
        };
        let settings = serde_json::from_str(&text).map_err(|error| unreadable(path, &error))?;
        Ok(Some(Self { settings, inputs: Vec::new() }))
    }

    /// Returns the description as text.
    pub fn text(&self) -> String {
        format!("{:#}\n", Value::Object(self.settings.clone()))
    }

    /// Refuses to write over a file that is read.
    ///
    /// # Errors
    /// [`Error::Usage`] names the file.
    pub fn outlives(&self, written: &[&Path]) -> Result<()> {
        let same =
            |a: &Path, b: &Path| a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
        match self.inputs.iter().find(|input| written.iter().any(|path| same(path, input))) {
            None => Ok(()),
            Some(input) => Err(Error::usage(
                format!("--output would replace {}, which this command reads", input.display()),
                ["name another --output".to_owned()],
            )),
        }
    }

    /// Refuses rows that were made with something else.
    ///
    /// # Errors
    /// [`Error::Usage`] lists what differs.
    pub fn check(&self, before: &Self, output: &Path) -> Result<()> {
        let mut keys: Vec<&String> = before.settings.keys().chain(self.settings.keys()).collect();
        keys.sort();
        keys.dedup();
        let show = |map: &Map<String, Value>, key: &String| {
            map.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string)
        };
        let differ: Vec<String> = keys
            .into_iter()
            .filter(|key| before.settings.get(*key) != self.settings.get(*key))
            .map(|key| {
                format!("{key} ({} there, {} now)", show(&before.settings, key), show(&self.settings, key))
            })
            .collect();
        if differ.is_empty() {
            return Ok(());
        }
        Err(Error::usage(
            format!("the rows of {} were made with other settings: {}", output.display(), differ.join(", ")),
            ["repeat the old command with --resume, or leave --resume out to begin anew".to_owned()],
        ))
    }
}

/// Leaves out the scale of rewards where a command says that it does not use it: `align score --fit-normalization`
/// writes it into the folder of the model, and can be resumed after that.
fn decisive(settings: &Map<String, Value>, files: &[PathBuf]) -> Vec<PathBuf> {
    let raw = settings.get("normalize") == Some(&json!(false));
    files.iter().filter(|file| !(raw && file.ends_with(NORMALIZATION_FILE))).cloned().collect()
}

/// Lists the files that decide what a model answers, sorted.
///
/// # Errors
/// [`Error::Data`] for a folder that cannot be read.
pub fn model_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        let decides = path.extension().is_some_and(|e| DECISIVE.iter().any(|known| e == *known));
        if decides && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Computes the SHA-256 of the names and contents of files.
///
/// # Errors
/// [`Error::Data`] for a file that cannot be read.
pub fn digest(files: &[PathBuf]) -> Result<String> {
    align_rm::files_digest(files).map_err(failure::of)
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::data(format!("cannot read {}: {error}", path.display()), [])
}
