use std::collections::HashMap;

use align_core::tch::{Device, Kind, Tensor};

use crate::Result;
use crate::config::{FamilyConfig, ModelConfig};
use crate::model::{FrozenStorage, LoadOptions, Model, Trainable};
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::sizes::Sizes;

/// A decoder of the Llama shape as numbers and tensors: what a program needs that computes its forward by itself.
///
/// The tensors share the model's storage: their values are those of the moment in which they are read. Matrices with an
/// adapter are copies with the adapter added, as it was when the description was made.
#[derive(Debug)]
#[non_exhaustive]
pub struct PlainDecoder {
    /// Tokens of the vocabulary, `V`.
    pub vocab_size: usize,
    /// Width of the residual stream, `H`.
    pub hidden_size: usize,
    /// Width of the feed-forward layer, `I`.
    pub intermediate_size: usize,
    /// Query heads, `N`.
    pub heads: usize,
    /// Key-value heads, `K`; divides `N`.
    pub key_value_heads: usize,
    /// Width of one head, `D`, even.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub context_length: usize,
    /// Added to the mean square before the root in every norm.
    pub norm_eps: f64,
    /// Most positions a token looks back at, itself included; `None` for all.
    pub window: Option<usize>,
    /// Angle per position of each rotated pair, `[D/2]`; dimension i turns with dimension i + D/2.
    pub frequencies: Vec<f32>,
    /// `[V, H]`.
    pub embedding: Tensor,
    /// The blocks in order.
    pub layers: Vec<PlainLayer>,
    /// Scale of the last norm, `[H]`.
    pub norm: Tensor,
    /// `[V, H]`; the embedding itself where they are tied.
    pub head: PlainLinear,
}

/// One block of a [`PlainDecoder`]: x + attention(norm(x)), then x + mlp(norm(x)).
#[derive(Debug)]
#[non_exhaustive]
pub struct PlainLayer {
    /// Scale of the norm before attention, `[H]`.
    pub input_norm: Tensor,
    /// `[N · D, H]`.
    pub query: PlainLinear,
    /// `[K · D, H]`.
    pub key: PlainLinear,
    /// `[K · D, H]`.
    pub value: PlainLinear,
    /// `[H, N · D]`.
    pub output: PlainLinear,
    /// Scale of the norm of each query head before it is rotated, `[D]`.
    pub query_norm: Option<Tensor>,
    /// Scale of the norm of each key head before it is rotated, `[D]`.
    pub key_norm: Option<Tensor>,
    /// Scale of the norm before the feed-forward layer, `[H]`.
    pub post_norm: Tensor,
    /// `[I, H]`, followed by SiLU.
    pub gate: PlainLinear,
    /// `[I, H]`.
    pub up: PlainLinear,
    /// `[H, I]`.
    pub down: PlainLinear,
}

/// A linear layer: x · weightᵀ + bias.
#[derive(Debug)]
#[non_exhaustive]
pub struct PlainLinear {
    /// `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Option<Tensor>,
}

/// What the families that have the plain shape say in their configurations.
struct Shape<'a> {
    sizes: Sizes,
    norm_eps: f64,
    rope: &'a RopeConfig,
    window: Option<usize>,
}

impl<'a> Shape<'a> {
    /// Returns `None` for families of another shape, and for windows that differ by layer.
    fn of(family: &'a FamilyConfig) -> Option<Self> {
        let (norm_eps, rope, window) = match family {
            FamilyConfig::Llama(c) => (c.rms_norm_eps, &c.rope, None),
            FamilyConfig::Mistral(c) => (c.rms_norm_eps, &c.rope, c.sliding_window),
            FamilyConfig::Qwen2(c) => (c.rms_norm_eps, &c.rope, common(&c.windows)?),
            FamilyConfig::Qwen3(c) => (c.rms_norm_eps, &c.rope, common(&c.windows)?),
            _ => return None,
        };
        Some(Self { sizes: family.sizes(), norm_eps, rope, window })
    }
}

/// Returns the window that all layers have.
fn common(windows: &[Option<usize>]) -> Option<Option<usize>> {
    let first = windows.first().copied().flatten();
    windows.iter().all(|window| *window == first).then_some(first)
}

