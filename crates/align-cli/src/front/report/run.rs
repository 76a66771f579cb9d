//! A run folder as a report sees it.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::lines::{self, Line, unreadable};
use crate::{Error, Result};

/// The name of what holds out rows in the names of metrics.
pub(super) const HELD_OUT: &str = "eval/";

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// All steps are done, and `summary.json` says so.
    Finished,
    /// A process is at it.
    Running,
    /// No process is at it, and steps are left.
    Stopped,
}

/// What is known of a metric: (step, value), NaN where the value was no number.
pub(super) type Points = Vec<(f64, f64)>;

/// The lines of `metrics.jsonl`, by metric in the order in which they first came.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub names: Vec<String>,
    points: HashMap<String, Points>,
    /// The last step with a line; 0 without one.
    pub step: u64,
    /// Lines.
    pub lines: usize,
}

impl Metrics {
    pub fn points(&self, name: &str) -> &[(f64, f64)] {
        self.points.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The first and the last value of a metric that are numbers.
    pub fn ends(&self, name: &str) -> Option<(f64, f64)> {
        let finite = || self.points(name).iter().map(|point| point.1).filter(|value| value.is_finite());
        Some((finite().next()?, finite().next_back()?))
    }

    fn add(&mut self, line: &Line) -> Result<()> {
        let step = line.step()?;
        if self.lines > 0 && step <= self.step {
            return Err(line.refuse(&format!("step {step} comes after step {}", self.step)));
        }
        (self.step, self.lines) = (step, self.lines + 1);
        for (name, value) in line.object().iter().filter(|(name, _)| *name != "step") {
            let value = match value {
                Value::Null => f64::NAN,
                value => value.as_f64().ok_or_else(|| line.refuse(&format!("`{name}` is no number")))?,
            };
            if !self.points.contains_key(name) {
                self.names.push(name.clone());
            }
            self.points.entry(name.clone()).or_default().push((step as f64, value));
        }
        Ok(())
    }
}

/// A sampled answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub step: u64,
    pub place: String,
    pub prompt: String,
    pub answer: String,
    /// Whether the answer was still going on where sampling ended.
    pub cut: bool,
    /// What it was given.
    pub reward: Option<f64>,
    /// Whether it was drawn for training: every step has other prompts then.
    pub drawn: bool,
}

/// A held-out row at the end of the run.
#[derive(Debug)]
pub(super) struct Row {
    pub place: String,
    pub numbers: Map<String, Value>,
}

/// A run folder.
#[derive(Debug)]
pub(super) struct Run {
    pub path: PathBuf,
    /// Differs from that of every other run of the report.
    pub name: String,
    /// The command that made it, without `align`; empty where nothing says so.
    pub command: String,
    pub config_text: String,
    pub config: toml::Table,
    pub environment: Map<String, Value>,
    pub metrics: Metrics,
    pub summary: Map<String, Value>,
    pub samples: Vec<Sample>,
    pub rows: Vec<Row>,
    pub state: State,
    /// Steps of the whole run, where they are known.
    pub total: Option<u64>,
    /// What a reader must know of the files.
    pub notes: Vec<String>,
}

impl Run {
    /// Reads a run folder.
    ///
    /// # Errors
    /// A folder that is none, or a file in it that is not what a run writes.
    pub fn read(path: &Path) -> Result<Self> {
        let refuse = |why: &str| {
            let hint = "name the run folder of a training command, such as runs/dpo";
            Err(Error::data(format!("{}: {why}", path.display()), [hint.to_owned()]))
        };
        match fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return refuse("it does not exist"),
            Err(error) => return Err(unreadable(path, &error)),
            Ok(about) if !about.is_dir() => return refuse("it is a file, not the folder of a run"),
            Ok(_) => {}
        }
        let config_file = path.join("config.toml");
        let config_text = match fs::read_to_string(&config_file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return refuse("it is not the folder of a run: it has no config.toml");
            }
            other => other.map_err(|error| unreadable(&config_file, &error))?,
        };
        let config = parse_config(&config_text, &config_file)?;
        let environment = object(&path.join("environment.json"))?.unwrap_or_default();
        let summary = object(&path.join("summary.json"))?;
        let mut metrics = Metrics::default();
        let mut notes = Vec::new();
        if lines::each(&path.join("metrics.jsonl"), |line| metrics.add(line))? {
            notes.push("The last line of metrics.jsonl is not whole and is left out.".to_owned());
        }
        let samples = samples(&path.join("completions.jsonl"))?;
        let rows = rows(&path.join("eval.jsonl"))?;
        let state = match (&summary, is_locked(path)) {
            (Some(_), _) => State::Finished,
            (None, true) => State::Running,
            (None, false) => State::Stopped,
        };
        let summary = summary.unwrap_or_default();
        let total = total(&config, &summary, path);
        let command = command(&config_text, &environment);
        let name = fs::canonicalize(path)
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        Ok(Self {
            name: name.unwrap_or_else(|| path.display().to_string()),
            path: path.to_owned(),
            command,
            config_text,
            config,
            environment,
            metrics,
            summary,
            samples,
            rows,
            state,
            total,
            notes,
        })
    }

    /// Reads a text of the configuration, with the texts of a list one after the other.
    pub fn setting(&self, key: &str) -> String {
        self.config.get(key).map(plain).unwrap_or_default()
    }

    /// Reads a number of `summary.json`.
    pub fn summed(&self, key: &str) -> Option<f64> {
        self.summary.get(key).and_then(Value::as_f64)
    }
}

