use align_core::{Result, tch::Tensor};

/// How the matrix of a linear layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[outputs, inputs]`, as nearly everywhere.
    OutputsFirst,
    /// `[inputs, outputs]`, as in GPT-2.
    InputsFirst,
}

/// The numbers of a linear layer.
#[derive(Debug)]
pub(crate) enum Matrix {
    /// As they are.
    Dense(Tensor),
}

impl Matrix {
    /// Returns the matrix as it is stored.
    fn read(&self) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.shallow_clone()),
        }
    }
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

    /// Maps `[T, inputs]` to `[T, outputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.outputs_first()?, self.bias.as_ref())?)
    }

    /// As [`Self::forward`], with every row of the matrix scaled to length 1.
    pub(crate) fn forward_normalised(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.outputs_first()?;
        let lengths = weight.f_norm_scalaropt_dim(2.0, [1i64], true)?.f_clamp_min(1e-12)?;
        Ok(x.f_linear(&weight.f_div(&lengths)?, self.bias.as_ref())?)
    }
}
