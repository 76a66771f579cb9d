//! `pytorch_model.bin`: what `torch.save` writes since torch 1.6, a zip file with a pickle and an entry per storage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::pickle::{self, TensorRecord};
use super::zip::{Directory, read_span};
use super::{Entry, Shard, refuse_pointer};
use crate::{Error, Result};

const PICKLE: &str = "/data.pkl";

/// A program for TorchScript has this entry besides.
const SCRIPT: &str = "constants.pkl";

/// Opens a file and checks every tensor of it against the storages that are there; none is read yet.
pub(super) fn open(path: PathBuf, shard: usize) -> Result<Shard> {
    let mut file = File::open(&path).map_err(Error::io(&path, "cannot be opened"))?;
    let length = file.metadata().map_err(Error::io(&path, "cannot be read"))?.len();
    check_start(&path, &mut file)?;
    let directory = Directory::read(&path, &mut file, length)?;
    let prefix = prefix(&path, &directory)?;
    check_byte_order(&path, &mut file, &directory, &prefix)?;
    let program = directory.locate(&path, &mut file, &format!("{prefix}{PICKLE}"))?;
    if program.bytes > pickle::LONGEST {
        let why = format!(
            "has a pickle of {} bytes; {} are the most that are read",
            program.bytes,
            pickle::LONGEST
        );
        return Err(Error::weights(&path, why));
    }
    let records = pickle::read(&path, &read_span(&path, &mut file, program)?)?;
    let mut tensors = BTreeMap::new();
    for (name, record) in records {
        let start = storage(&path, &mut file, &directory, &prefix, &name, &record)?;
        tensors.insert(name, entry(record, shard, start));
    }
    Ok(Shard { path, file, tensors, length })
}

/// Says by the first bytes what a file is that is no zip file.
fn check_start(path: &Path, file: &mut File) -> Result<()> {
    let mut start = Vec::new();
    file.take(8).read_to_end(&mut start).map_err(Error::io(path, "cannot be read"))?;
    refuse_pointer(path, &start)?;
    if start.starts_with(b"PK\x03\x04") {
        return Ok(());
    }
    if start.starts_with(b"\x80\x02") {
        let what = "the format of torch before 1.6".to_owned();
        let supported = "the zip format: read it once with a present torch and write it again, \
                         torch.save(torch.load(PATH, weights_only=True), PATH)"
            .to_owned();
        return Err(Error::Unsupported { path: path.to_owned(), what, supported });
    }
    Err(Error::weights(path, "is no file of torch.save: it is no zip file"))
}

/// Finds the folder inside the archive; its name is that of the file when it was written.
fn prefix(path: &Path, directory: &Directory) -> Result<String> {
    let mut found = directory.names().filter_map(|name| name.strip_suffix(PICKLE));
    let (Some(prefix), None) = (found.next(), found.next()) else {
        return Err(Error::weights(path, "is no file of torch.save: it has not one entry data.pkl"));
    };
    if directory.names().any(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.ends_with(SCRIPT))) {
        let what = "a program (TorchScript)".to_owned();
        let supported = "weights: torch.save(model.state_dict(), PATH)".to_owned();
        return Err(Error::Unsupported { path: path.to_owned(), what, supported });
    }
    Ok(prefix.to_owned())
}

/// Files from before torch 2.1 do not say in which order the bytes of a number are: they come from little-endian
/// machines, like nearly all.
fn check_byte_order(path: &Path, file: &mut File, directory: &Directory, prefix: &str) -> Result<()> {
    let name = format!("{prefix}/byteorder");
    if !directory.names().any(|other| other == name) {
        return Ok(());
    }
    let mut span = directory.locate(path, file, &name)?;
    span.bytes = span.bytes.min(16);
    match read_span(path, file, span)?.as_slice() {
        b"little" => Ok(()),
        other => Err(Error::Unsupported {
            path: path.to_owned(),
            what: format!("byte order {:?}", String::from_utf8_lossy(other)),
            supported: "\"little\"".into(),
        }),
    }
}

/// Finds where the storage of a tensor starts; it must have the size that the pickle says.
fn storage(
    path: &Path,
    file: &mut File,
    directory: &Directory,
    prefix: &str,
    name: &str,
    record: &TensorRecord,
) -> Result<u64> {
    let storage = &record.storage;
    let span = directory.locate(path, file, &format!("{prefix}/data/{}", storage.key))?;
    if storage.count.checked_mul(storage.numbers.width) != Some(span.bytes) {
        let (count, kind) = (storage.count, storage.numbers.name);
        let why = format!("tensor {name:?}: storage {:?} is said to hold {count} {kind}", storage.key);
        return Err(Error::weights(path, format!("{why} and has {} bytes", span.bytes)));
    }
    Ok(span.start)
}

/// The record was checked against its storage, and the storage against the file: no offset overflows.
fn entry(record: TensorRecord, shard: usize, storage: u64) -> Entry {
    let numbers = record.storage.numbers;
    Entry {
        shard,
        kind: numbers.kind,
        dtype: numbers.name.to_owned(),
        shape: record.sizes.iter().map(|n| *n as usize).collect(),
        strides: record.strides.iter().map(|n| *n as usize).collect(),
        start: storage + record.offset.saturating_mul(numbers.width),
    }
}
