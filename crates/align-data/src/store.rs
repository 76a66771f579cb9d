//! Rows on disk, for data larger than memory.

use std::{
    fs::File,
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use align_types::PromptGroup;

use crate::{Error, Result, codec};

/// Token ids of rows in a file without a name, which goes when the store goes; memory holds 8 bytes per row.
///
/// Made by [`store_rows`](crate::store_rows), read by [`ShuffledRows`](crate::ShuffledRows) and
/// [`MixedRows`](crate::MixedRows) one batch at a time.
#[derive(Debug)]
pub struct RowStore {
    folder: PathBuf,
    file: Mutex<File>,
    /// Where each row ends.
    ends: Vec<u64>,
    files: Vec<PathBuf>,
}

impl RowStore {
    /// Counts the rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Says whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Counts the bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Returns the folder in which the file is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads one row (from 0).
    ///
    /// # Errors
    /// A row that is not there, a disk that fails.
    pub fn get(&self, index: usize) -> Result<PromptGroup> {
        let fail = |source| Error::Read { path: self.folder.clone(), source };
        let damaged = || fail(std::io::Error::other(format!("row {index} of the row store is not there")));
        let end = *self.ends.get(index).ok_or_else(damaged)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let mut bytes = vec![0; usize::try_from(end - start).map_err(|_| damaged())?];
        {
            // Each read sets its own place, so a reader that panicked has left nothing behind.
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            file.seek(SeekFrom::Start(start)).map_err(fail)?;
            file.read_exact(&mut bytes).map_err(fail)?;
        }
        codec::read(&bytes, &self.files).ok_or_else(damaged)
    }
}

/// Fills a store.
#[derive(Debug)]
pub(crate) struct StoreWriter {
    folder: PathBuf,
    out: BufWriter<File>,
    ends: Vec<u64>,
    files: Vec<PathBuf>,
    bytes: Vec<u8>,
}

impl StoreWriter {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let file =
            tempfile::tempfile_in(folder).map_err(|source| Error::Write { path: folder.into(), source })?;
        let out = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { folder: folder.into(), out, ends: vec![], files: vec![], bytes: vec![] })
    }

    pub(crate) fn push(&mut self, group: &PromptGroup) -> Result<()> {
        self.bytes.clear();
        codec::write(&mut self.bytes, group, &mut self.files);
        self.out
            .write_all(&self.bytes)
            .map_err(|source| Error::Write { path: self.folder.clone(), source })?;
        self.ends.push(self.ends.last().copied().unwrap_or(0) + self.bytes.len() as u64);
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<RowStore> {
        let Self { folder, out, ends, files, .. } = self;
        let file = out
            .into_inner()
            .map_err(|error| Error::Write { path: folder.clone(), source: error.into_error() })?;
        Ok(RowStore { folder, file: Mutex::new(file), ends, files })
    }
}
