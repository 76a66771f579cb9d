use std::ops::Range;

use align_types::{Completion, PromptGroup};
use tch::{Device, Kind, Tensor};

use crate::{Error, Result};

/// Where one prompt group lies in the flat stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpan {
    /// First row of the group in the stream.
    pub start: usize,
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// Tokens of each completion.
    pub completion_lens: Vec<usize>,
}

impl GroupSpan {
    /// Counts the rows of the group.
    pub fn len(&self) -> usize {
        self.prompt_len + self.completion_lens.iter().sum::<usize>()
    }

    /// Says whether the group has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says whether attention inside the group is plainly causal: one completion, no siblings to hide.
    pub fn is_causal(&self) -> bool {
        self.completion_lens.len() <= 1
    }

    /// Returns the rows of each completion relative to the start of the group.
    pub fn completions(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.completion_lens.iter().scan(self.prompt_len, |next, len| {
            let start = *next;
            *next += len;
            Some(start..*next)
        })
    }

    /// Builds the tree mask of the group, `[L, L]`, `true` where the row may attend to the column.
    ///
    /// A prompt token sees the prompt up to itself; a completion token sees the whole prompt and its own
    /// completion up to itself, never a sibling.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn tree_mask(&self, device: Device) -> Result<Tensor> {
        let rows = self.len();
        let mut allowed = vec![false; rows * rows];
        let mut allow = |row: usize, columns: Range<usize>| {
            if let Some(line) = allowed.get_mut(row * rows..(row + 1) * rows) {
                line[columns].fill(true);
            }
        };
        (0..self.prompt_len).for_each(|row| allow(row, 0..row + 1));
        for span in self.completions() {
            for row in span.clone() {
                allow(row, 0..self.prompt_len);
                allow(row, span.start..row + 1);
            }
        }
        let size = [rows as i64, rows as i64];
        Ok(Tensor::f_from_slice(&allowed)?.f_reshape(size)?.f_to_device(device)?)
    }
}

/// Prompt groups laid out as one flat stream of tokens, without padding.
///
/// For each group the prompt's tokens come first, then completion 0, completion 1, … Positions of every
/// completion continue from the prompt's length, so the maths is that of separate rows while each prompt is
/// computed once however many completions it has. Only tokens that are trained on
/// ([`Completion::trained`]) are predicted: the lists of length N and the counts of [`Self::completion_lens`]
/// leave the others out.
///
/// ```
/// use align_core::{PackedBatch, align_types::{Completion, PromptGroup}};
///
/// let group = PromptGroup::new(vec![10, 11], vec![Completion::new(vec![20, 21]), Completion::new(vec![30])]);
/// let batch = PackedBatch::new(&[group])?;
/// assert_eq!(batch.ids(), [10, 11, 20, 21, 30]);
/// assert_eq!(batch.positions(), [0, 1, 2, 3, 2]);
/// // The row that predicts each completion token: the prompt's last row is used once per completion.
/// assert_eq!(batch.predict_rows(), [1, 2, 1]);
/// assert_eq!(batch.targets(), [20, 21, 30]);
/// # Ok::<(), align_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackedBatch {
    ids: Vec<i64>,
    positions: Vec<i64>,
    groups: Vec<GroupSpan>,
    predict_rows: Vec<i64>,
    targets: Vec<i64>,
    offsets: Vec<usize>,
    completion_lens: Vec<usize>,
}

impl PackedBatch {
    /// Lays the groups out in their order.
    ///
    /// # Errors
    /// [`Error::Input`] names the group that has no prompt token (nothing would predict the first token of
    /// its completions), no completion, an empty completion, or one of which no token is trained on.
    pub fn new(groups: &[PromptGroup]) -> Result<Self> {
        let mut batch = Self::default();
        for (index, group) in groups.iter().enumerate() {
            batch.push(group).map_err(|why| Error::input(group.describe(index), why))?;
        }
        Ok(batch)
    }

