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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use align_core::{
        PackedBatch,
        align_types::{Completion, PromptGroup, Purpose, RngStream},
        gather_log_probs,
        tch::Kind,
    };

    use super::*;
    use crate::attention::PackedAttention;
    use crate::weights::{Plan, Source};
    use crate::{Model, ModelConfig};

    /// Hands out the tensors of a test by name, gradients included.
    struct Given<'a>(HashMap<&'a str, &'a Tensor>);

    impl Source for Given<'_> {
        fn tensor(&mut self, name: &str, _: &[i64], _: Role) -> crate::Result<Tensor> {
            Ok(self.0[name].shallow_clone())
        }
    }

    fn micro() -> LlamaConfig {
        LlamaConfig {
            vocab_size: 5,
            hidden_size: 4,
            intermediate_size: 3,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 2,
            attention_bias: true,
            tie_word_embeddings: true,
            ..LlamaConfig::default()
        }
    }

    fn batch() -> PackedBatch {
        let completions = [vec![1, 0], vec![4], vec![2, 2, 3]].map(Completion::new).to_vec();
        let groups = [
            PromptGroup::new(vec![3, 1], completions),
            PromptGroup::new(vec![2], vec![Completion::new(vec![0, 4])]),
        ];
        PackedBatch::new(&groups).unwrap()
    }

    /// The gradient of a weighted sum of log-probabilities in every weight of a whole model, against central
    /// differences in float64, for both ways to attend to siblings.
    #[test]
    fn gradients_are_those_of_finite_differences() {
        // The threads of libtorch spin against those of the other tests.
        align_core::threads::prepare_compute_thread();
        let config = micro();
        let Plan { tensors } = Model::plan(&ModelConfig::llama(config.clone()).unwrap()).unwrap();
        let mut rng = RngStream::new(5, Purpose::Synthetic, 0, 0);
        let mut random = |shape: &Vec<i64>, role: &Role| {
            let numbers: Vec<f64> = (0..shape.iter().product::<i64>()).map(|_| 0.7 * rng.normal()).collect();
            let noise = Tensor::from_slice(&numbers).reshape(shape);
            if *role == Role::Norm { noise * 0.3 + 1.0 } else { noise }
        };
        let weights: Vec<Tensor> = tensors.iter().map(|(_, shape, role)| random(shape, role)).collect();
        let batch = batch();
        for scores_per_call in [0, usize::MAX / 8] {
            align_testkit::gradient_check(&weights, 1e-6, |weights| {
                let named = tensors.iter().zip(weights).map(|((name, _, _), w)| (name.as_str(), w)).collect();
                let mut source = Given(named);
                let mut builder = Builder::new(&mut source, false);
                let llama = Llama::build(&config, Device::Cpu, &mut builder).unwrap();
                let mut attention =
                    PackedAttention::with_threshold(&batch, scores_per_call, Device::Cpu).unwrap();
                let tensor = |list: &[i64]| Tensor::from_slice(list);
                let hidden =
                    llama.hidden(&tensor(batch.ids()), &tensor(batch.positions()), &mut attention).unwrap();
                let logits = llama.head(&hidden.index_select(0, &tensor(batch.predict_rows()))).unwrap();
                let log_probs = gather_log_probs(&logits, &tensor(batch.targets()), 1.0).unwrap();
                let factors: Vec<f64> = (0..batch.targets().len()).map(|i| 1.0 - 0.4 * i as f64).collect();
                (log_probs * Tensor::from_slice(&factors)).sum(Kind::Double)
            });
        }
    }
}
