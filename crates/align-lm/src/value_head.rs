use std::path::Path;

use align_core::{
    PackedBatch, Parameter, TokenValues, expect_shape,
    tch::{Device, Kind, Tensor},
};

use crate::checkpoint::Checkpoint;
use crate::linear::Linear;
use crate::model::{LoadOptions, Trainable};
use crate::weights::{Builder, Existing, Plan, RandomInit, Role, SCORE, Source, Weight};
use crate::{Error, Result};

/// The file of a value head, beside the model whose hidden states it reads.
pub(crate) const VALUE_HEAD_FILE: &str = "value_head.safetensors";

/// The tensors of a value head that starts as a score head.
struct FromScore {
    score: Tensor,
    device: Device,
}

impl Source for FromScore {
    fn tensor(&mut self, _: &str, shape: &[i64], role: Role) -> Result<Tensor> {
        match role {
            Role::Matrix | Role::Linear => Ok(self.score.shallow_clone()),
            Role::Norm | Role::Bias => Ok(Tensor::f_zeros(shape, (Kind::Float, self.device))?),
        }
    }
}

/// The tensors of a head that gives w · h · std + mean where another gives w · h.
struct Rescaled<'a> {
    head: Existing<'a>,
    mean: f64,
    std: f64,
}

impl Source for Rescaled<'_> {
    fn tensor(&mut self, name: &str, shape: &[i64], role: Role) -> Result<Tensor> {
        let tensor = self.head.tensor(name, shape, role)?;
        // The products are rounded once, to the numbers of the head.
        let mut scaled = tensor.f_to_kind(Kind::Double)?.f_mul_scalar(self.std)?;
        if role == Role::Bias {
            scaled = scaled.f_add_scalar(self.mean)?;
        }
        Ok(scaled.f_to_kind(tensor.kind())?)
    }
}

/// A linear layer with a bias from the last hidden states to one value: `v_head.weight` `[1, H]`, `v_head.bias` `[1]`.
#[derive(Debug)]
pub(crate) struct ValueHead {
    linear: Linear,
    weights: Vec<Weight>,
    width: usize,
    trainable: bool,
}

impl ValueHead {
    fn build(source: &mut dyn Source, width: usize, trainable: bool) -> Result<Self> {
        let trained = if trainable { Trainable::All } else { Trainable::No };
        let mut take = Builder::new(source, &LoadOptions { trainable: trained, ..LoadOptions::default() });
        let linear = take.linear("v_head", width, 1, true)?;
        Ok(Self { linear, weights: take.finish(), width, trainable })
    }

    /// Draws a head: weights normal with variance 1/(H + 1), bias zero (arXiv:2009.01325).
    pub(crate) fn draw(seed: u64, width: usize, device: Device, trainable: bool) -> Result<Self> {
        Self::build(&mut RandomInit::head(seed, device), width, trainable)
    }

    /// Makes a head of the score head in a checkpoint; its bias is zero.
    pub(crate) fn of_score(
        checkpoint: &mut Checkpoint,
        width: usize,
        device: Device,
        trainable: bool,
    ) -> Result<Self> {
        let score = checkpoint.tensor(SCORE, &[1, width as i64], Role::Matrix)?;
        expect_shape(SCORE, &score, &[1, width as i64])?;
        Self::build(&mut FromScore { score, device }, width, trainable)
    }

    /// Reads the head that lies in a model folder.
    pub(crate) fn load(dir: &Path, width: usize, device: Device, trainable: bool) -> Result<Self> {
        let path = dir.join(VALUE_HEAD_FILE);
        if !path.exists() {
            let why = "is missing: this folder holds no value head; a fresh one can be made on any model";
            return Err(Error::weights(&path, why));
        }
        let mut checkpoint = Checkpoint::of_file(&path, device)?;
        let mut plan = Plan::default();
        Self::build(&mut plan, width, false)?;
        if let Some(extra) = checkpoint.check(&plan)?.first() {
            return Err(Error::weights(
                &path,
                format!("has a tensor {extra:?}, which is no part of a value head"),
            ));
        }
        Self::build(&mut checkpoint, width, trainable)
    }

    /// Makes a head over the same numbers, or over copies of them.
    pub(crate) fn again(&self, copy: bool, trainable: bool) -> Result<Self> {
        Self::build(&mut Existing { weights: &self.weights, copy }, self.width, trainable)
    }

    /// Makes a head whose values are v · std + mean where those of this one are v.
    pub(crate) fn rescaled(&self, mean: f64, std: f64) -> Result<Self> {
        let head = Existing { weights: &self.weights, copy: false };
        Self::build(&mut Rescaled { head, mean, std }, self.width, self.trainable)
    }

    pub(crate) fn trainable(&self) -> bool {
        self.trainable
    }

    pub(crate) fn weights(&self) -> &[Weight] {
        &self.weights
    }

    pub(crate) fn parameters(&self) -> Vec<Parameter> {
        match self.trainable {
            true => self.weights.iter().filter_map(Weight::parameter).collect(),
            false => Vec::new(),
        }
    }

    /// Computes the values of a batch from the hidden states of all of its rows, `[T, H]`.
    pub(crate) fn values(&self, hidden: &Tensor, batch: &PackedBatch) -> align_core::Result<TokenValues> {
        let rows = hidden.f_index_select(0, &TokenValues::rows(batch, hidden.device())?)?;
        let values = self.linear.forward(&rows.f_to_kind(Kind::Float)?)?;
        TokenValues::of_rows(&values.f_reshape([-1])?, batch)
    }
}
