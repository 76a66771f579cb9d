//! Where rewards go: into the output, and into figures over all rows.

use std::collections::BTreeSet;

use align_cli::{Error, Result, args::ScoreArgs};
use align_core::align_types::PromptGroup;
use serde_json::{Value, json};

use super::{
    Members,
    report::{Comparisons, Known, Report},
};
use crate::{logprobs::row_number, output::Output, progress::Progress};

/// Takes rows with their rewards.
pub struct Sink<'a> {
    flags: &'a ScoreArgs,
    /// The numbers of the rows that were cut: they are marked, and no figure counts them.
    cut: &'a BTreeSet<usize>,
    output: Option<Output>,
    progress: Progress,
    /// Where something is to be said of all rows.
    comparisons: Option<Comparisons>,
    /// Every reward, where a scale is to be measured.
    rewards: Vec<f64>,
}

impl<'a> Sink<'a> {
    /// Begins.
    pub fn new(
        flags: &'a ScoreArgs,
        cut: &'a BTreeSet<usize>,
        output: Option<Output>,
        progress: Progress,
    ) -> Self {
        let compares = flags.margins || flags.trust.report.is_some();
        let comparisons = compares.then(|| Comparisons::new(&flags.trust.subset_column));
        Self { flags, cut, output, progress, comparisons, rewards: Vec::new() }
    }

    /// Takes the rows that were there into the figures.
    ///
    /// # Errors
    /// A file that cannot be read or lacks rewards.
    pub fn take_kept(&mut self, members: &Members) -> Result<()> {
        let Some(output) = self.output.as_ref().filter(|output| output.kept() > 0) else { return Ok(()) };
        if self.comparisons.is_none() && self.flags.scale.fit_normalization.is_none() {
            return Ok(());
        }
        let (lines, rows) = (output.kept_rows()?, members.rows());
        for (line, row) in lines.zip(rows.iter()) {
            let (line, row) = (line?, row?);
            let list = line.get("rewards").and_then(Value::as_array);
            let rewards: Option<Vec<f64>> = list.and_then(|list| list.iter().map(Value::as_f64).collect());
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
    /// Rows that cannot be compared where that is asked for; an output that cannot be written.
    pub fn take(&mut self, rows: &[PromptGroup], rewards: Vec<Vec<f64>>) -> Result<()> {
        let mut lines = Vec::with_capacity(rows.len());
        for (row, rewards) in rows.iter().zip(&rewards) {
            let mut line = json!({"row": row_number(row), "rewards": rewards});
            if let (true, Some(line), [chosen, rejected]) =
                (self.flags.margins, line.as_object_mut(), rewards.as_slice())
            {
                line.insert("margin".into(), json!(chosen - rejected));
            }
            if let (true, Some(line)) = (self.cut.contains(&row_number(row)), line.as_object_mut()) {
                line.insert("cut".into(), json!(true));
            }
            lines.push(line);
            self.count(row, rewards)?;
        }
        if let Some(output) = &mut self.output {
            output.append(&lines)?;
        }
        self.progress.add(rows.len());
        Ok(())
    }

    fn count(&mut self, row: &PromptGroup, rewards: &[f64]) -> Result<()> {
        if self.cut.contains(&row_number(row)) {
            return Ok(());
        }
        if self.flags.scale.fit_normalization.is_some() {
            self.rewards.extend(rewards);
        }
        self.comparisons.as_mut().map_or(Ok(()), |comparisons| comparisons.take(row, rewards))
    }

    /// Gives the output its name, and returns what is to be said of all rows, and all rewards where a scale is to be
    /// measured.
    ///
    /// # Errors
    /// An output that cannot be written; rows that say nothing.
    pub fn finish(self) -> Result<(Option<Report>, Vec<f64>)> {
        self.progress.finish();
        if let Some(output) = self.output {
            output.finish()?;
        }
        Ok((self.comparisons.map(Comparisons::report).transpose()?, self.rewards))
    }
}

/// Refuses a row that what is asked for cannot be said of.
///
/// # Errors
/// [`Error::Data`] with the row.
pub fn check_row(flags: &ScoreArgs, row: &PromptGroup) -> Result<()> {
    let known = Known::of(row);
    if flags.margins && known != Some(Known::Pairs) {
        let what = "--margins are of pairs, and this row has no chosen and rejected answer";
        return Err(Error::data(
            format!("{}: {what}", row.describe(0)),
            ["--report FILE compares the answers of rankings and labels, too".to_owned()],
        ));
    }
    match flags.trust.report.is_some() && known.is_none() {
        true => Err(super::report::unknown(row)),
        false => Ok(()),
    }
}
