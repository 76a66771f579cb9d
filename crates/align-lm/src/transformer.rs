use align_core::{
    Error, Result,
    tch::{Device, Kind, Tensor},
};

use crate::attention::{Attention, PackedAttention, Qkv, Scores, TailAttention};
use crate::config::Output;
use crate::keys::Keys;
use crate::linear::Linear;
use crate::matrix::widened;
use crate::norm::{Norm, NormKind};
use crate::rope::{Rope, Rotation};
use crate::sizes::Sizes;
use crate::tail::{Tail, select};
use crate::weights::{Builder, Role};

/// A decoder as all families have it: embeddings, blocks of attention and a feed-forward layer around a residual
/// stream, a norm and an output layer. A family says which parts there are and what their tensors are called.
#[derive(Debug)]
pub(crate) struct Transformer {
    pub(crate) embedding: Embedding,
    /// The rotary embeddings that attention layers refer to.
    pub(crate) ropes: Vec<Rope>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Norm,
    pub(crate) head: Head,
}

impl Transformer {
    /// Computes the hidden states after the last norm, `[T, H]`, of tokens `[T]` at positions `[T]`.
    pub(crate) fn hidden(
        &self,
        ids: &Tensor,
        positions: &Tensor,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        let rotations = self.rotations(positions)?;
        let mut x = self.embedding.forward(ids, positions)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, &rotations, index, attention)?;
        }
        self.norm.forward(&x)
    }

    /// As [`Self::hidden`] for the rows of a tail alone, `[K, H]`.
    pub(crate) fn hidden_tail(
        &self,
        ids: &Tensor,
        positions: &Tensor,
        attention: &mut PackedAttention,
        tail: &Tail,
    ) -> Result<Tensor> {
        let rotations = self.rotations(positions)?;
        let mut x = self.embedding.forward(ids, positions)?;
        let Some((last, blocks)) = self.blocks.split_last() else {
            return self.norm.forward(&select(&x, Some(&tail.rows))?);
        };
        for (index, block) in blocks.iter().enumerate() {
            x = block.forward(&x, &rotations, index, attention)?;
        }
        let attention = &mut TailAttention(attention);
        self.norm.forward(&last.forward_rows(&x, &rotations, blocks.len(), attention, Some(&tail.rows))?)
    }

    /// Computes the rotations of rows at positions `[T]`.
    pub(crate) fn rotations(&self, positions: &Tensor) -> Result<Vec<Rotation>> {
        self.ropes.iter().map(|rope| rope.rotation(positions)).collect()
    }

    /// Maps hidden states `[N, H]` to logits `[N, V]`.
    pub(crate) fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.forward(hidden)
    }

    /// Lists the linear layers of the blocks in order: all but the output layer.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(|block| block.attention.linears().into_iter().chain(block.mlp.linears()))
    }

    /// As [`Self::linears`].
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(|Block { attention, mlp, .. }| {
            attention.linears_mut().into_iter().chain(mlp.linears_mut())
        })
    }

    /// Maps hidden states `[N, H]` to scores `[N]` in float32. Bounds and normalised rows belong to logits alone.
    pub(crate) fn score(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.head.linear()?.forward(&hidden.f_to_kind(Kind::Float)?)?.f_reshape([-1])?)
    }

    /// Gives the score head another matrix, `[1, H]`.
    pub(crate) fn replace_score(&mut self, matrix: Tensor) {
        if let Some(linear) = &mut self.head.linear {
            linear.replace(matrix);
        }
    }

    /// Builds a decoder whose tensors have the names of Llama: `model.embed_tokens`, `model.layers.0`, `model.norm`,
    /// `lm_head`. `block` builds one block from its index and prefix.
    pub(crate) fn with_common_names(
        sizes: &Sizes,
        norm: NormKind,
        ropes: Vec<Rope>,
        take: &mut Builder<'_>,
        mut block: impl FnMut(usize, &str, &mut Builder<'_>) -> crate::Result<Block>,
    ) -> crate::Result<Self> {
        let embedding = Embedding::new(sizes, "model.embed_tokens", take)?;
        let blocks = (0..sizes.num_hidden_layers)
            .map(|index| block(index, &format!("model.layers.{index}"), take))
            .collect::<crate::Result<_>>()?;
        let norm = take.norm("model.norm", sizes.hidden_size, norm)?;
        let head = Head::new(sizes, &embedding, "lm_head", take)?;
        Ok(Self { embedding, ropes, blocks, norm, head })
    }
}

