//! The folder of a run: `run.json` (what is run), `units/` (results of finished units), `work/` (artefacts),
//! and at the end `result.json`, `environment.json`, `report.md`, `report.html`, and for some experiments `plot.svg`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Error, Result, study::Unit};

/// The file whose presence says that a folder belongs to a reproduction.
const RUN_FILE: &str = "run.json";

/// The folder of a run.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens the folder of a run, made when it is missing.
    ///
    /// With `resume` the results of an earlier run with the same `key` are kept. Without it an earlier run is
    /// replaced, and a folder that holds anything else is refused.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder with other files, or a run of another plan, size or data to resume;
    /// [`Error::Io`].
    pub fn open(folder: &Path, key: &Value, resume: bool) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
        let store = Self { folder: folder.to_owned() };
        let run_file = folder.join(RUN_FILE);
        match read_json(&run_file)? {
            Some(earlier) if resume && earlier != *key => {
                let why = "it holds a run of another plan, size, selection, data or version; run without \
                           --resume to replace it, or give another --out";
                return Err(Error::usage(format!("--resume in {}", folder.display()), why));
            }
            Some(_) if resume => {}
            Some(_) => store.clear()?,
            None if store.is_empty()? => {}
            None => {
                let why = "the folder is not empty and holds no run of a reproduction";
                return Err(Error::usage(format!("--out {}", folder.display()), why));
            }
        }
        for part in ["units", "work"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(|e| Error::io("make the folder", &path, e))?;
        }
        store.write(RUN_FILE, pretty(key)?.as_bytes())?;
        Ok(store)
    }

    fn is_empty(&self) -> Result<bool> {
        let mut entries = fs::read_dir(&self.folder).map_err(|e| Error::io("read", &self.folder, e))?;
        Ok(entries.next().is_none())
    }

    fn clear(&self) -> Result<()> {
        for part in ["units", "work"] {
            remove(&self.folder.join(part), |path| fs::remove_dir_all(path))?;
        }
        for file in ["result.json", "environment.json", "report.md", "report.html", "plot.svg"] {
            remove(&self.folder.join(file), |path| fs::remove_file(path))?;
        }
        Ok(())
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the folder for artefacts.
    pub fn work(&self) -> PathBuf {
        self.folder.join("work")
    }

    /// Returns the result of a unit that is finished.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn finished(&self, unit: &Unit) -> Result<Option<Value>> {
        read_json(&self.folder.join(unit_file(unit)))
    }

    /// Keeps the result of a finished unit.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep(&self, unit: &Unit, value: &Value) -> Result<()> {
        self.write(&unit_file(unit), pretty(value)?.as_bytes())
    }

    /// Writes a file of the run: beside its place, synced, then renamed, so that no half file is ever there.
    ///
    /// # Errors
    /// [`Error::Train`] with the file that cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        Ok(align_train::write_atomic(&self.folder.join(name), bytes)?)
    }
}

fn unit_file(unit: &Unit) -> String {
    format!("units/{}.json", unit.id())
}

/// Formats JSON as the files of a run have it.
///
/// # Errors
/// [`Error::NonFinite`] never; a value that JSON cannot hold becomes [`Error::Input`].
pub fn pretty(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::input("result", e))?;
    Ok(text + "\n")
}

fn read_json(path: &Path) -> Result<Option<Value>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, error)),
    };
    let damaged = |e: serde_json::Error| Error::Damaged { path: path.to_owned(), why: e.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

fn remove(path: &Path, how: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    match how(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Writes an artefact of a unit for the units that need it.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::input(path.display().to_string(), e))?;
    fs::write(path, text).map_err(|e| Error::io("write", path, e))
}

/// Reads what [`write`] wrote.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::Damaged { path: path.to_owned(), why: e.to_string() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn unit() -> Unit {
        Unit { arm: "a".into(), seed: Some(3), needs: vec![], cost: 1.0 }
    }

    #[test]
    fn resuming_keeps_results_and_a_new_run_replaces_them() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let store = Store::open(&out, &json!({"size": "quick"}), false).unwrap();
        store.keep(&unit(), &json!([0.1, 2])).unwrap();
        let resumed = Store::open(&out, &json!({"size": "quick"}), true).unwrap();
        assert_eq!(resumed.finished(&unit()).unwrap(), Some(json!([0.1, 2])));
        let other = Store::open(&out, &json!({"size": "full"}), true).unwrap_err();
        assert_eq!(other.exit_code(), 2);
        let fresh = Store::open(&out, &json!({"size": "quick"}), false).unwrap();
        assert_eq!(fresh.finished(&unit()).unwrap(), None);
    }

    #[test]
    fn folders_of_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        for resume in [false, true] {
            let error = Store::open(folder.path(), &json!({}), resume).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_result_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), &json!({}), false).unwrap();
        fs::write(folder.path().join("units/a-seed-3.json"), "{\"x\": ").unwrap();
        let error = store.finished(&unit()).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("a-seed-3.json"), "{error}");
    }
}
