//! The order of rows: shuffled passes, and rows held out.

use align_types::{PromptGroup, PromptSource, Purpose, RngStream};

use crate::{Error, Result, Rows};

/// Rows in a new order each epoch, in batches.
///
/// The rows of a step are a pure function of (rows, batch size, seed, step), so a resumed run sees the same
/// ones and nothing has to be saved. The last batch of an epoch is smaller when the rows do not divide evenly.
/// Rows are taken again until the steps are done.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use align_data::ShuffledRows;
/// use align_types::{PromptGroup, PromptSource};
/// let rows: Vec<_> = (0..5).map(|i| PromptGroup::new(vec![i], vec![])).collect();
/// let mut source = ShuffledRows::new(rows, 2, 0, 6)?;
/// assert_eq!(source.batch(2)?.len(), 1);
/// assert_eq!(source.batch(4)?, source.batch(4)?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ShuffledRows {
    rows: Rows,
    batch_size: usize,
    seed: u64,
    steps: u64,
    /// The epoch whose order was made last, and the order.
    order: Option<(u64, Vec<usize>)>,
}

impl ShuffledRows {
    /// Takes the rows of a run with `steps` steps of `batch_size` rows.
    ///
    /// # Errors
    /// No rows, or a batch of size 0.
    pub fn new(rows: impl Into<Rows>, batch_size: usize, seed: u64, steps: u64) -> Result<Self> {
        let rows = rows.into();
        check(&rows, batch_size)?;
        Ok(Self { rows, batch_size, seed, steps, order: None })
    }

    /// Counts the steps of one epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.rows.len().div_ceil(self.batch_size) as u64
    }

    /// Returns the indices of the rows of a step (from 0).
    pub fn indices(&mut self, step: u64) -> Vec<usize> {
        let per_epoch = self.steps_per_epoch();
        let (epoch, batch) = (step / per_epoch, (step % per_epoch) as usize);
        let order = order_of(&mut self.order, epoch, self.rows.len(), self.seed);
        order.iter().skip(batch * self.batch_size).take(self.batch_size).copied().collect()
    }
}

impl PromptSource for ShuffledRows {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        let indices = self.indices(step);
        indices.into_iter().map(|i| self.rows.get(i).map_err(unreadable)).collect()
    }

    fn steps(&self) -> Option<u64> {
        Some(self.steps)
    }
}

/// Prompts in a new order each epoch, in batches that are always full: the prompts go round, within one batch too where it
/// is larger than the data set.
///
/// The rows of an iteration are a pure function of (rows, batch size, seed, step), so a resumed run sees the same ones and
/// nothing has to be saved. No prompt is taken again before all have been taken. For a smaller last batch of each epoch use
/// [`ShuffledRows`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use align_data::PromptOrder;
/// use align_types::{PromptGroup, PromptSource};
/// let rows: Vec<_> = (0..5).map(|i| PromptGroup::new(vec![i], vec![])).collect();
/// let mut source = PromptOrder::new(rows, 2, 0, 6)?;
/// assert_eq!(source.batch(2)?.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PromptOrder {
    rows: Rows,
    batch_size: usize,
    seed: u64,
    steps: u64,
    /// The epoch whose order was made last, and the order.
    order: Option<(u64, Vec<usize>)>,
}

impl PromptOrder {
    /// Takes the prompts of a run with `steps` iterations of `batch_size` prompts.
    ///
    /// # Errors
    /// No rows, or a batch of size 0.
    pub fn new(rows: impl Into<Rows>, batch_size: usize, seed: u64, steps: u64) -> Result<Self> {
        let rows = rows.into();
        check(&rows, batch_size)?;
        Ok(Self { rows, batch_size, seed, steps, order: None })
    }

    /// Returns the indices of the rows of a step (from 0).
    pub fn indices(&mut self, step: u64) -> Vec<usize> {
        // In 128 bits, because a step from outside may be any number.
        let len = self.rows.len() as u128;
        let first = u128::from(step) * self.batch_size as u128;
        let places = (first..).take(self.batch_size);
        places.filter_map(|place| self.at((place / len) as u64, (place % len) as usize)).collect()
    }

    fn at(&mut self, epoch: u64, place: usize) -> Option<usize> {
        let order = order_of(&mut self.order, epoch, self.rows.len(), self.seed);
        order.get(place).copied()
    }
}

impl PromptSource for PromptOrder {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        let indices = self.indices(step);
        indices.into_iter().map(|i| self.rows.get(i).map_err(unreadable)).collect()
    }

    fn steps(&self) -> Option<u64> {
        Some(self.steps)
    }
}

/// Returns the order of an epoch, which is kept until another is asked for.
fn order_of(kept: &mut Option<(u64, Vec<usize>)>, epoch: u64, len: usize, seed: u64) -> &[usize] {
    let order = match kept.take() {
        Some((made, order)) if made == epoch => order,
        _ => shuffled(len, &mut RngStream::new(seed, Purpose::DataOrder, epoch, 0)),
    };
    &kept.insert((epoch, order)).1
}

/// Holds out `held_out` rows chosen by the seed; returns (rest, held out), both in their old order.
///
/// At least one row stays in the rest.
pub fn hold_out<T>(rows: Vec<T>, held_out: usize, seed: u64) -> (Vec<T>, Vec<T>) {
    let order = shuffled(rows.len(), &mut RngStream::new(seed, Purpose::Split, 0, 0));
    let mut out = vec![false; rows.len()];
    for index in order.into_iter().take(held_out.min(rows.len().saturating_sub(1))) {
        if let Some(flag) = out.get_mut(index) {
            *flag = true;
        }
    }
    let (out, rest): (Vec<_>, Vec<_>) = rows.into_iter().zip(out).partition(|(_, held)| *held);
    let plain = |list: Vec<(T, bool)>| list.into_iter().map(|(row, _)| row).collect();
    (plain(rest), plain(out))
}

/// Refuses what no batch can be made of.
pub(crate) fn check(rows: &Rows, batch_size: usize) -> Result<()> {
    if rows.is_empty() {
        return Err(Error::NothingLeft { rows: 0, bad: 0, no_room: 0, too_long: 0, example: None });
    }
    if batch_size == 0 {
        return Err(Error::Config {
            key: "batch-size".into(),
            value: "0".into(),
            expected: "at least 1".into(),
        });
    }
    Ok(())
}

pub(crate) fn unreadable(error: Error) -> align_types::Error {
    align_types::Error::Seam { what: "data".into(), why: error.to_string(), source: Some(Box::new(error)) }
}

pub(crate) fn shuffled(len: usize, rng: &mut RngStream) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    rng.shuffle(&mut order);
    order
}