    fn push(&mut self, group: &PromptGroup) -> Result<(), &'static str> {
        if group.prompt.is_empty() {
            return Err("the prompt has no token, so nothing predicts the first token of the completion");
        }
        if group.completions.is_empty() {
            return Err("the group has no completion");
        }
        if group.completions.iter().any(|c| c.token_ids.is_empty()) {
            return Err("a completion has no token");
        }
        group.completions.iter().try_for_each(check_trained)?;
        let start = self.ids.len();
        let prompt_len = group.prompt.len();
        self.ids.extend(group.prompt.iter().map(|id| i64::from(*id)));
        self.positions.extend(0..prompt_len as i64);
        for completion in &group.completions {
            let first = self.ids.len();
            let len = completion.token_ids.len();
            self.ids.extend(completion.token_ids.iter().map(|id| i64::from(*id)));
            self.positions.extend(prompt_len as i64..(prompt_len + len) as i64);
            for offset in completion.trained_ranges().flatten() {
                // The first token follows the prompt, which lies before all completions.
                let row = if offset == 0 { start + prompt_len } else { first + offset };
                self.predict_rows.push(row as i64 - 1);
                self.offsets.push(offset);
            }
            let targets = completion.trained_ranges().filter_map(|range| completion.token_ids.get(range));
            self.targets.extend(targets.flatten().map(|id| i64::from(*id)));
            self.completion_lens.push(completion.trained_tokens());
        }
        let completion_lens = group.completions.iter().map(|c| c.token_ids.len()).collect();
        self.groups.push(GroupSpan { start, prompt_len, completion_lens });
        Ok(())
    }

    /// Returns the tokens of the stream, `[T]`.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// Returns the position of each token inside its own sequence, `[T]`.
    pub fn positions(&self) -> &[i64] {
        &self.positions
    }

    /// Returns where each group lies.
    pub fn groups(&self) -> &[GroupSpan] {
        &self.groups
    }

    /// Returns the row of the stream that predicts each trained token, `[N]`.
    pub fn predict_rows(&self) -> &[i64] {
        &self.predict_rows
    }

    /// Returns the row of the last token of every completion, `[C]`: the row that would predict what follows it.
    pub fn last_rows(&self) -> Vec<i64> {
        let last = |span: &GroupSpan| -> Vec<i64> {
            span.completions().map(|rows| (span.start + rows.end) as i64 - 1).collect()
        };
        self.groups.iter().flat_map(last).collect()
    }

    /// Returns the trained tokens, `[N]`, in the order of [`Self::predict_rows`].
    pub fn targets(&self) -> &[i64] {
        &self.targets
    }

    /// Returns the place of each trained token in its completion, `[N]`, from 0.
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Returns the number of trained tokens of every completion, over all groups in order, `[C]`.
    ///
    /// That is all its tokens unless [`Completion::trained`] says otherwise; the rows that a completion has in
    /// the stream are in [`GroupSpan::completion_lens`].
    pub fn completion_lens(&self) -> &[usize] {
        &self.completion_lens
    }

    /// Counts the tokens of the stream.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Returns the longest position + 1: the context length that the batch needs.
    pub fn longest(&self) -> usize {
        self.positions.iter().max().map_or(0, |p| *p as usize + 1)
    }

    /// Checks that every token lies in the vocabulary.
    ///
    /// # Errors
    /// [`Error::Input`] with the first token that does not.
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<()> {
        match self.ids.iter().find(|id| **id >= vocab_size as i64) {
            None => Ok(()),
            Some(id) => Err(Error::input(
                format!("token {id}"),
                format!(
                    "the model's vocabulary has {vocab_size} tokens; tokenizer and model do not belong together"
                ),
            )),
        }
    }

    /// Copies an index list of the batch to a device as int64.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn index_tensor(indices: &[i64], device: Device) -> Result<Tensor> {
        Ok(Tensor::f_from_slice(indices)?.f_to_device(device)?.f_to_kind(Kind::Int64)?)
    }
}

