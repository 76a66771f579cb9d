use align_core::{Result, tch::Tensor};

use crate::matrix::widened;

/// Which norm, and what it adds before the root.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum NormKind {
    /// Root mean square (arXiv:1910.07467): x / √(mean(x²) + eps) · weight.
    Rms { eps: f64 },
    /// The same with the factor 1 + weight (Gemma).
    RmsFromOne { eps: f64 },
    /// (x − mean(x)) / √(var(x) + eps) · weight + bias (arXiv:1607.06450).
    Layer { eps: f64 },
}

/// A norm over rows.
#[derive(Debug)]
pub(crate) struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    width: i64,
    kind: NormKind,
}

impl Norm {
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>, width: usize, kind: NormKind) -> Self {
        Self { weight, bias, width: width as i64, kind }
    }

    /// Normalises the last dimension of `[..., width]`; in float32 or wider, whatever the number format of the rows.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.forward_wide(&widened(x)?)?.f_to_kind(x.kind())?)
    }

    fn forward_wide(&self, x: &Tensor) -> Result<Tensor> {
        let rms = |weight: &Tensor, eps: f64| -> Result<Tensor> {
            Ok(x.f_internal_fused_rms_norm([self.width], Some(weight), eps)?.0)
        };
        match self.kind {
            NormKind::Rms { eps } => rms(&self.weight, eps),
            NormKind::RmsFromOne { eps } => rms(&self.weight.f_add_scalar(1.0)?, eps),
            NormKind::Layer { eps } => {
                Ok(x.f_layer_norm([self.width], Some(&self.weight), self.bias.as_ref(), eps, false)?)
            }
        }
    }
}
