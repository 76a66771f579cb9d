//! Pairs near the decision boundary: those whose two rewards are as far apart as `--pair-band` says.

use std::path::{Path, PathBuf};

use align_cli::{
    Error, Result,
    args::{PairBand, TrainArgs},
    talk,
};
use align_core::align_types::{self, PromptGroup, PromptSource, Purpose, RngStream};
use align_data::Rows;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{rows::is_pair, scorer::Scorer};
use crate::failure;

/// The folder of the choices in a run folder.
const FOLDER: &str = "pair_band";

/// Rows that are scored at a time.
const CHUNK: usize = 1024;

/// Rows of a run with the pairs outside the band left out.
///
/// Every `every` steps all pairs are scored with the weights of then. A choice is written before it is used, so that a
/// run that is continued between two choices goes on with the one it had; the weights of a choice's own step are those
/// of the checkpoint, and the choice made from them is the same again. Within a choice rows come in passes, shuffled
/// anew each time; the last batch of a pass may be smaller.
pub struct BandSource {
    band: PairBand,
    rows: Rows,
    scorer: Scorer,
    batch_size: usize,
    seed: u64,
    steps: u64,
    folder: PathBuf,
    chosen: Option<Choice>,
}

/// Which rows are trained on from a step on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Choice {
    counts: Counts,
    /// A `1` for each row that stays, a `0` for each that is left out.
    rows: String,
}

/// What a choice counted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Counts {
    /// Steps that were done.
    step: u64,
    /// Pairs inside the band.
    inside: usize,
    /// Pairs whose rewards are closer together.
    below: usize,
    /// Pairs whose rewards are further apart.
    above: usize,
    /// The smallest distance of two rewards.
    smallest: f64,
    /// The largest.
    largest: f64,
}

impl BandSource {
    /// Makes the source of a run of `steps` steps.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn new(
        band: PairBand,
        rows: Rows,
        scorer: Scorer,
        train: &TrainArgs,
        steps: u64,
        run: &Path,
    ) -> Result<Self> {
        let folder = run.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(Error::write(&folder))?;
        let (batch_size, seed) = (train.batch.batch_size.max(1), train.seed);
        Ok(Self { band, rows, scorer, batch_size, seed, steps, folder, chosen: None })
    }

    fn rows_of(&mut self, step: u64) -> Result<Vec<PromptGroup>> {
        let begin = step - step % self.band.every;
        let choice = match self.chosen.take() {
            Some(choice) if choice.counts.step == begin => choice,
            _ if begin == step => self.choose(step)?,
            _ => read(&self.folder, begin, self.rows.len())?,
        };
        let indices = self.indices(&choice, step - begin);
        self.chosen = Some(choice);
        indices.into_iter().map(|index| Ok(self.rows.get(index)?)).collect()
    }

    /// Finds the rows of the `after`-th step (from 0) behind a choice.
    fn indices(&self, choice: &Choice, after: u64) -> Vec<usize> {
        let mut order: Vec<usize> = choice
            .rows
            .bytes()
            .enumerate()
            .filter(|(_, kept)| *kept == b'1')
            .map(|(index, _)| index)
            .collect();
        let per_pass = order.len().div_ceil(self.batch_size).max(1) as u64;
        let (pass, batch) = (after / per_pass, (after % per_pass) as usize);
        // Place 0 is that of the order without a band.
        RngStream::new(self.seed, Purpose::DataOrder, choice.counts.step, 1 + pass).shuffle(&mut order);
        order.into_iter().skip(batch * self.batch_size).take(self.batch_size).collect()
    }

    /// Scores all pairs and writes down which of them are inside.
    fn choose(&mut self, step: u64) -> Result<Choice> {
        let mut counts = Counts {
            step,
            inside: 0,
            below: 0,
            above: 0,
            smallest: f64::INFINITY,
            largest: f64::NEG_INFINITY,
        };
        let mut kept = String::with_capacity(self.rows.len());
        for start in (0..self.rows.len()).step_by(CHUNK) {
            let rows = self.rows.part(start..start + CHUNK).into_vec()?;
            let rewards = self.scorer.rewards(&rows)?;
            for (index, (row, rewards)) in rows.iter().zip(&rewards).enumerate() {
                let stays = match rewards.as_slice() {
                    [chosen, rejected] if is_pair(row) => {
                        let distance = (chosen - rejected).abs();
                        if !distance.is_finite() {
                            return Err(not_finite(row, start + index, step));
                        }
                        counts.add(distance, self.band)
                    }
                    _ => true,
                };
                kept.push(if stays { '1' } else { '0' });
            }
        }
        if counts.inside == 0 {
            // A model that has learned its pairs leaves a fixed band: the run goes on with those it has.
            let Some(before) = step.checked_sub(self.band.every) else { return Err(self.empty(&counts)) };
            talk::warn(&format!(
                "{}; the pairs chosen after step {before} stay",
                self.nothing_inside(&counts)
            ));
            kept = read(&self.folder, before, self.rows.len())?.rows;
        }
        let choice = Choice { counts, rows: kept };
        let path = file(&self.folder, step);
        let text = serde_json::to_vec(&choice).map_err(|error| Error::data(error.to_string(), []))?;
        align_train::write_atomic(&path, &text).map_err(failure::of)?;
        let Counts { inside, below, above, .. } = counts;
        talk::say(&format!(
            "pair band: after step {step} {inside} pairs are inside, {below} below and {above} above it"
        ));
        Ok(choice)
    }

    fn empty(&self, counts: &Counts) -> Error {
        Error::data(self.nothing_inside(counts), ["widen the band".to_owned()])
    }

    fn nothing_inside(&self, counts: &Counts) -> String {
        let (PairBand { low, high, .. }, Counts { step, smallest, largest, .. }) = (self.band, counts);
        let pairs = counts.below + counts.above;
        format!(
            "--pair-band {low},{high}: after step {step} none of {pairs} pairs lies inside; their rewards are from \
             {smallest:.4} to {largest:.4} apart"
        )
    }
}

