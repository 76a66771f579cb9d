use align_core::tch::Device;
use serde_json::{Map, Value, json};

use crate::Result;
use crate::keys::Keys;
use crate::mlp::{Activation, Mlp};
use crate::norm::NormKind;
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::self_attention::{Biases, SelfAttention};
use crate::sizes::{Defaults, Sizes};
use crate::transformer::{Block, Transformer};
use crate::weights::Builder;

/// What a Llama looks like: the keys of `config.json` that decide shapes and arithmetic, under the same names.
///
/// ```
/// use align_lm::{LlamaConfig, ModelConfig};
///
/// let small = LlamaConfig { vocab_size: 64, hidden_size: 32, ..LlamaConfig::default() };
/// let config = ModelConfig::llama(small)?;
/// assert_eq!(config.vocab_size(), 64);
/// # Ok::<(), align_lm::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head, even.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root in every norm.
    pub rms_norm_eps: f64,
    /// Rotary position embeddings.
    pub rope: RopeConfig,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
    /// Whether the three feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Standard deviation of random initial weights.
    pub initializer_range: f64,
}

impl Default for LlamaConfig {
    /// A model of about a million parameters that trains on one core: 128 wide, four blocks, 512 tokens.
    fn default() -> Self {
        Self {
            vocab_size: 512,
            hidden_size: 128,
            intermediate_size: 384,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            head_dim: 32,
            max_position_embeddings: 1024,
            rms_norm_eps: 1e-5,
            rope: RopeConfig::default(),
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            initializer_range: 0.02,
        }
    }
}

