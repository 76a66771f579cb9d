mod bytes;
mod pickle;
mod pieces;
mod safetensors;
mod torch_file;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use align_core::tch::{Device, Kind, Tensor};
use serde_json::Value;

use crate::keys::read_object;
use crate::weights::{Plan, Role, SCORE, Source};
use crate::{Error, Result};

/// The name of an unsharded weights file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";

/// A way in which folders hold their weights.
struct Container {
    /// The file, where there is one.
    single: &'static str,
    /// Which tensor lies in which of several files.
    index: &'static str,
    open: fn(PathBuf, usize) -> Result<Shard>,
}

/// In the order in which they are looked for: a folder may have the same weights in both.
const CONTAINERS: [Container; 2] = [
    Container { single: SINGLE_FILE, index: "model.safetensors.index.json", open: safetensors::open },
    Container { single: "pytorch_model.bin", index: "pytorch_model.bin.index.json", open: torch_file::open },
];

/// How much more may be read out of files than they hold: a tied matrix is read twice, a hostile file could have
/// thousands of tensors in one place.
const MOST_SHARING: u64 = 4;

/// Two names of the same output layer (the second is GPT-NeoX's).
const HEAD_ALIASES: [&str; 2] = ["lm_head.weight", "embed_out.weight"];

/// How many of many wrong tensors a message lists.
const LISTED: usize = 5;

/// The weights of a model folder: headers are read and checked, tensors are read when they are asked for.
///
/// Tensors are read, not mapped: a mapped file counts twice against memory, and kills the process when somebody
/// truncates it.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    /// Tensors that come from elsewhere: a head that is drawn, for example.
    provided: BTreeMap<String, Tensor>,
    device: Device,
}

/// One file of weights.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, Entry>,
    /// Bytes of the file.
    length: u64,
}

/// Where the numbers of a tensor lie; checked to be inside the file.
#[derive(Debug, Clone)]
struct Entry {
    shard: usize,
    /// The type of its numbers; none if no model takes them.
    kind: Option<Kind>,
    /// The name of the type in its container.
    dtype: String,
    shape: Vec<usize>,
    /// How many numbers further the next along each dimension lies.
    strides: Vec<usize>,
    /// The first byte.
    start: u64,
}

impl Entry {
    fn bytes(&self) -> u64 {
        let width = self.kind.map_or(0, Kind::elt_size_in_bytes) as u64;
        self.shape.iter().fold(width, |bytes, size| bytes.saturating_mul(*size as u64))
    }
}

impl Checkpoint {
    /// Opens the weights of a folder and checks every header; no tensor is read yet.
    pub(crate) fn open(dir: &Path, device: Device) -> Result<Self> {
        let found = CONTAINERS.iter().find_map(|container| {
            let (single, index) = (dir.join(container.single), dir.join(container.index));
            match (single.exists(), index.exists()) {
                (true, _) => Some((container.open)(single, 0).map(|shard| {
                    let entries = shard.tensors.clone();
                    (vec![shard], entries)
                })),
                (false, true) => Some(open_sharded(dir, &index, container)),
                (false, false) => None,
            }
        });
        let (shards, entries) = found.unwrap_or_else(|| Err(no_weights(dir)))?;
        Ok(Self { dir: dir.to_owned(), shards, entries, provided: BTreeMap::new(), device })
    }

