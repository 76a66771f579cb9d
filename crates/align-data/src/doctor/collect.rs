//! What is noted of each row as it comes by.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

use align_types::{PromptGroup, Source};

use super::{Bin, Cuts, FileFindings, Labels, Overlap, Repeat, Scores, Shown, Trouble};
use crate::{
    DataConfig, DataReport, Result,
    loader::Sink,
    report::{all_tied, identical_answers},
    tokenise::{Encoded, Fit, fit},
};

/// Rows by a hash of their tokens: one in 10^19 pairs of different rows has the same.
#[derive(Debug, Default)]
pub(super) struct Known {
    files: Vec<PathBuf>,
    rows: HashMap<u64, (usize, usize)>,
    prompts: HashMap<u64, (usize, usize)>,
    /// The rows that are trained on, where these are evaluated on.
    trained: Option<Box<Known>>,
    pub overlap: Overlap,
}

impl Known {
    /// Begins anew for rows to evaluate on.
    pub(super) fn evaluated(self) -> Self {
        Self { trained: Some(Box::new(self)), ..Self::default() }
    }

    fn place(&self, (file, row): (usize, usize)) -> Option<Source> {
        Some(Source { file: self.files.get(file)?.clone(), row })
    }

    /// Notes a row, and returns the earlier one that is the same.
    fn note(&mut self, group: &PromptGroup, language: bool) -> Option<Repeat> {
        let row = group.source.clone()?;
        let answers: Vec<_> = group.completions.iter().map(|answer| &answer.token_ids).collect();
        let whole = hash(&(&group.prompt, answers));
        // A text has no prompt of its own, and prompts alone are whole rows already.
        let prompt = (!language && !group.completions.is_empty()).then(|| hash(&group.prompt));
        if let Some(trained) = &self.trained {
            let find = |map: &HashMap<_, _>, key| map.get(&key).and_then(|at| trained.place(*at));
            if let Some(of) = find(&trained.rows, whole) {
                self.overlap.rows.push(Repeat { row: row.clone(), of });
            } else if let Some(of) = prompt.and_then(|key| find(&trained.prompts, key)) {
                self.overlap.prompts.push(Repeat { row: row.clone(), of });
            }
        }
        let at = (self.files.len().saturating_sub(1), row.row);
        if let Some(prompt) = prompt {
            self.prompts.entry(prompt).or_insert(at);
        }
        match self.rows.insert(whole, at) {
            None => None,
            Some(first) => {
                self.rows.insert(whole, first);
                Some(Repeat { row, of: self.place(first)? })
            }
        }
    }
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Collects the findings of one file.
pub(super) struct Collector<'a> {
    path: &'a Path,
    limits: Option<&'a DataConfig>,
    known: &'a mut Known,
    bins: Vec<usize>,
    cuts: Cuts,
    identical: Vec<usize>,
    tied: Vec<usize>,
    duplicates: Vec<Repeat>,
    labels: Labels,
    scores: Option<Scores>,
    first: Vec<PromptGroup>,
}

/// Rows kept to be shown; more are never asked for.
const KEPT: usize = 16;

impl<'a> Collector<'a> {
    pub(super) fn new(path: &'a Path, limits: Option<&'a DataConfig>, known: &'a mut Known) -> Self {
        known.files.push(path.into());
        Self {
            path,
            limits,
            known,
            bins: vec![],
            cuts: Cuts::default(),
            identical: vec![],
            tied: vec![],
            duplicates: vec![],
            labels: Labels::default(),
            scores: None,
            first: vec![],
        }
    }

    /// Counts what the limits would do to a row.
    fn cut(&mut self, group: &PromptGroup, language: bool, limits: &DataConfig) {
        let mut row = PromptGroup::new(group.prompt.clone(), group.completions.clone());
        match fit(&mut row, language, limits) {
            Fit::Whole => {}
            Fit::Cut => {
                self.cuts.cut += 1;
                self.cuts.tokens += group.flat_tokens().saturating_sub(row.flat_tokens());
            }
            Fit::NoRoom => self.cuts.dropped += 1,
            Fit::TooLong(..) => self.cuts.refused += 1,
        }
    }

    fn score(&mut self, score: f64) {
        let Scores { count, min, mean, max } =
            self.scores.unwrap_or(Scores { count: 0, min: score, mean: 0.0, max: score });
        let count = count + 1;
        let mean = mean + (score - mean) / count as f64;
        self.scores = Some(Scores { count, min: min.min(score), mean, max: max.max(score) });
    }

    fn histogram(&self) -> Vec<Bin> {
        let bin = |(power, rows): (usize, &usize)| Bin { from: 1 << power, below: 2 << power, rows: *rows };
        self.bins.iter().enumerate().map(bin).skip_while(|bin| bin.rows == 0).collect()
    }

    pub(super) fn finish(
        self,
        trouble: Option<Trouble>,
        serves: Option<String>,
        report: DataReport,
        show: impl FnOnce(&[PromptGroup]) -> Vec<Shown>,
        shown: usize,
    ) -> FileFindings {
        let limits = self.limits.filter(|l| l.max_length.is_some() || l.max_prompt_length.is_some());
        FileFindings {
            path: self.path.into(),
            trouble,
            serves,
            report,
            histogram: self.histogram(),
            cuts: limits.map(|limits| Cuts {
                max_length: limits.max_length,
                max_prompt_length: limits.max_prompt_length,
                ..self.cuts
            }),
            examples: show(self.first.get(..shown.min(self.first.len())).unwrap_or_default()),
            identical_answers: self.identical,
            all_tied: self.tied,
            duplicates: self.duplicates,
            labels: (self.labels != Labels::default()).then_some(self.labels),
            scores: self.scores,
        }
    }
}

impl Sink for Collector<'_> {
    fn push(&mut self, row: Encoded) -> Result<()> {
        let Encoded { group, language, .. } = row;
        let answers = &group.completions;
        let longest = answers.iter().map(|answer| answer.token_ids.len()).max().unwrap_or(0);
        let bin = (group.prompt.len() + longest).max(1).ilog2() as usize;
        self.bins.resize(self.bins.len().max(bin + 1), 0);
        if let Some(count) = self.bins.get_mut(bin) {
            *count += 1;
        }
        if let Some(limits) = self.limits {
            self.cut(&group, language, limits);
        }
        let number = group.source.as_ref().map_or(0, |source| source.row);
        if identical_answers(&group) {
            self.identical.push(number);
        }
        if all_tied(&group) {
            self.tied.push(number);
        }
        for answer in answers {
            match answer.label {
                Some(true) => self.labels.good += 1,
                Some(false) => self.labels.bad += 1,
                None => {}
            }
            if let Some(score) = answer.reward {
                self.score(score);
            }
        }
        self.duplicates.extend(self.known.note(&group, language));
        if self.first.len() < KEPT {
            self.first.push(group);
        }
        Ok(())
    }
}
