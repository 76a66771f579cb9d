use std::{ops::Range, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::Trajectory;

/// A token of a model's vocabulary.
pub type TokenId = u32;

/// The columns of a data row that training itself does not read; they travel on to rewards and judges.
pub type Columns = serde_json::Map<String, serde_json::Value>;

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// A stop token or stop string was produced.
    Stop,
    /// The token limit was reached first.
    Length,
}

/// One answer to a prompt, and what is known of it.
///
/// `token_ids` includes the stop token where there is one. Log-probabilities are per token, natural
/// logarithm, in the same order and number as `token_ids`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// What the data called this answer (`chosen`, `rejected`, `completion`); empty if nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The tokens of the answer, stop token included.
    pub token_ids: Vec<TokenId>,
    /// Which of `token_ids` are trained on: ranges in ascending order that do not touch; `None` for all of them.
    ///
    /// The others are read by the model but add no term to a loss, as the user's turns of a conversation.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "pairs")]
    pub trained: Option<Vec<Range<usize>>>,
    /// The answer as text without special tokens, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Log-probability of each token under the policy that sampled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f32>>,
    /// Log-probability of the whole answer under the frozen reference policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ref_logprob: Option<f64>,
    /// Why sampling ended, for sampled answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// A reward or score of the answer; larger is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    /// Thumbs up (`true`) or down (`false`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<bool>,
    /// Rank among the answers of the group: 1 is best, equal ranks are ties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// What on-policy training knows of each token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trajectory: Option<Box<Trajectory>>,
}

impl Completion {
    /// Makes a completion from its tokens.
    pub fn new(token_ids: Vec<TokenId>) -> Self {
        Self { token_ids, ..Self::default() }
    }

    /// Makes a completion from its tokens and the name the data gave it.
    pub fn named(name: impl Into<String>, token_ids: Vec<TokenId>) -> Self {
        Self { name: name.into(), token_ids, ..Self::default() }
    }

    /// Returns the ranges of `token_ids` that are trained on: all tokens unless [`Self::trained`] says otherwise.
    pub fn trained_ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let all = self.trained.is_none().then_some(0..self.token_ids.len());
        all.into_iter().chain(self.trained.iter().flatten().cloned())
    }

    /// Counts the tokens that are trained on.
    pub fn trained_tokens(&self) -> usize {
        self.trained_ranges().map(|range| range.len()).sum()
    }

    /// Keeps the tokens of a range, and what of them is trained on.
    pub fn keep(&mut self, kept: Range<usize>) {
        let end = kept.end.min(self.token_ids.len());
        let kept = kept.start.min(end)..end;
        self.token_ids.truncate(kept.end);
        self.token_ids.drain(..kept.start);
        let inside = |range: &Range<usize>| {
            let (start, end) = (range.start.max(kept.start), range.end.min(kept.end));
            (start < end).then(|| start - kept.start..end - kept.start)
        };
        if let Some(ranges) = &mut self.trained {
            *ranges = ranges.iter().filter_map(inside).collect();
        }
    }
}

/// Ranges as pairs `[start, end]`.
mod pairs {
    use std::ops::Range;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Ranges = Option<Vec<Range<usize>>>;

    pub(super) fn serialize<S: Serializer>(ranges: &Ranges, to: S) -> Result<S::Ok, S::Error> {
        let pairs = ranges.as_ref().map(|list| list.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>());
        pairs.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Ranges, D::Error> {
        let pairs = Option::<Vec<(usize, usize)>>::deserialize(from)?;
        Ok(pairs.map(|list| list.into_iter().map(|(start, end)| start..end).collect()))
    }
}

/// Where a row came from; rows and lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// The row: the line of a line-based file, the index of the element otherwise.
    pub row: usize,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.row)
    }
}

/// One prompt and its completions.
///
/// Language modelling and SFT have one completion, preference pairs two (chosen first), rankings several,
/// on-policy methods as many as samples were drawn. `prompt` may be empty: plain language modelling has none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptGroup {
    /// The tokens of the prompt.
    pub prompt: Vec<TokenId>,
    /// The answers.
    pub completions: Vec<Completion>,
    /// Where the row came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The row's other columns.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    pub columns: Columns,
}

impl PromptGroup {
    /// Makes a group without a source and without further columns.
    pub fn new(prompt: Vec<TokenId>, completions: Vec<Completion>) -> Self {
        Self { prompt, completions, ..Self::default() }
    }

    /// Counts the tokens of the group laid out flat: the prompt once, then each completion.
    pub fn flat_tokens(&self) -> usize {
        self.prompt.len() + self.completion_tokens()
    }

    /// Counts the tokens of all completions.
    pub fn completion_tokens(&self) -> usize {
        self.completions.iter().map(|c| c.token_ids.len()).sum()
    }

    /// Counts the tokens of all completions that are trained on.
    pub fn trained_tokens(&self) -> usize {
        self.completions.iter().map(Completion::trained_tokens).sum()
    }

    /// Names the row for messages: `file:row`, or its position where there is no source.
    pub fn describe(&self, index: usize) -> String {
        self.source.as_ref().map_or_else(|| format!("group {index}"), ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "a mask of one range")]

    use super::*;

    #[test]
    fn unknown_things_are_left_out_of_json() {
        let group = PromptGroup::new(vec![1], vec![Completion::new(vec![2])]);
        let text = serde_json::to_string(&group).unwrap();
        assert_eq!(text, r#"{"prompt":[1],"completions":[{"token_ids":[2]}]}"#);
        assert_eq!(serde_json::from_str::<PromptGroup>(&text).unwrap(), group);
    }

    #[test]
    fn trained_tokens_are_written_as_pairs_and_cut_with_the_tokens() {
        let mut answer = Completion { trained: Some(vec![1..3, 5..6]), ..Completion::new(vec![9; 6]) };
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(text, r#"{"token_ids":[9,9,9,9,9,9],"trained":[[1,3],[5,6]]}"#);
        assert_eq!(serde_json::from_str::<Completion>(&text).unwrap(), answer);
        assert_eq!((answer.trained_tokens(), Completion::new(vec![9; 6]).trained_tokens()), (3, 6));
        answer.keep(2..5);
        assert_eq!((answer.token_ids.len(), answer.trained.clone()), (3, Some(vec![0..1])));
        answer.keep(1..9);
        assert_eq!((answer.token_ids.len(), answer.trained_tokens()), (2, 0));
    }

    #[test]
    fn finish_reasons_are_written_as_the_file_format_says() {
        assert_eq!(serde_json::to_string(&FinishReason::Stop).unwrap(), "\"stop\"");
        assert_eq!(serde_json::to_string(&FinishReason::Length).unwrap(), "\"length\"");
    }

    #[test]
    fn a_row_is_named_by_file_and_line() {
        let mut group = PromptGroup::new(vec![], vec![]);
        assert_eq!(group.describe(4), "group 4");
        group.source = Some(Source { file: "pairs.jsonl".into(), row: 7 });
        assert_eq!(group.describe(4), "pairs.jsonl:7");
    }
}
