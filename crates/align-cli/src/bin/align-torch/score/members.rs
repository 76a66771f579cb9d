//! The models that make a reward: one, or several that have a scale in common.

use std::ops::Range;

use align_cli::{Error, Result, args::ScoreArgs};
use align_core::{align_types::PromptGroup, tch::Device};
use align_data::Rows;

use super::{Reading, waiting_room};
use crate::reward_model::Scorer;

/// A model with the rows in its own tokens.
struct Member {
    scorer: Scorer,
    rows: Rows,
}

/// All models.
pub struct Members {
    list: Vec<Member>,
}

impl Members {
    /// Loads the models.
    ///
    /// # Errors
    /// A folder that is no reward model.
    pub fn load(flags: &ScoreArgs, device: Device) -> Result<Self> {
        if let Some(adapter) = &flags.machine.adapter {
            return Err(Error::usage(
                format!("--adapter {}: reward models are scored whole", adapter.display()),
                [],
            ));
        }
        let load = |folder| {
            let scorer = Scorer::load(folder, &flags.machine, device, flags.micro_batch_tokens)?;
            Ok(Member { scorer, rows: Rows::from(Vec::new()) })
        };
        Ok(Self { list: flags.model.iter().map(|folder| load(folder)).collect::<Result<_>>()? })
    }

    /// Reads the rows for every model.
    ///
    /// # Errors
    /// As [`Reading::of`]; models that do not keep the same rows.
    pub fn read(&mut self, flags: &ScoreArgs) -> Result<Reading> {
        let folder = waiting_room(flags);
        let mut first: Option<Reading> = None;
        for member in &mut self.list {
            let (rows, reading) = Reading::of(flags, &member.scorer, &folder)?;
            member.rows = rows;
            match &first {
                None => first = Some(reading),
                Some(known) if known.numbers == reading.numbers && known.answers == reading.answers => {}
                Some(known) => {
                    let (path, rows) = (member.scorer.path().display(), reading.numbers.len());
                    return Err(Error::data(
                        format!("{path} keeps {rows} rows, the first model {}", known.numbers.len()),
                        ["raise --max-length, so that no row is dropped".to_owned()],
                    ));
                }
            }
        }
        first.ok_or_else(|| Error::usage("--model DIR is missing", []))
    }

    /// Returns the rows in the tokens of the first model.
    pub fn rows(&self) -> Rows {
        self.list.first().map_or_else(|| Rows::from(Vec::new()), |member| member.rows.clone())
    }

    /// Scores a window of the rows, and hands on rows with their rewards in order; the first `kept` of them are left
    /// out.
    ///
    /// # Errors
    /// The models fail; a score that is not finite; those of `go_on` and `done`.
    pub fn score(
        &mut self,
        window: Range<usize>,
        kept: usize,
        go_on: impl Fn() -> Result<()>,
        mut done: impl FnMut(&[PromptGroup], Vec<Vec<f64>>) -> Result<()>,
    ) -> Result<()> {
        let Some((last, others)) = self.list.split_last_mut() else { return Ok(()) };
        let mut earlier: Vec<Vec<Vec<f64>>> = Vec::with_capacity(others.len());
        for member in others {
            let rows = member.rows.part(window.clone()).into_vec()?;
            earlier.push(member.scorer.all(&rows, &go_on)?);
        }
        let rows = last.rows.part(window).into_vec()?;
        last.scorer.each(&rows, kept, &go_on, |batch, rewards| {
            let new = kept.saturating_sub(batch.start).min(rewards.len());
            let rewards = rewards.into_iter().skip(new).collect();
            done(rows.get(batch.start + new..batch.end).unwrap_or_default(), rewards)
        })
    }
}
