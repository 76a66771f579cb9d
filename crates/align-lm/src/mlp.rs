use align_core::{Error, Result, tch::Tensor};

use crate::keys::Keys;
use crate::linear::Linear;
use crate::sizes::Sizes;
use crate::weights::Builder;

/// The activation functions of feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// x · Φ(x), Φ the normal distribution (arXiv:1606.08415).
    Gelu,
    /// Its approximation by the hyperbolic tangent.
    GeluTanh,
    /// max(x, 0).
    Relu,
}

impl Activation {
    /// Reads one of the activations of a family under the names that transformers gives them.
    pub(crate) fn read(keys: Keys<'_>, key: &str, built: &[Self], default: Self) -> crate::Result<Self> {
        let names: Vec<String> =
            built.iter().flat_map(|one| one.names()).map(|name| format!("{name:?}")).collect();
        let expected = names.join(" or ");
        let Some(name) = keys.get::<String>(key, &expected)? else {
            return Ok(default);
        };
        let found = built.iter().find(|one| one.names().contains(&name.as_str()));
        found.copied().ok_or_else(|| keys.refuse(key, &expected))
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Silu => &["silu"],
            Self::Gelu => &["gelu"],
            Self::GeluTanh => &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"],
            Self::Relu => &["relu"],
        }
    }

    fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Silu => x.f_silu()?,
            Self::Gelu => x.f_gelu("none")?,
            Self::GeluTanh => x.f_gelu("tanh")?,
            Self::Relu => x.f_relu()?,
        })
    }
}

/// The feed-forward layer.
#[derive(Debug)]
pub(crate) enum Mlp {
    /// down(activation(gate(x)) · up(x)).
    Gated { gate: Linear, up: Linear, down: Linear, activation: Activation },
    /// The same; one layer has the gate and, after it, the rest.
    FusedGated { gate_up: Linear, down: Linear, activation: Activation },
    /// down(activation(up(x))).
    Plain { up: Linear, down: Linear, activation: Activation },
}

impl Mlp {
    /// Takes `gate_proj`, `up_proj` and `down_proj` under a prefix.
    pub(crate) fn gated(
        sizes: &Sizes,
        prefix: &str,
        bias: bool,
        activation: Activation,
        take: &mut Builder<'_>,
    ) -> crate::Result<Self> {
        let (hidden, inner) = (sizes.hidden_size, sizes.intermediate_size);
        Ok(Self::Gated {
            gate: take.linear(&format!("{prefix}.gate_proj"), hidden, inner, bias)?,
            up: take.linear(&format!("{prefix}.up_proj"), hidden, inner, bias)?,
            down: take.linear(&format!("{prefix}.down_proj"), inner, hidden, bias)?,
            activation,
        })
    }

    /// Takes `gate_up_proj` and `down_proj` under a prefix.
    pub(crate) fn fused_gated(sizes: &Sizes, prefix: &str, take: &mut Builder<'_>) -> crate::Result<Self> {
        let (hidden, inner) = (sizes.hidden_size, sizes.intermediate_size);
        Ok(Self::FusedGated {
            gate_up: take.linear(&format!("{prefix}.gate_up_proj"), hidden, 2 * inner, false)?,
            down: take.linear(&format!("{prefix}.down_proj"), inner, hidden, false)?,
            activation: Activation::Silu,
        })
    }

    pub(crate) fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Gated { gate, up, down, .. } => vec![gate, up, down],
            Self::FusedGated { gate_up, down, .. } => vec![gate_up, down],
            Self::Plain { up, down, .. } => vec![up, down],
        }
    }

    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Gated { gate, up, down, .. } => vec![gate, up, down],
            Self::FusedGated { gate_up, down, .. } => vec![gate_up, down],
            Self::Plain { up, down, .. } => vec![up, down],
        }
    }

    /// Widths of the inner layer that autograd keeps: gate, up, activated gate and product, or up and activated.
    pub(crate) fn activations(&self) -> usize {
        match self {
            Self::Gated { .. } | Self::FusedGated { .. } => 4,
            Self::Plain { .. } => 2,
        }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gated { gate, up, down, activation } => {
                down.forward(&activation.forward(&gate.forward(x)?)?.f_mul(&up.forward(x)?)?)
            }
            Self::FusedGated { gate_up, down, activation } => {
                let parts = gate_up.forward(x)?.f_chunk(2, -1)?;
                let [gate, up] = parts.as_slice() else {
                    return Err(Error::input("feed-forward layer", "its inner width is not even"));
                };
                down.forward(&activation.forward(gate)?.f_mul(up)?)
            }
            Self::Plain { up, down, activation } => down.forward(&activation.forward(&up.forward(x)?)?),
        }
    }
}
