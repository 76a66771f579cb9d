use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig, rotated};
use crate::self_attention::{Projection, SelfAttention};
use crate::sizes::{Defaults, Sizes, most};
use crate::transformer::{Block, Transformer};
use crate::weights::Builder;

/// What a Phi-3 looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Phi3Config {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the mean square before the root in every norm.
    pub rms_norm_eps: f64,
    /// Rotary position embeddings.
    pub rope: RopeConfig,
    /// Dimensions of each head that are rotated, even.
    pub rotary_dim: usize,
    /// How many positions a token sees, its own included; all if absent.
    pub sliding_window: Option<usize>,
}

impl Phi3Config {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let defaults = Defaults { key_value_heads: None, head_dim: None, positions: 4096, tied: false };
        let sizes = Sizes::read(keys, defaults)?;
        let theta = RopeConfig::default().theta;
        let (rope, part) = RopeConfig::read_partial(keys, sizes.max_position_embeddings, theta, 1.0)?;
        let rotary_dim = rotated(sizes.head_dim, part);
        sizes.check_rotary(keys, rotary_dim)?;
        Activation::read(keys, "hidden_act", &[Activation::Silu], Activation::Silu)?;
        Ok(Self {
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-5))?,
            rope,
            rotary_dim,
            sliding_window: keys.size_or_null("sliding_window", most::POSITIONS, None)?,
            sizes,
        })
    }
}

/// Builds the Phi-3 architecture (arXiv:2404.14219): Llama with fused projections, a window of attention, and heads
/// of which a part may be rotated.
pub(crate) fn build(config: &Phi3Config, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::Rms { eps: config.rms_norm_eps };
    let rope = Rope::new(&config.rope, config.rotary_dim, Pairs::Halves, device)?;
    let fused = sizes.queries() + 2 * sizes.keys();
    Transformer::with_common_names(sizes, norm, vec![rope], take, |_, prefix, take| {
        let name = format!("{prefix}.self_attn");
        let projection = take.linear(&format!("{name}.qkv_proj"), sizes.hidden_size, fused, false)?;
        let output = take.linear(&format!("{name}.o_proj"), sizes.queries(), sizes.hidden_size, false)?;
        let mut attention = SelfAttention::new(sizes, Projection::Fused(projection), output);
        attention.scores.window = config.sliding_window;
        let mlp = Mlp::fused_gated(sizes, &format!("{prefix}.mlp"), take)?;
        Block::pre_norm(sizes, prefix, norm, attention, mlp, take)
    })
}
