use std::ops::Range;

use align_types::PromptGroup;
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
/// computed once however many completions it has.
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
    completion_lens: Vec<usize>,
}

impl PackedBatch {
    /// Lays the groups out in their order.
    ///
    /// # Errors
    /// [`Error::Input`] names the group that has no prompt token (nothing would predict the first token of
    /// its completions), no completion, or an empty completion.
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
        let start = self.ids.len();
        let prompt_len = group.prompt.len();
        self.ids.extend(group.prompt.iter().map(|id| i64::from(*id)));
        self.positions.extend(0..prompt_len as i64);
        for completion in &group.completions {
            let first = self.ids.len();
            let len = completion.token_ids.len();
            self.ids.extend(completion.token_ids.iter().map(|id| i64::from(*id)));
            self.positions.extend(prompt_len as i64..(prompt_len + len) as i64);
            self.predict_rows.push((start + prompt_len - 1) as i64);
            self.predict_rows.extend(first as i64..(first + len - 1) as i64);
            self.targets.extend(completion.token_ids.iter().map(|id| i64::from(*id)));
            self.completion_lens.push(len);
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

    /// Returns the row of the stream that predicts each completion token, `[N]`.
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

    /// Returns the completion tokens, `[N]`, in the order of [`Self::predict_rows`].
    pub fn targets(&self) -> &[i64] {
        &self.targets
    }

    /// Returns the number of tokens of every completion, over all groups in order, `[C]`.
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

#[cfg(test)]
mod tests {
    use align_types::Completion;

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
    fn tokens_outside_the_vocabulary_are_named() {
        let batch = PackedBatch::new(&[group(&[1], &[&[9]])]).unwrap();
        batch.check_vocabulary(10).unwrap();
        assert!(batch.check_vocabulary(9).unwrap_err().to_string().contains("token 9"));
    }
}
