//! What a training command trains: a language model or a reward model.

use std::path::Path;

use align_cli::{Result, talk};
use align_core::{CausalLm, ScoreModel, Trainable, align_types::config::LoraConfig};
use align_data::Tokenizer;
use align_lm::{AdapterOptions, Companions, LoadOptions, Model, ModelConfig, SaveDtype, SequenceClassifier};

use crate::{failure, model, samples::Samples};

/// A model that is trained, from its folder to the run's.
pub trait Learner: Sized {
    /// What the training loop sees of it.
    type Seen: Trainable + ?Sized;

    /// Returns the configuration that the model will have, from that of its folder.
    ///
    /// # Errors
    /// A folder that this kind of model is not made from.
    fn config(base: &Path, config: ModelConfig) -> Result<ModelConfig>;

    /// Loads the model of `--model`, or of a checkpoint; what is new in it is a function of the seed.
    ///
    /// # Errors
    /// As [`model::load`].
    fn load(folder: &Path, options: &LoadOptions, seed: u64) -> Result<Self>;

    /// Takes over how the weights of another folder are stored.
    ///
    /// # Errors
    /// A folder that cannot be read.
    fn adopt_dtypes(&mut self, folder: &Path) -> align_lm::Result<()>;

    /// Freezes the model and adds a new adapter.
    ///
    /// # Errors
    /// Settings that do not fit.
    fn add_adapter(&mut self, lora: &LoraConfig, seed: u64) -> align_lm::Result<()>;

    /// Freezes the model and adds the adapter of a folder.
    ///
    /// # Errors
    /// An adapter that does not fit.
    fn load_adapter(&mut self, folder: &Path, options: &AdapterOptions) -> align_lm::Result<()>;

    /// Makes what the loop trains: a model over the same weights.
    ///
    /// # Errors
    /// libtorch refuses.
    fn seen(&self) -> Result<Box<Self::Seen>>;

    /// Names the data type in which the final model is written.
    fn source_dtype(&self) -> &'static str;

    /// Writes the model's folder.
    ///
    /// # Errors
    /// Files that cannot be written.
    fn save_with(&self, to: &Path, dtype: SaveDtype, companions: &Companions) -> align_lm::Result<()>;

    /// Writes the adapter's folder.
    ///
    /// # Errors
    /// Files that cannot be written.
    fn save_adapter_with(&self, to: &Path, companions: &Companions) -> align_lm::Result<()>;

    /// Writes samples of what the model answers, where it is one that answers.
    ///
    /// # Errors
    /// As [`Samples::write`].
    fn write_samples(&self, samples: &Samples, tokenizer: &Tokenizer, step: u64) -> Result<()>;
}

/// What both models have under the same names.
macro_rules! forwarded {
    () => {
        fn adopt_dtypes(&mut self, folder: &Path) -> align_lm::Result<()> {
            Self::adopt_dtypes(self, folder)
        }

        fn add_adapter(&mut self, lora: &LoraConfig, seed: u64) -> align_lm::Result<()> {
            Self::add_adapter(self, lora, seed)
        }

        fn load_adapter(&mut self, folder: &Path, options: &AdapterOptions) -> align_lm::Result<()> {
            Self::load_adapter(self, folder, options)
        }

        fn source_dtype(&self) -> &'static str {
            Self::source_dtype(self)
        }

        fn save_with(&self, to: &Path, dtype: SaveDtype, companions: &Companions) -> align_lm::Result<()> {
            Self::save_with(self, to, dtype, companions)
        }

        fn save_adapter_with(&self, to: &Path, companions: &Companions) -> align_lm::Result<()> {
            Self::save_adapter_with(self, to, companions)
        }
    };
}

impl Learner for Model {
    type Seen = dyn CausalLm;

    fn config(_: &Path, config: ModelConfig) -> Result<ModelConfig> {
        Ok(config)
    }

    fn load(folder: &Path, options: &LoadOptions, _: u64) -> Result<Self> {
        model::load(folder, options)
    }

    forwarded!();

    fn seen(&self) -> Result<Box<dyn CausalLm>> {
        Ok(Box::new(self.replica().map_err(failure::of)?))
    }

    fn write_samples(&self, samples: &Samples, tokenizer: &Tokenizer, step: u64) -> Result<()> {
        samples.write(self, tokenizer, step)
    }
}

impl Learner for SequenceClassifier {
    type Seen = dyn ScoreModel;

    fn config(base: &Path, _: ModelConfig) -> Result<ModelConfig> {
        Ok(Self::read_config(base).map_err(failure::of)?.0)
    }

    fn load(folder: &Path, options: &LoadOptions, seed: u64) -> Result<Self> {
        let model = Self::begin(folder, seed, options).map_err(failure::of)?;
        model.notes().iter().for_each(|note| talk::warn(&format!("{}: {note}", folder.display())));
        Ok(model)
    }

    forwarded!();

    fn seen(&self) -> Result<Box<dyn ScoreModel>> {
        Ok(Box::new(self.replica().map_err(failure::of)?))
    }

    fn write_samples(&self, _: &Samples, _: &Tokenizer, _: u64) -> Result<()> {
        Ok(())
    }
}
