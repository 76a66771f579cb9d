//! Scores of the answers of rows, in batches by tokens, on several threads.

use std::ops::Range;

use align_core::{
    PackedBatch, ScoreModel,
    align_types::PromptGroup,
    no_grad,
    passes::over_rows,
    tch::{Device, Kind},
};

use crate::{Error, Result, ScoringError};

/// Tokens of one forward pass unless told otherwise.
pub const BATCH_TOKENS: usize = 2048;

/// Scores rows with a reward model: batches by tokens, a replica of the model per thread, the numbers in the rows' order.
///
/// Equal answers of a row have one score, every score is a finite number, and neither the bound of a batch nor the
/// number of threads changes a score by more than the last bits.
pub struct RowScorer {
    name: String,
    replicas: Vec<Box<dyn ScoreModel>>,
    batch_tokens: usize,
}

impl std::fmt::Debug for RowScorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let threads = self.replicas.len();
        f.debug_struct("RowScorer")
            .field("name", &self.name)
            .field("threads", &threads)
            .finish_non_exhaustive()
    }
}

impl RowScorer {
    /// Takes a model and its name in messages. To score with the weights of a model that is trained, as they are at that
    /// time, give a replica of it ([`ScoreModel::replicate`]).
    pub fn new(name: impl Into<String>, model: Box<dyn ScoreModel>) -> Self {
        Self { name: name.into(), replicas: vec![model], batch_tokens: BATCH_TOKENS }
    }

    /// Scores on so many threads (1); on a GPU there is always one.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn with_threads(mut self, threads: usize) -> Result<Self> {
        self.replicas.truncate(1);
        let Some(model) = self.replicas.first() else { return Ok(self) };
        // A GPU does not get faster by being asked from several threads.
        let more = if model.device() == Device::Cpu { threads.saturating_sub(1) } else { 0 };
        let others = (0..more).map(|_| model.replicate()).collect::<Result<Vec<_>>>()?;
        self.replicas.extend(others);
        Ok(self)
    }

    /// Bounds the tokens of one forward pass ([`BATCH_TOKENS`]); a longer row runs alone.
    #[must_use]
    pub fn with_batch_tokens(mut self, tokens: usize) -> Self {
        self.batch_tokens = tokens.max(1);
        self
    }

    /// Names the model in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the longest prompt with an answer that the model takes, in tokens, if it has a bound.
    pub fn context_length(&self) -> Option<usize> {
        self.replicas.first().and_then(|model| model.context_length())
    }

    /// Scores every answer of the rows, and hands on the scores of each batch, one list per row, in the rows' order;
    /// batches of the first `kept` rows alone are left out. `go_on` is asked before each pass: its error ends the work.
    ///
    /// # Errors
    /// [`ScoringError::NotFinite`] names the row; the model fails; those of `go_on` and `done`.
    pub fn each<E: From<ScoringError> + From<Error> + Send>(
        &mut self,
        rows: &[PromptGroup],
        kept: usize,
        go_on: impl Fn() -> Result<(), E> + Sync,
        done: impl FnMut(Range<usize>, Vec<Vec<f64>>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { name, replicas, batch_tokens } = self;
        let work = |model: &mut Box<dyn ScoreModel>, first, rows: &[PromptGroup]| -> Result<_, E> {
            go_on()?;
            Ok(scores(model.as_ref(), first, rows, name)?)
        };
        over_rows(replicas, rows, *batch_tokens, kept, work, done)
    }

    /// Scores every answer of the rows, one list per row.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub fn all<E: From<ScoringError> + From<Error> + Send>(
        &mut self,
        rows: &[PromptGroup],
        go_on: impl Fn() -> Result<(), E> + Sync,
    ) -> Result<Vec<Vec<f64>>, E> {
        let mut all = Vec::with_capacity(rows.len());
        self.each(rows, 0, go_on, |_, scores| {
            all.extend(scores);
            Ok(())
        })?;
        Ok(all)
    }
}

/// Computes the scores of the answers of some rows in one pass, a list per row. In messages `name` is the model's, and
/// rows without a source are counted from `first`.
fn scores(
    model: &dyn ScoreModel,
    first: usize,
    rows: &[PromptGroup],
    name: &str,
) -> Result<Vec<Vec<f64>>, ScoringError> {
    let _guard = no_grad();
    let scores = model.scores(&PackedBatch::new(rows)?)?;
    let wide = scores.f_to_kind(Kind::Double).and_then(|scores| scores.f_contiguous());
    let list = wide.and_then(Vec::<f64>::try_from).map_err(Error::from)?;
    let expected: usize = rows.iter().map(|row| row.completions.len()).sum();
    if list.len() != expected {
        let why = format!("{} scores for {expected} answers", list.len());
        return Err(Error::input(format!("reward model {name}"), why).into());
    }
    let mut list = list.into_iter();
    let of_row = |(index, row): (usize, &PromptGroup)| {
        let scores = ties(row, list.by_ref().take(row.completions.len()).collect());
        match scores.iter().find(|score| !score.is_finite()) {
            None => Ok(scores),
            Some(value) => {
                let (row, model) = (row.describe(first + index), name.to_owned());
                Err(ScoringError::NotFinite { row, model, value: *value })
            }
        }
    };
    rows.iter().enumerate().map(of_row).collect()
}

/// Gives equal answers of a row one score: sums of the same numbers in other places of a batch differ in their last
/// bits, which would decide a tie.
fn ties(row: &PromptGroup, mut scores: Vec<f64>) -> Vec<f64> {
    for (index, answer) in row.completions.iter().enumerate() {
        let equal = row.completions.iter().take(index).position(|other| other.token_ids == answer.token_ids);
        let known = equal.and_then(|equal| scores.get(equal).copied());
        if let (Some(known), Some(score)) = (known, scores.get_mut(index)) {
            *score = known;
        }
    }
    scores
}
