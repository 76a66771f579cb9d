use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use align_core::align_types::{self, MetricSink};
use serde_json::{Map, Value};

use crate::{Error, Result, files};

/// Metrics that count things and are written as integers.
const COUNTS: [&str; 1] = ["tokens"];

/// The file `metrics.jsonl`: one JSON object per logged step.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
    last: Map<String, Value>,
}

impl MetricsFile {
    /// Opens the file for appending and first cuts it back to lines whose step is at most `step`.
    ///
    /// A torn last line goes too, so that a run that was killed and resumed has every step once. With `step` 0
    /// the file is begun anew.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(Error::io("read", path))?,
        };
        let mut kept = 0;
        let mut last = Map::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            match parse(line) {
                Some(record) if line.ends_with(b"\n") && step_of(&record) <= step => last = record,
                _ => break,
            }
            kept += line.len();
        }
        if kept < text.len() || text.is_empty() {
            files::write_atomic(path, text.get(..kept).unwrap_or_default())?;
        }
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("open", path))?;
        Ok(Self { path: path.to_owned(), file, last })
    }

    /// Appends the metrics of a step as one line.
    ///
    /// JSON has no NaN and no infinity; such a metric is written as `null`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, step: u64, metrics: &[(String, f64)]) -> Result<()> {
        let mut record = Map::new();
        record.insert("step".into(), step.into());
        for (name, value) in metrics {
            let value =
                if COUNTS.contains(&name.as_str()) { (*value as u64).into() } else { (*value).into() };
            record.insert(name.clone(), value);
        }
        let mut line = Value::Object(record.clone()).to_string();
        line.push('\n');
        // One write for the line: a kill leaves it whole or torn at the very end of the file.
        self.file.write_all(line.as_bytes()).map_err(Error::io("write", &self.path))?;
        self.last = record;
        Ok(())
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("sync", &self.path))
    }

    /// Returns the last line.
    pub fn last(&self) -> &Map<String, Value> {
        &self.last
    }
}

impl MetricSink for MetricsFile {
    fn record(&mut self, step: u64, metrics: &[(String, f64)]) -> align_types::Result<()> {
        self.append(step, metrics).map_err(|error| align_types::Error::Seam {
            what: "metrics.jsonl".into(),
            why: error.to_string(),
            source: Some(Box::new(error)),
        })
    }
}

fn parse(line: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(line).ok()
}

/// A line without a step belongs to no run of ours: it counts as later than any.
fn step_of(record: &Map<String, Value>) -> u64 {
    record.get("step").and_then(Value::as_u64).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        fs::read_to_string(path).unwrap().lines().map(ToOwned::to_owned).collect()
    }

    #[test]
    fn lines_have_the_step_first_and_the_metrics_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, 0).unwrap();
        let metrics = [("tokens".into(), 12.0), ("loss".into(), 0.5), ("bad".into(), f64::NAN)];
        file.append(1, &metrics).unwrap();
        assert_eq!(lines(&path), [r#"{"step":1,"tokens":12,"loss":0.5,"bad":null}"#]);
        assert_eq!(file.last()["loss"], 0.5);
    }

    #[test]
    fn later_steps_and_torn_lines_are_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let text =
            "{\"step\":1,\"loss\":1.0}\n{\"step\":5,\"loss\":0.5}\n{\"step\":6,\"loss\":0.4}\n{\"step\":7,";
        for (through, expected) in [(0, 0), (4, 1), (5, 2), (9, 3)] {
            fs::write(&path, text).unwrap();
            let mut file = MetricsFile::open(&path, through).unwrap();
            assert_eq!(lines(&path).len(), expected);
            file.append(10, &[]).unwrap();
            assert_eq!(lines(&path).last().unwrap(), "{\"step\":10}");
        }
        // A torn line can look whole but for its end.
        fs::write(&path, "{\"step\":1}\n{\"step\":2}").unwrap();
        MetricsFile::open(&path, 2).unwrap();
        assert_eq!(lines(&path), ["{\"step\":1}"]);
    }
}
