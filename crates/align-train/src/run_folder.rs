use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::Checkpoints;
use crate::environment::PROGRAM;
use crate::settings::Settings;
use crate::{
    BoxError, Checkpoint, Environment, Error, Result, checkpoint::SaveModel, eval_rows, events, files,
};

/// Marks a folder as a run folder and is locked by the process that writes it.
const LOCK: &str = ".align-run.lock";
const CONFIG: &str = "config.toml";
const ENVIRONMENT: &str = "environment.json";
const METRICS: &str = "metrics.jsonl";
const SUMMARY: &str = "summary.json";
const MODEL: &str = "model";
const CHECKPOINTS: &str = "checkpoints";
/// What a run folder may hold, in the order in which overwriting removes it: the summary first, because with
/// it the folder would still look finished.
const CONTENT: [&str; 11] = [
    SUMMARY,
    MODEL,
    CHECKPOINTS,
    METRICS,
    "completions.jsonl",
    "pair_band",
    "critic",
    eval_rows::FILE,
    "report.html",
    ENVIRONMENT,
    CONFIG,
];

/// What to do with an output folder that holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Refuse it.
    New,
    /// Continue the run in it, or begin one if there is none yet.
    Resume,
    /// Delete the run in it and begin another; anything that is not a run folder is refused.
    Overwrite,
}

/// Where a run begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// At step 1, with the weights of `--model`.
    Beginning,
    /// After this checkpoint, with the weights in its [`Checkpoint::model_dir`].
    Checkpoint(Box<Checkpoint>),
    /// Nowhere: the run is finished, and this is its `summary.json`.
    Finished(Map<String, Value>),
}

/// A run folder that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The folder, locked.
    pub folder: RunFolder,
    /// Where the run begins.
    pub start: Start,
    /// What the user should be told: torn checkpoints that were passed over, other threads than before.
    pub notices: Vec<String>,
}

/// The folder of one run, locked against other processes while this value lives.
///
/// It holds `config.toml`, `environment.json`, `metrics.jsonl`, event files for TensorBoard, `checkpoints/step-N/`
/// and, when the run is finished, `model/`, `summary.json` and, with held-out rows, `eval.jsonl`. Every file and
/// folder is written beside, synced and renamed, so that
/// after a kill at any moment the folder can be resumed. `checkpoints/torn-step-N/` is the model as a step left it that
/// failed in its middle.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    settings: Settings,
    _lock: File,
}

impl RunFolder {
    /// Opens or makes a run folder and writes `config.toml`; `config` is the resolved configuration as TOML.
    ///
    /// When a run is resumed, `config` must agree with the one it was started with in every key that shapes
    /// the result. Logging and saving keys may differ; other threads give a notice.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::NotARunFolder`], [`Error::Locked`], [`Error::ConfigMismatch`], or a file
    /// that cannot be read or written.
    pub fn open(path: &Path, mode: OpenMode, config: &str) -> Result<Opened> {
        let settings = Settings::parse(config, Path::new("the configuration"))?;
        check_content(path, mode)?;
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let lock = lock(path)?;
        // Another process may have begun a run between the look and the lock.
        check_content(path, mode)?;
        let checkpoints = Checkpoints::new(path);
        files::sweep(path, is_content)?;
        checkpoints.sweep()?;
        if mode == OpenMode::Overwrite {
            empty(path)?;
        }
        let folder = Self { path: path.to_owned(), settings, _lock: lock };
        let mut notices: Vec<String> = folder.compare_with_config_on_disk()?.into_iter().collect();
        let start = folder.find_start(&checkpoints, &mut notices)?;
        if !matches!(start, Start::Finished(_)) {
            folder.write_if_changed(CONFIG, config.as_bytes())?;
        }
        Ok(Opened { folder, start, notices })
    }

    /// Returns the folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of `metrics.jsonl`.
    pub fn metrics_file(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// Returns the path of the final model.
    pub fn model_dir(&self) -> PathBuf {
        self.path.join(MODEL)
    }

    /// Writes `environment.json`; when a run is resumed, the new process is added to the list `resumed`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_environment(&self, environment: &Environment) -> Result<()> {
        let path = self.path.join(ENVIRONMENT);
        let now = serde_json::to_value(environment).map_err(|error| Error::Config(error.to_string()))?;
        let mut content = match read_object(&path) {
            None => now.as_object().cloned().unwrap_or_default(),
            Some(mut first) => {
                match first.entry("resumed").or_insert_with(|| Value::Array(Vec::new())) {
                    Value::Array(list) => list.push(now),
                    other => *other = Value::Array(vec![now]),
                }
                first
            }
        };
        content.entry("program").or_insert_with(|| PROGRAM.into());
        write_object(&path, content)
    }

