use std::collections::BTreeMap;

use align_core::align_types::config::{LoraConfig, LoraTargets};

use crate::config::Output;
use crate::linear::Layout;
use crate::model::Model;
use crate::{Error, ModelConfig, Result};

/// A linear layer that can be adapted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinearLayer {
    /// Its name in the checkpoint, without `.weight`.
    pub name: String,
    /// Width of its input.
    pub inputs: usize,
    /// Width of its output.
    pub outputs: usize,
    /// Whether its matrix is stored as `[inputs, outputs]`.
    pub(crate) inputs_first: bool,
}

impl LinearLayer {
    /// Says whether a name of `target_modules` means this layer: the whole name, or its end after a dot.
    pub(crate) fn is_meant_by(&self, target: &str) -> bool {
        self.name.strip_suffix(target).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }

    fn last_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    pub(crate) fn largest_rank(&self) -> usize {
        self.inputs.min(self.outputs)
    }
}

/// Lists the different last parts of the names of layers.
pub(crate) fn last_names(layers: &[LinearLayer]) -> Vec<String> {
    let mut names: Vec<String> = layers.iter().map(|layer| layer.last_name().to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl ModelConfig {
    /// Lists the linear layers of a model of this configuration in their order, all but the output layer.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn linear_layers(&self) -> Result<Vec<LinearLayer>> {
        let (plan, decoder) = Model::plan(self)?;
        let shapes: BTreeMap<&str, &Vec<i64>> =
            plan.tensors.iter().map(|(name, shape, _)| (name.as_str(), shape)).collect();
        let layer = |linear: &crate::linear::Linear| {
            let inputs_first = linear.layout() == Layout::InputsFirst;
            match shapes.get(format!("{}.weight", linear.name()).as_str()).map(|shape| shape.as_slice()) {
                Some([rows, columns]) => {
                    let (outputs, inputs) = if inputs_first { (columns, rows) } else { (rows, columns) };
                    let name = linear.name().to_owned();
                    Some(LinearLayer {
                        name,
                        inputs: *inputs as usize,
                        outputs: *outputs as usize,
                        inputs_first,
                    })
                }
                _ => None,
            }
        };
        Ok(decoder.linears().filter_map(layer).collect())
    }

    /// Checks that adapters of this configuration fit, and counts their parameters.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a value outside its range, [`Error::Lora`] for a target that no layer has or a rank that
    /// is larger than a matrix allows.
    pub fn check_lora(&self, lora: &LoraConfig) -> Result<usize> {
        let layers = self.linear_layers()?;
        Ok(AdapterPlan::fresh(&layers, lora)?.parameters(&layers) + self.trained_in_full())
    }

    /// Counts the numbers that are trained beside an adapter's: those of a score head.
    pub(crate) fn trained_in_full(&self) -> usize {
        match self.output() {
            Output::Score => self.sizes().hidden_size,
            Output::Vocabulary | Output::None => 0,
        }
    }
}

/// Rank and scale of the adapter of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share {
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
}

/// What an adapter is, but for its numbers.
#[derive(Debug, Clone)]
pub(crate) struct AdapterPlan {
    /// What most layers have; `targets` are the names that `adapter_config.json` gives.
    pub(crate) lora: LoraConfig,
    /// The names of `target_modules`.
    pub(crate) targets: Vec<String>,
    /// The adapted layers.
    pub(crate) layers: BTreeMap<String, Share>,
    pub(crate) fan_in_fan_out: bool,
}

impl AdapterPlan {
    /// Plans a new adapter for the layers of a model.
    pub(crate) fn fresh(layers: &[LinearLayer], lora: &LoraConfig) -> Result<Self> {
        lora.validate().map_err(align_core::Error::from)?;
        let targets = match &lora.targets {
            LoraTargets::AllLinear => last_names(layers),
            LoraTargets::Names(names) => names.clone(),
        };
        for target in &targets {
            if !layers.iter().any(|layer| layer.is_meant_by(target)) {
                let why =
                    format!("no linear layer is called so; there are {}", last_names(layers).join(", "));
                return Err(Error::Lora { key: "lora-targets", value: target.clone(), why });
            }
        }
        let meant = |layer: &&LinearLayer| targets.iter().any(|target| layer.is_meant_by(target));
        let meant: Vec<&LinearLayer> = layers.iter().filter(meant).collect();
        if let Some(narrow) = meant.iter().find(|layer| lora.rank > layer.largest_rank()) {
            let (LinearLayer { name, inputs, outputs, .. }, most) = (narrow, narrow.largest_rank());
            let why = format!(
                "{name} has {inputs} inputs and {outputs} outputs, so that its rank is at most {most}"
            );
            return Err(Error::Lora { key: "lora-rank", value: lora.rank.to_string(), why });
        }
        let share = Share { rank: lora.rank, alpha: lora.alpha };
        Ok(Self {
            lora: lora.clone(),
            fan_in_fan_out: meant.iter().any(|layer| layer.inputs_first),
            layers: meant.iter().map(|layer| (layer.name.clone(), share)).collect(),
            targets,
        })
    }

    /// The factor of the adapter of a layer.
    pub(crate) fn scale(&self, share: Share) -> f64 {
        LoraConfig { alpha: share.alpha, ..self.lora.clone() }.scale(share.rank)
    }

    /// Counts the numbers of A and B over all adapted layers.
    pub(crate) fn parameters(&self, layers: &[LinearLayer]) -> usize {
        let of = |layer: &LinearLayer| {
            self.layers.get(&layer.name).map_or(0, |share| share.rank * (layer.inputs + layer.outputs))
        };
        layers.iter().map(of).sum()
    }
}
