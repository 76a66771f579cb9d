//! Rules of the completion's text as it is.

use align_types::RewardItem;
use regex::Regex;

use super::{Rule, columns, verdict};
use crate::Error;

/// The number of characters (Unicode scalar values) of the completion; with a target less its distance from it.
///
/// Without a target the reward is the count itself; with a target T it is −|count − T|, 0 at best.
#[derive(Debug, Clone, Copy, Default)]
pub struct Length {
    /// The count that is wanted.
    pub target: Option<usize>,
}

impl Rule for Length {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        let count = item.completion.chars().count();
        Ok(Some(toward(count, self.target)))
    }
}

/// The number of words of the completion, which are its runs of anything but white space; with a target less its distance
/// from it, as [`Length`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Words {
    /// The count that is wanted.
    pub target: Option<usize>,
}

impl Rule for Words {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        Ok(Some(toward(item.completion.split_whitespace().count(), self.target)))
    }
}

fn toward(count: usize, target: Option<usize>) -> f64 {
    match target {
        None => count as f64,
        Some(target) => -(count.abs_diff(target) as f64),
    }
}

/// A soft punishment of length (DAPO, 2503.14476, equation 13), in characters because rules know no tokens.
///
/// With L characters it is 0 up to `most` − `margin`, (`most` − `margin` − L) / `margin` up to `most`, and −1 beyond.
#[derive(Debug, Clone, Copy)]
pub struct Overlong {
    /// Characters from which on the punishment is full.
    pub most: usize,
    /// Characters over which it grows; above 0 and at most `most`.
    pub margin: usize,
}

impl Rule for Overlong {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        let free = self.most.saturating_sub(self.margin);
        let over = item.completion.chars().count().saturating_sub(free);
        // A margin of 0 is a step: nothing up to `most`, all beyond.
        Ok(Some(if over == 0 { 0.0 } else { -(over as f64 / self.margin as f64).min(1.0) }))
    }
}

/// 1 where the completion begins with a text, 0 elsewhere; white space before it does not count, case does.
#[derive(Debug, Clone)]
pub struct StartsWith(
    /// The text.
    pub String,
);

impl Rule for StartsWith {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        verdict(item.completion.trim_start().starts_with(self.0.trim_start()))
    }
}

/// 1 where the completion ends with a text, 0 elsewhere; white space behind it does not count, case does.
#[derive(Debug, Clone)]
pub struct EndsWith(
    /// The text.
    pub String,
);

impl Rule for EndsWith {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        verdict(item.completion.trim_end().ends_with(self.0.trim_end()))
    }
}

/// 1 where the completion ends as a sentence does, 0 elsewhere: with `.`, `!`, `?`, `…` or their full-width forms, behind
/// which quotation marks, brackets and the marks of Markdown may close, or with the fence of a code block.
///
/// It looks at the text. Whether the model itself ended there, or ran out of tokens, a text does not show.
#[derive(Debug, Clone, Copy, Default)]
pub struct Finished;

impl Rule for Finished {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        let text = item.completion.trim_end();
        let closing = ['"', '\'', '”', '’', '»', ')', ']', '}', '」', '』', '）', '*', '_', '`'];
        let end = text.trim_end_matches(closing).chars().next_back();
        let marks = ['.', '!', '?', '…', '。', '！', '？', '．'];
        verdict(text.ends_with("```") || end.is_some_and(|end| marks.contains(&end)))
    }
}

/// 1 where the completion, without the white space around it, is one of some texts, 0 elsewhere; case counts.
#[derive(Debug, Clone)]
pub struct OneOf(
    /// The texts, without white space around them.
    pub Vec<String>,
);

impl Rule for OneOf {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        verdict(self.0.iter().any(|text| text == item.completion.trim()))
    }
}

/// 1 where the completion is the text of a column, or one of its list, 0 elsewhere; white space around either does not
/// count, case does. A row without the column is an error.
#[derive(Debug, Clone)]
pub struct ExactMatch {
    /// The column of the row that holds the reference answer: text, a number, a truth value, or a list of them.
    pub column: String,
}

impl Rule for ExactMatch {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        let references = columns::references(item, &self.column)?;
        verdict(references.iter().any(|text| text.trim() == item.completion.trim()))
    }
}

/// 1 where the completion has a text in it, 0 elsewhere; case counts.
#[derive(Debug, Clone)]
pub struct Contains(
    /// The text.
    pub String,
);

impl Rule for Contains {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        verdict(item.completion.contains(&self.0))
    }
}

/// 1 where a regular expression matches somewhere in the completion, 0 elsewhere.
///
/// Matching takes time linear in the completion, whatever the expression (no backtracking), so that no answer of a
/// model can bring it to a halt.
#[derive(Debug, Clone)]
pub struct Matches(Regex);

/// Most bytes that a compiled expression may take.
const REGEX_BYTES: usize = 1 << 20;

impl Matches {
    /// Compiles an expression in the syntax of the crate `regex`.
    ///
    /// # Errors
    /// [`Error::Argument`] for one that is none, or becomes too large.
    pub fn new(pattern: &str) -> crate::Result<Self> {
        let compiled = regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES).build();
        compiled.map(Self).map_err(|error| {
            // The message draws the expression over several lines; its last one says what is wrong.
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Error::Argument { rule: "rule:regex".into(), why: format!("`{pattern}`: {why}") }
        })
    }
}

impl Rule for Matches {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        verdict(self.0.is_match(item.completion))
    }
}
