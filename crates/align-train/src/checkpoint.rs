use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use align_core::align_types::exact;
use serde::{Deserialize, Serialize};

use crate::{BoxError, Error, Health, Result, files};

const STATE: &str = "trainer.json";
pub(crate) const OPTIMIZER: &str = "optimizer.safetensors";
pub(crate) const OBJECTIVE: &str = "objective.safetensors";
pub(crate) const MODEL: &str = "model";
const PREFIX: &str = "step-";
/// What the folder of a model in the middle of a step is called: `torn-step-7`.
const TORN: &str = "torn-step-";
const FORMAT: u32 = 2;

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The metric, with its `eval/` prefix.
    pub metric: String,
    /// Its value; a string in the file, because JSON readers may round a number in its last bit, and a resumed
    /// run must compare with exactly what the uninterrupted one compares with.
    #[serde(with = "exact")]
    pub value: f64,
    /// The step after which it was measured; its checkpoint is kept.
    pub step: u64,
}

/// A step whose held-out rows are still to be measured, because that was broken off: its line of metrics without them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Unevaluated {
    names: Vec<String>,
    /// As bits: the line is written again when the rows are measured.
    #[serde(with = "exact::list")]
    values: Vec<f64>,
}

impl Unevaluated {
    pub(crate) fn new(line: Vec<(String, f64)>) -> Self {
        let (names, values) = line.into_iter().unzip();
        Self { names, values }
    }

    pub(crate) fn into_line(self) -> Vec<(String, f64)> {
        self.names.into_iter().zip(self.values).collect()
    }
}

/// Wall time by phase in seconds, over all the processes of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WallTime {
    /// The phases of its steps, as the method names them: `train` (loss, gradient and update) and `data` (waiting for
    /// rows) where it is an offline one.
    #[serde(flatten)]
    pub phases: BTreeMap<String, f64>,
    /// Held-out rows.
    pub eval: f64,
    /// Writing checkpoints.
    pub save: f64,
    /// Everything, the phases above included.
    pub total: f64,
}

/// What a run knows besides weights and moments: the content of `trainer.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Version of this format.
    pub format: u32,
    /// Steps done.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// The batch to ask the prompt source for next.
    pub next_batch: u64,
    /// Seed of every random stream.
    pub seed: u64,
    /// Stands for the part of the configuration that shapes the result.
    pub config_fingerprint: String,
    /// Stands for the rows and models that go into the run: `TrainJob::inputs`.
    pub inputs: String,
    /// Compute threads.
    pub threads: usize,
    /// Rows trained on.
    pub rows: u64,
    /// Flat tokens trained on.
    pub tokens: u64,
    /// The best evaluation, when one is kept.
    pub best: Option<Best>,
    /// The last step, where its held-out rows are still to be measured; a resumed run begins with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unevaluated: Option<Unevaluated>,
    /// What the health checks said and count.
    #[serde(default)]
    pub health: Health,
    /// Wall time so far.
    pub wall_time: WallTime,
    /// The files of the checkpoint and their sizes, by which a torn copy is known.
    pub files: Vec<(String, u64)>,
}

impl TrainerState {
    /// Makes the state of a run that has not begun.
    pub(crate) fn new(total_steps: u64, seed: u64, threads: usize, config_fingerprint: String) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            total_steps,
            next_batch: 0,
            seed,
            config_fingerprint,
            inputs: String::new(),
            threads,
            rows: 0,
            tokens: 0,
            best: None,
            unevaluated: None,
            health: Health::default(),
            wall_time: WallTime::default(),
            files: Vec::new(),
        }
    }
}

/// A whole checkpoint on disk: `model/`, `trainer.json`, and what the method keeps beside them: `learner.json`,
/// `optimizer.safetensors`, and `objective.safetensors` where the objective keeps weights beside the policy's.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Its folder, `checkpoints/step-N`.
    pub folder: PathBuf,
    /// What the run knew.
    pub state: TrainerState,
}

impl Checkpoint {
    /// Reads a checkpoint's state and checks that it is whole.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] says which file is missing, cut short or unreadable.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let state: TrainerState =
            serde_json::from_slice(&text).map_err(|error| Error::checkpoint(&path, error))?;
        if state.format != FORMAT {
            let why = format!("format {} is not the format {FORMAT} of this version", state.format);
            return Err(Error::checkpoint(&path, why));
        }
        for (name, bytes) in &state.files {
            match fs::metadata(folder.join(name)) {
                Ok(about) if about.len() == *bytes => {}
                Ok(about) => {
                    let why = format!("{name} has {} bytes instead of {bytes}", about.len());
                    return Err(Error::checkpoint(folder, why));
                }
                Err(_) => return Err(Error::checkpoint(folder, format!("{name} is missing"))),
            }
        }
        Ok(Self { folder: folder.to_owned(), state })
    }

    /// Returns the folder that the caller's closure wrote the model to; load the weights from here.
    pub fn model_dir(&self) -> PathBuf {
        self.folder.join(MODEL)
    }
}

