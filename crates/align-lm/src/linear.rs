use align_core::{Result, tch::Tensor};

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
    matrix: Matrix,
    bias: Option<Tensor>,
    layout: Layout,
}

impl Linear {
    pub(crate) fn new(matrix: Matrix, bias: Option<Tensor>, layout: Layout) -> Self {
        Self { matrix, bias, layout }
    }

    /// Makes the output layer that shares its matrix with the embedding.
    pub(crate) fn tied(embedding: &Tensor) -> Self {
        Self::new(Matrix::Dense(embedding.shallow_clone()), None, Layout::OutputsFirst)
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
        self.apply(x, &self.outputs_first()?)
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
