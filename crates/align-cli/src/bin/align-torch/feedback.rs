//! What rows say of their answers, looked at before a model is loaded: feedback that is the same for all of them
//! teaches nothing.

use align_cli::{Error, Result};
use align_core::align_types::Completion;

use crate::rows::Rows;

/// How many answers have each label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Labels {
    /// Thumbs up.
    pub desirable: usize,
    /// Thumbs down.
    pub undesirable: usize,
}

impl Labels {
    /// Refuses labels that are all equal.
    ///
    /// # Errors
    /// [`Error::Data`] with the label.
    pub fn differ(&self) -> Result<()> {
        let label = match (self.desirable, self.undesirable) {
            (0, 0) => return Ok(()),
            (_, 0) => "true",
            (0, _) => "false",
            _ => return Ok(()),
        };
        let count = self.desirable + self.undesirable;
        Err(Error::data(
            format!(
                "--data: all {count} labels are {label}, so that nothing tells good answers from bad ones"
            ),
            ["give rows of both labels; on good answers alone train with `align sft`".to_owned()],
        ))
    }
}

/// Counts the labels of some rows.
///
/// # Errors
/// Rows on a disk that fails.
pub fn labels(rows: &align_data::Rows) -> Result<Labels> {
    let mut labels = Labels::default();
    for group in rows.iter() {
        for label in group?.completions.iter().filter_map(|answer| answer.label) {
            *if label { &mut labels.desirable } else { &mut labels.undesirable } += 1;
        }
    }
    Ok(labels)
}

/// Finds the smallest and the largest score; `None` where no answer has one.
///
/// # Errors
/// Rows on a disk that fails.
pub fn scores(rows: &align_data::Rows) -> Result<Option<(f64, f64)>> {
    let mut range: Option<(f64, f64)> = None;
    for group in rows.iter() {
        for score in group?.completions.iter().filter_map(|answer| answer.reward) {
            let (low, high) = range.unwrap_or((score, score));
            range = Some((low.min(score), high.max(score)));
        }
    }
    Ok(range)
}

/// Refuses pairs of which none has a difference; rows of other kinds are not looked at.
///
/// # Errors
/// [`Error::Data`]; rows on a disk that fails.
pub fn pairs_differ(rows: &Rows) -> Result<()> {
    for group in rows.train.iter() {
        let group = group?;
        let sides = group.completions.iter().filter(|answer| is_of_a_pair(answer));
        let mut answers = sides.map(|answer| &answer.token_ids);
        let first = answers.next();
        if answers.any(|other| Some(other) != first) {
            return Ok(());
        }
    }
    Err(Error::data(
        format!("--data: in all {} pairs chosen and rejected are the same tokens", rows.train.len()),
        ["check the columns, and whether --max-length cuts the answers before they differ".to_owned()],
    ))
}

/// Refuses rows of pairs, labels and scores of which no kind has a difference in it.
///
/// # Errors
/// [`Error::Data`] about a kind that is there; rows on a disk that fails.
pub fn differs(rows: &Rows) -> Result<()> {
    let labels = labels(&rows.train)?;
    let scores = scores(&rows.train)?;
    let mut pairs = false;
    for group in rows.train.iter() {
        pairs |= group?.completions.iter().any(is_of_a_pair);
    }
    let kinds = [
        (labels != Labels::default()).then(|| labels.differ()),
        scores.map(scores_differ),
        pairs.then(|| pairs_differ(rows)),
    ];
    // One kind that teaches something is enough; otherwise the first that is there says why it does not.
    let kinds: Vec<_> = kinds.into_iter().flatten().collect();
    if kinds.iter().any(Result::is_ok) {
        return Ok(());
    }
    kinds.into_iter().next().unwrap_or(Ok(()))
}

/// Says whether an answer is one side of a pair: it has no feedback of its own.
fn is_of_a_pair(answer: &Completion) -> bool {
    answer.label.is_none() && answer.reward.is_none()
}

fn scores_differ((low, high): (f64, f64)) -> Result<()> {
    if low < high {
        return Ok(());
    }
    Err(Error::data(
        format!("--data: all scores are {low}, so that nothing tells good answers from bad ones"),
        ["check the column of the score with `align data check`".to_owned()],
    ))
}

/// Says what scores there are and what they should be.
pub fn out_of_range(error: align_core::align_types::Error) -> Error {
    let message = match error {
        align_core::align_types::Error::Config { value, expected, .. } => {
            format!("the scores are {value}, expected {expected}")
        }
        other => other.to_string(),
    };
    Error::data(message, ["--score-min X --score-max Y say which scores become 0 and 1".to_owned()])
}