/// The folder `checkpoints/` of a run.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoints {
    folder: PathBuf,
}

/// What writes the files of a checkpoint.
#[derive(Clone, Copy)]
pub(crate) struct Writers<'a> {
    pub model: SaveModel<'a>,
    /// Writes into the checkpoint's folder what goes on from step to step beside the model.
    pub rest: &'a dyn Fn(&Path) -> Result<()>,
}

/// Writes the model to a folder that does not exist yet or is empty.
pub type SaveModel<'a> = &'a dyn Fn(&Path) -> Result<(), BoxError>;

impl Checkpoints {
    pub fn new(run: &Path) -> Self {
        Self { folder: run.join("checkpoints") }
    }

    /// Removes what a kill left half-done.
    pub fn sweep(&self) -> Result<()> {
        files::sweep(&self.folder, |name| step_of(name).is_some() || name.starts_with(TORN))
    }

    pub fn folder_of(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step}"))
    }

    /// Lists the steps that have a folder, in order; whether it is whole is another question.
    fn steps(&self) -> Result<Vec<u64>> {
        let names = files::names_in(&self.folder)?;
        let mut steps: Vec<u64> = names.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Finds the newest whole checkpoint; the notices name torn ones that were passed over.
    pub fn newest(&self) -> Result<(Option<Checkpoint>, Vec<String>)> {
        let mut notices = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match Checkpoint::open(&self.folder_of(step)) {
                Ok(checkpoint) => return Ok((Some(checkpoint), notices)),
                Err(error) => notices.push(format!("passed over: {error}")),
            }
        }
        Ok((None, notices))
    }

    /// Writes a checkpoint beside, makes it durable and gives it its name.
    pub fn write(&self, state: &TrainerState, writers: Writers<'_>) -> Result<PathBuf> {
        let folder = self.folder_of(state.step);
        let draft = files::unfinished(&folder);
        let written = self.write_draft(&draft, state, writers);
        if let Err(error) = written {
            // Best effort: on a full disk the draft only takes the room that others need.
            let _ = files::delete(&draft);
            return Err(error);
        }
        files::publish_folder(&draft, &folder)?;
        Ok(folder)
    }

    /// Writes the model of a step that failed in its middle, which no run goes on from.
    pub fn write_torn(&self, step: u64, model: SaveModel<'_>) -> Result<PathBuf> {
        let folder = self.folder.join(format!("{TORN}{step}"));
        let draft = files::unfinished(&folder);
        let written = self
            .begin_draft(&draft)
            .and_then(|()| model(&draft).map_err(|error| Error::save_model(&folder, error)))
            .and_then(|()| files::sync_tree(&draft));
        if let Err(error) = written {
            let _ = files::delete(&draft);
            return Err(error);
        }
        files::publish_folder(&draft, &folder)?;
        Ok(folder)
    }

    fn begin_draft(&self, draft: &Path) -> Result<()> {
        files::delete(draft)?;
        fs::create_dir_all(draft).map_err(Error::io("create", draft))?;
        files::sync_parent(&self.folder)
    }

    fn write_draft(&self, draft: &Path, state: &TrainerState, writers: Writers<'_>) -> Result<()> {
        self.begin_draft(draft)?;
        let model = draft.join(MODEL);
        fs::create_dir(&model).map_err(Error::io("create", &model))?;
        (writers.model)(&model).map_err(|error| Error::save_model(&model, error))?;
        (writers.rest)(draft)?;
        let state = TrainerState { files: files::list_files(draft)?, ..state.clone() };
        let path = draft.join(STATE);
        let text = serde_json::to_vec_pretty(&state).map_err(|error| Error::checkpoint(&path, error))?;
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        files::sync_tree(draft)
    }

    /// Removes what is older than the newest `keep` whole checkpoints up to the one of step `written`, but for
    /// the best one.
    ///
    /// Torn ones do not count. Those of later steps, which a resumed run passed over, stay until it gets there.
    pub fn prune(&self, written: u64, keep: usize, best: Option<u64>) -> Result<()> {
        let mut kept = 0;
        for step in self.steps()?.into_iter().rev().filter(|step| *step <= written) {
            let folder = self.folder_of(step);
            if kept < keep.max(1) && (step == written || Checkpoint::open(&folder).is_ok()) {
                kept += 1;
            } else if Some(step) != best {
                files::remove_folder(&folder)?;
            }
        }
        Ok(())
    }
}

