use std::{collections::BTreeMap, path::PathBuf};

use align_types::{PromptGroup, Source};
use serde::{Deserialize, Serialize};

use crate::format::Format;

/// How many bad rows a report shows; the others are counted.
pub(crate) const SHOWN: usize = 10;

/// A row that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Where the row is.
    pub source: Source,
    /// What is wrong with it, and what to do where that is not plain.
    pub problem: String,
}

impl std::fmt::Display for BadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.source, self.problem)
    }
}

/// What was found in one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// The layout of its rows.
    pub format: Format,
    /// Whether the rows hold message lists rather than text.
    pub conversational: bool,
    /// Rows read, bad ones included.
    pub rows: usize,
    /// Bad rows among them.
    #[serde(default)]
    pub bad: usize,
    /// The first of these.
    #[serde(default)]
    pub first_bad: Option<BadRow>,
    /// Rows returned.
    #[serde(default)]
    pub kept: usize,
}

/// Distribution of a length in tokens over the kept rows or answers; all 0 where there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LengthStats {
    /// How many were measured.
    pub count: usize,
    /// The shortest.
    pub min: usize,
    /// The arithmetic mean.
    pub mean: f64,
    /// The median (the upper one of an even number).
    pub median: usize,
    /// The 95th percentile (nearest rank).
    pub p95: usize,
    /// The longest.
    pub max: usize,
}

impl LengthStats {
    /// Measures a list of lengths.
    pub fn of(mut lengths: Vec<usize>) -> Self {
        lengths.sort_unstable();
        let count = lengths.len();
        let at = |index: usize| lengths.get(index.min(count.saturating_sub(1))).copied().unwrap_or(0);
        let sum: usize = lengths.iter().sum();
        Self {
            count,
            min: at(0),
            mean: if count == 0 { 0.0 } else { sum as f64 / count as f64 },
            median: at(count / 2),
            p95: at((count * 95).div_ceil(100).saturating_sub(1)),
            max: at(count.saturating_sub(1)),
        }
    }
}

/// Lengths in tokens after cutting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// Prompts.
    pub prompt: LengthStats,
    /// Single answers.
    pub completion: LengthStats,
    /// A prompt with its longest answer.
    pub total: LengthStats,
}

impl Lengths {
    /// Measures prompt groups.
    pub fn of(groups: &[PromptGroup]) -> Self {
        let mut lists = LengthLists::default();
        groups.iter().for_each(|group| lists.add(group));
        lists.finish()
    }
}

/// How often each length occurs, in bins of equal width that begin at 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthBins {
    /// Lengths in one bin: 1, 2 or 5 times a power of ten.
    pub width: usize,
    /// How many lengths are in each bin; bin `i` holds those from `i * width` to below `(i + 1) * width`.
    pub counts: Vec<usize>,
}

impl LengthBins {
    /// Most bins.
    const MOST: usize = 40;

    /// Counts a list of lengths.
    pub fn of(lengths: &[usize]) -> Self {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut widths = (0u32..).flat_map(|power| [1, 2, 5].map(|m| m * 10usize.saturating_pow(power)));
        let width = widths.find(|width| longest / width < Self::MOST).unwrap_or(usize::MAX);
        let mut counts = vec![0; if lengths.is_empty() { 0 } else { longest / width + 1 }];
        for length in lengths {
            if let Some(count) = counts.get_mut(length / width) {
                *count += 1;
            }
        }
        Self { width, counts }
    }
}

/// Lengths of rows that need not be kept.
#[derive(Debug, Default)]
pub(crate) struct LengthLists {
    prompt: Vec<usize>,
    completion: Vec<usize>,
    total: Vec<usize>,
    /// Those of the answers again, by what the data call them.
    named: BTreeMap<String, Vec<usize>>,
}

impl LengthLists {
    pub(crate) fn add(&mut self, group: &PromptGroup) {
        let answers = group.completions.iter().map(|c| c.token_ids.len());
        self.prompt.push(group.prompt.len());
        self.total.push(group.prompt.len() + answers.clone().max().unwrap_or(0));
        self.completion.extend(answers);
        for answer in &group.completions {
            let name = if answer.name.is_empty() { "completion" } else { &answer.name };
            match self.named.get_mut(name) {
                Some(lengths) => lengths.push(answer.token_ids.len()),
                None => {
                    self.named.insert(name.to_owned(), vec![answer.token_ids.len()]);
                }
            }
        }
    }

    /// Counts the lengths of answers by what the data call them.
    pub(crate) fn bins(&self) -> BTreeMap<String, LengthBins> {
        self.named.iter().map(|(name, lengths)| (name.clone(), LengthBins::of(lengths))).collect()
    }

    pub(crate) fn finish(self) -> Lengths {
        Lengths {
            prompt: LengthStats::of(self.prompt),
            completion: LengthStats::of(self.completion),
            total: LengthStats::of(self.total),
        }
    }
}

