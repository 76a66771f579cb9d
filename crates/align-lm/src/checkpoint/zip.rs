//! The directory of a zip file whose entries are stored, not compressed, as `torch.save` writes them.
//!
//! Reading such a directory is a page of code, and a checkpoint needs nothing else of the format: tensors are read in
//! place, piece by piece. A library for all of it brings eight packages into the build and takes the last of two
//! entries with one name without a word, where this refuses the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::bytes::Bytes;
use crate::{Error, Result};

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;

/// Lengths of the fixed parts of these records.
const LOCAL_LENGTH: u64 = 30;
const END_LENGTH: u64 = 22;
const LOCATOR_LENGTH: u64 = 20;
const END_64_LENGTH: u64 = 56;

/// The end record is followed by a comment of at most this length.
const LONGEST_COMMENT: u64 = 0xffff;

/// A checkpoint of a hundred thousand tensors has a directory of this length.
const LONGEST_DIRECTORY: u64 = 16 << 20;

/// Where an entry's bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Listed {
    header: u64,
    bytes: u64,
    method: u16,
    encrypted: bool,
}

/// The entries of a zip file by name.
#[derive(Debug)]
pub(super) struct Directory {
    entries: BTreeMap<String, Listed>,
    /// Where the directory starts: entries lie before it.
    start: u64,
}

impl Directory {
    /// Reads and checks the directory at the end of a file of the given length.
    pub(super) fn read(path: &Path, file: &mut File, length: u64) -> Result<Self> {
        let end = find_end(path, file, length)?;
        let fits = end.start.checked_add(end.bytes).is_some_and(|after| after <= length);
        if !fits || end.bytes > LONGEST_DIRECTORY {
            let why =
                format!("its zip directory is said to lie at {}+{} of {length} bytes", end.start, end.bytes);
            return Err(Error::weights(path, format!("{why}; the file is damaged")));
        }
        let text = read_span(path, file, end)?;
        let mut bytes = Bytes::new(&text);
        let mut entries = BTreeMap::new();
        while bytes.at() < text.len() {
            let (name, entry) = read_listed(&mut bytes).ok_or_else(|| {
                Error::weights(path, "its zip directory is damaged: the file is no torch file")
            })?;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(Error::weights(path, format!("has two zip entries {name:?}")));
            }
        }
        Ok(Self { entries, start: end.start })
    }

    /// Returns the names of all entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Finds the bytes of an entry, which lie in the file as they are.
    pub(super) fn locate(&self, path: &Path, file: &mut File, name: &str) -> Result<Span> {
        let refuse = |why: String| Error::weights(path, format!("zip entry {name:?} {why}"));
        let entry = self.entries.get(name).ok_or_else(|| refuse("is missing".into()))?;
        if entry.encrypted {
            return Err(refuse("is encrypted".into()));
        }
        if entry.method != 0 {
            let why =
                "which torch.save does not do; unpack the archive and pack it again without compression";
            return Err(refuse(format!("is compressed (method {}), {why}", entry.method)));
        }
        let damaged = || refuse("lies outside the file, which is truncated or damaged".into());
        if entry.header.checked_add(LOCAL_LENGTH).is_none_or(|after| after > self.start) {
            return Err(damaged());
        }
        let header = read_span(path, file, Span { start: entry.header, bytes: LOCAL_LENGTH })?;
        let skipped =
            local_names(&header).ok_or_else(|| refuse("has no header where it should lie".into()))?;
        let start = entry.header + LOCAL_LENGTH + skipped;
        match start.checked_add(entry.bytes) {
            Some(after) if after <= self.start => Ok(Span { start, bytes: entry.bytes }),
            _ => Err(damaged()),
        }
    }
}

/// Reads bytes that have been checked to lie in the file and to be few.
pub(super) fn read_span(path: &Path, file: &mut File, span: Span) -> Result<Vec<u8>> {
    let mut bytes = vec![0u8; span.bytes as usize];
    file.seek(SeekFrom::Start(span.start)).map_err(Error::io(path, "cannot be read"))?;
    file.read_exact(&mut bytes).map_err(Error::io(path, "cannot be read"))?;
    Ok(bytes)
}

/// Finds the directory by the record at the end of the file, or by its 64-bit twin where there is one.
fn find_end(path: &Path, file: &mut File, length: u64) -> Result<Span> {
    let missing =
        || Error::weights(path, "has no zip directory at its end: the file is truncated or damaged");
    let tail_length = length.min(END_LENGTH + LONGEST_COMMENT);
    let tail_start = length - tail_length;
    let tail = read_span(path, file, Span { start: tail_start, bytes: tail_length })?;
    let candidates = (0..=tail.len().checked_sub(END_LENGTH as usize).ok_or_else(missing)?).rev();
    let (at, directory) = candidates
        .filter_map(|at| Some((tail_start + at as u64, read_end(tail.get(at..)?)?)))
        .next()
        .ok_or_else(missing)?;
    let Some(locator) = at.checked_sub(LOCATOR_LENGTH) else { return Ok(directory) };
    let locator = read_span(path, file, Span { start: locator, bytes: LOCATOR_LENGTH })?;
    let Some(start) = read_locator(&locator) else { return Ok(directory) };
    if start.checked_add(END_64_LENGTH).is_none_or(|after| after > length) {
        return Err(missing());
    }
    read_end_64(&read_span(path, file, Span { start, bytes: END_64_LENGTH })?).ok_or_else(missing)
}

