use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::self_attention::{Biases, SelfAttention};
use crate::sizes::{Defaults, Sizes, most, read_windows};
use crate::transformer::{Block, PostNorms, Transformer};
use crate::weights::Builder;

/// What a Gemma 2 looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Gemma2Config {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the mean square before the root in every norm.
    pub rms_norm_eps: f64,
    /// Rotary position embeddings.
    pub rope: RopeConfig,
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

/// What a family has where its file is silent.
#[derive(Debug)]
pub(crate) struct Usual {
    pub positions: usize,
    /// The bound of attention scores.
    pub scores: Option<f64>,
    /// The bound of logits.
    pub logits: Option<f64>,
}

impl Gemma2Config {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let usual = Usual { positions: 8192, scores: Some(50.0), logits: Some(30.0) };
        let rope = |positions| RopeConfig::read(keys, positions);
        Self::read_like(keys, &usual, rope, |layer| layer % 2 == 0)
    }

    /// Reads what Gemma 2 and 3 have alike; `slides` says which layers have a window where the file does not.
    pub(crate) fn read_like(
        keys: Keys<'_>,
        usual: &Usual,
        rope: impl FnOnce(usize) -> Result<RopeConfig>,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let defaults = Defaults {
            key_value_heads: Some(4),
            head_dim: Some(256),
            positions: usual.positions,
            tied: true,
        };
        Sizes::check_even_heads(keys)?;
        let sizes = Sizes::read(keys, defaults)?;
        sizes.check_rotary(keys, sizes.head_dim)?;
        let gelu = Activation::GeluTanh;
        Activation::read(keys, "hidden_activation", &[gelu], gelu)?;
        keys.only("use_bidirectional_attention", false)?;
        let window = keys.size_or_null("sliding_window", most::POSITIONS, Some(4096))?;
        Ok(Self {
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rope: rope(sizes.max_position_embeddings)?,
            attention_bias: keys.flag("attention_bias")?,
            query_pre_attn_scalar: keys.positive("query_pre_attn_scalar", Some(256.0))?,
            attn_logit_softcapping: keys.positive_or_null("attn_logit_softcapping", usual.scores)?,
            final_logit_softcapping: keys.positive_or_null("final_logit_softcapping", usual.logits)?,
            windows: read_windows(keys, sizes.num_hidden_layers, window, slides)?,
            sizes,
        })
    }

    pub(crate) fn norm(&self) -> NormKind {
        NormKind::RmsFromOne { eps: self.rms_norm_eps }
    }
}

/// Builds the Gemma 2 architecture (arXiv:2408.00118): Gemma with norms after both layers of a block, bounded scores
/// and logits, and a window in every other layer.
pub(crate) fn build(config: &Gemma2Config, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let rope = Rope::new(&config.rope, config.sizes.head_dim, Pairs::Halves, device)?;
    build_like(config, vec![rope], take, |attention, _, _| Ok(attention))
}

/// Builds what Gemma 2 and 3 have alike; `complete` adds what attention has beside it, given its name.
pub(crate) fn build_like(
    config: &Gemma2Config,
    ropes: Vec<Rope>,
    take: &mut Builder<'_>,
    complete: impl Fn(SelfAttention, &str, &mut Builder<'_>) -> Result<SelfAttention>,
) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = config.norm();
    let bias = Biases { inputs: config.attention_bias, output: config.attention_bias };
    let mut model = Transformer::with_common_names(sizes, norm, ropes, take, |layer, prefix, take| {
        let name = format!("{prefix}.self_attn");
        let mut attention = SelfAttention::separate(sizes, &name, bias, take)?;
        attention.scores.scale = Some(1.0 / config.query_pre_attn_scalar.sqrt());
        attention.scores.cap = config.attn_logit_softcapping;
        attention.scores.window = config.windows.get(layer).copied().flatten();
        block(sizes, prefix, norm, complete(attention, &name, take)?, take)
    })?;
    model.embedding.scale = (sizes.hidden_size as f64).sqrt();
    model.head.cap = config.final_logit_softcapping;
    Ok(model)
}

/// Builds a block with a norm before and after each of its layers.
fn block(
    sizes: &Sizes,
    prefix: &str,
    kind: NormKind,
    attention: SelfAttention,
    take: &mut Builder<'_>,
) -> Result<Block> {
    let mlp = Mlp::gated(sizes, &format!("{prefix}.mlp"), false, Activation::GeluTanh, take)?;
    let mut norm = |name: &str| take.norm(&format!("{prefix}.{name}"), sizes.hidden_size, kind);
    Ok(Block {
        attention_norm: norm("input_layernorm")?,
        attention,
        mlp_norm: norm("pre_feedforward_layernorm")?,
        mlp,
        post_norms: Some(PostNorms {
            attention: norm("post_attention_layernorm")?,
            mlp: norm("post_feedforward_layernorm")?,
        }),
        parallel: false,
    })
}
