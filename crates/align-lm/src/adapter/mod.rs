//! Low-rank adapters (2106.09685): made, loaded, trained, saved and merged.

mod classifier;
mod dropout;
mod folder;
mod layer;
mod peft;
mod plan;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use align_core::{
    CausalLm, PackedBatch, Parameter,
    align_types::{
        Purpose, RngStream,
        config::{LoraConfig, LoraTargets},
    },
    tch::{Device, Kind, Tensor},
};

use crate::Result;
use crate::config::Output;
use crate::matrix::Matrix;
use crate::model::{LoadOptions, Model, Trainable};
use crate::weights::{Builder, Existing, Role, SCORE, Source, Weight};
use dropout::{Dropout, Mixed};
pub(crate) use folder::ADAPTER_CONFIG;
use folder::AdapterFolder;
pub(crate) use layer::Adapter;
use plan::AdapterPlan;
pub use plan::LinearLayer;

/// The ends of the names of A and B in a file.
const DOWN: &str = "lora_A.weight";
const UP: &str = "lora_B.weight";
/// What PEFT puts before the name of a layer.
const PREFIX: &str = "base_model.model.";

/// The name of a score head in a file: what PEFT saves of `modules_to_save`.
fn score_name() -> String {
    format!("{PREFIX}{SCORE}")
}

/// How an adapter is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AdapterOptions {
    /// Whether it is trained; the base never is.
    pub trainable: Trainable,
    /// Seed of its dropout.
    pub seed: u64,
}

/// The adapter of a model, beside the layers that compute it.
#[derive(Debug)]
pub(crate) struct Attached {
    plan: AdapterPlan,
    weights: Vec<Weight>,
    dropout: Option<Arc<Dropout>>,
}

impl Attached {
    pub(crate) fn parameters(&self) -> Vec<Parameter> {
        self.weights.iter().filter_map(Weight::parameter).collect()
    }

    pub(crate) fn begin_step(&self, step: Option<u64>) {
        if let Some(dropout) = &self.dropout {
            dropout.begin_step(step);
        }
    }

    /// Returns the score head, which is trained in full beside the layers.
    fn score(&self) -> Option<&Tensor> {
        self.weights.iter().find(|weight| weight.name == score_name())?.matrix.dense()
    }

    /// Says whether the layers drop inputs.
    pub(crate) fn drops(&self) -> bool {
        self.dropout.is_some()
    }

    /// Notes the rows that the layers will see next.
    pub(crate) fn enter(&self, batch: &PackedBatch, device: Device) {
        if let Some(dropout) = &self.dropout {
            dropout.enter(batch, device);
        }
    }
}

impl Model {
    /// Freezes the model and adds a new adapter, which is what is trained from now on.
    ///
    /// A is uniform in ±1/√inputs (a function of seed and layer), B is zero, so that the model computes what it did.
    /// Dropout, which applies between [`CausalLm::begin_step`] with a step and without, draws from the same seed.
    ///
    /// ```no_run
    /// use align_core::{CausalLm, align_types::config::LoraConfig};
    /// use align_lm::{LoadOptions, Model};
    ///
    /// let mut model = Model::load("my-llama".as_ref(), &LoadOptions::default())?;
    /// model.add_adapter(&LoraConfig { rank: 16, alpha: 32.0, ..LoraConfig::default() }, 0)?;
    /// assert!(model.parameters().iter().all(|it| it.name.contains("lora_")));
    /// model.save_adapter("my-adapter".as_ref())?;
    /// # Ok::<(), align_lm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`crate::ModelConfig::check_lora`]; [`crate::Error::Tensor`] when the model has an adapter, or libtorch refuses.
    pub fn add_adapter(&mut self, lora: &LoraConfig, seed: u64) -> Result<()> {
        let plan = AdapterPlan::fresh(&self.config().linear_layers()?, lora)?;
        let options = AdapterOptions { trainable: Trainable::All, seed };
        let score = self.weights.iter().find(|weight| weight.name == SCORE);
        let score = score.and_then(|weight| weight.matrix.dense()).map(Tensor::shallow_clone);
        self.attach(plan, &mut Fresh { seed, device: self.device(), score }, options)
    }

    /// Freezes the model and adds the adapter of a folder as PEFT writes it: `adapter_config.json` and
    /// `adapter_model.safetensors`.
    ///
    /// # Errors
    /// As [`crate::ModelConfig::check_adapter`]; [`crate::Error::Tensor`] when the model has an adapter, or libtorch refuses.
    pub fn load_adapter(&mut self, dir: &Path, options: &AdapterOptions) -> Result<()> {
        let mut folder = AdapterFolder::open(dir, self.device(), self.config().output())?;
        let plan = folder.plan(&self.config().linear_layers()?)?;
        self.attach(plan, &mut folder.tensors, *options)
    }

    /// Returns the settings of the adapter, where there is one. Layers whose rank or alpha PEFT's patterns set apart
    /// keep theirs.
    pub fn lora(&self) -> Option<LoraConfig> {
        let plan = &self.adapter.as_ref()?.plan;
        Some(LoraConfig { targets: LoraTargets::Names(plan.targets.clone()), ..plan.lora.clone() })
    }

