use align_core::tch::Device;

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::self_attention::{Projection, SelfAttention};
use crate::sizes::{Sizes, most};
use crate::transformer::{Block, Embedding, Head, Transformer};
use crate::weights::{Builder, Role};

/// What a GPT-2 looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Gpt2Config {
    /// The common sizes.
    pub sizes: Sizes,
    /// Added to the variance before the root in every norm.
    pub layer_norm_epsilon: f64,
    /// The activation of the feed-forward layer.
    pub activation: Activation,
    /// Whether scores are divided by the root of the head size.
    pub scale_attn_weights: bool,
    /// Whether scores are also divided by the number of the layer, from 1.
    pub scale_attn_by_inverse_layer_idx: bool,
}

impl Gpt2Config {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let hidden_size = keys.size("n_embd", most::WIDTH, None)?;
        let heads = keys.size("n_head", most::HEADS, None)?;
        keys.only("add_cross_attention", false)?;
        let sizes = Sizes {
            vocab_size: keys.size("vocab_size", most::VOCABULARY, None)?,
            hidden_size,
            intermediate_size: keys.size("n_inner", most::WIDTH, Some(4 * hidden_size))?,
            num_hidden_layers: keys.size("n_layer", most::LAYERS, None)?,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim: Sizes::head_dim(keys, "n_head", "n_embd", hidden_size, heads)?,
            max_position_embeddings: keys.size("n_positions", most::POSITIONS, Some(1024))?,
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", true)?,
            initializer_range: keys.positive("initializer_range", Some(0.02))?,
        };
        let activations = [Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::Silu];
        Ok(Self {
            sizes,
            layer_norm_epsilon: keys.positive("layer_norm_epsilon", Some(1e-5))?,
            activation: Activation::read(keys, "activation_function", &activations, Activation::GeluTanh)?,
            scale_attn_weights: keys.flag_or("scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: keys.flag("scale_attn_by_inverse_layer_idx")?,
        })
    }

    /// The factor of the scores of a layer.
    fn scale(&self, layer: usize) -> f64 {
        let by_size = if self.scale_attn_weights { (self.sizes.head_dim as f64).sqrt() } else { 1.0 };
        let by_layer = if self.scale_attn_by_inverse_layer_idx { (layer + 1) as f64 } else { 1.0 };
        1.0 / (by_size * by_layer)
    }
}

/// Builds the GPT-2 architecture (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"): learned
/// positions, layer norms, matrices stored with inputs first.
pub(crate) fn build(config: &Gpt2Config, _: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = &config.sizes;
    let norm = NormKind::Layer { eps: config.layer_norm_epsilon };
    let mut embedding = Embedding::new(sizes, "transformer.wte", take)?;
    let positions = [sizes.max_position_embeddings, sizes.hidden_size];
    embedding.positions = Some(take.take("transformer.wpe.weight".into(), &positions, Role::Matrix)?);
    let blocks = (0..sizes.num_hidden_layers).map(|layer| block(config, layer, norm, take));
    let blocks = blocks.collect::<Result<_>>()?;
    let norm = take.norm("transformer.ln_f", sizes.hidden_size, norm)?;
    let head = Head::new(sizes, &embedding, "lm_head", take)?;
    Ok(Transformer { embedding, ropes: Vec::new(), blocks, norm, head })
}

fn block(config: &Gpt2Config, layer: usize, norm: NormKind, take: &mut Builder<'_>) -> Result<Block> {
    let (hidden, inner) = (config.sizes.hidden_size, config.sizes.intermediate_size);
    let name = |name: &str| format!("transformer.h.{layer}.{name}");
    let attention_norm = take.norm(&name("ln_1"), hidden, norm)?;
    let projection = Projection::Fused(take.linear_inputs_first(&name("attn.c_attn"), hidden, 3 * hidden)?);
    let output = take.linear_inputs_first(&name("attn.c_proj"), hidden, hidden)?;
    let mut attention = SelfAttention::new(&config.sizes, projection, output);
    attention.rope = None;
    attention.scores.scale = Some(config.scale(layer));
    let mlp_norm = take.norm(&name("ln_2"), hidden, norm)?;
    let mlp = Mlp::Plain {
        up: take.linear_inputs_first(&name("mlp.c_fc"), hidden, inner)?,
        down: take.linear_inputs_first(&name("mlp.c_proj"), inner, hidden)?,
        activation: config.activation,
    };
    Ok(Block { attention_norm, attention, mlp_norm, mlp, post_norms: None, parallel: false })
}