/// Reads several runs and gives each a name of its own.
///
/// # Errors
/// As [`Run::read`]; a folder that is named twice.
pub(super) fn read_all(paths: &[PathBuf]) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::with_capacity(paths.len());
    for path in paths {
        let place = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if let Some(twice) = runs.iter().find(|run| place(&run.path) == place(path)) {
            let message = format!("{} and {} are the same run", twice.path.display(), path.display());
            return Err(Error::usage(message, ["name every run once".to_owned()]));
        }
        runs.push(Run::read(path)?);
    }
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in &mut runs {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = run.path.display().to_string();
        }
    }
    Ok(runs)
}

/// Writes a setting as a person would.
pub(super) fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn parse_config(text: &str, path: &Path) -> Result<toml::Table> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Error::data(format!("{}:{line}: {}", path.display(), error.message()), [])
    })
}

/// Reads a file that holds one JSON object; `None` when it is not there.
fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| unreadable(path, &error))?,
    };
    let object = serde_json::from_slice(&bytes);
    object
        .map(Some)
        .map_err(|error| Error::data(format!("{}: it is no JSON object: {error}", path.display()), []))
}

fn samples(path: &Path) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    lines::each(path, |line| {
        samples.push(Sample {
            step: line.step()?,
            place: place(line.object()),
            prompt: line.text("prompt").to_owned(),
            answer: line.text("completion").to_owned(),
            cut: line.text("finish_reason") == "length",
            reward: line.object().get("reward").and_then(Value::as_f64),
            // Greedy answers to the same prompts at several steps have no reward, not even none.
            drawn: line.object().contains_key("reward"),
        });
        Ok(())
    })?;
    Ok(samples)
}

fn rows(path: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    lines::each(path, |line| {
        rows.push(Row { place: place(line.object()), numbers: line.object().clone() });
        Ok(())
    })?;
    Ok(rows)
}

/// Names a row by file and line.
fn place(object: &Map<String, Value>) -> String {
    let file = object.get("file").and_then(Value::as_str).unwrap_or_default();
    match object.get("row").and_then(Value::as_u64) {
        Some(row) => format!("{file}:{row}"),
        None => file.to_owned(),
    }
}

/// Says whether a process has the run folder open: it holds a lock while it lives.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path.join(".align-run.lock")) else { return false };
    // A lock that this gets is given back with the file at once.
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// Finds the number of steps: done ones of a finished run, configured ones, those that a checkpoint was written with.
fn total(config: &toml::Table, summary: &Map<String, Value>, path: &Path) -> Option<u64> {
    let done = summary.get("steps").and_then(Value::as_u64);
    let configured = || config.get("max_steps").and_then(toml::Value::as_integer);
    let from_checkpoint = || {
        let folders = fs::read_dir(path.join("checkpoints")).ok()?;
        let states =
            folders.flatten().filter_map(|folder| object(&folder.path().join("trainer.json")).ok()?);
        states.filter_map(|state| state.get("total_steps")?.as_u64()).next()
    };
    done.or_else(|| u64::try_from(configured()?).ok()).or_else(from_checkpoint)
}

/// Finds the command that made a run: the first line of `config.toml` names it, and so does the command line.
fn command(config: &str, environment: &Map<String, Value>) -> String {
    let named = config.lines().next().and_then(|line| line.strip_prefix("# align ")?.split(':').next());
    let given = || environment.get("command")?.get(1)?.as_str();
    named.or_else(given).unwrap_or_default().to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run of which nothing is known but its name.
    pub fn empty(name: &str) -> Run {
        Run {
            path: name.into(),
            name: name.into(),
            command: "dpo".into(),
            config_text: String::new(),
            config: toml::Table::new(),
            environment: Map::new(),
            metrics: Metrics::default(),
            summary: Map::new(),
            samples: Vec::new(),
            rows: Vec::new(),
            state: State::Stopped,
            total: None,
            notes: Vec::new(),
        }
    }

    /// A run with these metrics, a line for each step.
    pub fn with_metrics<const N: usize>(
        name: &str,
        lines: impl IntoIterator<Item = [(&'static str, f64); N]>,
    ) -> Run {
        let mut run = empty(name);
        for (step, line) in (1_u32..).zip(lines) {
            for (name, value) in line {
                if step == 1 {
                    run.metrics.names.push(name.to_owned());
                }
                run.metrics.points.entry(name.to_owned()).or_default().push((f64::from(step), value));
            }
            (run.metrics.step, run.metrics.lines) = (step.into(), step as usize);
        }
        run
    }

    #[test]
    fn commands_are_found() {
        let environment = serde_json::json!({"command": ["align-torch", "sft", "--model"]});
        let environment = environment.as_object().unwrap();
        assert_eq!(command("# align dpo: run again with\n", environment), "dpo");
        assert_eq!(command("model = 1", environment), "sft");
        assert_eq!(command("", &Map::new()), "");
    }
}
