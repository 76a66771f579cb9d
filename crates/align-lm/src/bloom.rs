use align_core::tch::{Device, Tensor};

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::self_attention::{Projection, SelfAttention, alibi_slopes};
use crate::sizes::{Sizes, most};
use crate::transformer::{Block, Embedding, Head, Transformer};
use crate::weights::Builder;

/// What a BLOOM looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct BloomConfig {
    /// The common sizes; the longest sequence is the `seq_length` of pre-training (2048 if absent), beyond which the
    /// architecture would go on.
    pub sizes: Sizes,
    /// Added to the variance before the root in every norm.
    pub layer_norm_epsilon: f64,
}

impl BloomConfig {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        // Older folders say `n_embed`; it wins, as in transformers.
        let width = if keys.has("n_embed") { "n_embed" } else { "hidden_size" };
        let heads_key = if keys.has("num_attention_heads") { "num_attention_heads" } else { "n_head" };
        let layers_key = if keys.has("num_hidden_layers") { "num_hidden_layers" } else { "n_layer" };
        let hidden_size = keys.size(width, most::WIDTH, None)?;
        let heads = keys.size(heads_key, most::HEADS, None)?;
        keys.only("apply_residual_connection_post_layernorm", false)?;
        let sizes = Sizes {
            vocab_size: keys.size("vocab_size", most::VOCABULARY, None)?,
            hidden_size,
            intermediate_size: 4 * hidden_size,
            num_hidden_layers: keys.size(layers_key, most::LAYERS, None)?,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim: Sizes::head_dim(keys, heads_key, width, hidden_size, heads)?,
            max_position_embeddings: keys.size("seq_length", most::POSITIONS, Some(2048))?,
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
            initializer_range: keys.positive("initializer_range", Some(0.02))?,
        };
        Ok(Self { sizes, layer_norm_epsilon: keys.positive("layer_norm_epsilon", Some(1e-5))? })
    }
}

/// Builds the BLOOM architecture (arXiv:2211.05100): layer norms, one after the embedding too, and positions as
/// linear biases of attention (arXiv:2108.12409).
pub(crate) fn build(config: &BloomConfig, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::Layer { eps: config.layer_norm_epsilon };
    let slopes = alibi_slopes(sizes.num_attention_heads, device)?;
    let mut embedding = Embedding::new(sizes, "transformer.word_embeddings", take)?;
    embedding.norm = Some(take.norm("transformer.word_embeddings_layernorm", sizes.hidden_size, norm)?);
    let blocks = (0..sizes.num_hidden_layers).map(|layer| block(sizes, layer, norm, &slopes, take));
    let blocks = blocks.collect::<Result<_>>()?;
    let norm = take.norm("transformer.ln_f", sizes.hidden_size, norm)?;
    let head = Head::new(sizes, &embedding, "lm_head", take)?;
    Ok(Transformer { embedding, ropes: Vec::new(), blocks, norm, head })
}

fn block(
    sizes: &Sizes,
    layer: usize,
    norm: NormKind,
    slopes: &Tensor,
    take: &mut Builder<'_>,
) -> Result<Block> {
    let (hidden, inner) = (sizes.hidden_size, sizes.intermediate_size);
    let prefix = format!("transformer.h.{layer}");
    let mut linear =
        |name: &str, inputs, outputs| take.linear(&format!("{prefix}.{name}"), inputs, outputs, true);
    let projection = Projection::FusedByHead(linear("self_attention.query_key_value", hidden, 3 * hidden)?);
    let output = linear("self_attention.dense", hidden, hidden)?;
    let mlp = Mlp::Plain {
        up: linear("mlp.dense_h_to_4h", hidden, inner)?,
        down: linear("mlp.dense_4h_to_h", inner, hidden)?,
        activation: Activation::GeluTanh,
    };
    let mut attention = SelfAttention::new(sizes, projection, output);
    attention.rope = None;
    attention.scores.slopes = Some(slopes.shallow_clone());
    Block::pre_norm(sizes, &prefix, norm, attention, mlp, take)
}
