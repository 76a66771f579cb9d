//! The file with the scale of a reward model, beside its weights.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{NORMALIZATION_FILE, RewardNormalization, ScoringError};

type Result<T, E = ScoringError> = std::result::Result<T, E>;

impl RewardNormalization {
    /// Reads the scale of a model's folder, or of its adapter's, and holds it against the weights that are there.
    ///
    /// A file that does not say on which weights it was measured is taken: its `weights` are `None`, and whoever reads it
    /// should say so.
    ///
    /// # Errors
    /// [`ScoringError::Scale`] where there is none, one with impossible numbers, or one of other weights;
    /// [`ScoringError::Read`].
    pub fn read(model: &Path, adapter: Option<&Path>) -> Result<Self> {
        let folder = adapter.unwrap_or(model);
        let path = folder.join(NORMALIZATION_FILE);
        let wrong = |why: String| ScoringError::Scale { path: path.clone(), why };
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let why = "there is no normalisation of the rewards of this model; it is measured on answers of the \
                           policy that training starts from";
                return Err(ScoringError::Scale { path: folder.to_owned(), why: why.to_owned() });
            }
            other => other.map_err(|error| wrong(error.to_string()))?,
        };
        let scale: Self = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        scale.validate().map_err(|error| wrong(error.to_string()))?;
        match scale.fits_weights(&weights_digest(model, adapter)?) {
            Some(false) => Err(wrong(
                "it was measured on other weights than are in the folder now, whose rewards have another zero and scale"
                    .to_owned(),
            )),
            Some(true) | None => Ok(scale),
        }
    }
}

/// Computes the digest of the weights that give the rewards: those of the model, and of its adapter where there is one.
/// A scale is bound to it ([`RewardNormalization::of_weights`]).
///
/// # Errors
/// [`ScoringError::Read`].
pub fn weights_digest(model: &Path, adapter: Option<&Path>) -> Result<String> {
    let mut files = weight_files(model)?;
    if let Some(adapter) = adapter {
        files.extend(weight_files(adapter)?);
    }
    files_digest(&files)
}

/// Lists the files of a folder's weights, sorted: those that are loaded, in which safetensors come first.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut safe = Vec::new();
    let mut pickled = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
        let path = entry.map_err(unreadable(folder))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("safetensors") if path.is_file() => safe.push(path),
            Some("bin") if path.is_file() => pickled.push(path),
            _ => {}
        }
    }
    let mut files = if safe.is_empty() { pickled } else { safe };
    files.sort();
    Ok(files)
}

/// Computes the SHA-256 of the names and contents of files, in hexadecimal.
///
/// # Errors
/// [`ScoringError::Read`].
pub fn files_digest(files: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        let mut file = File::open(path).map_err(unreadable(path))?;
        loop {
            let read = file.read(&mut buffer).map_err(unreadable(path))?;
            match buffer.get(..read) {
                Some(bytes) if !bytes.is_empty() => hash.update(bytes),
                _ => break,
            }
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> ScoringError {
    let path = path.to_owned();
    move |source| ScoringError::Read { path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NormalizedOn, Spread};

    fn scale() -> RewardNormalization {
        RewardNormalization::fit(&[1.0, 3.0], NormalizedOn::Samples, Spread::Unit).unwrap()
    }

    fn put(folder: &tempfile::TempDir, name: &str, content: &str) {
        std::fs::write(folder.path().join(name), content).unwrap();
    }

    fn put_scale(folder: &tempfile::TempDir, scale: &RewardNormalization) {
        put(folder, NORMALIZATION_FILE, &serde_json::to_string(scale).unwrap());
    }

    #[test]
    fn what_is_written_is_read_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let read = || RewardNormalization::read(folder.path(), None);
        let missing = read().unwrap_err();
        assert!(missing.to_string().contains("no normalisation"), "{missing}");
        put_scale(&folder, &scale());
        assert_eq!(read().unwrap(), scale(), "one that knows no weights is taken");
        for damage in ["{", "{\"mean\":0,\"std\":0,\"rows\":3,\"of\":\"samples\"}", "{\"mean\":0}"] {
            put(&folder, NORMALIZATION_FILE, damage);
            let error = read().unwrap_err().to_string();
            assert!(error.contains(NORMALIZATION_FILE), "{error}");
        }
        let nowhere = RewardNormalization::read(&folder.path().join("nowhere"), None).unwrap_err();
        assert!(matches!(nowhere, ScoringError::Scale { .. }), "{nowhere}");
    }

    #[test]
    fn a_scale_of_other_weights_is_refused() {
        let (model, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put(&model, "model.safetensors", "first");
        put(&adapter, "adapter_model.safetensors", "adapter");
        let bound =
            |adapter: Option<&Path>| scale().of_weights(weights_digest(model.path(), adapter).unwrap());
        put_scale(&model, &bound(None));
        put_scale(&adapter, &bound(Some(adapter.path())));
        let read = |adapter: Option<&Path>| RewardNormalization::read(model.path(), adapter);
        // What a folder holds beside the weights that are loaded does not matter.
        put(&model, "generation_config.json", "{}");
        put(&model, "pytorch_model.bin", "older");
        assert!(read(None).is_ok() && read(Some(adapter.path())).is_ok());
        put(&model, "model.safetensors", "other");
        for adapter in [None, Some(adapter.path())] {
            let error = read(adapter).unwrap_err();
            assert!(error.to_string().contains("measured on other weights"), "{error}");
        }
        put(&model, "model.safetensors", "first");
        put(&adapter, "adapter_model.safetensors", "another");
        assert!(read(None).is_ok() && read(Some(adapter.path())).is_err());
    }
}
