//! From numbers of single rows and samples to figures with intervals: accuracy, win rate, length control, KL.
//!
//! Rows and samples of one prompt are not independent, so everything here knows the prompt of each number, and intervals
//! are bootstrapped over prompts. Nothing here knows where the numbers come from.

mod best_of;
mod divergence;
mod lengths;
mod pairs;
mod rows;
mod wins;

use std::collections::BTreeMap;

use align_types::{PromptGroup, TokenId};
use serde::{Deserialize, Serialize};

pub use best_of::{best_of_n, best_of_n_divergence, pass_at_k};
pub use divergence::{Divergence, DivergenceMean, SequenceDivergence, sequence_divergences};
pub use lengths::{LengthBin, LengthControl, Outcome};
pub use pairs::{PairAgreement, PairMargin};
pub use rows::RowValues;
pub use wins::{Samples, WinRate, verdict};

use crate::{Result, intervals::Estimate};

/// Which prompt each row belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompts {
    /// The number of each row's prompt, below `count`.
    pub of_rows: Vec<usize>,
    /// How many prompts there are.
    pub count: usize,
}

impl Prompts {
    /// Finds the rows that have the same prompt. Rows without one (a text of its own has at most a beginning token) are
    /// each a prompt by themselves.
    ///
    /// ```
    /// use align_core::{align_types::PromptGroup, evaluation::Prompts};
    ///
    /// let rows = [vec![1, 5], vec![1, 6], vec![1, 5], vec![1], vec![1]].map(|p| PromptGroup::new(p, vec![]));
    /// assert_eq!(Prompts::of(&rows).of_rows, [0, 1, 0, 2, 3]);
    /// ```
    pub fn of(rows: &[PromptGroup]) -> Self {
        let mut known: BTreeMap<&[TokenId], usize> = BTreeMap::new();
        let mut of_rows = Vec::with_capacity(rows.len());
        let mut count = 0;
        for row in rows {
            let mut new = || {
                count += 1;
                count - 1
            };
            of_rows.push(if row.prompt.len() < 2 {
                new()
            } else {
                *known.entry(&row.prompt).or_insert_with(new)
            });
        }
        Self { of_rows, count }
    }

    /// Averages values of rows, with the interval over prompts; `None` where there is no value.
    ///
    /// `values` has (row, value, weight): the average is Σ weight · value / Σ weight.
    ///
    /// # Errors
    /// [`crate::Error::NonFinite`] for a value that is not finite.
    pub fn average(
        &self,
        what: &str,
        values: impl IntoIterator<Item = (usize, f64, f64)>,
        seed: u64,
    ) -> Result<Option<Estimate>> {
        let mut sums = vec![(0.0, 0.0); self.count];
        for (row, value, weight) in values {
            let prompt = self.of_rows.get(row).copied().unwrap_or(usize::MAX);
            if let Some((over, under)) = sums.get_mut(prompt) {
                *over += weight * value;
                *under += weight;
            }
        }
        average(what, &sums, seed)
    }
}

/// Averages the prompts that have something to average: (Σ weight · value, Σ weight) of each.
fn average(what: &str, sums: &[(f64, f64)], seed: u64) -> Result<Option<Estimate>> {
    let present: Vec<(f64, f64)> = sums.iter().copied().filter(|(_, weight)| *weight > 0.0).collect();
    if present.is_empty() { Ok(None) } else { Estimate::over_prompts(what, &present, seed).map(Some) }
}
