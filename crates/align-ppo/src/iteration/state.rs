//! What an iteration hands on to the next, beside weights and moments.

use std::fs;
use std::path::{Path, PathBuf};

use align_core::align_types::{PromptGroup, exact};
use serde::{Deserialize, Serialize};

use crate::IterationError as Error;

type Result<T, E = Error> = std::result::Result<T, E>;

const FILE: &str = "ppo.json";

/// The content of `ppo.json` in a checkpoint.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Batches taken from the source of prompts; each is one draw of the sampler.
    pub draws: u64,
    /// Completions sampled, those that were not trained on included.
    pub sampled: u64,
    /// The controller of the KL weight.
    #[serde(with = "exact::list")]
    pub controller: Vec<f64>,
    /// The running moments of returns.
    #[serde(with = "exact::list")]
    pub values: Vec<f64>,
    /// The running deviation of scores.
    #[serde(with = "exact::list")]
    pub scores: Vec<f64>,
    /// What the source of prompts remembers.
    #[serde(with = "exact::list")]
    pub source: Vec<f64>,
    /// Iterations in a row that had nothing to learn from.
    pub idle: u64,
    /// Samples that wait for their iteration, where sampling runs ahead.
    pub ahead: Option<Ahead>,
}

/// Samples of one draw, not scored yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ahead {
    /// The groups, without the log-probabilities of their completions.
    groups: Vec<PromptGroup>,
    /// The log-probabilities of each completion under the policy that sampled it, as bits: decimal digits might come back
    /// as a neighbour.
    logprobs: Vec<Option<Vec<u32>>>,
    /// What the source of prompts said of the draw.
    pub metrics: Vec<(String, f64)>,
}

impl Ahead {
    pub fn new(mut groups: Vec<PromptGroup>, metrics: Vec<(String, f64)>) -> Self {
        let bits = |list: Vec<f32>| list.into_iter().map(f32::to_bits).collect();
        let completions = groups.iter_mut().flat_map(|group| &mut group.completions);
        let logprobs = completions.map(|answer| answer.logprobs.take().map(bits)).collect();
        Self { groups, logprobs, metrics }
    }

    pub fn into_groups(self) -> Vec<PromptGroup> {
        let mut groups = self.groups;
        let completions = groups.iter_mut().flat_map(|group| &mut group.completions);
        for (answer, bits) in completions.zip(self.logprobs) {
            answer.logprobs = bits.map(|bits| bits.into_iter().map(f32::from_bits).collect());
        }
        groups
    }
}

impl State {
    /// Returns the file in a checkpoint.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = Self::path(folder);
        let text = serde_json::to_vec(self).map_err(|error| Error::write(&path, error))?;
        fs::write(&path, text).map_err(|error| Error::write(&path, error))
    }

    pub fn load(folder: &Path) -> Result<Self> {
        let path = Self::path(folder);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::checkpoint(&path, error),
            // What the disk refuses now says nothing of what is on it.
            _ => Error::read(&path, error),
        })?;
        serde_json::from_slice(&text).map_err(|error| Error::checkpoint(&path, error))
    }
}

#[cfg(test)]
mod tests {
    use align_core::align_types::Completion;

    use super::*;

    #[test]
    fn samples_that_wait_come_back_bit_by_bit() {
        let logprobs: Vec<f32> = (0..4000u32).map(|i| -f32::from_bits(0x3f00_0001 + i * 7919)).collect();
        let answer = Completion { logprobs: Some(logprobs), ..Completion::new(vec![1, 2]) };
        let groups = vec![PromptGroup::new(vec![5], vec![answer, Completion::new(vec![3])])];
        let folder = tempfile::tempdir().unwrap();
        let state = State {
            draws: 3,
            controller: vec![0.1 + 0.2, f64::MIN_POSITIVE],
            ahead: Some(Ahead::new(groups.clone(), vec![])),
            ..State::default()
        };
        state.save(folder.path()).unwrap();
        let read = State::load(folder.path()).unwrap();
        assert_eq!((read.draws, &read.controller), (3, &state.controller));
        assert_eq!(read.ahead.unwrap().into_groups(), groups);
        fs::write(folder.path().join(FILE), "{\"draws\": 3").unwrap();
        assert!(matches!(State::load(folder.path()), Err(Error::Checkpoint { .. })));
        fs::remove_file(folder.path().join(FILE)).unwrap();
        assert!(matches!(State::load(folder.path()), Err(Error::Checkpoint { .. })));
    }
}