impl LlamaConfig {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let defaults = Defaults { key_value_heads: None, head_dim: None, positions: 2048, tied: false };
        Sizes::check_even_heads(keys)?;
        let sizes = Sizes::read(keys, defaults)?;
        sizes.check_rotary(keys, sizes.head_dim)?;
        Activation::read(keys, "hidden_act", &[Activation::Silu], Activation::Silu)?;
        Ok(Self {
            vocab_size: sizes.vocab_size,
            hidden_size: sizes.hidden_size,
            intermediate_size: sizes.intermediate_size,
            num_hidden_layers: sizes.num_hidden_layers,
            num_attention_heads: sizes.num_attention_heads,
            num_key_value_heads: sizes.num_key_value_heads,
            head_dim: sizes.head_dim,
            max_position_embeddings: sizes.max_position_embeddings,
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rope: RopeConfig::read(keys, sizes.max_position_embeddings)?,
            tie_word_embeddings: sizes.tie_word_embeddings,
            attention_bias: keys.flag("attention_bias")?,
            mlp_bias: keys.flag("mlp_bias")?,
            initializer_range: sizes.initializer_range,
        })
    }

    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            max_position_embeddings: self.max_position_embeddings,
            tie_word_embeddings: self.tie_word_embeddings,
            initializer_range: self.initializer_range,
        }
    }

    pub(crate) fn to_json(&self) -> Map<String, Value> {
        let pairs = [
            ("architectures", json!(["LlamaForCausalLM"])),
            ("model_type", json!("llama")),
            ("attention_bias", json!(self.attention_bias)),
            ("attention_dropout", json!(0.0)),
            ("dtype", json!("float32")),
            ("head_dim", json!(self.head_dim)),
            ("hidden_act", json!("silu")),
            ("hidden_size", json!(self.hidden_size)),
            ("initializer_range", json!(self.initializer_range)),
            ("intermediate_size", json!(self.intermediate_size)),
            ("max_position_embeddings", json!(self.max_position_embeddings)),
            ("mlp_bias", json!(self.mlp_bias)),
            ("num_attention_heads", json!(self.num_attention_heads)),
            ("num_hidden_layers", json!(self.num_hidden_layers)),
            ("num_key_value_heads", json!(self.num_key_value_heads)),
            ("rms_norm_eps", json!(self.rms_norm_eps)),
            ("rope_parameters", self.rope.to_json()),
            ("tie_word_embeddings", json!(self.tie_word_embeddings)),
            ("vocab_size", json!(self.vocab_size)),
            ("bos_token_id", Value::Null),
            ("eos_token_id", Value::Null),
            ("pad_token_id", Value::Null),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// Builds the Llama architecture (arXiv:2302.13971; grouped queries arXiv:2305.13245): pre-norm blocks of rotary
/// attention and a gated feed-forward layer.
pub(crate) fn build(config: &LlamaConfig, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let sizes = config.sizes();
    let norm = NormKind::Rms { eps: config.rms_norm_eps };
    let rope = Rope::new(&config.rope, config.head_dim, Pairs::Halves, device)?;
    let bias = Biases { inputs: config.attention_bias, output: config.attention_bias };
    Transformer::with_common_names(&sizes, norm, vec![rope], take, |_, prefix, take| {
        let attention = SelfAttention::separate(&sizes, &format!("{prefix}.self_attn"), bias, take)?;
        let mlp = Mlp::gated(&sizes, &format!("{prefix}.mlp"), config.mlp_bias, Activation::Silu, take)?;
        Block::pre_norm(&sizes, prefix, norm, attention, mlp, take)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use align_core::{
        PackedBatch,
        align_types::{Completion, PromptGroup, Purpose, RngStream},
        gather_log_probs,
        tch::{Kind, Tensor},
    };

    use super::*;
    use crate::attention::PackedAttention;
    use crate::tail::Tail;
    use crate::weights::{Plan, Role, Source};
    use crate::{LoadOptions, Model, ModelConfig, Trainable};

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
            PromptGroup::new(vec![2], vec![Completion::new(vec![0, 4])]),
            PromptGroup::new(vec![3, 1], completions),
            PromptGroup::new(vec![4], vec![Completion::new(vec![3, 1])]),
        ];
        PackedBatch::new(&groups).unwrap()
    }

    /// The gradient of a weighted sum of log-probabilities in every weight of a whole model, against central
    /// differences in float64, for both ways to attend to siblings, with all rows in the last block and with few; the
    /// first group and the last have one shape and attend in one call.
    #[test]
    fn gradients_are_those_of_finite_differences() {
        // The threads of libtorch spin against those of the other tests.
        align_core::threads::prepare_compute_thread();
        let config = micro();
        let (Plan { tensors }, _) = Model::plan(&ModelConfig::llama(config.clone()).unwrap()).unwrap();
        let mut rng = RngStream::new(5, Purpose::Synthetic, 0, 0);
        let mut random = |shape: &Vec<i64>, role: &Role| {
            let numbers: Vec<f64> = (0..shape.iter().product::<i64>()).map(|_| 0.7 * rng.normal()).collect();
            let noise = Tensor::from_slice(&numbers).reshape(shape);
            if *role == Role::Norm { noise * 0.3 + 1.0 } else { noise }
        };
        let weights: Vec<Tensor> = tensors.iter().map(|(_, shape, role)| random(shape, role)).collect();
        let batch = batch();
        let tail = Tail::with(&batch, batch.predict_rows(), Device::Cpu).unwrap().unwrap();
        for (scores_per_call, whole) in
            [(0, true), (0, false), (usize::MAX / 8, true), (usize::MAX / 8, false)]
        {
            align_testkit::gradient_check(&weights, 1e-6, |weights| {
                let named = tensors.iter().zip(weights).map(|((name, _, _), w)| (name.as_str(), w)).collect();
                let mut source = Given(named);
                let frozen = LoadOptions { trainable: Trainable::No, ..LoadOptions::default() };
                let mut builder = Builder::new(&mut source, &frozen);
                let llama = build(&config, Device::Cpu, &mut builder).unwrap();
                let mut attention = PackedAttention::with_threshold(&batch, scores_per_call, Device::Cpu);
                let tensor = |list: &[i64]| Tensor::from_slice(list);
                let (ids, positions) = (tensor(batch.ids()), tensor(batch.positions()));
                let hidden = match whole {
                    true => llama.hidden(&ids, &positions, &mut attention),
                    false => llama.hidden_tail(&ids, &positions, &mut attention, &tail),
                };
                let predict = if whole { tensor(batch.predict_rows()) } else { tail.predict.shallow_clone() };
                let logits = llama.head(&hidden.unwrap().index_select(0, &predict)).unwrap();
                let log_probs = gather_log_probs(&logits, &tensor(batch.targets()), 1.0).unwrap();
                let factors: Vec<f64> = (0..batch.targets().len()).map(|i| 1.0 - 0.4 * i as f64).collect();
                (log_probs * Tensor::from_slice(&factors)).sum(Kind::Double)
            });
        }
    }
}
