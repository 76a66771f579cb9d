//! The stamp that says from which files an entry was made and what it must hold.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::setup::wheels::Platform;
use crate::{Error, Result};

const FILE: &str = "align-stamp.json";
const SCHEMA: u64 = 1;
/// The folders of an entry that are counted.
const TREES: [&str; 3] = ["torch/include", "torch/lib", "nvidia"];

/// How many files a folder holds, and how many bytes they have together.
///
/// That takes a few milliseconds and notices what damages a cache in practice: deleted and truncated files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::setup) struct Contents {
    pub files: u64,
    pub bytes: u64,
}

/// The contents of the stamp file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::setup) struct Stamp {
    /// SHA-256 by file name.
    pub wheels: BTreeMap<String, String>,
    /// Contents by folder.
    pub trees: BTreeMap<String, Contents>,
}

impl Stamp {
    /// The wheels that an entry of this platform is made from.
    pub fn wheels_of(platform: &Platform) -> BTreeMap<String, String> {
        platform.wheels.iter().map(|w| (w.file.to_owned(), w.sha256.to_owned())).collect()
    }

    /// Describes a finished tree.
    pub fn of(platform: &Platform, dir: &Path) -> Result<Self> {
        let mut trees = BTreeMap::new();
        for tree in TREES {
            let path = dir.join(tree);
            if path.is_dir() {
                trees.insert(
                    tree.to_owned(),
                    contents(&path).map_err(Error::io("count the files of", &path))?,
                );
            }
        }
        Ok(Self { wheels: Self::wheels_of(platform), trees })
    }

    /// The hashes in one line, as an identity.
    pub fn wheels_text(&self) -> String {
        self.wheels.values().cloned().collect::<Vec<_>>().join(" ")
    }

    /// Compares the folders on disk with those that were stamped.
    pub fn check_contents(&self, dir: &Path) -> std::result::Result<(), String> {
        for (tree, &expected) in &self.trees {
            let found = contents(&dir.join(tree)).map_err(|error| format!("{tree}: {error}"))?;
            if found != expected {
                return Err(format!(
                    "{tree} has {} files of {} bytes, it was installed with {} of {}",
                    found.files, found.bytes, expected.files, expected.bytes
                ));
            }
        }
        Ok(())
    }

    /// Reads the stamp of an entry.
    pub fn read(dir: &Path) -> std::result::Result<Self, String> {
        let text = fs::read_to_string(dir.join(FILE)).map_err(|_| format!("it has no {FILE}"))?;
        let value = serde_json::from_str(&text).map_err(|error| format!("{FILE}: {error}"))?;
        Self::from_json(&value).ok_or_else(|| format!("{FILE} has another layout"))
    }

    /// Writes the stamp so that it is on disk when this returns.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let mut file = File::create(&path).map_err(Error::io("create", &path))?;
        writeln!(file, "{:#}", self.to_json())
            .and_then(|()| file.sync_all())
            .map_err(Error::io("write", &path))
    }

    fn to_json(&self) -> Value {
        let trees: serde_json::Map<_, _> = self
            .trees
            .iter()
            .map(|(tree, c)| (tree.clone(), json!({ "files": c.files, "bytes": c.bytes })))
            .collect();
        json!({ "schema": SCHEMA, "wheels": self.wheels, "trees": trees })
    }

    fn from_json(value: &Value) -> Option<Self> {
        if value.get("schema")?.as_u64()? != SCHEMA {
            return None;
        }
        let wheels = value.get("wheels")?.as_object()?.iter();
        let trees = value.get("trees")?.as_object()?.iter();
        Some(Self {
            wheels: wheels.map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect::<Option<_>>()?,
            trees: trees
                .map(|(k, v)| {
                    let number = |key| v.get(key).and_then(Value::as_u64);
                    Some((k.clone(), Contents { files: number("files")?, bytes: number("bytes")? }))
                })
                .collect::<Option<_>>()?,
        })
    }
}

fn contents(dir: &Path) -> std::io::Result<Contents> {
    let mut total = Contents::default();
    for child in fs::read_dir(dir)? {
        let child = child?;
        let kind = child.file_type()?;
        if kind.is_dir() {
            let inner = contents(&child.path())?;
            total.files += inner.files;
            total.bytes += inner.bytes;
        } else {
            total.files += 1;
            total.bytes += child.metadata()?.len();
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_its_file_and_rejects_others() {
        let stamp = Stamp {
            wheels: [("a.whl".to_owned(), "00ff".to_owned())].into(),
            trees: [("torch/lib".to_owned(), Contents { files: 3, bytes: 4_000_000_000 })].into(),
        };
        let dir = tempfile::tempdir().unwrap();
        stamp.write(dir.path()).unwrap();
        assert_eq!(Stamp::read(dir.path()).unwrap(), stamp);

        for text in [
            "",
            "{",
            "[]",
            "{\"schema\": 2, \"wheels\": {}, \"trees\": {}}",
            "{\"schema\": 1, \"wheels\": 3}",
        ] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert!(Stamp::read(dir.path()).is_err(), "{text}");
        }
    }

    #[test]
    fn contents_count_nested_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/one"), "123").unwrap();
        fs::write(dir.path().join("two"), "12345").unwrap();
        assert_eq!(contents(dir.path()).unwrap(), Contents { files: 2, bytes: 8 });
    }
}
