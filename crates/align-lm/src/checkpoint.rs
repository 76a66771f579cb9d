use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use align_core::tch::{Device, Kind, Tensor};
use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::{Map, Value};

use crate::keys::read_object;
use crate::weights::{Plan, Role, Source};
use crate::{Error, Result};

/// The name of an unsharded weights file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// Headers beyond this are refused, as the format's own reader does.
const LONGEST_HEADER: u64 = 100_000_000;

/// Bytes of a tensor that are in memory besides the tensor itself while it is read.
const CHUNK: usize = 4 << 20;

/// Two names of the same output layer (the second is GPT-NeoX's).
const HEAD_ALIASES: [&str; 2] = ["lm_head.weight", "embed_out.weight"];

/// How many of many wrong tensors a message lists.
const LISTED: usize = 5;

/// The safetensors of a model folder: headers are read and checked, tensors are read when they are asked for.
///
/// Tensors are read, not mapped: a mapped file counts twice against memory, and kills the process when somebody
/// truncates it.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    device: Device,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    start: u64,
    bytes: usize,
}

impl Checkpoint {
    /// Opens the weights of a folder and checks every header; no tensor is read yet.
    pub(crate) fn open(dir: &Path, device: Device) -> Result<Self> {
        let single = dir.join(SINGLE_FILE);
        let index = dir.join(INDEX_FILE);
        let (shards, entries) = if single.exists() {
            let shard = Shard::open(single, 0)?;
            let entries = shard.tensors.clone();
            (vec![shard], entries)
        } else if index.exists() {
            open_sharded(dir, &index)?
        } else {
            return Err(no_weights(dir));
        };
        Ok(Self { dir: dir.to_owned(), shards, entries, device })
    }

    /// Opens one file of tensors and checks its header; no tensor is read yet.
    pub(crate) fn of_file(path: &Path, device: Device) -> Result<Self> {
        let shard = Shard::open(path.to_owned(), 0)?;
        let entries = shard.tensors.clone();
        let checkpoint = Self { dir: path.to_owned(), shards: vec![shard], entries, device };
        match checkpoint.entries.iter().find(|(_, entry)| kind_of(entry.dtype).is_none()) {
            Some((name, entry)) => Err(checkpoint.unreadable(name, entry)),
            None => Ok(checkpoint),
        }
    }

