use align_core::{
    Result,
    tch::{Kind, Tensor},
};

use crate::adapter::Adapter;
use crate::matrix::{Matrix, widened};

/// How the matrix of a linear layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[outputs, inputs]`, as nearly everywhere.
    OutputsFirst,
    /// `[inputs, outputs]`, as in GPT-2.
    InputsFirst,
}

/// A linear layer over rows.
#[derive(Debug)]
pub(crate) struct Linear {
    /// Its name in the checkpoint, without `.weight`; empty where it has no tensors of its own.
    name: String,
    matrix: Matrix,
    bias: Option<Tensor>,
    layout: Layout,
    /// What is added to the matrix, where it is adapted.
    pub(crate) adapter: Option<Box<Adapter>>,
}

impl Linear {
    pub(crate) fn new(name: &str, matrix: Matrix, bias: Option<Tensor>, layout: Layout) -> Self {
        Self { name: name.to_owned(), matrix, bias, layout, adapter: None }
    }

    /// Makes the output layer that shares its matrix with the embedding.
    pub(crate) fn tied(embedding: &Tensor) -> Self {
        Self::new("", Matrix::Dense(embedding.shallow_clone()), None, Layout::OutputsFirst)
    }

    /// Takes another dense matrix of the same shape.
    pub(crate) fn replace(&mut self, matrix: Tensor) {
        self.matrix = Matrix::Dense(matrix);
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Computes the matrix with its adapter added, `[outputs, inputs]`, in float32; `None` where there is no adapter.
    pub(crate) fn merged(&self) -> Result<Option<Tensor>> {
        let Some(adapter) = &self.adapter else { return Ok(None) };
        let matrix = self.outputs_first()?.f_detach()?.f_to_kind(Kind::Float)?;
        Ok(Some(matrix.f_add(&adapter.product()?)?))
    }

    /// Adds the adapter to the matrix and takes it off; returns the new matrix as it is stored, `None` where there was
    /// no adapter.
    pub(crate) fn merge(&mut self) -> Result<Option<Tensor>> {
        let Some(merged) = self.merged()? else { return Ok(None) };
        let merged = match self.layout {
            Layout::OutputsFirst => merged,
            Layout::InputsFirst => merged.f_transpose(0, 1)?.f_contiguous()?,
        };
        let merged = merged.f_to_kind(self.matrix.kind())?;
        self.matrix = Matrix::Dense(merged.shallow_clone());
        self.adapter = None;
        Ok(Some(merged))
    }

    /// Returns the matrix as `[outputs, inputs]`.
    fn outputs_first(&self) -> Result<Tensor> {
        let matrix = self.matrix.read()?;
        match self.layout {
            Layout::OutputsFirst => Ok(matrix),
            Layout::InputsFirst => Ok(matrix.f_transpose(0, 1)?),
        }
    }

    /// Maps `[T, inputs]` to `[T, outputs]`, in the number format of the rows.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.apply(x, &self.outputs_first()?)?;
        match &self.adapter {
            None => Ok(y),
            Some(adapter) => adapter.add(&y, x),
        }
    }

    fn apply(&self, x: &Tensor, matrix: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| bias.f_to_kind(x.kind())).transpose()?;
        Ok(x.f_linear(&matrix.f_to_kind(x.kind())?, bias)?)
    }

    /// As [`Self::forward`], with every row of the matrix scaled to length 1.
    pub(crate) fn forward_normalised(&self, x: &Tensor) -> Result<Tensor> {
        // Rounded before it is scaled, so that a matrix stored in 16 bits gives what its master does.
        let weight = widened(&self.outputs_first()?.f_to_kind(x.kind())?)?;
        let lengths = weight.f_norm_scalaropt_dim(2.0, [1i64], true)?.f_clamp_min(1e-12)?;
        self.apply(x, &weight.f_div(&lengths)?)
    }
}
