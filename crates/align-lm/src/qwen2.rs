use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::self_attention::{Biases, SelfAttention};
use crate::sizes::{Defaults, Sizes, most, read_windows};
use crate::transformer::{Block, Transformer};
use crate::weights::Builder;

/// What a Qwen2 or Qwen2.5 looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Qwen2Config {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the mean square before the root in every norm.
    pub rms_norm_eps: f64,
    /// Rotary position embeddings.
    pub rope: RopeConfig,
    /// How many positions a token sees in each layer, its own included; all if absent.
    pub windows: Vec<Option<usize>>,
}

impl Qwen2Config {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let defaults = Defaults { key_value_heads: None, head_dim: None, positions: 32_768, tied: false };
        let sizes = Sizes::read(keys, defaults)?;
        sizes.check_rotary(keys, sizes.head_dim)?;
        Activation::read(keys, "hidden_act", &[Activation::Silu], Activation::Silu)?;
        Ok(Self {
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rope: RopeConfig::read(keys, sizes.max_position_embeddings)?,
            windows: read_qwen_windows(keys, sizes.num_hidden_layers)?,
            sizes,
        })
    }
}

/// Reads the window of each layer: off unless `use_sliding_window`, and then only from `max_window_layers` on.
pub(crate) fn read_qwen_windows(keys: Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>> {
    let window = match keys.flag("use_sliding_window")? {
        true => keys.size_or_null("sliding_window", most::POSITIONS, Some(4096))?,
        false => None,
    };
    let first = keys.get::<usize>("max_window_layers", "a whole number")?.unwrap_or(28);
    read_windows(keys, layers, window, |layer| layer >= first)
}

/// Builds the Qwen2 architecture (arXiv:2407.10671): Llama with biases on queries, keys and values.
pub(crate) fn build(config: &Qwen2Config, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::Rms { eps: config.rms_norm_eps };
    let rope = Rope::new(&config.rope, sizes.head_dim, Pairs::Halves, device)?;
    let bias = Biases { inputs: true, output: false };
    Transformer::with_common_names(sizes, norm, vec![rope], take, |layer, prefix, take| {
        let mut attention = SelfAttention::separate(sizes, &format!("{prefix}.self_attn"), bias, take)?;
        attention.scores.window = config.windows.get(layer).copied().flatten();
        let mlp = Mlp::gated(sizes, &format!("{prefix}.mlp"), false, Activation::Silu, take)?;
        Block::pre_norm(sizes, prefix, norm, attention, mlp, take)
    })
}
