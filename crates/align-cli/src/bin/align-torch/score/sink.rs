//! Where rewards go: into the output, and into figures over all rows.

use std::hash::{DefaultHasher, Hash, Hasher};

use align_cli::{Error, Result, args::ScoreArgs};
use align_core::{
    align_types::PromptGroup,
    evaluation::{PairAgreement, PairMargin, Prompts},
};
use serde_json::{Value, json};

use super::Members;
use crate::{failure, logprobs::row_number, output::Output, progress::Progress, table::Table};

/// The seed of the intervals.
const SEED: u64 = 0;

/// Takes rows with their rewards.
pub struct Sink<'a> {
    flags: &'a ScoreArgs,
    output: Option<Output>,
    progress: Progress,
    margins: Vec<PairMargin>,
    prompts: Vec<u64>,
}

/// Figures over all rows.
#[derive(Default)]
pub struct Found {
    /// How often the chosen answers of pairs have the higher reward.
    pub margins: Option<PairAgreement>,
    /// What is shown.
    pub table: Table,
}

impl<'a> Sink<'a> {
    /// Begins.
    pub fn new(flags: &'a ScoreArgs, output: Option<Output>, progress: Progress) -> Self {
        Self { flags, output, progress, margins: Vec::new(), prompts: Vec::new() }
    }

    /// Counts the rows that were there.
    pub fn kept(&self) -> usize {
        self.output.as_ref().map_or(0, Output::kept)
    }

    /// Takes the rows that were there into the figures.
    ///
    /// # Errors
    /// A file that cannot be read or lacks rewards.
    pub fn take_kept(&mut self, members: &Members) -> Result<()> {
        if !self.counts() {
            return Ok(());
        }
        let Some(output) = &self.output else { return Ok(()) };
        let (lines, rows) = (output.kept_rows()?, members.rows());
        for (line, row) in lines.zip(rows.iter()) {
            let (line, row) = (line?, row?);
            let rewards: Option<Vec<f64>> = line
                .get("rewards")
                .and_then(Value::as_array)
                .and_then(|list| list.iter().map(Value::as_f64).collect());
            let rewards = rewards.filter(|rewards| rewards.len() == row.completions.len());
            let rewards = rewards.ok_or_else(|| {
                Error::data(
                    format!("{}: the output has not the rewards of its answers", row.describe(0)),
                    ["leave --resume out to begin anew".to_owned()],
                )
            })?;
            self.count(&row, &rewards)?;
        }
        Ok(())
    }

    /// Takes rows with their rewards.
    ///
    /// # Errors
    /// Rows that are no pairs where margins are asked for; an output that cannot be written.
    pub fn take(&mut self, rows: &[PromptGroup], rewards: Vec<Vec<f64>>) -> Result<()> {
        let mut lines = Vec::with_capacity(rows.len());
        for (row, rewards) in rows.iter().zip(&rewards) {
            let mut line = json!({"row": row_number(row), "rewards": rewards});
            if let (true, Some(line)) = (self.flags.margins, line.as_object_mut()) {
                line.insert("margin".into(), json!(margin(row, rewards)?));
            }
            lines.push(line);
            if self.counts() {
                self.count(row, rewards)?;
            }
        }
        if let Some(output) = &mut self.output {
            output.append(&lines)?;
        }
        self.progress.add(rows.len());
        Ok(())
    }

    /// Gives the output its name and makes figures.
    ///
    /// # Errors
    /// An output that cannot be written.
    pub fn finish(self) -> Result<Found> {
        self.progress.finish();
        let mut found = Found::default();
        if self.flags.margins {
            let prompts = numbered(&self.prompts);
            let agreement = PairAgreement::of(&self.margins, &prompts, SEED).map_err(failure::of)?;
            found.table.title(&format!("{} pairs of {} prompts", self.margins.len(), prompts.count));
            found.table.pairs(&agreement);
            found.margins = Some(agreement);
        }
        match self.output {
            Some(output) => output.finish().map(|()| found),
            None => Ok(found),
        }
    }

    fn counts(&self) -> bool {
        self.flags.margins
    }

    fn count(&mut self, row: &PromptGroup, rewards: &[f64]) -> Result<()> {
        let lengths = row.completions.iter().map(|answer| answer.token_ids.len() as f64);
        let lengths: Vec<f64> = lengths.collect();
        let margin = margin(row, rewards)?;
        let difference = difference(&lengths).unwrap_or(0.0);
        self.margins.push(PairMargin { row: self.prompts.len(), margin, difference });
        let mut hasher = DefaultHasher::new();
        row.prompt.hash(&mut hasher);
        self.prompts.push(hasher.finish());
        Ok(())
    }
}

fn difference(pair: &[f64]) -> Option<f64> {
    let [chosen, rejected] = pair else { return None };
    Some(chosen - rejected)
}

/// The reward of the chosen answer less that of the rejected one.
fn margin(row: &PromptGroup, rewards: &[f64]) -> Result<f64> {
    check_pair(row)?;
    Ok(difference(rewards).unwrap_or(f64::NAN))
}

/// Refuses a row that is no pair.
///
/// # Errors
/// [`Error::Data`] with the row.
pub fn check_pair(row: &PromptGroup) -> Result<()> {
    if row.completions.iter().map(|answer| answer.name.as_str()).eq(["chosen", "rejected"]) {
        return Ok(());
    }
    Err(Error::data(
        format!(
            "{}: --margins are of pairs, and this row has no chosen and rejected answer",
            row.describe(0)
        ),
        ["leave --margins out; --report FILE compares the answers of rankings and labels, too".to_owned()],
    ))
}

/// Numbers prompts by their digests.
fn numbered(digests: &[u64]) -> Prompts {
    let mut known = std::collections::HashMap::new();
    let mut of_rows = Vec::with_capacity(digests.len());
    for digest in digests {
        let next = known.len();
        of_rows.push(*known.entry(*digest).or_insert(next));
    }
    Prompts { of_rows, count: known.len() }
}
