//! Rows wherever they are.

use std::{borrow::Cow, ops::Range, sync::Arc};

use align_types::PromptGroup;

use crate::{Error, Result, RowStore, store::StoreWriter};

/// Rows in memory or on disk; copies share them.
///
/// ```
/// # fn main() -> align_data::Result<()> {
/// use align_data::{PromptGroup, Rows};
/// let rows = Rows::from((0..5).map(|i| PromptGroup::new(vec![i], vec![])).collect::<Vec<_>>());
/// assert_eq!(rows.part(3..9).len(), 2);
/// assert_eq!(rows.part(3..9).get(1)?.prompt, [4]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Rows {
    /// In memory.
    Memory(Arc<[PromptGroup]>),
    /// On disk.
    Stored(Arc<RowStore>),
    /// Some of others.
    Part(Box<Rows>, Range<usize>),
}

impl Rows {
    /// Counts the rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(rows) => rows.len(),
            Self::Stored(store) => store.len(),
            Self::Part(_, range) => range.len(),
        }
    }

    /// Says whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns one row (from 0).
    ///
    /// # Errors
    /// A row that is not there, a disk that fails.
    pub fn get(&self, index: usize) -> Result<PromptGroup> {
        self.look(index).map(Cow::into_owned)
    }

    fn look(&self, index: usize) -> Result<Cow<'_, PromptGroup>> {
        let absent = || Error::Config {
            key: "row".into(),
            value: index.to_string(),
            expected: format!("there are {} rows", self.len()),
        };
        match self {
            Self::Memory(rows) => rows.get(index).map(Cow::Borrowed).ok_or_else(absent),
            Self::Stored(store) => store.get(index).map(Cow::Owned),
            Self::Part(rows, range) if index < range.len() => rows.look(range.start + index),
            Self::Part(..) => Err(absent()),
        }
    }

    /// Goes through the rows; those in memory are borrowed.
    ///
    /// A row on a disk that fails comes as an error.
    pub fn iter(&self) -> impl Iterator<Item = Result<Cow<'_, PromptGroup>>> + '_ {
        (0..self.len()).map(|index| self.look(index))
    }

    /// Takes some of the rows; what a range has beyond the last row is left out.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.len());
        Self::Part(Box::new(self.clone()), range.start.min(end)..end)
    }

    /// Copies the rows into memory.
    ///
    /// # Errors
    /// A disk that fails.
    pub fn into_vec(self) -> Result<Vec<PromptGroup>> {
        self.iter().map(|row| row.map(Cow::into_owned)).collect()
    }

    /// Changes rows, `at_once` of them at a time. Rows in memory stay there, stored ones go into a new store in the
    /// folder of the old one.
    ///
    /// ```
    /// # fn main() -> Result<(), align_data::Error> {
    /// use align_data::{PromptGroup, Rows};
    /// let rows = Rows::from(vec![PromptGroup::new(vec![1], vec![]), PromptGroup::new(vec![2], vec![])]);
    /// let rows = rows.update::<align_data::Error>(1, |rows| Ok(rows[0].prompt.push(7)))?;
    /// assert_eq!(rows.get(1)?.prompt, [2, 7]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `change`, and a disk that fails.
    pub fn update<E: From<Error>>(
        self,
        at_once: usize,
        mut change: impl FnMut(&mut [PromptGroup]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let at_once = at_once.max(1);
        let Self::Stored(store) = &self else {
            let mut rows: Arc<[PromptGroup]> = match self {
                Self::Memory(rows) => rows,
                other => other.into_vec()?.into(),
            };
            Arc::make_mut(&mut rows).chunks_mut(at_once).try_for_each(change)?;
            return Ok(Self::Memory(rows));
        };
        let mut changed = StoreWriter::new(store.folder())?;
        let mut rows = Vec::new();
        for (index, row) in self.iter().enumerate() {
            rows.push(row?.into_owned());
            if rows.len() == at_once || index + 1 == self.len() {
                change(&mut rows)?;
                for row in rows.drain(..) {
                    changed.push(&row)?;
                }
            }
        }
        Ok(changed.finish()?.into())
    }
}

impl From<Vec<PromptGroup>> for Rows {
    fn from(rows: Vec<PromptGroup>) -> Self {
        Self::Memory(rows.into())
    }
}

impl From<Arc<[PromptGroup]>> for Rows {
    fn from(rows: Arc<[PromptGroup]>) -> Self {
        Self::Memory(rows)
    }
}

impl From<RowStore> for Rows {
    fn from(store: RowStore) -> Self {
        Self::Stored(Arc::new(store))
    }
}