/// Takes tensors by name and counts them, so that a model with more than the plain shape is noticed.
struct Names<'a> {
    model: &'a Model,
    /// Matrices with their adapters, by the names of their layers.
    merged: HashMap<String, Tensor>,
    taken: usize,
}

impl Names<'_> {
    fn optional(&mut self, name: &str) -> Option<Tensor> {
        let weight = self.model.weights().iter().find(|weight| weight.name == name)?;
        self.taken += 1;
        weight.matrix.dense().map(Tensor::shallow_clone)
    }

    fn linear(&mut self, name: &str) -> Option<PlainLinear> {
        let weight = self.optional(&format!("{name}.weight"))?;
        let weight = self.merged.remove(name).unwrap_or(weight);
        Some(PlainLinear { weight, bias: self.optional(&format!("{name}.bias")) })
    }

    fn layer(&mut self, index: usize) -> Option<PlainLayer> {
        let prefix = format!("model.layers.{index}");
        let attention = |part: &str| format!("{prefix}.self_attn.{part}");
        Some(PlainLayer {
            input_norm: self.optional(&format!("{prefix}.input_layernorm.weight"))?,
            query: self.linear(&attention("q_proj"))?,
            key: self.linear(&attention("k_proj"))?,
            value: self.linear(&attention("v_proj"))?,
            output: self.linear(&attention("o_proj"))?,
            query_norm: self.optional(&attention("q_norm.weight")),
            key_norm: self.optional(&attention("k_norm.weight")),
            post_norm: self.optional(&format!("{prefix}.post_attention_layernorm.weight"))?,
            gate: self.linear(&format!("{prefix}.mlp.gate_proj"))?,
            up: self.linear(&format!("{prefix}.mlp.up_proj"))?,
            down: self.linear(&format!("{prefix}.mlp.down_proj"))?,
        })
    }
}

impl ModelConfig {
    /// Says whether [`Model::plain`] describes a model of this configuration that is loaded in this way, without loading it.
    pub fn is_plain(&self, options: &LoadOptions) -> bool {
        let LoadOptions { device, compute, trainable, frozen, .. } = *options;
        let stored = trainable == Trainable::All || frozen == FrozenStorage::Float;
        Shape::of(self.family()).is_some() && device == Device::Cpu && compute == Kind::Float && stored
    }
}

impl Model {
    /// Describes the model as plain tensors; `None` for another architecture, another device than the CPU, other
    /// numbers than float32 (stored or computed with), or weights beyond the shape that [`PlainDecoder`] has.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn plain(&self) -> Result<Option<PlainDecoder>> {
        let Some(Shape { sizes, norm_eps, rope, window }) = Shape::of(self.config().family()) else {
            return Ok(None);
        };
        let rope = Rope::new(rope, sizes.head_dim, Pairs::Halves, Device::Cpu)?;
        let ours = |weight: &crate::weights::Weight| {
            weight.matrix.dense().is_some_and(|t| t.device() == Device::Cpu && t.kind() == Kind::Float)
        };
        if self.options().compute != Kind::Float || !self.weights().iter().all(ours) {
            return Ok(None);
        }
        let mut names = Names { model: self, merged: self.merged()?, taken: 0 };
        let layers = (0..sizes.num_hidden_layers).map(|index| names.layer(index)).collect();
        let (Some(layers), Some(embedding), Some(norm)) =
            (layers, names.optional("model.embed_tokens.weight"), names.optional("model.norm.weight"))
        else {
            return Ok(None);
        };
        let head = match sizes.tie_word_embeddings {
            true => Some(PlainLinear { weight: embedding.shallow_clone(), bias: None }),
            false => names.linear("lm_head"),
        };
        let (Some(head), true) = (head, names.taken == self.weights().len()) else { return Ok(None) };
        Ok(Some(PlainDecoder {
            vocab_size: sizes.vocab_size,
            hidden_size: sizes.hidden_size,
            intermediate_size: sizes.intermediate_size,
            heads: sizes.num_attention_heads,
            key_value_heads: sizes.num_key_value_heads,
            head_dim: sizes.head_dim,
            context_length: sizes.max_position_embeddings,
            norm_eps,
            window,
            frequencies: rope.frequencies()?,
            embedding,
            layers,
            norm,
            head,
        }))
    }
}