    /// Makes a model over the same weights without the adapter, never trained: the base, as a reference that takes no
    /// memory of its own.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn base(&self) -> Result<Self> {
        self.rebuilt(&mut Existing { weights: self.weights(), copy: false }, Trainable::No)
    }

    /// Adds the adapter to the matrices, W + s B A, and takes it off. The model is frozen afterwards.
    ///
    /// Other models over the same weights keep the old matrices.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] when there is no adapter, or libtorch refuses.
    pub fn merge_adapter(&mut self) -> Result<()> {
        if self.adapter.is_none() {
            return Err(align_core::Error::input("adapter", "the model has none to merge").into());
        }
        for linear in self.decoder.linears_mut() {
            if let Some(merged) = linear.merge()? {
                let name = format!("{}.weight", linear.name());
                let weight = self.weights.iter_mut().find(|weight| weight.name == name);
                weight.into_iter().for_each(|weight| weight.matrix = Matrix::Dense(merged.shallow_clone()));
            }
        }
        // The model computes with the adapter's score head already.
        let head = self.adapter.take().and_then(|adapter| adapter.score().map(Tensor::f_detach));
        if let Some(head) = head.transpose()? {
            self.decoder.replace_score(head.shallow_clone());
            let weight = self.weights.iter_mut().find(|weight| weight.name == SCORE);
            weight.into_iter().for_each(|weight| weight.matrix = Matrix::Dense(head.shallow_clone()));
        }
        self.options.trainable = Trainable::No;
        Ok(())
    }

    /// Computes the matrices that have an adapter with the adapter added, `[outputs, inputs]`, by the names of their
    /// layers.
    pub(crate) fn merged(&self) -> Result<HashMap<String, Tensor>> {
        let adapted = self.decoder.linears().filter(|linear| linear.adapter.is_some());
        let merged =
            adapted.filter_map(|linear| Some((linear.name().to_owned(), linear.merged().transpose()?)));
        merged.map(|(name, tensor)| Ok((name, tensor?))).collect()
    }

    /// Gives another model over the same base this model's adapter, its numbers shared or copied.
    pub(crate) fn pass_adapter_to(&self, other: &mut Self, copy: bool, trainable: Trainable) -> Result<()> {
        let Some(adapter) = &self.adapter else { return Ok(()) };
        let seed = adapter.dropout.as_ref().map_or(0, |dropout| dropout.seed());
        let mut source = Existing { weights: &adapter.weights, copy };
        other.attach(adapter.plan.clone(), &mut source, AdapterOptions { trainable, seed })
    }

    fn attach(&mut self, plan: AdapterPlan, source: &mut dyn Source, options: AdapterOptions) -> Result<()> {
        if self.adapter.is_some() {
            let why = "the model has one already; merge it, or load the model anew";
            return Err(align_core::Error::input("adapter", why).into());
        }
        let dropout = Dropout::new(plan.lora.dropout, options.seed).map(Arc::new);
        let layers = self.config().linear_layers()?;
        // Its numbers are float32 whatever the base is kept in.
        let kept =
            LoadOptions { device: self.device(), trainable: options.trainable, ..LoadOptions::default() };
        let mut builder = Builder::new(source, &kept);
        let mut adapters = Vec::new();
        for layer in &layers {
            let Some(share) = plan.layers.get(&layer.name) else { continue };
            let mut take = |end: &str, shape: [usize; 2]| {
                builder.take(format!("{PREFIX}{}.{end}", layer.name), &shape, Role::Matrix)
            };
            let (down, up) =
                (take(DOWN, [share.rank, layer.inputs])?, take(UP, [layer.outputs, share.rank])?);
            let (scale, module, dropout) = (plan.scale(*share), Mixed::text(&layer.name), dropout.clone());
            adapters.push((layer.name.as_str(), Adapter { down, up, scale, module, dropout }));
        }
        let head = match self.config().output() {
            Output::Score => {
                let shape = [1, self.config().sizes().hidden_size];
                Some(builder.take(score_name(), &shape, Role::Matrix)?)
            }
            Output::Vocabulary | Output::None => None,
        };
        let weights = builder.finish();
        for tensor in self.weights.iter().filter_map(|weight| weight.matrix.dense()) {
            let _ = tensor.f_set_requires_grad(false)?;
        }
        // Both lists have the order of the decoder.
        let mut adapters = adapters.into_iter().peekable();
        for linear in self.decoder.linears_mut() {
            if let Some((_, adapter)) = adapters.next_if(|(name, _)| *name == linear.name()) {
                linear.adapter = Some(Box::new(adapter));
            }
        }
        if let Some(head) = head {
            self.decoder.replace_score(head);
        }
        self.adapter = Some(Attached { plan, weights, dropout });
        self.options.trainable = options.trainable;
        Ok(())
    }
}

/// The numbers of a new adapter.
struct Fresh {
    seed: u64,
    device: Device,
    /// The score head of the base, from which the adapter's begins.
    score: Option<Tensor>,
}

impl Source for Fresh {
    fn tensor(&mut self, name: &str, shape: &[i64], _: Role) -> Result<Tensor> {
        let options = (Kind::Float, self.device);
        if let Some(score) = self.score.as_ref().filter(|_| name == score_name()) {
            let mut copy = Tensor::f_empty(shape, options)?;
            copy.f_copy_(&score.f_detach()?)?;
            return Ok(copy);
        }
        let (true, Some(inputs)) = (name.ends_with(DOWN), shape.get(1)) else {
            return Ok(Tensor::f_zeros(shape, options)?);
        };
        // Weights of a new model take the streams of step 0.
        let mut stream = RngStream::new(self.seed, Purpose::Init, 1, Mixed::text(name));
        let bound = 1.0 / (*inputs as f64).sqrt();
        let count: i64 = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32).collect();
        Ok(Tensor::f_from_slice(&values)?.f_view(shape)?.f_to_device(self.device)?)
    }
}
