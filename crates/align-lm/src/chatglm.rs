use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::self_attention::{Projection, SelfAttention};
use crate::sizes::{Sizes, most};
use crate::transformer::{Block, Embedding, Head, Transformer};
use crate::weights::Builder;

/// What a ChatGLM2, ChatGLM3 or GLM-4 of the same layout looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ChatGlmConfig {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the mean square before the root in every norm.
    pub layernorm_epsilon: f64,
    /// Rotary position embeddings of the first half of each head.
    pub rope: RopeConfig,
    /// Whether queries, keys and values have biases.
    pub add_qkv_bias: bool,
    /// Whether all other linear layers have biases.
    pub add_bias_linear: bool,
}

impl ChatGlmConfig {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        for (key, built) in [
            ("rmsnorm", true),
            ("post_layer_norm", true),
            ("original_rope", true),
            ("apply_residual_connection_post_layernorm", false),
            // ChatGLM 1, another architecture under the same name.
            ("position_encoding_2d", false),
        ] {
            keys.only(key, built)?;
        }
        if keys.has("pre_seq_len") {
            return Err(keys.refuse("pre_seq_len", "no such key: prefix tuning is not supported"));
        }
        let heads = keys.size("num_attention_heads", most::HEADS, None)?;
        let hidden_size = keys.size("hidden_size", most::WIDTH, None)?;
        let key_value_heads = match keys.flag("multi_query_attention")? {
            true => keys.size("multi_query_group_num", heads, Some(1))?,
            false => heads,
        };
        if !heads.is_multiple_of(key_value_heads) {
            let expected = format!("a divisor of num_attention_heads ({heads})");
            return Err(keys.refuse("multi_query_group_num", &expected));
        }
        let head_dim = keys.size("kv_channels", most::HEADS, Some(128))?;
        if !head_dim.is_multiple_of(4) {
            return Err(
                keys.refuse("kv_channels", "a multiple of 4: pairs of one half of a head are rotated")
            );
        }
        let vocabulary_key = if keys.has("padded_vocab_size") { "padded_vocab_size" } else { "vocab_size" };
        let sizes = Sizes {
            vocab_size: keys.size(vocabulary_key, most::VOCABULARY, None)?,
            hidden_size,
            intermediate_size: keys.size("ffn_hidden_size", most::WIDTH, None)?,
            num_hidden_layers: keys.size("num_layers", most::LAYERS, None)?,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim,
            max_position_embeddings: keys.size("seq_length", most::POSITIONS, Some(2048))?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            initializer_range: keys.positive("initializer_range", Some(0.02))?,
        };
        let base = RopeConfig::default();
        Ok(Self {
            sizes,
            layernorm_epsilon: keys.positive("layernorm_epsilon", Some(1e-5))?,
            rope: RopeConfig { theta: base.theta * keys.positive("rope_ratio", Some(1.0))?, ..base },
            add_qkv_bias: keys.flag("add_qkv_bias")?,
            add_bias_linear: keys.flag("add_bias_linear")?,
        })
    }
}

/// Builds the architecture of ChatGLM2 and 3 (arXiv:2406.12793): grouped queries from one matrix, half of each head
/// rotated in neighbouring pairs, a fused gate.
pub(crate) fn build(config: &ChatGlmConfig, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::Rms { eps: config.layernorm_epsilon };
    let ropes = vec![Rope::new(&config.rope, sizes.head_dim / 2, Pairs::Neighbours, device)?];
    let embedding = Embedding::new(sizes, "transformer.embedding.word_embeddings", take)?;
    let blocks = (0..sizes.num_hidden_layers).map(|layer| block(config, layer, norm, take));
    let blocks = blocks.collect::<Result<_>>()?;
    let norm = take.norm("transformer.encoder.final_layernorm", sizes.hidden_size, norm)?;
    let head = Head::new(sizes, &embedding, "transformer.output_layer", take)?;
    Ok(Transformer { embedding, ropes, blocks, norm, head })
}

fn block(config: &ChatGlmConfig, layer: usize, norm: NormKind, take: &mut Builder<'_>) -> Result<Block> {
    let sizes = &config.sizes;
    let (hidden, inner, queries) = (sizes.hidden_size, sizes.intermediate_size, sizes.queries());
    let prefix = format!("transformer.encoder.layers.{layer}");
    let mut linear =
        |name: &str, inputs, outputs, bias| take.linear(&format!("{prefix}.{name}"), inputs, outputs, bias);
    let bias = config.add_bias_linear;
    let (fused, fused_bias) = (queries + 2 * sizes.keys(), bias || config.add_qkv_bias);
    let projection = linear("self_attention.query_key_value", hidden, fused, fused_bias)?;
    let output = linear("self_attention.dense", queries, hidden, bias)?;
    let mlp = Mlp::FusedGated {
        gate_up: linear("mlp.dense_h_to_4h", hidden, 2 * inner, bias)?,
        down: linear("mlp.dense_4h_to_h", inner, hidden, bias)?,
        activation: Activation::Silu,
    };
    let attention = SelfAttention::new(sizes, Projection::Fused(projection), output);
    Block::pre_norm(sizes, &prefix, norm, attention, mlp, take)
}
