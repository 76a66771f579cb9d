use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig, rotated};
use crate::self_attention::{Biases, SelfAttention};
use crate::sizes::{Defaults, Sizes};
use crate::transformer::{Block, PostNorms, Transformer};
use crate::weights::Builder;

/// What a GLM-4 looks like, of the first releases (`glm`) and of those of 2025 (`glm4`).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GlmConfig {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the mean square before the root in every norm.
    pub rms_norm_eps: f64,
    /// Rotary position embeddings.
    pub rope: RopeConfig,
    /// Dimensions of each head that are rotated, even.
    pub rotary_dim: usize,
    /// Whether queries, keys and values have biases.
    pub attention_bias: bool,
    /// Whether what the two layers of a block add is normalised (`glm4`).
    pub post_norms: bool,
}

impl GlmConfig {
    pub(crate) fn read(keys: Keys<'_>, post_norms: bool) -> Result<Self> {
        let defaults =
            Defaults { key_value_heads: Some(2), head_dim: Some(128), positions: 131_072, tied: false };
        let sizes = Sizes::read(keys, defaults)?;
        let theta = RopeConfig::default().theta;
        let (rope, part) = RopeConfig::read_partial(keys, sizes.max_position_embeddings, theta, 0.5)?;
        let rotary_dim = rotated(sizes.head_dim, part);
        sizes.check_rotary(keys, rotary_dim)?;
        Activation::read(keys, "hidden_act", &[Activation::Silu], Activation::Silu)?;
        Ok(Self {
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1.5625e-7))?,
            rope,
            rotary_dim,
            attention_bias: keys.flag_or("attention_bias", true)?,
            post_norms,
            sizes,
        })
    }
}

/// Builds the GLM-4 architecture (arXiv:2406.12793): Llama with biases on queries, keys and values, heads rotated in
/// part and in neighbouring pairs, a fused gate, and in `glm4` norms after both layers of a block.
pub(crate) fn build(config: &GlmConfig, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let kind = NormKind::Rms { eps: config.rms_norm_eps };
    let rope = Rope::new(&config.rope, config.rotary_dim, Pairs::Neighbours, device)?;
    let bias = Biases { inputs: config.attention_bias, output: false };
    Transformer::with_common_names(sizes, kind, vec![rope], take, |_, prefix, take| {
        let attention = SelfAttention::separate(sizes, &format!("{prefix}.self_attn"), bias, take)?;
        let mlp = Mlp::fused_gated(sizes, &format!("{prefix}.mlp"), take)?;
        let mut block = Block::pre_norm(sizes, prefix, kind, attention, mlp, take)?;
        if config.post_norms {
            let mut norm = |name: &str| take.norm(&format!("{prefix}.{name}"), sizes.hidden_size, kind);
            let (attention, mlp) = (norm("post_self_attn_layernorm")?, norm("post_mlp_layernorm")?);
            block.post_norms = Some(PostNorms { attention, mlp });
        }
        Ok(block)
    })
}