    /// Writes the final model with the caller's closure and then `summary.json`, which makes the run finished.
    ///
    /// # Errors
    /// The closure fails, or a file cannot be written.
    pub fn finish(&self, save_model: SaveModel<'_>, summary: Map<String, Value>) -> Result<()> {
        let model = self.model_dir();
        let draft = files::unfinished(&model);
        files::delete(&draft)?;
        fs::create_dir(&draft).map_err(Error::io("create", &draft))?;
        let written = save_model(&draft).map_err(|error: BoxError| Error::save_model(&model, error));
        if let Err(error) = written.and_then(|()| files::sync_tree(&draft)) {
            // Best effort: on a full disk the draft only takes room.
            let _ = files::delete(&draft);
            return Err(error);
        }
        files::publish_folder(&draft, &model)?;
        write_object(&self.path.join(SUMMARY), summary)
    }

    pub(crate) fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(&self.path)
    }

    pub(crate) fn config_fingerprint(&self) -> String {
        self.settings.fingerprint()
    }

    fn compare_with_config_on_disk(&self) -> Result<Option<String>> {
        let path = self.path.join(CONFIG);
        let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
        let before = Settings::parse(&text, &path)?;
        let differences = self.settings.differences(&before);
        if !differences.is_empty() {
            return Err(Error::ConfigMismatch { path: self.path.clone(), differences });
        }
        Ok(self.settings.other_threads(&before))
    }

    fn find_start(&self, checkpoints: &Checkpoints, notices: &mut Vec<String>) -> Result<Start> {
        if let Some(summary) = read_object(&self.path.join(SUMMARY))
            && self.model_dir().is_dir()
        {
            return Ok(Start::Finished(summary));
        }
        let (newest, passed_over) = checkpoints.newest()?;
        notices.extend(passed_over);
        let Some(checkpoint) = newest else { return Ok(Start::Beginning) };
        if checkpoint.state.config_fingerprint != self.config_fingerprint() {
            // Only reachable when config.toml is gone or was edited: otherwise the keys are named above.
            let why = "it was written with another configuration than config.toml";
            return Err(Error::checkpoint(&checkpoint.folder, why));
        }
        Ok(Start::Checkpoint(Box::new(checkpoint)))
    }

    fn write_if_changed(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(before) if before == content => Ok(()),
            _ => files::write_atomic(&path, content),
        }
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = path.join(LOCK);
    let handle = OpenOptions::new().create(true).append(true).open(&file);
    let handle = handle.map_err(Error::io("create", &file))?;
    match handle.try_lock() {
        Ok(()) => Ok(handle),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        // Some network file systems know no locks; a run there is as safe as without them.
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => Ok(handle),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", &file)(error)),
    }
}

/// Checks that what is in the folder allows opening it in this mode.
fn check_content(path: &Path, mode: OpenMode) -> Result<()> {
    let names = files::names_in(path)?;
    if names.iter().all(|name| name == LOCK) {
        return Ok(());
    }
    if mode == OpenMode::New {
        return Err(Error::NotEmpty { path: path.to_owned() });
    }
    let refuse = |why: String| Err(Error::NotARunFolder { path: path.to_owned(), why });
    let marked = names.iter().any(|name| name == LOCK)
        || read_object(&path.join(ENVIRONMENT))
            .is_some_and(|it| it.get("program").is_some_and(|program| program == PROGRAM));
    if !marked {
        return refuse(format!("it has no {LOCK} and no {ENVIRONMENT} of ours"));
    }
    match names.iter().find(|name| !is_content(files::leftover_of(name).unwrap_or(name))) {
        // A stray file does not stop a run from being continued, but nothing foreign is ever deleted.
        Some(stranger) if mode == OpenMode::Overwrite => refuse(format!("it holds {stranger}")),
        _ => Ok(()),
    }
}

fn is_content(name: &str) -> bool {
    name == LOCK || CONTENT.contains(&name) || name.starts_with(events::PREFIX)
}

/// Deletes a run but for its lock, so that after a kill on the way the folder can still be overwritten.
fn empty(path: &Path) -> Result<()> {
    for name in CONTENT {
        let path = path.join(name);
        if path.is_dir() {
            files::remove_folder(&path)?;
        } else {
            files::delete(&path)?;
        }
    }
    let names = files::names_in(path)?;
    names
        .iter()
        .filter(|name| name.starts_with(events::PREFIX))
        .try_for_each(|name| files::delete(&path.join(name)))
}

fn read_object(path: &Path) -> Option<Map<String, Value>> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write_object(path: &Path, content: Map<String, Value>) -> Result<()> {
    let mut text = format!("{:#}", Value::Object(content));
    text.push('\n');
    files::write_atomic(path, text.as_bytes())
}
