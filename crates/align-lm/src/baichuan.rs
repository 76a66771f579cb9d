use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::self_attention::{Projection, SelfAttention, alibi_slopes};
use crate::sizes::{Defaults, Sizes, most};
use crate::transformer::{Block, Transformer};
use crate::weights::Builder;

/// The vocabulary by which Baichuan 2 is told from Baichuan 1: their configurations have no other mark.
const VOCABULARY_OF_2: usize = 125_696;

/// What a Baichuan 1 or 2 looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BaichuanConfig {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the mean square before the root in every norm.
    pub rms_norm_eps: f64,
    /// Whether positions are rotations (7B) or linear biases of attention (13B).
    pub rotary: bool,
    /// Whether the rows of the output matrix are scaled to length 1 (Baichuan 2).
    pub normalised_head: bool,
}

impl BaichuanConfig {
    /// Reads the keys of the four releases. Those with rotary embeddings have `max_position_embeddings`, the others
    /// only `model_max_length`. The head is normalised where the vocabulary is that of Baichuan 2; `normalised_head`
    /// says so for models of another vocabulary.
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let rotary = keys.has("max_position_embeddings");
        let positions = keys.size("model_max_length", most::POSITIONS, Some(4096))?;
        Sizes::check_even_heads(keys)?;
        let defaults = Defaults { key_value_heads: None, head_dim: None, positions, tied: false };
        let sizes = Sizes::read(keys, defaults)?;
        if rotary {
            sizes.check_rotary(keys, sizes.head_dim)?;
        }
        for key in ["rope_scaling", "rope_parameters", "rope_theta"] {
            if keys.has(key) {
                return Err(keys.refuse(key, "no such key: Baichuan has rotations of base 10000"));
            }
        }
        Activation::read(keys, "hidden_act", &[Activation::Silu], Activation::Silu)?;
        Ok(Self {
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rotary,
            normalised_head: keys.flag_or("normalised_head", sizes.vocab_size == VOCABULARY_OF_2)?,
            sizes,
        })
    }
}

/// Builds the Baichuan architecture (arXiv:2309.10305): Llama with one matrix for queries, keys and values; the larger
/// models have ALiBi instead of rotations, the second generation a normalised output matrix.
pub(crate) fn build(config: &BaichuanConfig, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::Rms { eps: config.rms_norm_eps };
    let (ropes, slopes) = match config.rotary {
        true => (vec![Rope::new(&RopeConfig::default(), sizes.head_dim, Pairs::Halves, device)?], None),
        false => (Vec::new(), Some(alibi_slopes(sizes.num_attention_heads, device)?)),
    };
    let mut model = Transformer::with_common_names(sizes, norm, ropes, take, |_, prefix, take| {
        let (name, hidden) = (format!("{prefix}.self_attn"), sizes.hidden_size);
        let projection = take.linear(&format!("{name}.W_pack"), hidden, 3 * hidden, false)?;
        let output = take.linear(&format!("{name}.o_proj"), hidden, hidden, false)?;
        let mut attention = SelfAttention::new(sizes, Projection::Fused(projection), output);
        attention.rope = config.rotary.then_some(0);
        attention.scores.slopes = slopes.as_ref().map(|slopes| slopes.shallow_clone());
        let mlp = Mlp::gated(sizes, &format!("{prefix}.mlp"), false, Activation::Silu, take)?;
        Block::pre_norm(sizes, prefix, norm, attention, mlp, take)
    })?;
    model.head.normalised = config.normalised_head;
    Ok(model)
}
