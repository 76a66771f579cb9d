//! `reward_normalization.json` in the folder of a reward model: the scale on which its rewards have mean 0 and variance 1.

use std::path::{Path, PathBuf};

use align_cli::{Error, Result, args::AnswersName, talk};
use align_rm::{NORMALIZATION_FILE, NormalizedOn, RewardNormalization, Spread};

use crate::{
    failure,
    origin::{digest, model_files},
};

/// Reads the scale of a model, or of its adapter.
///
/// # Errors
/// [`Error::Data`] where there is none, one that cannot be, or one of other weights.
pub fn read(model: &Path, adapter: Option<&Path>) -> Result<RewardNormalization> {
    let folder = adapter.unwrap_or(model);
    let path = folder.join(NORMALIZATION_FILE);
    let wrong = |why: String| Error::data(format!("{}: {why}", path.display()), [measure()]);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let what = "there is no normalisation of the rewards of this model, which --normalize needs";
            return Err(Error::data(format!("{}: {what}", folder.display()), [measure()]));
        }
        other => other.map_err(|error| wrong(error.to_string()))?,
    };
    let scale: RewardNormalization = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    scale.validate().map_err(|error| wrong(error.to_string()))?;
    match scale.fits_weights(&weights(model, adapter)?) {
        Some(true) => Ok(scale),
        Some(false) => Err(wrong(
            "it was measured on other weights than are in the folder now, whose rewards have another zero and scale"
                .to_owned(),
        )),
        None => {
            let unknown = "it does not say on which weights it was measured; a scale of others would be silently wrong";
            talk::warn(&format!("{}: {unknown}: {}", path.display(), measure()));
            Ok(scale)
        }
    }
}

/// Computes the digest of the weights that give the rewards: those of the model, and of its adapter where there is one.
fn weights(model: &Path, adapter: Option<&Path>) -> Result<String> {
    let mut files = weight_files(model)?;
    if let Some(adapter) = adapter {
        files.extend(weight_files(adapter)?);
    }
    digest(&files)
}

/// Lists the files of a folder's weights: those that are loaded, in which safetensors come first.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let all = model_files(folder)?;
    let with = |extension: &str| -> Vec<PathBuf> {
        all.iter().filter(|path| path.extension().is_some_and(|it| it == extension)).cloned().collect()
    };
    let safe = with("safetensors");
    Ok(if safe.is_empty() { with("bin") } else { safe })
}

fn measure() -> String {
    "`align score --model DIR --data FILE --fit-normalization samples` measures it on answers of the policy that \
     training starts from"
        .to_owned()
}

/// Computes the scale of raw rewards.
///
/// # Errors
/// [`Error::Data`] for rewards that are all equal.
pub fn of(rewards: &[f64], answers: AnswersName) -> Result<RewardNormalization> {
    let on = match answers {
        AnswersName::Samples => NormalizedOn::Samples,
        AnswersName::Demonstrations => NormalizedOn::Demonstrations,
    };
    RewardNormalization::fit(rewards, on, Spread::Unit).map_err(failure::of)
}

/// Binds a scale to the weights that gave the rewards.
///
/// # Errors
/// Weights that cannot be read.
pub fn bind(scale: RewardNormalization, model: &Path, adapter: Option<&Path>) -> Result<RewardNormalization> {
    Ok(scale.of_weights(weights(model, adapter)?))
}

/// Writes the scale of a model into its folder, or that of its adapter, and returns where.
///
/// # Errors
/// The file cannot be written.
pub fn write(folder: &Path, scale: &RewardNormalization) -> Result<PathBuf> {
    let path = folder.join(NORMALIZATION_FILE);
    let text = serde_json::to_string_pretty(scale).map_err(|error| Error::data(error.to_string(), []))?;
    align_train::write_atomic(&path, format!("{text}\n").as_bytes()).map_err(failure::of)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let read = || read(folder.path(), None);
        let missing = read().unwrap_err();
        assert!(missing.to_string().contains("no normalisation") && missing.hints().len() == 1, "{missing}");
        let scale = of(&[1.0, 3.0], AnswersName::Samples).unwrap();
        let path = write(folder.path(), &scale).unwrap();
        assert_eq!(read().unwrap(), scale, "one that knows no weights is taken with a warning");
        for damage in ["{", "{\"mean\":0,\"std\":0,\"rows\":3,\"of\":\"samples\"}", "{\"mean\":0}"] {
            std::fs::write(&path, damage).unwrap();
            let error = read().unwrap_err().to_string();
            assert!(error.contains(NORMALIZATION_FILE), "{error}");
        }
        assert!(of(&[1.0, 1.0], AnswersName::Demonstrations).is_err());
    }

    #[test]
    fn a_scale_of_other_weights_is_refused() {
        let (model, adapter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let put = |folder: &tempfile::TempDir, name: &str, content: &str| {
            std::fs::write(folder.path().join(name), content).unwrap();
        };
        let scale = of(&[1.0, 3.0], AnswersName::Samples).unwrap();
        put(&model, "model.safetensors", "first");
        put(&adapter, "adapter_model.safetensors", "adapter");
        write(model.path(), &bind(scale.clone(), model.path(), None).unwrap()).unwrap();
        write(adapter.path(), &bind(scale, model.path(), Some(adapter.path())).unwrap()).unwrap();
        // What a folder holds beside the weights does not matter.
        put(&model, "generation_config.json", "{}");
        assert!(read(model.path(), None).is_ok() && read(model.path(), Some(adapter.path())).is_ok());
        put(&model, "model.safetensors", "other");
        for adapter in [None, Some(adapter.path())] {
            let error = read(model.path(), adapter).unwrap_err();
            assert!(error.to_string().contains("measured on other weights"), "{error}");
            assert!(error.hints().join(" ").contains("--fit-normalization"), "{error}");
        }
        put(&model, "model.safetensors", "first");
        put(&adapter, "adapter_model.safetensors", "another");
        assert!(read(model.path(), None).is_ok() && read(model.path(), Some(adapter.path())).is_err());
    }
}
