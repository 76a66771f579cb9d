//! What a run trains: all weights, a new adapter, or an adapter that is there.

use std::path::Path;

use align_cli::{Result, args::TrainArgs, talk};
use align_core::align_types::config::LoraConfig;
use align_lm::{AdapterOptions, LoadOptions, Model, ModelConfig, Trainable};

use crate::{failure, learner::Learner, model};

/// What a run trains.
#[derive(Debug)]
pub enum Tuning<'a> {
    /// All weights.
    Full,
    /// A new adapter.
    New(LoraConfig),
    /// The adapter in a folder.
    From(&'a Path),
}

impl<'a> Tuning<'a> {
    /// Reads the flags, of which at most one kind is given.
    pub fn of(train: &'a TrainArgs) -> Self {
        match (train.lora.config(), train.machine.adapter.as_deref()) {
            (Some(lora), _) => Self::New(lora),
            (None, Some(adapter)) => Self::From(adapter),
            (None, None) => Self::Full,
        }
    }

    /// Checks that the adapter fits the model, and counts what is trained of it.
    ///
    /// # Errors
    /// [`align_cli::Error::Usage`] for flags that the model does not allow, [`align_cli::Error::Data`] for an adapter
    /// of another base.
    pub fn check(&self, config: &ModelConfig) -> Result<Option<usize>> {
        match self {
            Self::Full => Ok(None),
            Self::New(lora) => config.check_lora(lora).map(Some).map_err(failure::of),
            Self::From(adapter) => config.check_adapter(adapter).map(Some).map_err(failure::of),
        }
    }

    /// Loads the model to train, with the options of one that is, as a checkpoint has it where there is one.
    ///
    /// # Errors
    /// As [`model::load`] and [`Self::check`].
    pub fn load<M: Learner>(
        &self,
        base: &Path,
        checkpoint: Option<&Path>,
        options: &LoadOptions,
        seed: u64,
    ) -> Result<M> {
        if matches!(self, Self::Full) {
            let Some(checkpoint) = checkpoint else { return M::load(base, options, seed) };
            let mut policy = M::load(checkpoint, options, seed)?;
            if let Err(error) = policy.adopt_dtypes(base) {
                let why = failure::of(error);
                talk::warn(&format!(
                    "the run's model will be saved in float32, the base's type is not known: {why}"
                ));
            }
            return Ok(policy);
        }
        let base_options = LoadOptions { trainable: Trainable::No, ..*options };
        let mut policy = M::load(base, &base_options, seed)?;
        let options = AdapterOptions { trainable: Trainable::All, seed };
        match (self, checkpoint) {
            (Self::From(adapter), None) => policy.load_adapter(adapter, &options),
            (Self::New(lora), None) => policy.add_adapter(lora, seed),
            (_, Some(checkpoint)) => policy.load_adapter(checkpoint, &options),
            (Self::Full, None) => Ok(()),
        }
        .map_err(failure::of)?;
        Ok(policy)
    }

    /// Makes the model as it is before the first step, frozen: over the weights of the base where they stay, from its
    /// folder where they do not.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn beginning(
        &self,
        policy: &Model,
        base: &Path,
        continued: bool,
        options: &LoadOptions,
    ) -> Result<Model> {
        match (self, continued) {
            (Self::Full, true) => model::load(base, options),
            (Self::Full | Self::From(_), false) => policy.frozen_copy().map_err(failure::of),
            (Self::New(_), _) => policy.base().map_err(failure::of),
            (Self::From(adapter), true) => {
                let mut first = policy.base().map_err(failure::of)?;
                let options = AdapterOptions { trainable: Trainable::No, seed: 0 };
                first.load_adapter(adapter, &options).map_err(failure::of)?;
                Ok(first)
            }
        }
    }

    /// Says whether a training pass before the first step gives what the model gives at rest.
    pub fn begins_at_rest(&self, policy: &Model) -> bool {
        !matches!(self, Self::From(_)) || policy.lora().is_none_or(|lora| lora.dropout == 0.0)
    }

    /// Lists the folders whose numbers decide the run, beside the reference's: a run that trains all weights has its
    /// own.
    pub fn folders<'b>(&'b self, base: &'b Path) -> Vec<&'b Path> {
        match self {
            Self::Full => Vec::new(),
            Self::New(_) => vec![base],
            Self::From(adapter) => vec![base, adapter],
        }
    }
}
