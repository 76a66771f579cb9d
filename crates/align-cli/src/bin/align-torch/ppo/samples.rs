//! `completions.jsonl`: some answers of each logged iteration, with what they were given for them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use align_cli::{Error, Result};
use align_core::{
    BoxError,
    align_types::{Completion, PromptGroup, config::TrainConfig},
};
use serde_json::{Value, json};

use super::prompts::Prompts;
use crate::{failure, samples};

/// Writes samples over the steps of a run.
pub struct SampleLog<'a> {
    prompts: &'a Prompts,
    path: PathBuf,
    file: Option<File>,
    count: usize,
    every: u64,
    total: u64,
}

impl<'a> SampleLog<'a> {
    /// Opens the file of a run that has done `done` of `total` steps; lines of later steps, from before it was killed,
    /// go.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(
        count: usize,
        prompts: &'a Prompts,
        run: &Path,
        config: &TrainConfig,
        (done, total): (u64, u64),
    ) -> Result<Self> {
        let path = run.join("completions.jsonl");
        let mut log = Self { prompts, path, file: None, count, every: config.log_every, total };
        if count > 0 {
            let kept = samples::earlier(&log.path, done + 1);
            align_train::write_atomic(&log.path, kept.as_bytes()).map_err(failure::of)?;
            let opened = OpenOptions::new().append(true).open(&log.path);
            log.file = Some(opened.map_err(Error::write(&log.path))?);
        }
        Ok(log)
    }

    /// Writes the first answers of an iteration, on the steps that are logged.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn observe(&mut self, step: u64, groups: &[&PromptGroup]) -> Result<(), BoxError> {
        let is_logged = step == 1 || step == self.total || step.is_multiple_of(self.every.max(1));
        let Some(file) = self.file.as_mut().filter(|_| is_logged) else { return Ok(()) };
        let answers =
            groups.iter().flat_map(|group| group.completions.iter().map(move |answer| (*group, answer)));
        let mut text = String::new();
        for (group, answer) in answers.take(self.count) {
            text.push_str(&format!("{}\n", line(step, self.prompts, group, answer)));
        }
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        Ok(written.map_err(Error::write(&self.path))?)
    }
}

fn line(step: u64, prompts: &Prompts, group: &PromptGroup, answer: &Completion) -> Value {
    let source = group.source.as_ref();
    json!({
        "step": step,
        "file": source.map(|source| &source.file),
        "row": source.map(|source| source.row),
        "prompt": prompts.text(group).map(|prompt| &prompt.text),
        "completion": answer.text,
        "reward": answer.reward,
        "kl": divergence(answer),
        "tokens": answer.token_ids.len(),
        "finish_reason": answer.finish_reason,
    })
}

/// Estimates the divergence of an answer from the reference, Σ log π − log π_ref, where there is one.
fn divergence(answer: &Completion) -> Option<f64> {
    let trajectory = answer.trajectory.as_deref().filter(|trajectory| !trajectory.reference.is_empty())?;
    let pairs = trajectory.old.iter().zip(&trajectory.reference);
    Some(pairs.map(|(old, reference)| f64::from(*old) - f64::from(*reference)).sum())
}
