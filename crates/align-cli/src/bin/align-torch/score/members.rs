//! The models that make a reward: one, or several that have a scale in common.

use std::{ops::Range, path::PathBuf};

use align_cli::{Error, Result, args::ScoreArgs};
use align_core::{align_types::PromptGroup, tch::Device};
use align_data::Rows;
use align_rm::{EnsembleMember, EnsembleRule, RewardNormalization, combine_scores};

use super::{Reading, waiting_room};
use crate::{
    failure,
    reward_model::{self, Machine, Scorer},
    scale,
};

/// A model with the rows in its own tokens.
struct Member {
    scorer: Scorer,
    rows: Rows,
}

/// All models.
pub struct Members {
    list: Vec<Member>,
    scales: Scales,
}

impl Members {
    /// Loads the models.
    ///
    /// # Errors
    /// A folder that is no reward model, or has no scale where one is needed; scales that have nothing in common.
    pub fn load(flags: &ScoreArgs, device: Device) -> Result<Self> {
        let adapter = flags.machine.adapter.as_deref();
        // Before the weights, which take longer.
        let scales = Scales::of(flags)?;
        let load = |folder: &PathBuf| {
            let machine =
                Machine { flags: &flags.machine, device, micro_batch_tokens: flags.micro_batch_tokens };
            let scorer = Scorer::load(folder, adapter, machine)?;
            Ok(Member { scorer, rows: Rows::from(Vec::new()) })
        };
        Ok(Self { list: flags.model.iter().map(load).collect::<Result<_>>()?, scales })
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
            match &mut first {
                None => first = Some(reading),
                Some(known) if known.numbers == reading.numbers && known.answers == reading.answers => {
                    // A reward of several models is that of a cut answer where one of them saw it cut.
                    known.cut.extend(reading.cut);
                    known.padded = known.padded.max(reading.padded);
                }
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
        go_on: impl Fn() -> Result<()> + Sync,
        mut done: impl FnMut(&[PromptGroup], Vec<Vec<f64>>) -> Result<()>,
    ) -> Result<()> {
        let Self { list, scales } = self;
        let Some((first, others)) = list.split_first_mut() else { return Ok(()) };
        let mut theirs: Vec<Vec<Vec<f64>>> = Vec::with_capacity(others.len());
        for member in others {
            let rows = member.rows.part(window.clone()).into_vec()?;
            theirs.push(member.scorer.all(&rows, &go_on)?);
        }
        let rows = first.rows.part(window).into_vec()?;
        first.scorer.each(&rows, kept, &go_on, |batch, raw| {
            let new = kept.saturating_sub(batch.start).min(raw.len());
            let batch = batch.start + new..batch.end;
            let mut rewards = Vec::with_capacity(batch.len());
            for (index, raw) in batch.clone().zip(raw.into_iter().skip(new)) {
                let of_others = theirs.iter().map(|list| list.get(index).cloned().unwrap_or_default());
                rewards.push(scales.bring(std::iter::once(raw).chain(of_others).collect())?);
            }
            done(rows.get(batch).unwrap_or_default(), rewards)
        })
    }
}

/// What raw rewards become.
struct Scales {
    /// Name and scale of each model; no scales where rewards stay raw.
    list: Vec<(String, Option<RewardNormalization>)>,
    rule: Option<EnsembleRule>,
}

impl Scales {
    fn of(flags: &ScoreArgs) -> Result<Self> {
        let adapter = flags.machine.adapter.as_deref();
        let read = |folder: &PathBuf| {
            let normalize = flags.scale.normalize;
            let scale = normalize.then(|| scale::read(folder, adapter)).transpose()?;
            Ok((folder.display().to_string(), scale))
        };
        let scales = Self {
            list: flags.model.iter().map(read).collect::<Result<_>>()?,
            rule: reward_model::rule(&flags.scale.several),
        };
        // What has no scale in common is known before anything is scored.
        scales.bring(vec![Vec::new(); scales.list.len()])?;
        Ok(scales)
    }

    /// Makes the rewards of some answers of those of each model.
    fn bring(&self, raw: Vec<Vec<f64>>) -> Result<Vec<f64>> {
        if let Some(rule) = self.rule {
            let members = self.list.iter().zip(&raw).map(|((name, scale), scores)| EnsembleMember {
                name,
                scores,
                normalization: scale.as_ref(),
            });
            return combine_scores(&members.collect::<Vec<_>>(), rule).map_err(failure::of);
        }
        let scale = self.list.first().and_then(|(_, scale)| scale.as_ref());
        let brought = |raw: f64| match scale.map_or(raw, |scale| scale.apply(raw)) {
            score if score.is_finite() => Ok(score),
            score => Err(Error::data(
                format!("the reward {raw} is {score} on the scale of --normalize"),
                ["measure the scale anew with --fit-normalization".to_owned()],
            )),
        };
        raw.into_iter().flatten().map(brought).collect()
    }
}
