use align_core::tch::Device;

use crate::Result;
use crate::gemma2::block;
use crate::keys::Keys;
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::sizes::{Defaults, Sizes, most, read_windows};
use crate::transformer::{Activation, Biases, SelfAttention, Transformer};
use crate::weights::Builder;

/// What the text model of a Gemma 3 looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Gemma3Config {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the mean square before the root in every norm.
    pub rms_norm_eps: f64,
    /// Rotary position embeddings of layers that see everything.
    pub rope: RopeConfig,
    /// Rotary position embeddings of layers with a window.
    pub local_rope: RopeConfig,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
    /// Scores are divided by the root of this number.
    pub query_pre_attn_scalar: f64,
    /// The bound of attention scores, if any.
    pub attn_logit_softcapping: Option<f64>,
    /// The bound of logits, if any.
    pub final_logit_softcapping: Option<f64>,
    /// How many positions a token sees in each layer, its own included; all if absent.
    pub windows: Vec<Option<usize>>,
}

impl Gemma3Config {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let defaults =
            Defaults { key_value_heads: Some(4), head_dim: Some(256), positions: 131_072, tied: true };
        Sizes::check_even_heads(keys)?;
        let sizes = Sizes::read(keys, defaults)?;
        sizes.check_rotary(keys, sizes.head_dim)?;
        let gelu = Activation::GeluTanh;
        Activation::read(keys, "hidden_activation", &[gelu], gelu)?;
        keys.only("use_bidirectional_attention", false)?;
        let window = keys.size_or_null("sliding_window", most::POSITIONS, Some(4096))?;
        let every = keys.size("sliding_window_pattern", most::LAYERS, Some(6))?;
        let slides = |layer: usize| !(layer + 1).is_multiple_of(every);
        let (rope, local_rope) = read_ropes(keys, sizes.max_position_embeddings)?;
        Ok(Self {
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rope,
            local_rope,
            attention_bias: keys.flag("attention_bias")?,
            query_pre_attn_scalar: keys.positive("query_pre_attn_scalar", Some(256.0))?,
            attn_logit_softcapping: keys.positive_or_null("attn_logit_softcapping", None)?,
            final_logit_softcapping: keys.positive_or_null("final_logit_softcapping", None)?,
            windows: read_windows(keys, sizes.num_hidden_layers, window, slides)?,
            sizes,
        })
    }
}

/// Reads the embeddings of layers without and with a window: an object for each in `rope_parameters`, or the older
/// `rope_theta` and `rope_scaling` for the first and `rope_local_base_freq` for the second.
fn read_ropes(keys: Keys<'_>, positions: usize) -> Result<(RopeConfig, RopeConfig)> {
    const GLOBAL: &str = "full_attention";
    const LOCAL: &str = "sliding_attention";
    let theta = keys.positive("rope_theta", Some(1e6))?;
    let local_theta = keys.positive("rope_local_base_freq", Some(1e4))?;
    let nested = keys.object("rope_parameters")?;
    let inner = |name| nested.map_or(Ok(None), |nested: Keys<'_>| nested.object(name));
    let read = |object: Option<Keys<'_>>, theta| match object {
        Some(object) => RopeConfig::read_object(object, theta, positions),
        None => Ok(RopeConfig { theta, ..RopeConfig::default() }),
    };
    let global = match keys.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => inner(GLOBAL)?,
    };
    Ok((read(global, theta)?, read(inner(LOCAL)?, local_theta)?))
}

/// Builds the text model of Gemma 3 (arXiv:2503.19786): Gemma 2 with norms of query and key heads instead of bounds,
/// and rotary embeddings of their own for layers with a window.
pub(crate) fn build(config: &Gemma3Config, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::RmsFromOne { eps: config.rms_norm_eps };
    let rope = |rope: &RopeConfig| Rope::new(rope, sizes.head_dim, Pairs::Halves, device);
    let ropes = vec![rope(&config.rope)?, rope(&config.local_rope)?];
    let bias = Biases { inputs: config.attention_bias, output: config.attention_bias };
    let mut model = Transformer::with_common_names(sizes, norm, ropes, take, |layer, prefix, take| {
        let name = format!("{prefix}.self_attn");
        let mut attention =
            SelfAttention::separate(sizes, &name, bias, take)?.with_head_norms(&name, norm, take)?;
        attention.scores.scale = Some(1.0 / config.query_pre_attn_scalar.sqrt());
        attention.scores.cap = config.attn_logit_softcapping;
        attention.scores.window = config.windows.get(layer).copied().flatten();
        attention.rope = Some(usize::from(attention.scores.window.is_some()));
        block(sizes, prefix, norm, attention, take)
    })?;
    model.embedding.scale = (sizes.hidden_size as f64).sqrt();
    model.head.cap = config.final_logit_softcapping;
    Ok(model)
}
