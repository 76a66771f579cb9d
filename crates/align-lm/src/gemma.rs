use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::self_attention::{Biases, SelfAttention};
use crate::sizes::{Defaults, Sizes};
use crate::transformer::{Block, Transformer};
use crate::weights::Builder;

/// What a Gemma 1 looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GemmaConfig {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the mean square before the root in every norm.
    pub rms_norm_eps: f64,
    /// Rotary position embeddings.
    pub rope: RopeConfig,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
}

impl GemmaConfig {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let defaults =
            Defaults { key_value_heads: Some(16), head_dim: Some(256), positions: 8192, tied: true };
        let sizes = Sizes::read(keys, defaults)?;
        sizes.check_rotary(keys, sizes.head_dim)?;
        // The first release says "gelu" and means the approximation.
        let activations = [Activation::GeluTanh, Activation::Gelu];
        Activation::read(keys, "hidden_act", &activations, Activation::GeluTanh)?;
        keys.only("use_bidirectional_attention", false)?;
        Ok(Self {
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rope: RopeConfig::read(keys, sizes.max_position_embeddings)?,
            attention_bias: keys.flag("attention_bias")?,
            sizes,
        })
    }
}

/// Builds the Gemma architecture (arXiv:2403.08295): Llama with scaled embeddings, norms that count from one and a
/// GELU gate.
pub(crate) fn build(config: &GemmaConfig, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::RmsFromOne { eps: config.rms_norm_eps };
    let rope = Rope::new(&config.rope, sizes.head_dim, Pairs::Halves, device)?;
    let bias = Biases { inputs: config.attention_bias, output: config.attention_bias };
    let mut model = Transformer::with_common_names(sizes, norm, vec![rope], take, |_, prefix, take| {
        let attention = SelfAttention::separate(sizes, &format!("{prefix}.self_attn"), bias, take)?;
        let mlp = Mlp::gated(sizes, &format!("{prefix}.mlp"), false, Activation::GeluTanh, take)?;
        Block::pre_norm(sizes, prefix, norm, attention, mlp, take)
    })?;
    model.embedding.scale = (sizes.hidden_size as f64).sqrt();
    Ok(model)
}