    /// Lists the names of the tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Compares names and shapes with those that the model takes, before anything is allocated.
    ///
    /// Returns the tensors that the model has no use for.
    pub(crate) fn check(&self, plan: &Plan) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        let mut wrong = Vec::new();
        let mut unused: BTreeSet<&str> = self.entries.keys().map(String::as_str).collect();
        for (name, shape, _) in &plan.tensors {
            unused.remove(name.as_str());
            match self.entries.get(name) {
                None => missing.push(name.clone()),
                Some(entry) => {
                    kind_of(entry.dtype).ok_or_else(|| self.unreadable(name, entry))?;
                    if entry.shape.iter().map(|n| *n as i64).ne(shape.iter().copied()) {
                        wrong.push(format!("{name} is {:?}, the configuration means {shape:?}", entry.shape));
                    }
                }
            }
        }
        let why = match (missing.is_empty(), wrong.is_empty()) {
            (true, true) => return Ok(unused.into_iter().map(str::to_owned).collect()),
            (false, _) => format!("missing {}", listed(&missing)),
            (true, false) => listed(&wrong),
        };
        Err(Error::Contradiction { dir: self.dir.clone(), why })
    }

    /// Gives tensors the names that the model has for them: some folders leave out the prefix of the model without its
    /// head (`wte.weight` for `transformer.wte.weight`), or call the output layer otherwise.
    pub(crate) fn rename_to(&mut self, plan: &Plan) {
        let Some((first, _, _)) = plan.tensors.first() else { return };
        if let Some((prefix, bare)) = first.split_once('.')
            && !self.entries.contains_key(first)
            && self.entries.contains_key(bare)
        {
            let outside = |name: &str| HEAD_ALIASES.iter().any(|head| name.starts_with(head));
            let renamed = |(name, entry): (String, Entry)| match outside(&name) {
                true => (name, entry),
                false => (format!("{prefix}.{name}"), entry),
            };
            self.entries = std::mem::take(&mut self.entries).into_iter().map(renamed).collect();
        }
        let [a, b] = HEAD_ALIASES;
        for (wanted, other) in [(a, b), (b, a)] {
            let is_wanted = plan.tensors.iter().any(|(name, _, _)| name == wanted);
            if is_wanted
                && !self.entries.contains_key(wanted)
                && let Some(entry) = self.entries.remove(other)
            {
                self.entries.insert(wanted.to_owned(), entry);
            }
        }
    }

    /// Says whether two stored tensors hold the same numbers.
    pub(crate) fn equal(&mut self, a: &str, b: &str) -> Result<bool> {
        let (a, b) = (self.read(a, Kind::Float)?, self.read(b, Kind::Float)?);
        Ok(a.size() == b.size() && a.f_equal(&b)?)
    }

    fn unreadable(&self, name: &str, entry: &Entry) -> Error {
        let path = self.shards.get(entry.shard).map_or(&self.dir, |shard| &shard.path);
        Error::Unsupported {
            path: path.clone(),
            what: format!("tensor {name:?} of data type {:?}", entry.dtype),
            supported: "F32, F16, BF16".into(),
        }
    }

    /// Reads a tensor into a number format, chunk by chunk.
    fn read(&mut self, name: &str, target: Kind) -> Result<Tensor> {
        let missing = || Error::Contradiction { dir: self.dir.clone(), why: format!("missing {name}") };
        let entry = self.entries.get(name).ok_or_else(missing)?;
        let kind = kind_of(entry.dtype).ok_or_else(|| self.unreadable(name, entry))?;
        let shape: Vec<i64> = entry.shape.iter().map(|n| *n as i64).collect();
        let shard = self
            .shards
            .get_mut(entry.shard)
            .ok_or_else(|| Error::Contradiction { dir: self.dir.clone(), why: format!("missing {name}") })?;
        let out = Tensor::f_empty(&shape, (target, self.device))?;
        let flat = out.f_view([-1])?;
        shard.file.seek(SeekFrom::Start(entry.start)).map_err(Error::io(&shard.path, "cannot be read"))?;
        let width = kind.elt_size_in_bytes();
        let mut buffer = vec![0u8; CHUNK.min(entry.bytes)];
        let (mut done, mut left) = (0i64, entry.bytes);
        while left > 0 {
            let len = left.min(buffer.len());
            let Some(chunk) = buffer.get_mut(..len) else { break };
            shard.file.read_exact(chunk).map_err(Error::io(&shard.path, "cannot be read"))?;
            let numbers = (len / width) as i64;
            let piece = Tensor::f_from_data_size(chunk, &[numbers], kind)?;
            flat.f_narrow(0, done, numbers)?.f_copy_(&piece)?;
            done += numbers;
            left -= len;
        }
        Ok(out)
    }
}

impl Source for Checkpoint {
    fn tensor(&mut self, name: &str, _: &[i64], _: Role) -> Result<Tensor> {
        self.read(name, Kind::Float)
    }

    fn tensor_in(&mut self, name: &str, _: &[i64], _: Role, kind: Kind) -> Result<Tensor> {
        self.read(name, kind)
    }

    fn stored(&self, name: &str) -> Kind {
        self.entries.get(name).and_then(|entry| kind_of(entry.dtype)).unwrap_or(Kind::Float)
    }
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        _ => None,
    }
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn no_weights(dir: &Path) -> Error {
    let names = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let pickled = names
        .filter_map(|name| name.into_string().ok())
        .find(|name| name.starts_with("pytorch_model") && name.ends_with(".bin"));
    match pickled {
        Some(name) => Error::Unsupported {
            path: dir.join(name),
            what: "a pickled checkpoint".into(),
            supported: format!(
                "{SINGLE_FILE} or shards with {INDEX_FILE} (convert it once with transformers)"
            ),
        },
        None => Error::weights(dir, format!("holds neither {SINGLE_FILE} nor {INDEX_FILE}")),
    }
}

