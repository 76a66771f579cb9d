use align_core::{
    Result,
    tch::{Device, Tensor},
};

use crate::attention::{Attention, Qkv};
use crate::config::LlamaConfig;
use crate::model::Decoder;
use crate::rope::{Rope, Rotation};
use crate::weights::{Builder, Linear, RmsNorm, Role};

/// The Llama architecture (arXiv:2302.13971; grouped queries arXiv:2305.13245): pre-norm blocks of rotary attention
/// and a gated feed-forward layer.
#[derive(Debug)]
pub(crate) struct Llama {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
    rope: Rope,
}

#[derive(Debug)]
struct Layer {
    input_norm: RmsNorm,
    attention: SelfAttention,
    post_norm: RmsNorm,
    mlp: Mlp,
}

#[derive(Debug)]
struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: i64,
    key_value_heads: i64,
    head_dim: i64,
}

#[derive(Debug)]
struct Mlp {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Llama {
    /// Takes the tensors of the model in the order of its parameters.
    pub(crate) fn build(config: &LlamaConfig, device: Device, take: &mut Builder<'_>) -> crate::Result<Self> {
        let shape = [config.vocab_size, config.hidden_size];
        let embedding = take.take("model.embed_tokens.weight".into(), &shape, Role::Matrix)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::build(config, &format!("model.layers.{index}"), take))
            .collect::<crate::Result<_>>()?;
        let norm = take.rms_norm("model.norm", config.hidden_size, config.rms_norm_eps)?;
        let head = match config.tie_word_embeddings {
            true => Linear::tied(&embedding),
            false => take.linear("lm_head", config.hidden_size, config.vocab_size, false)?,
        };
        let rope = Rope::new(&config.rope, config.head_dim, device)?;
        Ok(Self { embedding, layers, norm, head, rope })
    }
}

impl Decoder for Llama {
    fn hidden(&self, ids: &Tensor, positions: &Tensor, attention: &mut dyn Attention) -> Result<Tensor> {
        let rotation = self.rope.rotation(positions)?;
        let mut x = Tensor::f_embedding(&self.embedding, ids, -1, false, false)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &rotation, index, attention)?;
        }
        self.norm.forward(&x)
    }

    fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.forward(hidden)
    }
}

impl Layer {
    fn build(config: &LlamaConfig, prefix: &str, take: &mut Builder<'_>) -> crate::Result<Self> {
        let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            attention: SelfAttention::build(config, &format!("{prefix}.self_attn"), take)?,
            mlp: Mlp::build(config, &format!("{prefix}.mlp"), take)?,
            input_norm: take.rms_norm(&format!("{prefix}.input_layernorm"), hidden, eps)?,
            post_norm: take.rms_norm(&format!("{prefix}.post_attention_layernorm"), hidden, eps)?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotation: &Rotation,
        index: usize,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        let attended = self.attention.forward(&self.input_norm.forward(x)?, rotation, index, attention)?;
        let x = x.f_add(&attended)?;
        Ok(x.f_add(&self.mlp.forward(&self.post_norm.forward(&x)?)?)?)
    }
}

impl SelfAttention {
    fn build(config: &LlamaConfig, prefix: &str, take: &mut Builder<'_>) -> crate::Result<Self> {
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        Ok(Self {
            query: take.linear(&format!("{prefix}.q_proj"), hidden, queries, bias)?,
            key: take.linear(&format!("{prefix}.k_proj"), hidden, keys, bias)?,
            value: take.linear(&format!("{prefix}.v_proj"), hidden, keys, bias)?,
            output: take.linear(&format!("{prefix}.o_proj"), queries, hidden, bias)?,
            heads: config.num_attention_heads as i64,
            key_value_heads: config.num_key_value_heads as i64,
            head_dim: config.head_dim as i64,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        rotation: &Rotation,
        layer: usize,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        let project = |linear: &Linear, heads: i64| -> Result<Tensor> {
            Ok(linear.forward(x)?.f_view([-1, heads, self.head_dim])?)
        };
        let rows = Qkv {
            queries: rotation.apply(&project(&self.query, self.heads)?)?,
            keys: rotation.apply(&project(&self.key, self.key_value_heads)?)?,
            values: project(&self.value, self.key_value_heads)?,
        };
        let attended = attention.attend(layer, &rows)?;
        self.output.forward(&attended.f_reshape([-1, self.heads * self.head_dim])?)
    }
}

impl Mlp {
    fn build(config: &LlamaConfig, prefix: &str, take: &mut Builder<'_>) -> crate::Result<Self> {
        let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        Ok(Self {
            gate: take.linear(&format!("{prefix}.gate_proj"), hidden, inner, bias)?,
            up: take.linear(&format!("{prefix}.up_proj"), hidden, inner, bias)?,
            down: take.linear(&format!("{prefix}.down_proj"), inner, hidden, bias)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let gated = self.gate.forward(x)?.f_silu()?.f_mul(&self.up.forward(x)?)?;
        self.down.forward(&gated)
    }
}