/// Maps tokens to the residual stream.
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) tokens: Tensor,
    /// Learned positions, `[positions, H]`.
    pub(crate) positions: Option<Tensor>,
    pub(crate) scale: f64,
    pub(crate) norm: Option<Norm>,
    /// The number format of the residual stream; that of the tables if absent.
    pub(crate) kind: Option<Kind>,
}

impl Embedding {
    /// Takes `{name}.weight`.
    pub(crate) fn new(sizes: &Sizes, name: &str, take: &mut Builder<'_>) -> crate::Result<Self> {
        let shape = [sizes.vocab_size, sizes.hidden_size];
        let tokens = take.take(format!("{name}.weight"), &shape, Role::Matrix)?;
        Ok(Self { tokens, positions: None, scale: 1.0, norm: None, kind: None })
    }

    pub(crate) fn forward(&self, ids: &Tensor, positions: &Tensor) -> Result<Tensor> {
        // Rounded where they are used, as matrices are; sums and products are formed in float32.
        let rows = |table: &Tensor, index: &Tensor| -> Result<Tensor> {
            widened(&self.in_kind(&Tensor::f_embedding(table, index, -1, false, false)?)?)
        };
        let mut x = rows(&self.tokens, ids)?;
        if self.scale != 1.0 {
            x = x.f_mul_scalar(self.scale)?;
        }
        if let Some(table) = &self.positions {
            x = x.f_add(&rows(table, positions)?)?;
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(&x)?;
        }
        self.in_kind(&x)
    }

    fn in_kind(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.kind.map_or_else(|| Ok(x.shallow_clone()), |kind| x.f_to_kind(kind))?)
    }
}

/// Maps the last hidden states to logits, or to one score.
#[derive(Debug)]
pub(crate) struct Head {
    /// None on a model that ends in hidden states.
    linear: Option<Linear>,
    /// Logits are bent below this bound: cap · tanh(logit / cap).
    pub(crate) cap: Option<f64>,
    /// Whether the rows of the matrix are scaled to length 1.
    pub(crate) normalised: bool,
}

impl Head {
    /// Takes `{name}.weight`, or the embedding where it is tied; for a score `score.weight`.
    pub(crate) fn new(
        sizes: &Sizes,
        embedding: &Embedding,
        name: &str,
        take: &mut Builder<'_>,
    ) -> crate::Result<Self> {
        let linear = match take.output {
            Output::Vocabulary if sizes.tie_word_embeddings => Some(Linear::tied(&embedding.tokens)),
            Output::Vocabulary => Some(take.output_layer(name, sizes.hidden_size, sizes.vocab_size)?),
            Output::Score => Some(take.output_layer("score", sizes.hidden_size, 1)?),
            Output::None => None,
        };
        Ok(Self { linear, cap: None, normalised: false })
    }

    fn linear(&self) -> Result<&Linear> {
        self.linear.as_ref().ok_or_else(|| Error::input("output layer", "this model has none"))
    }

    fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = match self.normalised {
            true => self.linear()?.forward_normalised(hidden)?,
            false => self.linear()?.forward(hidden)?,
        };
        // What follows is computed in float32; logits carry the rounding of their product alone.
        let logits = widened(&logits)?;
        match self.cap {
            Some(cap) => Ok(logits.f_mul_scalar(1.0 / cap)?.f_tanh()?.f_mul_scalar(cap)?),
            None => Ok(logits),
        }
    }
}

