//! What each held-out row gave at the end of a run, alone: `eval.jsonl`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use align_core::{Coupling, PackedBatch, Part, Trainable, align_types::PromptGroup, no_grad};
use serde_json::{Map, Value};

use crate::coupled::notes_of;
use crate::engine::{Engine, EvalBatch, Worker, refused};
use crate::{Result, files, parallel};

/// Most rows that are written: enough for a distribution, few enough to cost no more than a few steps.
const ROWS: usize = 1000;

/// The numbers of one row, by their names in `metrics.jsonl`.
type Numbers = Vec<(&'static str, f64)>;

impl<M: Trainable + ?Sized> Engine<M> {
    /// Evaluates the first held-out rows one by one, and makes a line of each; `None` where `stop` was set before the
    /// last of them.
    ///
    /// A row that stands alone gives the same numbers as one among others, so that their means are the metrics of
    /// the whole.
    ///
    /// # Errors
    /// As [`Engine::evaluate`].
    pub(crate) fn evaluate_rows(
        &mut self,
        batch: &EvalBatch,
        step: u64,
        stop: &AtomicBool,
    ) -> Result<Option<String>> {
        if stop.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let coupling = batch.survey.as_ref().map(|survey| self.couple(survey)).transpose()?;
        let pairs: Vec<(&mut Worker<M>, &Part)> =
            self.workers_mut().iter_mut().zip(&batch.packs.parts).collect();
        let work = |(worker, part): (&mut Worker<M>, &Part)| worker.rows(part, coupling.as_ref(), stop);
        let mut lines: Vec<(usize, Value)> = Vec::new();
        for (part, rows) in batch.packs.parts.iter().zip(parallel::map(pairs, work)?) {
            let places = part.places.iter().zip(&part.groups);
            let Some(rows) = rows? else { return Ok(None) };
            let of_part = places.filter(|(place, _)| **place < ROWS).zip(rows);
            lines.extend(of_part.map(|((place, group), row)| (*place, line(step, group, &row))));
        }
        lines.sort_by_key(|(place, _)| *place);
        Ok(Some(lines.into_iter().map(|(_, line)| format!("{line}\n")).collect()))
    }
}

impl<M: Trainable + ?Sized> Worker<M> {
    /// Evaluates the rows of a part that are among the first of the batch, in their order; `None` once `stop` is set.
    fn rows(
        &mut self,
        part: &Part,
        coupling: Option<&Coupling>,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Numbers>>> {
        let _guard = no_grad();
        let indices = part.places.iter().enumerate().filter(|(_, place)| **place < ROWS);
        let row = |(index, _)| match stop.load(Ordering::SeqCst) {
            true => Ok(None),
            false => self.row(part, index, coupling).map(Some),
        };
        indices.map(row).collect()
    }

    fn row(&self, part: &Part, index: usize, coupling: Option<&Coupling>) -> Result<Numbers> {
        let range = index..index + 1;
        let groups = part.groups.get(range.clone()).unwrap_or_default();
        let rows = |source| refused(part, &range, source);
        let batch = PackedBatch::new(groups).map_err(rows)?;
        let model = self.model.as_ref();
        let output = match coupling {
            Some(coupling) => {
                self.objective.coupled_loss(model, &batch, groups, &notes_of(coupling, part, &range))
            }
            None => self.objective.loss(model, &batch, groups),
        };
        let terms = output.map_err(rows)?.metrics;
        let counted = terms.iter().filter(|term| term.count > 0.0);
        Ok(counted.map(|term| (term.name, term.sum / term.count)).collect())
    }
}

fn line(step: u64, group: &PromptGroup, numbers: &Numbers) -> Value {
    let mut line = Map::new();
    line.insert("step".into(), step.into());
    if let Some(source) = &group.source {
        line.insert("file".into(), source.file.display().to_string().into());
        line.insert("row".into(), source.row.into());
    }
    let lengths = group.completions.iter().map(|answer| {
        let name = if answer.name.is_empty() { "completion" } else { &answer.name };
        Value::from(Map::from_iter([
            ("name".to_owned(), name.into()),
            ("tokens".to_owned(), answer.token_ids.len().into()),
        ]))
    });
    line.insert("completions".into(), lengths.collect());
    line.extend(numbers.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))));
    line.into()
}

/// Writes the lines as a whole, so that a run that is killed meanwhile leaves the file before or none.
pub(crate) fn write(folder: &Path, lines: &str) -> Result<()> {
    files::write_atomic(&folder.join(FILE), lines.as_bytes())
}

/// The name of the file in a run folder.
pub(crate) const FILE: &str = "eval.jsonl";
