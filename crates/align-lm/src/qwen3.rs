use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::qwen2::read_qwen_windows;
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::self_attention::{Biases, SelfAttention};
use crate::sizes::{Defaults, Sizes};
use crate::transformer::{Block, Transformer};
use crate::weights::Builder;

/// What a dense Qwen3 looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Qwen3Config {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the mean square before the root in every norm.
    pub rms_norm_eps: f64,
    /// Rotary position embeddings.
    pub rope: RopeConfig,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
    /// How many positions a token sees in each layer, its own included; all if absent.
    pub windows: Vec<Option<usize>>,
}

impl Qwen3Config {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let defaults =
            Defaults { key_value_heads: Some(32), head_dim: Some(128), positions: 32_768, tied: false };
        let sizes = Sizes::read(keys, defaults)?;
        sizes.check_rotary(keys, sizes.head_dim)?;
        Activation::read(keys, "hidden_act", &[Activation::Silu], Activation::Silu)?;
        Ok(Self {
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rope: RopeConfig::read(keys, sizes.max_position_embeddings)?,
            attention_bias: keys.flag("attention_bias")?,
            windows: read_qwen_windows(keys, sizes.num_hidden_layers)?,
            sizes,
        })
    }
}

/// Builds the dense Qwen3 architecture (arXiv:2505.09388): Llama with a norm of each query and key head.
pub(crate) fn build(config: &Qwen3Config, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::Rms { eps: config.rms_norm_eps };
    let rope = Rope::new(&config.rope, sizes.head_dim, Pairs::Halves, device)?;
    let bias = Biases { inputs: config.attention_bias, output: config.attention_bias };
    Transformer::with_common_names(sizes, norm, vec![rope], take, |layer, prefix, take| {
        let name = format!("{prefix}.self_attn");
        let mut attention =
            SelfAttention::separate(sizes, &name, bias, take)?.with_head_norms(&name, norm, take)?;
        attention.scores.window = config.windows.get(layer).copied().flatten();
        let mlp = Mlp::gated(sizes, &format!("{prefix}.mlp"), false, Activation::Silu, take)?;
        Block::pre_norm(sizes, prefix, norm, attention, mlp, take)
    })
}