/// Checks that ranges of trained tokens are ranges of the tokens there are, each after the one before.
fn check_trained(completion: &Completion) -> Result<(), &'static str> {
    let mut end = 0;
    for range in completion.trained.iter().flatten() {
        if range.start < end || range.is_empty() || range.end > completion.token_ids.len() {
            return Err("the trained ranges of a completion are not ascending ranges of its tokens");
        }
        end = range.end;
    }
    match &completion.trained {
        Some(ranges) if ranges.is_empty() => Err("a completion has no token that is trained on"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(prompt: &[u32], completions: &[&[u32]]) -> PromptGroup {
        PromptGroup::new(prompt.to_vec(), completions.iter().map(|c| Completion::new(c.to_vec())).collect())
    }

    #[test]
    fn completions_continue_from_the_prompt_and_do_not_see_each_other() {
        let batch = PackedBatch::new(&[group(&[1, 2], &[&[3, 4], &[5]]), group(&[6], &[&[7]])]).unwrap();
        assert_eq!(batch.ids(), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(batch.positions(), [0, 1, 2, 3, 2, 0, 1]);
        assert_eq!(batch.predict_rows(), [1, 2, 1, 5]);
        assert_eq!(batch.targets(), [3, 4, 5, 7]);
        assert_eq!(batch.last_rows(), [3, 4, 6]);
        assert_eq!(batch.completion_lens(), [2, 1, 1]);
        assert_eq!(batch.longest(), 4);
        let mask = batch.groups()[0].tree_mask(Device::Cpu).unwrap();
        let rows: Vec<Vec<bool>> = Vec::try_from(mask).unwrap();
        let expected = [
            [true, false, false, false, false],
            [true, true, false, false, false],
            [true, true, true, false, false],
            [true, true, true, true, false],
            [true, true, false, false, true],
        ];
        assert_eq!(rows, expected.map(|r| r.to_vec()));
        assert!(!batch.groups()[0].is_causal() && batch.groups()[1].is_causal());
    }

    #[test]
    fn groups_that_cannot_be_trained_are_named() {
        let named = |g: PromptGroup| PackedBatch::new(&[group(&[1], &[&[2]]), g]).unwrap_err().to_string();
        assert!(named(group(&[], &[&[1]])).starts_with("group 1: the prompt has no token"));
        assert!(named(group(&[1], &[])).contains("no completion"));
        assert!(named(group(&[1], &[&[2], &[]])).contains("a completion has no token"));
    }

    #[test]
    fn only_trained_tokens_are_predicted() {
        let mut masked = group(&[1, 2], &[&[3, 4, 5, 6], &[7, 8]]);
        masked.completions[0].trained = Some(vec![0..1, 2..4]);
        masked.completions[1].trained = Some(vec![1..2]);
        let batch = PackedBatch::new(&[masked, group(&[9], &[&[10]])]).unwrap();
        // Rows of the stream: 1 2 | 3 4 5 6 | 7 8 | 9 | 10.
        assert_eq!(batch.ids(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(batch.targets(), [3, 5, 6, 8, 10]);
        assert_eq!(batch.predict_rows(), [1, 3, 4, 6, 8]);
        assert_eq!(batch.offsets(), [0, 2, 3, 1, 0]);
        assert_eq!(batch.completion_lens(), [3, 1, 1]);
        assert_eq!(batch.groups()[0].completion_lens, [4, 2]);
    }

    #[test]
    fn masks_that_fit_no_completion_are_refused() {
        for (ranges, why) in [
            (vec![], "no token that is trained on"),
            (vec![0..3], "not ascending ranges"),
            (vec![1..1], "not ascending ranges"),
            (vec![1..2, 0..1], "not ascending ranges"),
        ] {
            let mut masked = group(&[1], &[&[2, 3]]);
            masked.completions[0].trained = Some(ranges);
            let error = PackedBatch::new(&[masked]).unwrap_err().to_string();
            assert!(error.starts_with("group 0: ") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn tokens_outside_the_vocabulary_are_named() {
        let batch = PackedBatch::new(&[group(&[1], &[&[9]])]).unwrap();
        batch.check_vocabulary(10).unwrap();
        assert!(batch.check_vocabulary(9).unwrap_err().to_string().contains("token 9"));
    }
}
