use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use align_core::tch::{Device, Kind};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::checkpoint::SINGLE_FILE;
use crate::model::Model;
use crate::value_head::VALUE_HEAD_FILE;
use crate::weights::Weight;
use crate::{Error, Result};

/// In which data type weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SaveDtype {
    /// Each tensor as the checkpoint it came from had it; float32 for a new model. A bfloat16 checkpoint that was
    /// trained is rounded again.
    #[default]
    Source,
    /// Float32, which loses nothing of training.
    F32,
    /// Bfloat16.
    Bf16,
}

impl SaveDtype {
    fn kind(self, weight: &Weight) -> Kind {
        match self {
            Self::Source => weight.stored,
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::Source => None,
            Self::F32 => Some("float32"),
            Self::Bf16 => Some("bfloat16"),
        }
    }
}

/// The files beside the weights that make a folder usable: tokenizer, chat template, generation defaults.
const COMPANIONS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

impl Model {
    /// Writes a Hugging Face folder: `config.json` with every key it came with, and one `model.safetensors`.
    ///
    /// The folder is written beside `dir`, synced and renamed, so that `dir` is whole or absent whenever the process
    /// is killed. A model folder of that name is replaced; any other folder that is not empty is left alone.
    ///
    /// # Errors
    /// [`Error::Output`] when `dir` holds something else; [`Error::Io`] for a full disk or missing rights, in which
    /// case what was there before is still there.
    pub fn save(&self, dir: &Path, dtype: SaveDtype) -> Result<()> {
        self.save_folder(dir, dtype, None, &[])
    }

    /// As [`Self::save`], and copies tokenizer, chat template, generation configuration and Python code of the folder
    /// `from`.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_with_tokenizer(&self, dir: &Path, dtype: SaveDtype, from: &Path) -> Result<()> {
        self.save_folder(dir, dtype, Some(from), &[])
    }

    /// Writes the folder, and the tensors of a value head, where there are some, into a file of their own.
    pub(crate) fn save_folder(
        &self,
        dir: &Path,
        dtype: SaveDtype,
        from: Option<&Path>,
        value_head: &[Weight],
    ) -> Result<()> {
        if self.adapter.is_some() {
            let why = "a model with one is saved by save_adapter, or after merge_adapter";
            return Err(align_core::Error::input("adapter", why).into());
        }
        let staged = Staged::new(dir, "config.json")?;
        let weights = self.weights().iter().map(|weight| (weight, dtype.kind(weight))).collect();
        write_tensors(&staged.path.join(SINGLE_FILE), weights)?;
        write_file(&staged.path.join("config.json"), &self.config().to_file(dtype.name()))?;
        if !value_head.is_empty() {
            // Small, and bit-equal when it is read back whatever the type of the model.
            let weights = value_head.iter().map(|weight| (weight, Kind::Float)).collect();
            write_tensors(&staged.path.join(VALUE_HEAD_FILE), weights)?;
        }
        staged.copy_companions(from)?;
        staged.publish(dir)
    }
}

