//! Rows wherever they are.

use std::sync::Arc;

use align_types::PromptGroup;

use crate::{Error, Result, RowStore};

/// Rows in memory or on disk; copies share them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Rows {
    /// In memory.
    Memory(Arc<[PromptGroup]>),
    /// On disk.
    Stored(Arc<RowStore>),
}

impl Rows {
    /// Counts the rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(rows) => rows.len(),
            Self::Stored(store) => store.len(),
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
        match self {
            Self::Memory(rows) => rows.get(index).cloned().ok_or_else(|| Error::Config {
                key: "row".into(),
                value: index.to_string(),
                expected: format!("there are {} rows", rows.len()),
            }),
            Self::Stored(store) => store.get(index),
        }
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
