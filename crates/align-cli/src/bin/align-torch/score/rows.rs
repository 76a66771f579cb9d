//! The rows that are scored.

use std::{collections::BTreeSet, path::Path};

use align_cli::{Error, Result, args::ScoreArgs, talk};
use align_core::align_types::{FinishReason, PromptGroup, TokenId};
use align_data::{Kind, Rows, store_rows};

use super::sink::check_row;
use crate::{
    logprobs::{refused, row_number},
    reward_model::Scorer,
};

/// Every kind of row that has answers.
const KINDS: &[Kind] = &[
    Kind::Language,
    Kind::PromptCompletion,
    Kind::Preference,
    Kind::Unpaired,
    Kind::Scored,
    Kind::Ranking,
    Kind::Answers,
];

/// What was read.
pub struct Reading {
    /// The number of each row in its file.
    pub numbers: Vec<usize>,
    /// Answers of each row.
    pub answers: Vec<usize>,
    /// Rows that are bad and were skipped.
    pub bad: usize,
    /// The numbers of the rows that were cut.
    pub cut: BTreeSet<usize>,
    /// Rows that left no room for an answer.
    pub dropped: usize,
    /// Sampled answers that ended at the limit of tokens.
    pub unfinished: usize,
    /// Answers that end with the token that pads, so that their rewards are read before it.
    pub padded: usize,
}

impl Reading {
    /// Reads the rows with the tokens of a model, into a file in `folder`.
    ///
    /// # Errors
    /// Rows that cannot be read; a row over the context where nothing is to be cut; a disk that fails.
    pub fn of(flags: &ScoreArgs, scorer: &Scorer, folder: &Path) -> Result<(Rows, Self)> {
        let model = scorer.folder();
        let (store, report) = store_rows(
            folder,
            std::slice::from_ref(&flags.data),
            KINDS,
            &model.tokenizer,
            model.template.as_ref(),
            &flags.data_config(Some(scorer.context())),
        )
        .map_err(refused)?;
        let rows = Rows::from(store);
        let mut reading = Self {
            numbers: Vec::with_capacity(rows.len()),
            answers: Vec::with_capacity(rows.len()),
            bad: report.bad_count,
            cut: BTreeSet::new(),
            dropped: report.dropped_no_room,
            unfinished: 0,
            padded: 0,
        };
        for place in report.cut_rows {
            reading.cut.insert(row_number(&rows.get(place)?));
        }
        let pad = scorer.pad_token_id();
        for row in rows.iter() {
            let row = row?;
            check_row(flags, &row)?;
            reading.numbers.push(row_number(&row));
            reading.answers.push(row.completions.len());
            reading.unfinished += unfinished(&row);
            reading.padded += pad.map_or(0, |pad| ending_with(pad, &row));
        }
        Ok((rows, reading))
    }

    /// Refuses to say of cut answers how good the model is, or which scale it has.
    ///
    /// # Errors
    /// [`Error::Usage`] names the flag.
    pub fn refuse_cut(&self, flags: &ScoreArgs) -> Result<()> {
        let flag = match () {
            () if self.cut.is_empty() => return Ok(()),
            () if flags.scale.fit_normalization.is_some() => "--fit-normalization",
            () if flags.trust.report.is_some() => "--report",
            // A margin of each row may still be wanted where some are cut; the figures are of the others.
            () if flags.margins && self.cut.len() == self.numbers.len() => "--margins",
            () => return Ok(()),
        };
        Err(Error::usage(
            format!(
                "{flag}: --max-length cuts {} rows of {}, and the rewards of cut answers are those of others",
                self.cut.len(),
                flags.data.display()
            ),
            ["leave --max-length out, and rows over the model's context out of the file".to_owned()],
        ))
    }

    /// Says what a user should know of the rows.
    pub fn tell(&self, flags: &ScoreArgs) {
        let file = flags.data.display();
        if self.bad > 0 {
            talk::warn(&format!("{file}: {} rows are bad and were skipped", self.bad));
        }
        if self.cut.len() + self.dropped > 0 {
            talk::warn(&format!(
                "--max-length: {} rows were cut, so that their rewards are those of unfinished answers: they have \
                 \"cut\": true, and no figure counts them; {} left no room for an answer and were dropped",
                self.cut.len(),
                self.dropped
            ));
        }
        if self.padded > 0 {
            talk::warn(&format!(
                "{file}: {} answers end with the model's pad_token_id, so that their rewards are read at the token \
                 before it, as in transformers; config.json of a reward model names a token with which no answer ends",
                self.padded
            ));
        }
        if self.unfinished > 0 {
            talk::warn(&format!(
                "{file}: {} answers ended at their token limit and are scored as if they had ended there",
                self.unfinished
            ));
        }
    }
}

fn ending_with(token: TokenId, row: &PromptGroup) -> usize {
    row.completions.iter().filter(|answer| answer.token_ids.last() == Some(&token)).count()
}

fn unfinished(row: &PromptGroup) -> usize {
    row.completions.iter().filter(|answer| answer.finish_reason == Some(FinishReason::Length)).count()
}
