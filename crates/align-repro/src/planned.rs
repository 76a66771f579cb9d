//! A plan with what the user asked of it.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    experiment::{Arm, Experiment, Size},
    study::Options,
};

/// A plan with what the user asked of it: which arms are run, at which size, with which seeds.
#[derive(Debug)]
pub struct Planned {
    experiment: Experiment,
    text: String,
    size: Size,
    seeds: Option<u64>,
    first_seed: u64,
    arms: Vec<String>,
}

impl Planned {
    /// Reads `plan`, or the one that replaces it, and checks the options against it.
    ///
    /// # Errors
    /// [`Error::Usage`] for arms or a size that the plan does not have; [`Error::Plan`].
    pub fn new<T>(name: &str, plan: &str, options: &Options<T>) -> Result<Self> {
        let text = options.plan.clone().unwrap_or_else(|| plan.to_owned());
        let experiment = Experiment::from_plan(name, &text)?;
        let size = experiment.size(options.size)?;
        experiment.select(&options.arms, size)?;
        let (seeds, first_seed, arms) = (options.seeds, options.first_seed, options.arms.clone());
        Ok(Self { experiment, text, size, seeds, first_seed, arms })
    }

    /// Runs all arms of a part beside those of the size, unless the user named arms.
    pub fn with_part(mut self, part: &str) -> Self {
        if self.arms.is_empty() {
            let asked = |arm: &&Arm| arm.part == part || arm.belongs_to(self.size);
            self.arms = self.experiment.arms.iter().filter(asked).map(|arm| arm.name.clone()).collect();
        }
        self
    }

    /// Returns the plan.
    pub fn experiment(&self) -> &Experiment {
        &self.experiment
    }

    /// Returns the plan as it was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the size that is run.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Reads the settings of the experiment's own code.
    ///
    /// # Errors
    /// [`Error::Plan`] for settings of another form.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T> {
        self.experiment.settings.clone().try_into().map_err(|e: toml::de::Error| self.fail(e.to_string()))
    }

    /// Makes the error of a plan whose parts do not fit together.
    pub fn fail(&self, why: impl Into<String>) -> Error {
        Error::Plan { experiment: self.experiment.name.clone(), why: why.into() }
    }

    /// Returns the arms that are run, with all they need, in the order of the plan.
    ///
    /// # Errors
    /// None after [`Self::new`], which has checked the selection.
    pub fn arms(&self) -> Result<Vec<&Arm>> {
        self.experiment.select(&self.arms, self.size)
    }

    /// Returns how many seeds the user asked for, if they did.
    pub fn asked_seeds(&self) -> Option<u64> {
        self.seeds
    }

    /// Counts the seeds of an arm.
    pub fn seeds(&self, arm: &Arm) -> u64 {
        let planned = self.experiment.sizes.get(&self.size).and_then(|b| b.seeds.get(&arm.part)).copied();
        self.seeds.or(planned).unwrap_or(1)
    }

    /// Lists this many seeds.
    pub fn seed_list(&self, count: u64) -> Vec<Option<u64>> {
        (0..count).map(|index| Some(self.first_seed + index)).collect()
    }

    /// Returns what a unit's result depends on; `ran` as in [`crate::study::Study::ran`].
    pub fn inputs(&self, ran: &[(String, u64)]) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "plan": self.text,
            "size": self.size,
            "ran": ran,
            "first_seed": self.first_seed,
        })
    }
}