fn open_sharded(dir: &Path, index: &Path) -> Result<(Vec<Shard>, BTreeMap<String, Entry>)> {
    let map = read_object(index)?;
    let Some(weight_map) = map.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::weights(index, "has no object \"weight_map\""));
    };
    let mut files: BTreeMap<&str, usize> = BTreeMap::new();
    let mut shards = Vec::new();
    let mut entries = BTreeMap::new();
    for (tensor, file) in weight_map {
        let file = file.as_str().filter(|name| is_plain_name(name)).ok_or_else(|| {
            let why =
                format!("tensor {tensor:?} lies in {file}, which is not the name of a file of this folder");
            Error::weights(index, why)
        })?;
        let shard = match files.get(file) {
            Some(shard) => *shard,
            None => {
                let path = dir.join(file);
                if !path.exists() {
                    return Err(Error::weights(
                        &path,
                        format!("is missing; {INDEX_FILE} has {tensor:?} in it"),
                    ));
                }
                shards.push(Shard::open(path, shards.len())?);
                files.insert(file, shards.len() - 1);
                shards.len() - 1
            }
        };
        let entry =
            shards.get(shard).and_then(|shard: &Shard| shard.tensors.get(tensor)).ok_or_else(|| {
                Error::weights(
                    &dir.join(file),
                    format!("has no tensor {tensor:?}, although {INDEX_FILE} says so"),
                )
            })?;
        entries.insert(tensor.clone(), entry.clone());
    }
    // A tensor that the index forgets is there all the same: it is reported as unused or used.
    for shard in &shards {
        for (name, entry) in &shard.tensors {
            entries.entry(name.clone()).or_insert_with(|| entry.clone());
        }
    }
    Ok((shards, entries))
}

/// An index comes from elsewhere: it must not reach outside its folder.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains(['/', '\\'])
}

impl Shard {
    fn open(path: PathBuf, index: usize) -> Result<Self> {
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
        if &prefix == b"version " {
            let why = "is a Git LFS pointer, not the weights: fetch them with `git lfs pull`";
            return Err(Error::weights(&path, why));
        }
        let header = u64::from_le_bytes(prefix);
        if header > LONGEST_HEADER || header > length - 8 {
            let why = format!(
                "claims a header of {header} bytes in a file of {length}: truncated or no safetensors"
            );
            return Err(Error::weights(&path, why));
        }
        let mut text = vec![0u8; header as usize];
        file.read_exact(&mut text).map_err(Error::io(&path, "cannot be read"))?;
        let header_json: Map<String, Value> = serde_json::from_slice(&text)
            .map_err(|source| Error::weights(&path, format!("its header is no JSON object: {source}")))?;
        let tensors = read_entries(&path, header_json, index, 8 + header, length)?;
        Ok(Self { path, file, tensors })
    }
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
        let entry = Entry {
            shard,
            dtype: info.dtype,
            shape: info.shape,
            start: data + begin as u64,
            bytes: end - begin,
        };
        entries.insert(name, entry);
    }
    let mut order: Vec<(&String, &Entry)> = entries.iter().collect();
    order.sort_by_key(|(_, entry)| (entry.start, entry.bytes));
    let mut next = data;
    for (name, entry) in order {
        if entry.start != next {
            let what = if entry.start < next {
                "overlap those of another tensor"
            } else {
                "leave a gap before them"
            };
            return refuse(name, format!("its data {what}"));
        }
        next += entry.bytes as u64;
    }
    if next != length {
        return Err(Error::weights(path, format!("has {} bytes that belong to no tensor", length - next)));
    }
    Ok(entries)
}
