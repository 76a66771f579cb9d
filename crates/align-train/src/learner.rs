//! An engine as an algorithm sees it, and what of it goes on from step to step.

use std::fs;
use std::path::Path;

use align_core::{
    BatchReport, BoxError, Learn, Packs, Parameter, Trainable,
    align_types::{PromptGroup, exact},
};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{MODEL, OBJECTIVE, OPTIMIZER};
use crate::{Engine, Error, Result, fingerprint, weights_file};

const STATE: &str = "learner.json";
const WEIGHTS: &str = "weights.safetensors";

/// The content of `learner.json`.
#[derive(Debug, Serialize, Deserialize)]
struct LearnerState {
    /// What the objective carries from step to step; strings, so that they come back to the last bit.
    #[serde(with = "exact::list")]
    objective: Vec<f64>,
    /// Stands for the weights that the objective keeps beside the trained ones; empty where it keeps none.
    objective_fingerprint: String,
    /// Stands for the names, shapes and values of the trained weights.
    weights_fingerprint: String,
}

impl<M: Trainable + ?Sized> Learn for Engine<M> {
    fn parameters(&self) -> &[Parameter] {
        self.parameters()
    }

    fn pack(&self, groups: Vec<PromptGroup>) -> Packs {
        self.packs(groups)
    }

    fn measure(&mut self, packs: &Packs) -> Result<Vec<Vec<f64>>, BoxError> {
        Ok(self.measures(packs)?)
    }

    fn compute(&mut self, packs: &Packs) -> Result<BatchReport, BoxError> {
        Ok(self.compute_packs(packs)?)
    }

    fn apply(&mut self, learning_rate: f64) -> Result<(), BoxError> {
        Ok(self.apply(learning_rate)?)
    }

    fn end_iteration(&mut self) -> Result<(), BoxError> {
        Ok(self.after_iteration()?)
    }

    fn save(&self, folder: &Path, weights: bool) -> Result<(), BoxError> {
        Ok(self.save_state(folder, weights)?)
    }

    fn load(&mut self, folder: &Path, weights: bool) -> Result<(), BoxError> {
        Ok(self.load_state(folder, weights)?)
    }
}

impl<M: Trainable + ?Sized> Engine<M> {
    /// Writes moments, the objective's state and weights, and with `weights` the trained ones.
    pub(crate) fn save_state(&self, folder: &Path, weights: bool) -> Result<()> {
        if weights {
            weights_file::save(self.parameters(), &folder.join(WEIGHTS))?;
        }
        self.optimizer().save(&folder.join(OPTIMIZER))?;
        let beside = self.objective_weights();
        if !beside.is_empty() {
            weights_file::save(&beside, &folder.join(OBJECTIVE))?;
        }
        let state = LearnerState {
            objective: self.objective().map(|objective| objective.state()).unwrap_or_default(),
            objective_fingerprint: self.objective_fingerprint()?,
            weights_fingerprint: fingerprint::of_weights(self.parameters())?,
        };
        let path = folder.join(STATE);
        let text = serde_json::to_vec_pretty(&state).map_err(|error| Error::checkpoint(&path, error))?;
        fs::write(&path, text).map_err(Error::io("write", &path))
    }

    /// Reads what [`Self::save_state`] wrote; without `weights` the model must hold those of the checkpoint already.
    pub(crate) fn load_state(&mut self, folder: &Path, weights: bool) -> Result<()> {
        let path = folder.join(STATE);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        let state: LearnerState =
            serde_json::from_slice(&text).map_err(|error| Error::checkpoint(&path, error))?;
        if weights {
            weights_file::load(self.parameters(), &folder.join(WEIGHTS))?;
        }
        if fingerprint::of_weights(self.parameters())? != state.weights_fingerprint {
            let place = folder.join(if weights { WEIGHTS } else { MODEL });
            let why = format!("the model does not hold the weights in {}", place.display());
            return Err(Error::checkpoint(folder, why));
        }
        self.load_optimizer(&folder.join(OPTIMIZER))?;
        self.restore_objective(&state.objective)?;
        self.load_objective_weights(folder, &state.objective_fingerprint)
    }

    fn load_objective_weights(&mut self, folder: &Path, saved: &str) -> Result<()> {
        let own = self.objective_fingerprint()?;
        if saved.is_empty() != own.is_empty() {
            let has = |fingerprint: &str| if fingerprint.is_empty() { "has none" } else { "has some" };
            let why = format!(
                "the objective keeps weights beside the model's or it does not: the checkpoint {}, this run {}",
                has(saved),
                has(&own)
            );
            return Err(Error::checkpoint(folder, why));
        }
        if saved.is_empty() {
            return Ok(());
        }
        let path = folder.join(OBJECTIVE);
        weights_file::load(&self.objective_weights(), &path)?;
        if self.objective_fingerprint()? == *saved {
            return Ok(());
        }
        Err(Error::checkpoint(
            &path,
            "its weights are not those that the run saved; take an older checkpoint",
        ))
    }

    /// Returns a number that stands for the weights that the objective keeps beside the policy's; empty without any.
    fn objective_fingerprint(&self) -> Result<String> {
        let weights = self.objective_weights();
        if weights.is_empty() { Ok(String::new()) } else { fingerprint::of_weights(&weights) }
    }

    fn objective_weights(&self) -> Vec<Parameter> {
        self.objective().map(|objective| objective.weights()).unwrap_or_default()
    }
}
