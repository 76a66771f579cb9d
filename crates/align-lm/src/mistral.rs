use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::self_attention::{Biases, SelfAttention};
use crate::sizes::{Defaults, Sizes, most};
use crate::transformer::{Block, Transformer};
use crate::weights::Builder;

/// What a Mistral looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MistralConfig {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the mean square before the root in every norm.
    pub rms_norm_eps: f64,
    /// Rotary position embeddings.
    pub rope: RopeConfig,
    /// How many positions a token sees, its own included; all if absent.
    pub sliding_window: Option<usize>,
}

impl MistralConfig {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let defaults = Defaults { key_value_heads: Some(8), head_dim: None, positions: 131_072, tied: false };
        let sizes = Sizes::read(keys, defaults)?;
        sizes.check_rotary(keys, sizes.head_dim)?;
        Activation::read(keys, "hidden_act", &[Activation::Silu], Activation::Silu)?;
        if keys.has("layer_types") {
            return Err(keys.refuse("layer_types", "no such key: all layers have the same window"));
        }
        Ok(Self {
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rope: RopeConfig::read(keys, sizes.max_position_embeddings)?,
            sliding_window: keys.size_or_null("sliding_window", most::POSITIONS, Some(4096))?,
            sizes,
        })
    }
}

/// Builds the Mistral architecture (arXiv:2310.06825): Llama with a window of attention.
pub(crate) fn build(config: &MistralConfig, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::Rms { eps: config.rms_norm_eps };
    let rope = Rope::new(&config.rope, sizes.head_dim, Pairs::Halves, device)?;
    let bias = Biases { inputs: false, output: false };
    Transformer::with_common_names(sizes, norm, vec![rope], take, |_, prefix, take| {
        let mut attention = SelfAttention::separate(sizes, &format!("{prefix}.self_attn"), bias, take)?;
        attention.scores.window = config.sliding_window;
        let mlp = Mlp::gated(sizes, &format!("{prefix}.mlp"), false, Activation::Silu, take)?;
        Block::pre_norm(sizes, prefix, norm, attention, mlp, take)
    })
}