/// Reads the step from the name of a checkpoint's folder.
fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(checkpoints: &Checkpoints, step: u64) -> PathBuf {
        let state = TrainerState { step, ..TrainerState::new(9, 0, 1, "c".into()) };
        let model = |folder: &Path| Ok(fs::write(folder.join("weights"), [1; 64])?);
        let optimizer = |folder: &Path| {
            let path = folder.join(OPTIMIZER);
            fs::write(&path, [2; 32]).map_err(Error::io("write", &path))
        };
        let writers = Writers { model: &model, rest: &optimizer };
        checkpoints.write(&state, writers).unwrap()
    }

    #[test]
    fn the_newest_whole_checkpoint_is_found_and_torn_ones_are_named() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(run.path());
        assert_eq!(checkpoints.newest().unwrap(), (None, vec![]));
        let folders: Vec<PathBuf> = [2, 4, 10, 11].map(|step| write(&checkpoints, step)).into();
        assert_eq!(checkpoints.newest().unwrap().0.unwrap().state.step, 11);
        fs::write(folders[3].join("model/weights"), [1; 63]).unwrap();
        fs::write(folders[2].join(STATE), "{\"format\": 1, \"st").unwrap();
        fs::remove_file(folders[1].join(OPTIMIZER)).unwrap();
        let (found, notices) = checkpoints.newest().unwrap();
        assert_eq!(found.unwrap().state.step, 2);
        assert_eq!(notices.len(), 3);
        assert!(notices[0].contains("63 bytes instead of 64"), "{notices:?}");
        assert!(notices[2].contains("optimizer.safetensors is missing"), "{notices:?}");
    }

    /// A later one takes the place of an earlier one, a draft is swept, and neither is a checkpoint.
    #[test]
    fn the_model_of_a_torn_step_is_no_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(run.path());
        write(&checkpoints, 6);
        let model = |byte: u8| move |folder: &Path| Ok(fs::write(folder.join("weights"), [byte; 3])?);
        for byte in [1, 2] {
            let folder = checkpoints.write_torn(7, &model(byte)).unwrap();
            assert_eq!(folder, run.path().join("checkpoints/torn-step-7"));
            assert_eq!(fs::read(folder.join("weights")).unwrap(), [byte; 3]);
        }
        let fails = |_: &Path| Err("no".into());
        assert!(checkpoints.write_torn(8, &fails).is_err());
        fs::create_dir(run.path().join("checkpoints/.tmp-torn-step-9")).unwrap();
        checkpoints.sweep().unwrap();
        let left = files::names_in(&run.path().join("checkpoints")).unwrap();
        assert_eq!(left, ["step-6", "torn-step-7"]);
        let (newest, notices) = checkpoints.newest().unwrap();
        assert_eq!((newest.unwrap().state.step, notices.len()), (6, 0));
    }

    #[test]
    fn the_best_value_comes_back_bit_for_bit() {
        for bits in (0..2000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let value = f64::from_bits(bits);
            if value.is_nan() {
                continue;
            }
            let text = serde_json::to_string(&Best { metric: "m".into(), value, step: 1 }).unwrap();
            assert_eq!(serde_json::from_str::<Best>(&text).unwrap().value.to_bits(), bits, "{text}");
        }
    }

    #[test]
    fn pruning_keeps_the_newest_and_the_best() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(run.path());
        for step in 1..=5 {
            write(&checkpoints, step);
        }
        checkpoints.prune(5, 2, Some(2)).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [2, 4, 5]);
        checkpoints.prune(5, 1, None).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [5]);
        assert_eq!(files::names_in(&run.path().join("checkpoints")).unwrap(), ["step-5"]);
    }

    #[test]
    fn torn_checkpoints_are_not_kept_instead_of_whole_ones() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(run.path());
        for step in [4, 6, 8, 12] {
            write(&checkpoints, step);
        }
        for torn in [8, 12] {
            fs::remove_file(checkpoints.folder_of(torn).join(OPTIMIZER)).unwrap();
        }
        // Continued after step 6, and step 9 was just written.
        write(&checkpoints, 9);
        checkpoints.prune(9, 1, None).unwrap();
        assert_eq!(checkpoints.newest().unwrap().0.unwrap().state.step, 9);
        for step in [10, 15] {
            write(&checkpoints, step);
            checkpoints.prune(step, 2, None).unwrap();
        }
        assert_eq!(checkpoints.steps().unwrap(), [10, 15], "the torn one is gone, two whole ones are kept");
    }

    #[test]
    fn a_full_disk_leaves_the_checkpoint_before() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(run.path());
        write(&checkpoints, 3);
        let state = TrainerState { step: 6, ..TrainerState::new(9, 0, 1, "c".into()) };
        let model = |folder: &Path| {
            fs::write(folder.join("weights"), [1; 10])?;
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into())
        };
        let writers = Writers { model: &model, rest: &|_| Ok(()) };
        let error = checkpoints.write(&state, writers).unwrap_err();
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        assert_eq!(files::names_in(&run.path().join("checkpoints")).unwrap(), ["step-3"]);
        assert_eq!(checkpoints.newest().unwrap().0.unwrap().state.step, 3);
    }

    #[test]
    fn a_torn_checkpoint_is_replaced_when_its_step_comes_again() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(run.path());
        let folder = write(&checkpoints, 3);
        fs::remove_file(folder.join(STATE)).unwrap();
        write(&checkpoints, 3);
        assert_eq!(checkpoints.newest().unwrap().0.unwrap().state.step, 3);
    }
}