/// Reads an end record; its comment must reach to the end of the file, or the signature is some other bytes.
fn read_end(record: &[u8]) -> Option<Span> {
    let mut bytes = Bytes::new(record);
    (bytes.u32()? == END).then_some(())?;
    bytes.take(8)?;
    let (size, start, comment) = (bytes.u32()?, bytes.u32()?, bytes.u16()?);
    let whole = END_LENGTH as usize + usize::from(comment) == record.len();
    whole.then_some(Span { start: start.into(), bytes: size.into() })
}

fn read_locator(record: &[u8]) -> Option<u64> {
    let mut bytes = Bytes::new(record);
    (bytes.u32()? == LOCATOR_64).then_some(())?;
    bytes.take(4)?;
    bytes.u64()
}

fn read_end_64(record: &[u8]) -> Option<Span> {
    let mut bytes = Bytes::new(record);
    (bytes.u32()? == END_64).then_some(())?;
    bytes.take(36)?;
    let (size, start) = (bytes.u64()?, bytes.u64()?);
    Some(Span { start, bytes: size })
}

fn read_listed(bytes: &mut Bytes<'_>) -> Option<(String, Listed)> {
    (bytes.u32()? == CENTRAL).then_some(())?;
    bytes.take(4)?;
    let (flags, method) = (bytes.u16()?, bytes.u16()?);
    bytes.take(8)?;
    let (packed, unpacked) = (bytes.u32()?, bytes.u32()?);
    let (name, extra, comment) = (bytes.u16()?, bytes.u16()?, bytes.u16()?);
    bytes.take(8)?;
    let header = bytes.u32()?;
    let name = std::str::from_utf8(bytes.take(name.into())?).ok()?.to_owned();
    let mut wide = Wide::find(bytes.take(extra.into())?);
    bytes.take(comment.into())?;
    let unpacked = wide.or(unpacked)?;
    let packed = wide.or(packed)?;
    let header = wide.or(header)?;
    let stored = method != 0 || packed == unpacked;
    stored.then_some((name, Listed { header, bytes: packed, method, encrypted: flags & 1 != 0 }))
}

/// The 64-bit values of fields that hold all ones instead, in the order of the fields.
struct Wide<'a>(Bytes<'a>);

impl<'a> Wide<'a> {
    fn find(extra: &'a [u8]) -> Self {
        let mut fields = Bytes::new(extra);
        while let (Some(id), Some(length)) = (fields.u16(), fields.u16()) {
            let Some(body) = fields.take(length.into()) else { break };
            if id == 1 {
                return Self(Bytes::new(body));
            }
        }
        Self(Bytes::new(&[]))
    }

    fn or(&mut self, narrow: u32) -> Option<u64> {
        if narrow == u32::MAX { self.0.u64() } else { Some(narrow.into()) }
    }
}

/// Returns how many bytes of names lie between a local header and its entry.
fn local_names(header: &[u8]) -> Option<u64> {
    let mut bytes = Bytes::new(header);
    (bytes.u32()? == LOCAL).then_some(())?;
    bytes.take(22)?;
    Some(u64::from(bytes.u16()?) + u64::from(bytes.u16()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory entry with these sizes, place and extra field, and a method of 0.
    fn listed(packed: u32, unpacked: u32, header: u32, extra: &[u8]) -> Option<Listed> {
        let mut record = CENTRAL.to_le_bytes().to_vec();
        record.extend([0; 16]);
        record.extend([packed.to_le_bytes(), unpacked.to_le_bytes()].concat());
        record.extend([1, 0, extra.len() as u8, 0]);
        record.extend([0; 10]);
        record.extend(header.to_le_bytes());
        record.push(b'n');
        record.extend(extra);
        read_listed(&mut Bytes::new(&record)).map(|(_, listed)| listed)
    }

    /// Sizes from 4 GiB on stand in an extra field, which may come after others.
    #[test]
    fn large_entries_are_found() {
        let wide = |numbers: &[u64]| -> Vec<u8> {
            let body: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            [&[b'F', b'B', 2, 0, 9, 9, 1, 0, body.len() as u8, 0], body.as_slice()].concat()
        };
        let both = listed(u32::MAX, u32::MAX, 7, &wide(&[5 << 32, 5 << 32])).unwrap();
        assert_eq!((both.bytes, both.header), (5 << 32, 7));
        let place = listed(3, 3, u32::MAX, &wide(&[6 << 32])).unwrap();
        assert_eq!((place.bytes, place.header), (3, 6 << 32));
        assert!(listed(u32::MAX, u32::MAX, 7, &wide(&[5 << 32])).is_none());
        assert!(listed(u32::MAX, u32::MAX, 7, &[]).is_none());
        assert!(listed(3, 4, 7, &[]).is_none(), "a stored entry has one size");
    }
}
