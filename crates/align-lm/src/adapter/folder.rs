//! Folders of adapters in PEFT's layout.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use align_core::tch::{Device, Kind};

use super::peft::{self, PeftConfig};
use super::plan::{AdapterPlan, LinearLayer, last_names};
use super::{DOWN, PREFIX, UP, score_name};
use crate::checkpoint::Checkpoint;
use crate::config::Output;
use crate::keys::read_object;
use crate::model::Model;
use crate::save::{Companions, Staged, interrupted_save, write_file, write_tensors};
use crate::{Error, ModelConfig, Result};

pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// An adapter folder that was opened; no tensor is read yet.
#[derive(Debug)]
pub(super) struct AdapterFolder {
    config_path: PathBuf,
    tensors_path: PathBuf,
    config: PeftConfig,
    pub(super) tensors: Checkpoint,
}

impl AdapterFolder {
    /// Opens a folder; `output` is what the base gives, which decides what the adapter must be made for.
    pub(super) fn open(dir: &Path, device: Device, output: Output) -> Result<Self> {
        let (config_path, tensors_path) = (dir.join(ADAPTER_CONFIG), dir.join(TENSORS));
        if let Some(before) = interrupted_save(dir) {
            let before = before.display();
            let why = format!(
                "a save of this folder was interrupted; what it held is whole in {before}: rename that, or save again"
            );
            return Err(Error::adapter(dir, why));
        }
        if !config_path.exists() {
            let why = if dir.is_dir() {
                format!("is no adapter: it holds no {ADAPTER_CONFIG}")
            } else {
                "there is no such adapter folder".to_owned()
            };
            return Err(Error::adapter(dir, why));
        }
        let config = PeftConfig::read(&config_path, &read_object(&config_path)?, output)?;
        if !tensors_path.exists() {
            let pickled = dir.join("adapter_model.bin");
            return Err(match pickled.exists() {
                true => Error::Unsupported {
                    path: pickled,
                    what: "a pickled adapter".into(),
                    supported: format!("{TENSORS} (save it once with PEFT)"),
                },
                false => Error::adapter(dir, format!("holds no {TENSORS}")),
            });
        }
        let tensors = Checkpoint::of_file(&tensors_path, device)?;
        if output == Output::Score && !tensors.has(&score_name()) {
            let why =
                format!("holds no tensor {:?}: a reward model's adapter has its score head", score_name());
            return Err(Error::adapter(&tensors_path, why));
        }
        Ok(Self { config_path, tensors_path, config, tensors })
    }

    fn refuse<T>(&self, why: String) -> Result<T> {
        let base = self.config.base.as_ref().map(|base| format!(" (its base is {base})")).unwrap_or_default();
        Err(Error::adapter(&self.tensors_path, format!("{why}{base}")))
    }

    /// Checks the folder against the layers of a base.
    pub(super) fn plan(&self, layers: &[LinearLayer]) -> Result<AdapterPlan> {
        let adapted = self.adapted(layers)?;
        if let Some(targets) = &self.config.targets {
            self.check_targets(targets, layers, &adapted)?;
        }
        let mut shares = BTreeMap::new();
        for layer in layers.iter().filter(|layer| adapted.contains(layer.name.as_str())) {
            let share = self.config.share(&self.config_path, layer)?;
            if share.rank == 0 || share.rank > layer.largest_rank() {
                let (name, rank, most) = (&layer.name, share.rank, layer.largest_rank());
                let why = format!(
                    "rank {rank} of {name}: it must be from 1 to {most}, the smaller side of its matrix"
                );
                return Err(Error::adapter(&self.config_path, why));
            }
            if !(share.alpha > 0.0 && share.alpha.is_finite()) {
                let why = format!("alpha {} of {}: it must be above 0", share.alpha, layer.name);
                return Err(Error::adapter(&self.config_path, why));
            }
            self.check_shape(layer, DOWN, [share.rank, layer.inputs])?;
            self.check_shape(layer, UP, [layer.outputs, share.rank])?;
            shares.insert(layer.name.clone(), share);
        }
        let targets = self.config.targets.clone();
        Ok(AdapterPlan {
            lora: self.config.lora(),
            targets: targets.unwrap_or_else(|| shares.keys().cloned().collect()),
            fan_in_fan_out: layers.iter().any(|layer| layer.inputs_first),
            layers: shares,
        })
    }