/// Writes a safetensors file tensor by tensor; one tensor is in memory besides the model.
pub(crate) fn write_tensors(path: &Path, mut order: Vec<(&Weight, Kind)>) -> Result<()> {
    // The order of the format's own writer: wide data types first, so that every tensor is aligned.
    order.sort_by(|(a, ka), (b, kb)| {
        kb.elt_size_in_bytes().cmp(&ka.elt_size_in_bytes()).then_with(|| a.name.cmp(&b.name))
    });
    let header = header(path, &order)?;
    let file = File::create(path).map_err(Error::io(path, "cannot be created"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io(path, "cannot be written"));
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    for (weight, kind) in order {
        put(&bytes_of(weight, kind)?)?;
    }
    let file = out.into_inner().map_err(|e| Error::io(path, "cannot be written")(e.into_error()))?;
    file.sync_all().map_err(Error::io(path, "cannot be synced"))
}

/// Finds the files of a folder that go with its weights: the known ones, and the Python code that families without a
/// class in transformers bring (`tokenization_baichuan.py`, `modeling_chatglm.py` and what these import).
fn companions(from: &Path) -> Result<Vec<(OsString, PathBuf)>> {
    let mut found = vec![];
    for entry in fs::read_dir(from).map_err(Error::io(from, "cannot be read"))? {
        let path = entry.map_err(Error::io(from, "cannot be read"))?.path();
        let code = path.extension().is_some_and(|extension| extension == "py");
        if let Some(name) = path.file_name()
            && (code || COMPANIONS.iter().any(|known| name == *known))
            && path.is_file()
        {
            found.push((name.to_owned(), path));
        }
    }
    Ok(found)
}

fn header(path: &Path, order: &[(&Weight, Kind)]) -> Result<Vec<u8>> {
    let mut start = 0;
    let mut infos = Vec::with_capacity(order.len());
    for (weight, kind) in order {
        let shape: Vec<usize> = weight.matrix.shape().iter().map(|n| *n as usize).collect();
        let end = start + shape.iter().product::<usize>() * kind.elt_size_in_bytes();
        infos.push((
            weight.name.clone(),
            TensorInfo { dtype: dtype_of(*kind), shape, data_offsets: (start, end) },
        ));
        start = end;
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|e| Error::weights(path, e.to_string()))?;
    let mut header =
        serde_json::to_vec(&metadata).map_err(|source| Error::Json { path: path.to_owned(), source })?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn dtype_of(kind: Kind) -> Dtype {
    match kind {
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}

fn bytes_of(weight: &Weight, kind: Kind) -> Result<Vec<u8>> {
    let tensor =
        weight.matrix.read()?.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(kind)?.f_contiguous()?;
    let numbers = tensor.numel();
    let mut bytes = vec![0u8; numbers * kind.elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, numbers)?;
    Ok(bytes)
}

pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io(path, "cannot be created"))?;
    file.write_all(bytes).map_err(Error::io(path, "cannot be written"))?;
    file.sync_all().map_err(Error::io(path, "cannot be synced"))
}

/// A folder that is being written beside its final place; dropped before it is published, it disappears.
pub(crate) struct Staged {
    pub(crate) path: PathBuf,
    parent: PathBuf,
    replaced: PathBuf,
}

impl Staged {
    /// Begins a folder; one that is there already is replaced if it is empty or holds the file `mark`.
    pub(crate) fn new(dir: &Path, mark: &str) -> Result<Self> {
        check_target(dir, mark)?;
        let absolute = std::path::absolute(dir).map_err(Error::io(dir, "cannot be resolved"))?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(Error::Output {
                path: dir.to_owned(),
                why: "is not the name of a new folder".into(),
            });
        };
        fs::create_dir_all(parent).map_err(Error::io(parent, "cannot be created"))?;
        let beside = |what: &str| parent.join(format!(".{}.{what}", name.to_string_lossy()));
        let (path, replaced) = (beside("partial"), beside("replaced"));
        if path.exists() {
            // Left by a save that was killed.
            fs::remove_dir_all(&path).map_err(Error::io(&path, "cannot be removed"))?;
        }
        fs::create_dir(&path).map_err(Error::io(&path, "cannot be created"))?;
        Ok(Self { path, parent: parent.to_owned(), replaced })
    }

    /// Copies the files that make a model usable from another folder, where there is one.
    pub(crate) fn copy_companions(&self, from: Option<&Path>) -> Result<()> {
        let Some(from) = from else { return Ok(()) };
        for (name, source) in companions(from)? {
            let bytes = fs::read(&source).map_err(Error::io(&source, "cannot be read"))?;
            write_file(&self.path.join(name), &bytes)?;
        }
        Ok(())
    }

    /// Gives the folder its final name.
    pub(crate) fn publish(self, dir: &Path) -> Result<()> {
        sync_folder(&self.path)?;
        let rename =
            |from: &Path, to: &Path| fs::rename(from, to).map_err(Error::io(to, "cannot be renamed"));
        let remove = |path: &Path| fs::remove_dir_all(path).map_err(Error::io(path, "cannot be removed"));
        let occupied = dir.exists();
        if occupied {
            if self.replaced.exists() {
                remove(&self.replaced)?;
            }
            rename(dir, &self.replaced)?;
        }
        if let Err(error) = rename(&self.path, dir) {
            if occupied {
                rename(&self.replaced, dir)?;
            }
            return Err(error);
        }
        sync_folder(&self.parent)?;
        if self.replaced.exists() { remove(&self.replaced) } else { Ok(()) }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After publishing it is no longer there; a failure here leaves rubbish under a hidden name, nothing worse.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn check_target(dir: &Path, mark: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::Output { path: dir.to_owned(), why: why.into() });
    if !dir.exists() {
        return Ok(());
    }
    if !dir.is_dir() {
        return refuse("is a file, not a folder");
    }
    let mut entries = fs::read_dir(dir).map_err(Error::io(dir, "cannot be read"))?;
    if entries.next().is_some() && !dir.join(mark).exists() {
        return refuse("is not empty and holds something else; choose another folder");
    }
    Ok(())
}

/// Makes the names inside a folder durable, where the system can.
fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        let folder = File::open(path).map_err(Error::io(path, "cannot be opened"))?;
        folder.sync_all().map_err(Error::io(path, "cannot be synced"))?;
    }
    Ok(())
}