    /// Says whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name) || self.provided.contains_key(name)
    }

    /// Puts a tensor of the model's shape among those of the folder, in the place of one of that name.
    pub(crate) fn provide(&mut self, name: &str, tensor: Tensor) {
        self.provided.insert(name.to_owned(), tensor);
    }

    /// Opens one file of tensors and checks its header; no tensor is read yet.
    pub(crate) fn of_file(path: &Path, device: Device) -> Result<Self> {
        let shard = safetensors::open(path.to_owned(), 0)?;
        let entries = shard.tensors.clone();
        let (dir, shards, provided) = (path.to_owned(), vec![shard], BTreeMap::new());
        let checkpoint = Self { dir, shards, entries, provided, device };
        match checkpoint.entries.iter().find(|(_, entry)| entry.kind.is_none()) {
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
        let mut taken = 0u64;
        let mut unused: BTreeSet<&str> = self.entries.keys().map(String::as_str).collect();
        for (name, shape, _) in &plan.tensors {
            unused.remove(name.as_str());
            if self.provided.contains_key(name) {
                continue;
            }
            match self.entries.get(name) {
                None => missing.push(name.clone()),
                Some(entry) => {
                    entry.kind.ok_or_else(|| self.unreadable(name, entry))?;
                    taken = taken.saturating_add(entry.bytes());
                    if entry.shape.iter().map(|n| *n as i64).ne(shape.iter().copied()) {
                        wrong.push(format!("{name} is {:?}, the configuration means {shape:?}", entry.shape));
                    }
                }
            }
        }
        let why = match (missing.is_empty(), wrong.is_empty()) {
            (true, true) if taken > MOST_SHARING.saturating_mul(self.length()) => {
                format!(
                    "{taken} bytes are to be read out of files of {}: too many tensors share a place",
                    self.length()
                )
            }
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
            let outside =
                |name: &str| name == SCORE || HEAD_ALIASES.iter().any(|head| name.starts_with(head));
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

    /// Counts the bytes of all files.
    fn length(&self) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.saturating_add(shard.length))
    }

    fn unreadable(&self, name: &str, entry: &Entry) -> Error {
        let path = self.shards.get(entry.shard).map_or(&self.dir, |shard| &shard.path);
        Error::Unsupported {
            path: path.clone(),
            what: format!("tensor {name:?} of data type {}", entry.dtype),
            supported: "float32, float16, bfloat16".into(),
        }
    }

    /// Reads a tensor into a number format, chunk by chunk.
    fn read(&mut self, name: &str, target: Kind) -> Result<Tensor> {
        let missing = || Error::Contradiction { dir: self.dir.clone(), why: format!("missing {name}") };
        if let Some(tensor) = self.provided.get(name) {
            return Ok(tensor.f_to_device(self.device)?.f_to_kind(target)?);
        }
        let entry = self.entries.get(name).ok_or_else(missing)?;
        let kind = entry.kind.ok_or_else(|| self.unreadable(name, entry))?;
        let shard = self.shards.get_mut(entry.shard).ok_or_else(missing)?;
        pieces::read(shard, entry, kind, (target, self.device))
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
        self.entries.get(name).and_then(|entry| entry.kind).unwrap_or(Kind::Float)
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
    let names: Vec<&str> =
        CONTAINERS.iter().flat_map(|container| [container.single, container.index]).collect();
    Error::weights(dir, format!("holds none of {}", names.join(", ")))
}

/// Refuses what Git leaves in the place of a large file that was not fetched.
fn refuse_pointer(path: &Path, start: &[u8]) -> Result<()> {
    match start.starts_with(b"version ") {
        true => {
            let why = "is a Git LFS pointer, not the weights: fetch them with `git lfs pull`";
            Err(Error::weights(path, why))
        }
        false => Ok(()),
    }
}

fn open_sharded(
    dir: &Path,
    index: &Path,
    container: &Container,
) -> Result<(Vec<Shard>, BTreeMap<String, Entry>)> {
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
                        format!("is missing; {} has {tensor:?} in it", container.index),
                    ));
                }
                shards.push((container.open)(path, shards.len())?);
                files.insert(file, shards.len() - 1);
                shards.len() - 1
            }
        };
        let entry =
            shards.get(shard).and_then(|shard: &Shard| shard.tensors.get(tensor)).ok_or_else(|| {
                Error::weights(
                    &dir.join(file),
                    format!("has no tensor {tensor:?}, although {} says so", container.index),
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