    /// Returns the layers that have tensors, each with both.
    fn adapted(&self, layers: &[LinearLayer]) -> Result<BTreeSet<&str>> {
        let mut adapted = BTreeSet::new();
        for name in self.tensors.names().filter(|name| !self.config.saves_score || *name != score_name()) {
            let layer = name
                .strip_prefix(PREFIX)
                .and_then(|name| [DOWN, UP].iter().find_map(|end| name.strip_suffix(end)?.strip_suffix('.')));
            let Some(layer) = layer else {
                let supported = "lora_A.weight and lora_B.weight of linear layers".to_owned();
                let (path, what) = (self.tensors_path.clone(), format!("tensor {name:?}"));
                return Err(Error::Unsupported { path, what, supported });
            };
            if !layers.iter().any(|known| known.name == layer) {
                let there = last_names(layers).join(", ");
                return self.refuse(format!(
                    "the model has no linear layer {layer} to adapt; its layers are {there}"
                ));
            }
            adapted.insert(layer);
        }
        let missing = adapted.iter().find_map(|layer| {
            let name = |end: &str| format!("{PREFIX}{layer}.{end}");
            [DOWN, UP].iter().map(|end| name(end)).find(|name| self.tensors.shape(name).is_none())
        });
        match missing {
            Some(missing) => self.refuse(format!("tensor {missing:?} is missing")),
            None if adapted.is_empty() => self.refuse("it holds no tensor".into()),
            None => Ok(adapted),
        }
    }

    /// What `target_modules` means must be what the tensors are for.
    fn check_targets(
        &self,
        targets: &[String],
        layers: &[LinearLayer],
        adapted: &BTreeSet<&str>,
    ) -> Result<()> {
        for layer in layers {
            let meant = targets.iter().any(|target| layer.is_meant_by(target));
            match (meant, adapted.contains(layer.name.as_str())) {
                (true, false) => {
                    return self.refuse(format!("no tensors for {}, which target_modules names", layer.name));
                }
                (false, true) => {
                    return self
                        .refuse(format!("tensors for {}, which target_modules does not name", layer.name));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_shape(&self, layer: &LinearLayer, end: &str, expected: [usize; 2]) -> Result<()> {
        let name = format!("{PREFIX}{}.{end}", layer.name);
        match self.tensors.shape(&name) {
            Some(shape) if shape != expected => {
                self.refuse(format!("{name} is {shape:?}, this model and {ADAPTER_CONFIG} mean {expected:?}"))
            }
            _ => Ok(()),
        }
    }
}

impl ModelConfig {
    /// Checks that the adapter in a folder fits a model of this configuration, and counts its parameters. No tensor is
    /// read.
    ///
    /// # Errors
    /// [`Error::Adapter`] for a folder that is none, tensors that are missing, belong to no layer of this model or have
    /// other shapes, a rank of 0 or beyond what a matrix allows; [`Error::Unsupported`] names what PEFT can do beside
    /// LoRA of linear layers; [`Error::Config`] for values outside their range; [`Error::Weights`] for a damaged file.
    pub fn check_adapter(&self, dir: &Path) -> Result<usize> {
        let layers = self.linear_layers()?;
        let plan = AdapterFolder::open(dir, Device::Cpu, self.output())?.plan(&layers)?;
        Ok(plan.parameters(&layers) + self.trained_in_full())
    }
}

impl Model {
    /// Writes the adapter as PEFT does: `adapter_config.json` and, in float32, `adapter_model.safetensors`.
    ///
    /// The folder is written beside `dir`, synced and renamed, as [`Model::save`] does it. An adapter folder of that
    /// name is replaced; any other folder that is not empty is left alone.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is no adapter; otherwise as [`Model::save`].
    pub fn save_adapter(&self, dir: &Path) -> Result<()> {
        self.save_adapter_with(dir, &Companions::default())
    }

    /// As [`Self::save_adapter`], and copies tokenizer, chat template and generation configuration of the folder `from`.
    ///
    /// # Errors
    /// As [`Self::save_adapter`]; [`Error::Io`] when `from` is not there.
    pub fn save_adapter_with_tokenizer(&self, dir: &Path, from: &Path) -> Result<()> {
        self.save_adapter_with(dir, &Companions::read(from)?)
    }

    /// As [`Self::save_adapter`], with companions that were read before.
    ///
    /// # Errors
    /// As [`Self::save_adapter`].
    pub fn save_adapter_with(&self, dir: &Path, companions: &Companions) -> Result<()> {
        let Some(adapter) = &self.adapter else {
            return Err(align_core::Error::input("adapter", "the model has none to save").into());
        };
        let staged = Staged::new(dir, ADAPTER_CONFIG)?;
        let weights = adapter.weights.iter().map(|weight| (weight, Kind::Float)).collect();
        write_tensors(&staged.path.join(TENSORS), weights)?;
        // A relative name would mean something else from another folder.
        let base =
            self.source().map(|source| std::path::absolute(source).unwrap_or_else(|_| source.to_owned()));
        let config = peft::to_file(&adapter.plan, base.as_deref(), self.config().output());
        write_file(&staged.path.join(ADAPTER_CONFIG), &config)?;
        staged.write_companions(companions)?;
        staged.publish(dir)
    }
}