impl Counts {
    /// Counts a pair, and says whether it is inside.
    fn add(&mut self, distance: f64, band: PairBand) -> bool {
        self.smallest = self.smallest.min(distance);
        self.largest = self.largest.max(distance);
        let (below, above) = (distance < band.low, distance > band.high);
        let count = if below {
            &mut self.below
        } else if above {
            &mut self.above
        } else {
            &mut self.inside
        };
        *count += 1;
        !below && !above
    }
}

fn not_finite(row: &PromptGroup, index: usize, step: u64) -> Error {
    let message = format!("{}: after step {step} a reward is not finite", row.describe(index));
    Error::data(message, ["the weights are damaged, or --learning-rate is too large".to_owned()])
}

fn file(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step}.json"))
}

/// Reads the choice after a step, which was written before it was used.
fn read(folder: &Path, step: u64, rows: usize) -> Result<Choice> {
    let path = file(folder, step);
    let refuse = |why: String| {
        let hint =
            "it says which pairs the run trained on; without it the run cannot go on as it began".to_owned();
        Error::data(format!("{}: {why}", path.display()), [hint])
    };
    let text = std::fs::read(&path).map_err(|error| refuse(format!("cannot be read: {error}")))?;
    let choice: Choice =
        serde_json::from_slice(&text).map_err(|error| refuse(format!("is damaged: {error}")))?;
    match choice.counts.step == step && choice.rows.len() == rows && choice.rows.contains('1') {
        true => Ok(choice),
        false => Err(refuse("is no choice of this run's".to_owned())),
    }
}

/// Reads what all choices of a run counted, in the order of their steps.
///
/// # Errors
/// A file that cannot be read.
pub fn history(run: &Path) -> Result<Vec<Value>> {
    let folder = run.join(FOLDER);
    let unreadable = |error: std::io::Error| Error::data(format!("{}: {error}", folder.display()), []);
    let mut all: Vec<(u64, Value)> = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let step =
            name.to_str().and_then(|name| name.strip_prefix("step-")?.strip_suffix(".json")?.parse().ok());
        let Some(step) = step else { continue };
        let text = std::fs::read(file(&folder, step)).map_err(unreadable)?;
        let choice: Value = serde_json::from_slice(&text).unwrap_or_default();
        all.push((step, choice.get("counts").cloned().unwrap_or_default()));
    }
    all.sort_by_key(|(step, _)| *step);
    Ok(all.into_iter().map(|(_, counts)| counts).collect())
}

impl PromptSource for BandSource {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        self.rows_of(step).map_err(|error| align_types::Error::Seam {
            what: "data".to_owned(),
            why: error.to_string(),
            source: Some(Box::new(error)),
        })
    }

    fn steps(&self) -> Option<u64> {
        Some(self.steps)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        let Some(Choice { counts, .. }) = &self.chosen else { return Vec::new() };
        let named = [
            ("pair_band/step", counts.step as f64),
            ("pair_band/inside", counts.inside as f64),
            ("pair_band/below", counts.below as f64),
            ("pair_band/above", counts.above as f64),
        ];
        named.map(|(name, value)| (name.to_owned(), value)).into()
    }
}
