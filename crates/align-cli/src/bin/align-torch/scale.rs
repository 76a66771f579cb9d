//! `reward_normalization.json` in the folder of a reward model: the scale on which its rewards have mean 0 and variance 1.

use std::path::{Path, PathBuf};

use align_cli::{Error, Result, args::AnswersName, talk};
use align_rm::{NORMALIZATION_FILE, NormalizedOn, RewardNormalization, Spread, weights_digest};

use crate::failure;

/// Reads the scale of a model, or of its adapter.
///
/// # Errors
/// [`Error::Data`] where there is none, one that cannot be, or one of other weights.
pub fn read(model: &Path, adapter: Option<&Path>) -> Result<RewardNormalization> {
    let scale = RewardNormalization::read(model, adapter).map_err(failure::of)?;
    if scale.weights.is_none() {
        let path = adapter.unwrap_or(model).join(NORMALIZATION_FILE);
        let unknown =
            "it does not say on which weights it was measured; a scale of others would be silently wrong";
        talk::warn(&format!("{}: {unknown}: {}", path.display(), measure()));
    }
    Ok(scale)
}

/// Says how a scale is measured.
pub fn measure() -> String {
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
    Ok(scale.of_weights(weights_digest(model, adapter).map_err(failure::of)?))
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
    fn what_is_written_is_read_and_what_is_not_there_has_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let missing = read(folder.path(), None).unwrap_err();
        assert!(missing.to_string().contains("no normalisation"), "{missing}");
        assert!(missing.hints().join(" ").contains("--fit-normalization"), "{missing}");
        std::fs::write(folder.path().join("model.safetensors"), "weights").unwrap();
        let scale = bind(of(&[1.0, 3.0], AnswersName::Samples).unwrap(), folder.path(), None).unwrap();
        write(folder.path(), &scale).unwrap();
        assert_eq!(read(folder.path(), None).unwrap(), scale);
        assert!(of(&[1.0, 1.0], AnswersName::Demonstrations).is_err());
    }
}
