//! `reward_normalization.json` in the folder of a reward model: the scale on which its rewards have mean 0 and variance 1.

use std::path::{Path, PathBuf};

use align_cli::{Error, Result, args::AnswersName};
use align_rm::{NORMALIZATION_FILE, NormalizedOn, RewardNormalization, Spread};

use crate::failure;

/// Reads the scale of a model.
///
/// # Errors
/// [`Error::Data`] where there is none, or one that cannot be.
pub fn read(folder: &Path) -> Result<RewardNormalization> {
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
    Ok(scale)
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

/// Writes the scale of a model into its folder, and returns where.
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
        let missing = read(folder.path()).unwrap_err();
        assert!(missing.to_string().contains("no normalisation") && missing.hints().len() == 1, "{missing}");
        let scale = of(&[1.0, 3.0], AnswersName::Samples).unwrap();
        let path = write(folder.path(), &scale).unwrap();
        assert_eq!(read(folder.path()).unwrap(), scale);
        for damage in ["{", "{\"mean\":0,\"std\":0,\"rows\":3,\"of\":\"samples\"}", "{\"mean\":0}"] {
            std::fs::write(&path, damage).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(NORMALIZATION_FILE), "{error}");
        }
        assert!(of(&[1.0, 1.0], AnswersName::Demonstrations).is_err());
    }
}
