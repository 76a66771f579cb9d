//! What a run reads: never inside what `--overwrite` deletes, and known again by `--resume`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use align_cli::{Error, Result, args::TrainArgs};
use align_core::align_types::{PromptGroup, TokenId};
use sha2::{Digest, Sha256};

use crate::{origin, rows::Rows};

/// Checks that deleting the run in `output` deletes nothing that the new run reads.
///
/// # Errors
/// [`Error::Usage`] with the flag.
pub fn outlive(output: &Path, train: &TrainArgs, reads: &[(&'static str, &Path)]) -> Result<()> {
    let mut inputs: Vec<(&str, &Path)> = Vec::new();
    inputs.extend(train.model.iter().map(|path| ("--model", path.as_path())));
    inputs.extend(train.machine.adapter.iter().map(|path| ("--adapter", path.as_path())));
    inputs.extend(reads);
    inputs.extend(train.data.iter().map(|path| ("--data", path.as_path())));
    inputs.extend(train.watch.eval_data.iter().map(|path| ("--eval-data", path.as_path())));
    let Ok(doomed) = fs::canonicalize(output) else { return Ok(()) };
    match inputs.into_iter().find(|(_, path)| is_below(&doomed, path)) {
        None => Ok(()),
        Some((flag, path)) => Err(Error::usage(
            format!(
                "{flag} {}: --overwrite would delete it with the run in {}",
                path.display(),
                output.display()
            ),
            ["name another --output-dir, or move it out of the run folder first".to_owned()],
        )),
    }
}

/// Says whether a path, what it links to, or a file that a folder links to, lies below a folder.
fn is_below(folder: &Path, path: &Path) -> bool {
    // A link inside goes away with the folder, even where what it links to stays.
    let named = path.parent().and_then(|parent| fs::canonicalize(parent).ok());
    let linked = |path: &Path| fs::canonicalize(path).is_ok_and(|real| real.starts_with(folder));
    named.is_some_and(|parent| parent.starts_with(folder))
        || linked(path)
        || fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| linked(&entry.path())))
}

/// Computes a digest of what decides the steps of a run beside its configuration: the tokens of its rows with what is
/// said of them, in `columns` too, and the weights in folders that are read and not trained.
///
/// # Errors
/// [`Error::Data`] for a folder that cannot be read, or rows on a disk that fails.
pub fn fingerprint(rows: &Rows, folders: &[&Path], columns: &[&str]) -> Result<String> {
    let mut hash = Sha256::new();
    for groups in [&rows.train, &rows.eval] {
        hash.update((groups.len() as u64).to_le_bytes());
        for group in groups.iter() {
            let group = group?;
            add(&mut hash, &group);
            for value in columns.iter().filter_map(|column| group.columns.get(*column)) {
                hash.update(format!("{value};"));
            }
        }
    }
    // Where one file ends and the next begins decides only where they are mixed.
    if rows.mixed {
        rows.files.iter().for_each(|part| hash.update((part.rows as u64).to_le_bytes()));
    }
    for folder in folders {
        hash.update(weights(folder)?);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Computes a digest of the numbers of a model or an adapter in a folder.
///
/// # Errors
/// [`Error::Data`] for a folder that cannot be read.
pub fn weights(folder: &Path) -> Result<String> {
    let files: Vec<PathBuf> = origin::model_files(folder)?.into_iter().filter(|path| decides(path)).collect();
    origin::digest(&files)
}

/// Computes a digest of everything in a model's folder that decides what it makes of a text.
///
/// # Errors
/// [`Error::Data`] for a folder that cannot be read.
pub fn everything(folder: &Path) -> Result<String> {
    origin::digest(&origin::model_files(folder)?)
}

/// Only numbers matter: the tokenizer of a reference is not read.
fn decides(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors" || extension == "bin")
        || path.ends_with("config.json")
        || path.ends_with("adapter_config.json")
}

fn add(hash: &mut Sha256, group: &PromptGroup) {
    let mut ids = |ids: &[TokenId]| {
        hash.update((ids.len() as u64).to_le_bytes());
        ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
    };
    ids(&group.prompt);
    group.completions.iter().for_each(|answer| ids(&answer.token_ids));
    for answer in &group.completions {
        hash.update(format!("{}|{:?}|{:?}|{:?};", answer.name, answer.label, answer.rank, answer.reward));
        if let Some(trained) = &answer.trained {
            hash.update(format!("{trained:?};"));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "a mask of one range")]

    use align_core::align_types::Completion;

    use super::*;

    fn group(prompt: &[TokenId], answers: &[&[TokenId]]) -> PromptGroup {
        let answers = answers.iter().map(|ids| Completion::named("a", ids.to_vec())).collect();
        PromptGroup::new(prompt.to_vec(), answers)
    }

    #[test]
    fn every_token_and_its_place_count() {
        let of = |train: Vec<PromptGroup>, eval: Vec<PromptGroup>| {
            let rows = Rows { train: train.into(), eval: eval.into(), files: Vec::new(), mixed: false };
            fingerprint(&rows, &[], &["ref_rewards"]).unwrap()
        };
        let row = || group(&[1, 2], &[&[3], &[4, 5]]);
        let known = of(vec![row()], vec![row()]);
        assert_eq!(known, of(vec![row()], vec![row()]));
        let mut labelled = row();
        labelled.completions[0].label = Some(true);
        let mut masked = row();
        masked.completions[1].trained = Some(vec![1..2]);
        let mut rewarded = row();
        rewarded.columns.insert("ref_rewards".into(), vec![0.5].into());
        let mut commented = row();
        commented.columns.insert("comment".into(), "not read".into());
        assert_eq!(known, of(vec![commented], vec![row()]));
        for other in [
            vec![rewarded],
            vec![group(&[1, 2], &[&[3], &[4, 6]])],
            vec![group(&[1], &[&[2, 3], &[4, 5]])],
            vec![group(&[1, 2], &[&[3, 4], &[5]])],
            vec![row(), row()],
            vec![labelled],
            vec![masked],
        ] {
            assert_ne!(known, of(other, vec![row()]));
        }
        assert_ne!(known, of(vec![row(), row()], Vec::new()));
    }
}
