use align_core::{
    Result,
    tch::{Kind, Tensor},
};

use crate::nf4::{Nf4, bytes_of};

/// The numbers of a matrix.
#[derive(Debug)]
pub(crate) enum Matrix {
    /// As they are, in whatever number format.
    Dense(Tensor),
    /// In 4-bit blocks. Never trained.
    Nf4(Nf4),
}

impl Matrix {
    /// Returns the matrix in the format in which it is stored; 4-bit numbers as float32.
    pub(crate) fn read(&self) -> Result<Tensor> {
        match self {
            Self::Dense(tensor) => Ok(tensor.shallow_clone()),
            Self::Nf4(packed) => packed.read(),
        }
    }

    /// Returns the tensor itself where there is one.
    pub(crate) fn dense(&self) -> Option<&Tensor> {
        match self {
            Self::Dense(tensor) => Some(tensor),
            Self::Nf4(_) => None,
        }
    }

    pub(crate) fn shape(&self) -> Vec<i64> {
        match self {
            Self::Dense(tensor) => tensor.size(),
            Self::Nf4(packed) => packed.shape().to_vec(),
        }
    }

    /// Counts the bytes that are held.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => bytes_of(tensor),
            Self::Nf4(packed) => packed.bytes(),
        }
    }
}

/// Returns numbers of 16 bits as float32, others as they are: float64 stays.
pub(crate) fn widened(x: &Tensor) -> Result<Tensor> {
    match x.kind() {
        Kind::BFloat16 | Kind::Half => Ok(x.f_to_kind(Kind::Float)?),
        _ => Ok(x.shallow_clone()),
    }
}