/// One block: x + attention(norm(x)), then x + feed-forward(norm(x)).
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: SelfAttention,
    pub(crate) mlp_norm: Norm,
    pub(crate) mlp: Mlp,
    /// Norms of what the two layers add to the stream.
    pub(crate) post_norms: Option<PostNorms>,
    /// Whether both layers read the same stream and are added at once.
    pub(crate) parallel: bool,
}

#[derive(Debug)]
pub(crate) struct PostNorms {
    pub(crate) attention: Norm,
    pub(crate) mlp: Norm,
}

impl Block {
    /// Puts a sequential block together from its layers and `input_layernorm` and `post_attention_layernorm` under a
    /// prefix.
    pub(crate) fn pre_norm(
        sizes: &Sizes,
        prefix: &str,
        kind: NormKind,
        attention: SelfAttention,
        mlp: Mlp,
        take: &mut Builder<'_>,
    ) -> crate::Result<Self> {
        let mut norm = |name: &str| take.norm(&format!("{prefix}.{name}"), sizes.hidden_size, kind);
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            attention,
            mlp_norm: norm("post_attention_layernorm")?,
            mlp,
            post_norms: None,
            parallel: false,
        })
    }

    pub(crate) fn forward(
        &self,
        x: &Tensor,
        rotations: &[Rotation],
        index: usize,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        self.forward_rows(x, rotations, index, attention, None)
    }

    /// As [`Self::forward`] of some of the rows, which see all of them; `attention` knows which.
    pub(crate) fn forward_rows(
        &self,
        x: &Tensor,
        rotations: &[Rotation],
        index: usize,
        attention: &mut dyn Attention,
        rows: Option<&Tensor>,
    ) -> Result<Tensor> {
        let normed = self.attention_norm.forward(x)?;
        let mut attended = self.attention.forward(&normed, rotations, index, attention, rows)?;
        if let Some(norms) = &self.post_norms {
            attended = norms.attention.forward(&attended)?;
        }
        let x = select(x, rows)?;
        let stream = x.f_add(&attended)?;
        let read = if self.parallel { &x } else { &stream };
        let mut added = self.mlp.forward(&self.mlp_norm.forward(read)?)?;
        if let Some(norms) = &self.post_norms {
            added = norms.mlp.forward(&added)?;
        }
        Ok(stream.f_add(&added)?)
    }

    /// Counts the numbers per token that autograd keeps of this block.
    ///
    /// Input, normalised rows and output of each norm; rotated queries, the attention output and its concatenation;
    /// keys and values, and again as the attention kernel repeats them; the inner rows of the feed-forward layer.
    pub(crate) fn activations(&self, sizes: &Sizes) -> usize {
        let (queries, keys) = (sizes.queries(), sizes.keys());
        let norms = if self.post_norms.is_some() { 4 } else { 2 };
        let head_norms = if self.attention.head_norms.is_some() { 2 * (queries + keys) } else { 0 };
        let inner = sizes.intermediate_size * self.mlp.activations();
        3 * norms * sizes.hidden_size + 3 * queries + 4 * keys + head_norms + inner
    }
}

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
    head_norms: Option<(Norm, Norm)>,
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

    fn forward(
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

    fn linears(&self) -> Vec<&Linear> {
        match &self.projection {
            Projection::Separate { query, key, value } => vec![query, key, value, &self.output],
            Projection::Fused(fused) | Projection::FusedByHead(fused) => vec![fused, &self.output],
        }
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
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

    fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Gated { gate, up, down, .. } => vec![gate, up, down],
            Self::FusedGated { gate_up, down, .. } => vec![gate_up, down],
            Self::Plain { up, down, .. } => vec![up, down],
        }
    }

    fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Gated { gate, up, down, .. } => vec![gate, up, down],
            Self::FusedGated { gate_up, down, .. } => vec![gate_up, down],
            Self::Plain { up, down, .. } => vec![up, down],
        }
    }

    /// Widths of the inner layer that autograd keeps: gate, up, activated gate and product, or up and activated.
    fn activations(&self) -> usize {
        match self {
            Self::Gated { .. } | Self::FusedGated { .. } => 4,
            Self::Plain { .. } => 2,
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
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
