//! Which configuration keys shape the result of a run, and how two configurations differ.

use std::collections::BTreeMap;
use std::path::Path;

use crate::fingerprint::Fingerprint;
use crate::{Difference, Error, Result};

/// Keys that say where and how often something is kept, written or shown: a resumed run may change them.
const ASIDE: [&str; 12] = [
    "output_dir",
    "resume",
    "overwrite",
    "save_every",
    "keep_checkpoints",
    "log_every",
    "no_progress",
    "json",
    "dry_run",
    "config",
    "samples",
    "row_store",
];
/// A key that changes rounding only: a resumed run may change it, with a warning.
const THREADS: &str = "threads";

/// A configuration as a flat list of keys, sections before a dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings(BTreeMap<String, String>);

impl Settings {
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let table: toml::Table = text
            .parse()
            .map_err(|error| Error::Config(format!("{} is not valid TOML: {error}", path.display())))?;
        let mut flat = BTreeMap::new();
        flatten("", &table, &mut flat);
        Ok(Self(flat))
    }

    fn shaping(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter().filter(|(key, _)| !ASIDE.contains(&last_part(key)) && last_part(key) != THREADS)
    }

    /// Returns a number that stands for the part of the configuration that shapes the result.
    pub fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::new();
        for (key, value) in self.shaping() {
            fingerprint.text(key);
            fingerprint.text(value);
        }
        fingerprint.hex()
    }

    /// Lists the keys that shape the result and differ from those of an older configuration.
    pub fn differences(&self, before: &Self) -> Vec<Difference> {
        let keys = before.shaping().chain(self.shaping()).map(|(key, _)| key.as_str());
        let keys: std::collections::BTreeSet<&str> = keys.collect();
        keys.into_iter()
            .map(|key| Difference {
                key: key.to_owned(),
                before: before.0.get(key).cloned(),
                now: self.0.get(key).cloned(),
            })
            .filter(|difference| difference.before != difference.now)
            .collect()
    }

    /// Says how the number of threads differs from that of an older configuration, if it does.
    pub fn other_threads(&self, before: &Self) -> Option<String> {
        let threads = |settings: &Self| {
            let found = settings.0.iter().find(|(key, _)| last_part(key) == THREADS);
            found.map(|(_, value)| value.clone())
        };
        let (then, now) = (threads(before)?, threads(self)?);
        (then != now).then(|| {
            format!("the run was started with {then} threads and continues with {now}: bits may differ")
        })
    }
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn flatten(prefix: &str, table: &toml::Table, flat: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let key = format!("{prefix}{}", key.replace('-', "_"));
        match value {
            toml::Value::Table(inner) => flatten(&format!("{key}."), inner, flat),
            value => {
                flat.insert(key, value.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Settings {
        Settings::parse(text, Path::new("config.toml")).unwrap()
    }

    #[test]
    fn only_what_shapes_the_result_counts() {
        let before = parse("seed = 1\nlog_every = 5\n[train]\nthreads = 1\nbatch-size = 4");
        let other = parse("seed = 1\nlog_every = 9\noutput-dir = 'x'\n[train]\nthreads = 2\nbatch_size = 4");
        assert!(other.differences(&before).is_empty());
        assert_eq!(other.fingerprint(), before.fingerprint());
        assert!(other.other_threads(&before).unwrap().contains("1 threads and continues with 2"));
        assert_eq!(before.other_threads(&before), None);
    }

    #[test]
    fn every_difference_is_named() {
        let before = parse("seed = 1\nbeta = 0.1\n[train]\nbatch_size = 4");
        let now = parse("seed = 2\nmodel = 'm'\n[train]\nbatch_size = 4");
        let names: Vec<String> = now.differences(&before).iter().map(ToString::to_string).collect();
        let expected = [
            "beta (0.1 in the run, nothing now)",
            "model (nothing in the run, \"m\" now)",
            "seed (1 in the run, 2 now)",
        ];
        assert_eq!(names.len(), 3);
        for (name, expected) in names.iter().zip(expected) {
            assert!(name == expected || name.replace('\'', "\"") == expected, "{name}");
        }
        assert_ne!(now.fingerprint(), before.fingerprint());
    }

    #[test]
    fn broken_toml_is_an_error_with_its_file() {
        let error = Settings::parse("seed = ", Path::new("run/config.toml")).unwrap_err().to_string();
        assert!(error.contains("run/config.toml"), "{error}");
    }
}