/// Tells whether a row has several answers that are all the same tokens.
pub(crate) fn identical_answers(group: &PromptGroup) -> bool {
    let answers = &group.completions;
    let mut neighbours = answers.iter().zip(answers.iter().skip(1));
    answers.len() > 1 && neighbours.all(|(a, b)| a.token_ids == b.token_ids)
}

/// Tells whether a row has several answers that all have the same rank.
pub(crate) fn all_tied(group: &PromptGroup) -> bool {
    let mut ranks = group.completions.iter().map(|answer| answer.rank);
    let first = ranks.next().flatten();
    group.completions.len() > 1 && first.is_some() && ranks.all(|rank| rank == first)
}

/// Something that happened to several rows, with the first of them as an example.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// How many rows.
    pub count: usize,
    /// The first of them, with `file:row` and what happened there.
    pub example: Option<String>,
}

impl Counted {
    pub(crate) fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        self.example.get_or_insert_with(example);
    }
}

/// What happened to the rows on the way to token ids.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataReport {
    /// The files and what their rows are.
    pub files: Vec<FileReport>,
    /// Rows read, bad ones included.
    pub rows: usize,
    /// Rows returned.
    pub kept: usize,
    /// Bad rows.
    pub bad_count: usize,
    /// The first ten bad rows; the doctor lists more.
    pub bad: Vec<BadRow>,
    /// Kept rows that lost tokens to `max_length` or `max_prompt_length`.
    pub cut: usize,
    /// Their places among the kept rows, from 0; not written anywhere.
    #[serde(skip)]
    pub cut_rows: Vec<usize>,
    /// Rows dropped because the limits left no token to train on: no room behind the prompt, or none that is marked.
    pub dropped_no_room: usize,
    /// Rows over a limit that were dropped whole, because nothing may be cut.
    #[serde(default)]
    pub dropped_too_long: Counted,
    /// Rows whose answer starts inside the prompt, because tokens merge over the boundary or the chat template
    /// writes the prompt differently when an answer follows.
    pub merged_boundary: Counted,
    /// Rows with an answer that has no end-of-sequence token, before anything is cut: the model does not learn to
    /// stop from it. Answers that lose theirs to the limits are among `cut`.
    pub without_eos: Counted,
    /// Kept rows whose answers are all the same tokens, perhaps after cutting: nothing is learned from a pair of them.
    pub identical_answers: Counted,
    /// Kept rankings whose answers all have the same rank: they compare nothing.
    #[serde(default)]
    pub all_tied: Counted,
    /// Columns that nothing reads; they travel along in `PromptGroup::columns`.
    pub ignored_columns: Vec<String>,
    /// How the rows were read where that is not plain from their columns.
    pub notices: Vec<String>,
    /// Lengths in tokens of what was kept.
    pub lengths: Lengths,
    /// How the lengths of kept answers are distributed, by what the data call them: chosen, rejected, completion.
    #[serde(default)]
    pub answer_lengths: BTreeMap<String, LengthBins>,
}

impl DataReport {
    /// Counts a bad row, and keeps it if it is among the first `shown`.
    pub(crate) fn add_bad(&mut self, bad: BadRow, shown: usize) {
        self.bad_count += 1;
        if self.bad.len() < shown {
            self.bad.push(bad);
        }
    }

    pub(crate) fn notice(&mut self, text: String) {
        if !self.notices.contains(&text) {
            self.notices.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_measured() {
        let stats = LengthStats::of((1..=100).rev().collect());
        assert_eq!((stats.count, stats.min, stats.median, stats.p95, stats.max), (100, 1, 51, 95, 100));
        assert_eq!(stats.mean, 50.5);
        assert_eq!(LengthStats::of(vec![]), LengthStats::default());
        assert_eq!(LengthStats::of(vec![7]).p95, 7);
    }

    #[test]
    fn lengths_are_counted_in_round_bins() {
        let bins = LengthBins::of(&[0, 4, 5, 9, 10, 199]);
        assert_eq!(bins.width, 5, "199 / 5 is the last of 40 bins, and 199 / 2 is beyond them");
        assert_eq!((bins.counts.len(), bins.counts.iter().sum::<usize>()), (40, 6));
        assert_eq!(bins.counts.get(..3), Some([2, 2, 1].as_slice()));
        assert_eq!(LengthBins::of(&[]), LengthBins { width: 1, counts: vec![] });
        assert_eq!(LengthBins::of(&[usize::MAX]).counts.iter().sum::<usize>(), 1);
    }

    #[test]
    fn answers_are_counted_by_their_names() {
        use align_types::Completion;
        let answers = vec![Completion::named("chosen", vec![1; 3]), Completion::new(vec![1])];
        let mut lists = LengthLists::default();
        lists.add(&PromptGroup::new(vec![1], answers));
        let bins = lists.bins();
        assert_eq!(bins.keys().collect::<Vec<_>>(), ["chosen", "completion"]);
        assert_eq!(bins["chosen"].counts, [0, 0, 0, 1]);
    }
}
