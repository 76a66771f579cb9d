//! Several sets of rows in given proportions.

use align_types::{PromptGroup, PromptSource, Purpose, RngStream};

use crate::{
    Error, Result, Rows,
    order::{check, shuffled, unreadable},
};

/// Sets of rows mixed with weights.
///
/// An epoch has as many rows as all sets together. Of each set it takes its weight's share, rounded so that the
/// shares add up (largest remainder), the rows of all sets shuffled among each other. A set is gone through in
/// an order of its own: none of its rows is taken again before all have been taken, and what one epoch left the
/// next one goes on with. The last batch of an epoch is smaller when the rows do not divide evenly.
///
/// The rows of a step are a pure function of (sets, weights, batch size, seed, step), so a resumed run sees the
/// same ones and nothing has to be saved. For sets in proportion to their sizes use
/// [`ShuffledRows`](crate::ShuffledRows) over all rows.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use align_data::{MixedRows, PromptGroup, PromptSource};
/// let rows = |from, to| (from..to).map(|i| PromptGroup::new(vec![i], vec![])).collect::<Vec<_>>();
/// let mut mix = MixedRows::new([(rows(0, 90), 1.0), (rows(100, 110), 3.0)], 10, 0, 30)?;
/// assert_eq!(mix.shares(), [25, 75]);
/// assert_eq!(mix.batch(7)?, mix.batch(7)?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MixedRows {
    sets: Vec<Rows>,
    shares: Vec<usize>,
    batch_size: usize,
    seed: u64,
    steps: u64,
    /// The epoch that was laid out last, and its rows: (set, row).
    order: Option<(u64, Vec<(usize, usize)>)>,
}

impl MixedRows {
    /// Takes sets of rows with their weights (positive, of any scale) for a run with `steps` steps of
    /// `batch_size` rows.
    ///
    /// # Errors
    /// No set, a set without rows, a weight that is not positive or too small for a single row of an epoch, a
    /// batch of size 0.
    pub fn new<R: Into<Rows>>(
        sets: impl IntoIterator<Item = (R, f64)>,
        batch_size: usize,
        seed: u64,
        steps: u64,
    ) -> Result<Self> {
        let (sets, weights): (Vec<Rows>, Vec<f64>) =
            sets.into_iter().map(|(rows, weight)| (rows.into(), weight)).unzip();
        if sets.is_empty() {
            return Err(Error::NothingLeft { rows: 0, bad: 0, no_room: 0, too_long: 0, example: None });
        }
        sets.iter().try_for_each(|rows| check(rows, batch_size))?;
        let shares = shares(sets.iter().map(Rows::len).sum(), &weights)?;
        Ok(Self { sets, shares, batch_size, seed, steps, order: None })
    }

    /// Returns how many rows of each set an epoch has.
    pub fn shares(&self) -> &[usize] {
        &self.shares
    }

    /// Counts the steps of one epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.shares.iter().sum::<usize>().div_ceil(self.batch_size) as u64
    }

    /// Returns the rows of a step (from 0) as pairs of set and row.
    pub fn indices(&mut self, step: u64) -> Vec<(usize, usize)> {
        let per_epoch = self.steps_per_epoch();
        let (epoch, batch) = (step / per_epoch, (step % per_epoch) as usize);
        let order = match self.order.take() {
            Some((made, order)) if made == epoch => order,
            _ => self.epoch(epoch),
        };
        let indices = order.iter().skip(batch * self.batch_size).take(self.batch_size).copied().collect();
        self.order = Some((epoch, order));
        indices
    }

    fn epoch(&self, epoch: u64) -> Vec<(usize, usize)> {
        let mut rows = Vec::with_capacity(self.shares.iter().sum());
        for (set, share) in self.shares.iter().enumerate() {
            let len = self.sets.get(set).map_or(1, Rows::len) as u64;
            // The set as an endless row of passes, each in an order of its own.
            let (mut at, end) = (epoch * *share as u64, (epoch + 1) * *share as u64);
            while at < end {
                let pass = at / len;
                let stop = end.min((pass + 1) * len);
                let order = shuffled(len as usize, &mut self.stream(pass, set as u64 + 1));
                let taken = order.into_iter().skip((at % len) as usize).take((stop - at) as usize);
                rows.extend(taken.map(|row| (set, row)));
                at = stop;
            }
        }
        self.stream(epoch, 0).shuffle(&mut rows);
        rows
    }

    fn stream(&self, step: u64, set: u64) -> RngStream {
        RngStream::new(self.seed, Purpose::DataOrder, step, set)
    }
}

impl PromptSource for MixedRows {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        let indices = self.indices(step);
        let row = |(set, row)| self.sets.get(set).map(|rows: &Rows| rows.get(row).map_err(unreadable));
        indices.into_iter().filter_map(row).collect()
    }

    fn steps(&self) -> Option<u64> {
        Some(self.steps)
    }
}

/// Divides `total` rows by weights: each share is rounded down, and what is left goes to the largest remainders.
fn shares(total: usize, weights: &[f64]) -> Result<Vec<usize>> {
    let wrong = |weight: &f64, expected: String| Error::Config {
        key: "data-weights".into(),
        value: weight.to_string(),
        expected,
    };
    if let Some(weight) = weights.iter().find(|weight| !weight.is_finite() || **weight <= 0.0) {
        return Err(wrong(
            weight,
            "a positive number; leave a file out rather than give it no weight".into(),
        ));
    }
    let sum: f64 = weights.iter().sum();
    let exact: Vec<f64> = weights.iter().map(|weight| weight / sum * total as f64).collect();
    let mut shares: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
    let mut order: Vec<usize> = (0..exact.len()).collect();
    let remainder = |i: &usize| exact.get(*i).map_or(0.0, |share| share.fract());
    order.sort_by(|a, b| remainder(b).total_cmp(&remainder(a)));
    let missing = total.saturating_sub(shares.iter().sum());
    for i in order.into_iter().cycle().take(missing) {
        shares.iter_mut().skip(i).take(1).for_each(|share| *share += 1);
    }
    match weights.iter().zip(&shares).find(|(_, share)| **share == 0) {
        None => Ok(shares),
        Some((weight, _)) => {
            Err(wrong(weight, format!("more: of the {total} rows of an epoch none would be of this file")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_follow_the_weights() {
        // 10 rows by 1:1:1 are 3.33 each; the first of equal remainders gets the row that is left.
        assert_eq!(shares(10, &[1.0, 1.0, 1.0]).unwrap(), [4, 3, 3]);
        assert_eq!(shares(10, &[0.7, 0.3]).unwrap(), [7, 3]);
        // 2.5, 6.25 and 1.25: the half has the largest remainder.
        assert_eq!(shares(10, &[2.0, 5.0, 1.0]).unwrap(), [3, 6, 1]);
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(shares(10, &[1.0, weight]).unwrap_err().to_string().contains("positive"));
        }
        assert!(shares(10, &[1.0, 1e-9]).unwrap_err().to_string().contains("none would be"));
    }
}
