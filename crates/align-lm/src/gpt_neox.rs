use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig, rotated};
use crate::self_attention::{Projection, SelfAttention};
use crate::sizes::{Defaults, Sizes};
use crate::transformer::{Block, Embedding, Head, Transformer};
use crate::weights::Builder;

/// What a GPT-NeoX or Pythia looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GptNeoxConfig {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the variance before the root in every norm.
    pub layer_norm_eps: f64,
    /// Rotary position embeddings.
    pub rope: RopeConfig,
    /// Dimensions of each head that are rotated, even.
    pub rotary_dim: usize,
    /// The activation of the feed-forward layer.
    pub activation: Activation,
    /// Whether attention and feed-forward layer read the same stream.
    pub use_parallel_residual: bool,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
}

impl GptNeoxConfig {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let defaults = Defaults { key_value_heads: None, head_dim: None, positions: 2048, tied: false };
        Sizes::check_even_heads(keys)?;
        let sizes = Sizes::read(keys, defaults)?;
        let theta = keys.positive("rotary_emb_base", Some(RopeConfig::default().theta))?;
        let part = keys.positive("rotary_pct", Some(0.25))?;
        let (rope, part) = RopeConfig::read_partial(keys, sizes.max_position_embeddings, theta, part)?;
        let rotary_dim = rotated(sizes.head_dim, part);
        sizes.check_rotary(keys, rotary_dim)?;
        let activations = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];
        Ok(Self {
            layer_norm_eps: keys.positive("layer_norm_eps", Some(1e-5))?,
            rope,
            rotary_dim,
            activation: Activation::read(keys, "hidden_act", &activations, Activation::Gelu)?,
            use_parallel_residual: keys.flag_or("use_parallel_residual", true)?,
            attention_bias: keys.flag_or("attention_bias", true)?,
            sizes,
        })
    }
}

/// Builds the GPT-NeoX architecture (arXiv:2204.06745): layer norms, heads rotated in part, and a feed-forward layer
/// beside attention instead of after it.
pub(crate) fn build(config: &GptNeoxConfig, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::Layer { eps: config.layer_norm_eps };
    let ropes = vec![Rope::new(&config.rope, config.rotary_dim, Pairs::Halves, device)?];
    let embedding = Embedding::new(sizes, "gpt_neox.embed_in", take)?;
    let blocks = (0..sizes.num_hidden_layers).map(|layer| block(config, layer, norm, take));
    let blocks = blocks.collect::<Result<_>>()?;
    let norm = take.norm("gpt_neox.final_layer_norm", sizes.hidden_size, norm)?;
    let head = Head::new(sizes, &embedding, "embed_out", take)?;
    Ok(Transformer { embedding, ropes, blocks, norm, head })
}

fn block(config: &GptNeoxConfig, layer: usize, norm: NormKind, take: &mut Builder<'_>) -> Result<Block> {
    let (hidden, inner) = (config.sizes.hidden_size, config.sizes.intermediate_size);
    let prefix = format!("gpt_neox.layers.{layer}");
    let mut linear =
        |name: &str, inputs, outputs, bias| take.linear(&format!("{prefix}.{name}"), inputs, outputs, bias);
    let bias = config.attention_bias;
    let projection = linear("attention.query_key_value", hidden, 3 * hidden, bias)?;
    let output = linear("attention.dense", hidden, hidden, bias)?;
    let mlp = Mlp::Plain {
        up: linear("mlp.dense_h_to_4h", hidden, inner, true)?,
        down: linear("mlp.dense_4h_to_h", inner, hidden, true)?,
        activation: config.activation,
    };
    let attention = SelfAttention::new(&config.sizes, Projection::FusedByHead(projection), output);
    let block = Block::pre_norm(&config.sizes, &prefix, norm, attention, mlp, take)?;
    Ok(Block { parallel: config.use_parallel_residual, ..block })
}
