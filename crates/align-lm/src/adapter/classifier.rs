//! Adapters of reward models: the score head is trained in full beside them.

use std::path::Path;

use align_core::align_types::config::LoraConfig;

use super::AdapterOptions;
use crate::save::Companions;
use crate::{Result, SequenceClassifier};

impl SequenceClassifier {
    /// Freezes the transformer and adds a new adapter, as [`crate::Model::add_adapter`]; the score head stays trained,
    /// from what it is now.
    ///
    /// ```no_run
    /// use align_core::align_types::config::LoraConfig;
    /// use align_lm::{Companions, LoadOptions, SequenceClassifier};
    ///
    /// let mut model = SequenceClassifier::from_causal_lm("my-llama".as_ref(), 0, &LoadOptions::default())?;
    /// model.add_adapter(&LoraConfig { rank: 16, alpha: 32.0, ..LoraConfig::default() }, 0)?;
    /// model.save_adapter_with("my-reward-adapter".as_ref(), &Companions::default())?;
    /// # Ok::<(), align_lm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`crate::Model::add_adapter`].
    pub fn add_adapter(&mut self, lora: &LoraConfig, seed: u64) -> Result<()> {
        self.model.add_adapter(lora, seed)
    }

    /// Freezes the transformer and adds the adapter of a folder with its score head, as PEFT writes them for task
    /// `SEQ_CLS`.
    ///
    /// # Errors
    /// As [`crate::Model::load_adapter`]; [`crate::Error::Adapter`] for an adapter without a score head.
    pub fn load_adapter(&mut self, dir: &Path, options: &AdapterOptions) -> Result<()> {
        self.model.load_adapter(dir, options)
    }

    /// Returns the settings of the adapter, where there is one.
    pub fn lora(&self) -> Option<LoraConfig> {
        self.model.lora()
    }

    /// Adds the adapter to the matrices, takes it off and keeps its score head. The model is frozen afterwards.
    ///
    /// # Errors
    /// As [`crate::Model::merge_adapter`].
    pub fn merge_adapter(&mut self) -> Result<()> {
        self.model.merge_adapter()
    }

    /// Writes adapter and score head as PEFT does, `modules_to_save` naming `score`, with companions that were read
    /// before.
    ///
    /// # Errors
    /// As [`crate::Model::save_adapter`].
    pub fn save_adapter_with(&self, dir: &Path, companions: &Companions) -> Result<()> {
        self.model.save_adapter_with(dir, companions)
    }
}
