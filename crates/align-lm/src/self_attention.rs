use align_core::{
    Error, Result,
    tch::{Device, Tensor},
};

use crate::attention::{Attention, Qkv, Scores};
use crate::linear::Linear;
use crate::norm::{Norm, NormKind};
use crate::rope::Rotation;
use crate::sizes::Sizes;
use crate::tail::select;
use crate::weights::Builder;

/// Where queries, keys and values come from.
#[expect(clippy::large_enum_variant, reason = "there is one for each block, and nearly all have the largest")]
#[derive(Debug)]
pub(crate) enum Projection {
    /// A layer for each.
    Separate { query: Linear, key: Linear, value: Linear },
    /// One layer: all queries, all keys, all values.
    Fused(Linear),
    /// One layer: query, key and value of each head in turn.
    FusedByHead(Linear),
}

/// Which projections of attention have biases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Biases {
    pub(crate) inputs: bool,
    pub(crate) output: bool,
}

#[derive(Debug)]
pub(crate) struct SelfAttention {
    projection: Projection,
    output: Linear,
    heads: i64,
    key_value_heads: i64,
    head_dim: i64,
    /// Norms of each query and each key head.
    pub(crate) head_norms: Option<(Norm, Norm)>,
    /// Which of the rotary embeddings; none where positions enter elsewhere.
    pub(crate) rope: Option<usize>,
    pub(crate) scores: Scores,
}

impl SelfAttention {
    /// Puts attention together, rotated by the first rotary embedding.
    pub(crate) fn new(sizes: &Sizes, projection: Projection, output: Linear) -> Self {
        Self {
            projection,
            output,
            heads: sizes.num_attention_heads as i64,
            key_value_heads: sizes.num_key_value_heads as i64,
            head_dim: sizes.head_dim as i64,
            head_norms: None,
            rope: Some(0),
            scores: Scores::default(),
        }
    }

    /// Takes `q_proj`, `k_proj`, `v_proj` and `o_proj` under a prefix.
    pub(crate) fn separate(
        sizes: &Sizes,
        prefix: &str,
        bias: Biases,
        take: &mut Builder<'_>,
    ) -> crate::Result<Self> {
        let (hidden, queries, keys) = (sizes.hidden_size, sizes.queries(), sizes.keys());
        let projection = Projection::Separate {
            query: take.linear(&format!("{prefix}.q_proj"), hidden, queries, bias.inputs)?,
            key: take.linear(&format!("{prefix}.k_proj"), hidden, keys, bias.inputs)?,
            value: take.linear(&format!("{prefix}.v_proj"), hidden, keys, bias.inputs)?,
        };
        let output = take.linear(&format!("{prefix}.o_proj"), queries, hidden, bias.output)?;
        Ok(Self::new(sizes, projection, output))
    }

    /// Takes `q_norm` and `k_norm` under a prefix.
    pub(crate) fn with_head_norms(
        mut self,
        prefix: &str,
        kind: NormKind,
        take: &mut Builder<'_>,
    ) -> crate::Result<Self> {
        let mut norm = |name: &str| take.norm(&format!("{prefix}.{name}"), self.head_dim as usize, kind);
        self.head_norms = Some((norm("q_norm")?, norm("k_norm")?));
        Ok(self)
    }

    pub(crate) fn forward(
        &self,
        x: &Tensor,
        rotations: &[Rotation],
        layer: usize,
        attention: &mut dyn Attention,
        queries: Option<&Tensor>,
    ) -> Result<Tensor> {
        let mut rows = self.project(x, queries)?;
        if let Some((query, key)) = &self.head_norms {
            rows.queries = query.forward(&rows.queries)?;
            rows.keys = key.forward(&rows.keys)?;
        }
        if let Some(index) = self.rope {
            let rotation =
                rotations.get(index).ok_or_else(|| Error::input("attention", "no such rotary embedding"))?;
            rows.queries = rotation.of_rows(queries)?.apply(&rows.queries)?;
            rows.keys = rotation.apply(&rows.keys)?;
        }
        let attended = attention.attend(layer, &rows, &self.scores)?;
        self.output.forward(&attended.f_reshape([-1, self.heads * self.head_dim])?)
    }

    pub(crate) fn linears(&self) -> Vec<&Linear> {
        match &self.projection {
            Projection::Separate { query, key, value } => vec![query, key, value, &self.output],
            Projection::Fused(fused) | Projection::FusedByHead(fused) => vec![fused, &self.output],
        }
    }

    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match &mut self.projection {
            Projection::Separate { query, key, value } => vec![query, key, value, &mut self.output],
            Projection::Fused(fused) | Projection::FusedByHead(fused) => vec![fused, &mut self.output],
        }
    }

    /// Computes keys and values of all rows, queries of some.
    fn project(&self, x: &Tensor, rows: Option<&Tensor>) -> Result<Qkv> {
        let (heads, keys, size) = (self.heads, self.key_value_heads, self.head_dim);
        let mut all = match &self.projection {
            Projection::Separate { query, key, value } => {
                return Ok(Qkv {
                    queries: query.forward(&select(x, rows)?)?.f_view([-1, heads, size])?,
                    keys: key.forward(x)?.f_view([-1, keys, size])?,
                    values: value.forward(x)?.f_view([-1, keys, size])?,
                });
            }
            Projection::Fused(linear) => {
                let all = linear.forward(x)?.f_view([-1, heads + 2 * keys, size])?;
                three(all.f_split_with_sizes([heads, keys, keys], 1)?)?
            }
            Projection::FusedByHead(linear) => {
                three(linear.forward(x)?.f_view([-1, heads, 3, size])?.f_unbind(2)?)?
            }
        };
        all.queries = select(&all.queries, rows)?;
        Ok(all)
    }
}

fn three(parts: Vec<Tensor>) -> Result<Qkv> {
    match <[Tensor; 3]>::try_from(parts) {
        Ok([queries, keys, values]) => Ok(Qkv { queries, keys, values }),
        Err(_) => Err(Error::input("attention", "the projection has not three parts")),
    }
}

/// Computes the slopes of ALiBi, `[heads]` (arXiv:2108.12409): the geometric series from 2^(−8/n) for n heads, a power
/// of two; the next power's series fills up, every other term, where n is none.
pub(crate) fn alibi_slopes(heads: usize, device: Device) -> Result<Tensor> {
    let series = |n: usize, i: usize| 2f64.powf(-8.0 * i as f64 / n as f64) as f32;
    let power = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    let slopes: Vec<f32> = (1..=power)
        .map(|i| series(power, i))
        .chain((1..).step_by(2).map(|i| series(2 * power, i)))
        .take(heads)
        .collect();
    Ok(Tensor::f_from_slice(&slopes)?.f_to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The series that the paper gives for 8 heads: 1/2, 1/4, … 1/256; with 3 heads 2^−4, 2^−8 and the first of 4's
    /// series, 2^−2.
    #[test]
    fn slopes_are_those_of_the_paper() {
        let slopes = |heads| Vec::<f32>::try_from(alibi_slopes(heads, Device::Cpu).unwrap()).unwrap();
        assert_eq!(slopes(8), [1, 2, 3, 4, 5, 6, 7, 8].map(|i| 0.5f32.powi(i)));
        assert_eq!(slopes(3), [0.0625, 0.00390625, 0.25]);
    }
}
