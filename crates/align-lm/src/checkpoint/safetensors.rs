//! `model.safetensors`: a header of names, types, shapes and places, and the numbers after it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use align_core::tch::Kind;
use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::{Map, Value};

use super::{Entry, Shard, refuse_pointer};
use crate::{Error, Result};

/// Headers beyond this are refused, as the format's own reader does.
const LONGEST_HEADER: u64 = 100_000_000;

/// Opens a file and checks its header; no tensor is read yet.
pub(super) fn open(path: PathBuf, shard: usize) -> Result<Shard> {
    let mut file = File::open(&path).map_err(Error::io(&path, "cannot be opened"))?;
    let length = file.metadata().map_err(Error::io(&path, "cannot be read"))?.len();
    let mut prefix = [0u8; 8];
    if length < 8 {
        return Err(Error::weights(
            &path,
            "is shorter than the 8 bytes that every safetensors file starts with",
        ));
    }
    file.read_exact(&mut prefix).map_err(Error::io(&path, "cannot be read"))?;
    refuse_pointer(&path, &prefix)?;
    let header = u64::from_le_bytes(prefix);
    if header > LONGEST_HEADER || header > length - 8 {
        let why =
            format!("claims a header of {header} bytes in a file of {length}: truncated or no safetensors");
        return Err(Error::weights(&path, why));
    }
    let mut text = vec![0u8; header as usize];
    file.read_exact(&mut text).map_err(Error::io(&path, "cannot be read"))?;
    let header_json: Map<String, Value> = serde_json::from_slice(&text)
        .map_err(|source| Error::weights(&path, format!("its header is no JSON object: {source}")))?;
    let tensors = read_entries(&path, header_json, shard, 8 + header, length)?;
    Ok(Shard { path, file, tensors, length })
}
/// Reads and checks a header: sizes follow from shapes, offsets lie in the file and cover it without overlap.
fn read_entries(
    path: &Path,
    header: Map<String, Value>,
    shard: usize,
    data: u64,
    length: u64,
) -> Result<BTreeMap<String, Entry>> {
    let refuse = |name: &str, why: String| Err(Error::weights(path, format!("tensor {name:?}: {why}")));
    let mut entries = BTreeMap::new();
    let mut places = Vec::new();
    for (name, value) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        let info: TensorInfo = match serde_json::from_value(value) {
            Ok(info) => info,
            Err(why) => return refuse(&name, format!("bad header entry: {why}")),
        };
        let (begin, end) = info.data_offsets;
        if begin > end || end as u64 > length - data {
            let why = format!("its data are said to lie at {begin}..{end} of {} bytes", length - data);
            return refuse(&name, format!("{why}; the file is truncated or damaged"));
        }
        let bits = (info.shape.iter()).try_fold(info.dtype.bitsize(), |bits, n| bits.checked_mul(*n));
        if bits != (end - begin).checked_mul(8) {
            let why =
                format!("{:?} of shape {:?} does not fill {} bytes", info.dtype, info.shape, end - begin);
            return refuse(&name, why);
        }
        let (kind, dtype) = (kind_of(info.dtype), format!("{:?}", info.dtype));
        places.push((begin, end, name.clone()));
        let start = data + begin as u64;
        entries.insert(
            name,
            Entry { shard, kind, dtype, strides: contiguous(&info.shape), shape: info.shape, start },
        );
    }
    places.sort();
    let mut next = 0;
    for (begin, end, name) in &places {
        if *begin != next {
            let what =
                if *begin < next { "overlap those of another tensor" } else { "leave a gap before them" };
            return refuse(name, format!("its data {what}"));
        }
        next = *end;
    }
    let rest = length - data - next as u64;
    if rest != 0 {
        return Err(Error::weights(path, format!("has {rest} bytes that belong to no tensor")));
    }
    Ok(entries)
}

/// How many numbers further the next along each dimension lies, for rows one after the other.
fn contiguous(shape: &[usize]) -> Vec<usize> {
    let mut strides: Vec<usize> = (shape.iter().rev())
        .scan(1usize, |next, size| Some(std::mem::replace(next, next.saturating_mul(*size))))
        .collect();
    strides.reverse();
    strides
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        _ => None,
    }
}
