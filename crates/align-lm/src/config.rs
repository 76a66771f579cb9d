use std::path::{Path, PathBuf};

use align_core::tch::Device;
use serde_json::{Map, Value, json};

use crate::adapter::ADAPTER_CONFIG;
use crate::keys::{Keys, read_object};
use crate::save::interrupted_save;
use crate::sizes::Sizes;
use crate::transformer::Transformer;
use crate::weights::Builder;
use crate::{
    BaichuanConfig, BloomConfig, ChatGlmConfig, Error, Gemma2Config, Gemma3Config, GemmaConfig, GlmConfig,
    Gpt2Config, GptNeoxConfig, LlamaConfig, MistralConfig, Phi3Config, Qwen2Config, Qwen3Config, Result,
};
use crate::{
    baichuan, bloom, chatglm, gemma, gemma2, gemma3, glm, gpt_neox, gpt2, llama, mistral, phi3, qwen2, qwen3,
};

/// The `model_type`s that can be loaded.
pub const SUPPORTED_FAMILIES: &[&str] = &[
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "gpt2",
    "gpt_neox",
    "bloom",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "baichuan",
    "chatglm",
];

const CONFIG_FILE: &str = "config.json";

/// The names that families give to the rates of dropout.
const DROPOUTS: [&str; 5] =
    ["attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"];

/// The part of a configuration that belongs to one architecture.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum FamilyConfig {
    /// Llama 1 to 3 and everything saved as `model_type` `llama`.
    Llama(LlamaConfig),
    /// `mistral`.
    Mistral(MistralConfig),
    /// `qwen2`: Qwen2 and Qwen2.5.
    Qwen2(Qwen2Config),
    /// `qwen3`: the dense Qwen3.
    Qwen3(Qwen3Config),
    /// `phi3`.
    Phi3(Phi3Config),
    /// `gpt2`.
    Gpt2(Gpt2Config),
    /// `gpt_neox`: GPT-NeoX and Pythia.
    GptNeox(GptNeoxConfig),
    /// `bloom`.
    Bloom(BloomConfig),
    /// `gemma`.
    Gemma(GemmaConfig),
    /// `gemma2`.
    Gemma2(Gemma2Config),
    /// `gemma3_text`.
    Gemma3(Gemma3Config),
    /// `glm` and `glm4`.
    Glm(GlmConfig),
    /// `baichuan`: Baichuan 1 and 2.
    Baichuan(BaichuanConfig),
    /// `chatglm`: ChatGLM2 and 3, and GLM-4 before it had a class in transformers.
    ChatGlm(ChatGlmConfig),
}

impl FamilyConfig {
    fn read(model_type: &str, keys: Keys<'_>) -> Result<Option<Self>> {
        Ok(Some(match model_type {
            "llama" => Self::Llama(LlamaConfig::read(keys)?),
            "mistral" => Self::Mistral(MistralConfig::read(keys)?),
            "qwen2" => Self::Qwen2(Qwen2Config::read(keys)?),
            "qwen3" => Self::Qwen3(Qwen3Config::read(keys)?),
            "phi3" => Self::Phi3(Phi3Config::read(keys)?),
            "gpt2" => Self::Gpt2(Gpt2Config::read(keys)?),
            "gpt_neox" => Self::GptNeox(GptNeoxConfig::read(keys)?),
            "bloom" => Self::Bloom(BloomConfig::read(keys)?),
            "gemma" => Self::Gemma(GemmaConfig::read(keys)?),
            "gemma2" => Self::Gemma2(Gemma2Config::read(keys)?),
            "gemma3_text" => Self::Gemma3(Gemma3Config::read(keys)?),
            "glm" => Self::Glm(GlmConfig::read(keys, false)?),
            "glm4" => Self::Glm(GlmConfig::read(keys, true)?),
            "baichuan" => Self::Baichuan(BaichuanConfig::read(keys)?),
            "chatglm" => Self::ChatGlm(ChatGlmConfig::read(keys)?),
            _ => return Ok(None),
        }))
    }

    /// Returns the sizes that every decoder has.
    pub fn sizes(&self) -> Sizes {
        match self {
            Self::Llama(config) => config.sizes(),
            Self::Mistral(config) => config.sizes.clone(),
            Self::Qwen2(config) => config.sizes.clone(),
            Self::Qwen3(config) => config.sizes.clone(),
            Self::Phi3(config) => config.sizes.clone(),
            Self::Gpt2(config) => config.sizes.clone(),
            Self::GptNeox(config) => config.sizes.clone(),
            Self::Bloom(config) => config.sizes.clone(),
            Self::Gemma(config) => config.sizes.clone(),
            Self::Gemma2(config) => config.sizes.clone(),
            Self::Gemma3(config) => config.base.sizes.clone(),
            Self::Glm(config) => config.sizes.clone(),
            Self::Baichuan(config) => config.sizes.clone(),
            Self::ChatGlm(config) => config.sizes.clone(),
        }
    }

    /// Takes the tensors of the model in the order of its parameters.
    pub(crate) fn build(&self, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
        match self {
            Self::Llama(config) => llama::build(config, device, take),
            Self::Mistral(config) => mistral::build(config, device, take),
            Self::Qwen2(config) => qwen2::build(config, device, take),
            Self::Qwen3(config) => qwen3::build(config, device, take),
            Self::Phi3(config) => phi3::build(config, device, take),
            Self::Gpt2(config) => gpt2::build(config, device, take),
            Self::GptNeox(config) => gpt_neox::build(config, device, take),
            Self::Bloom(config) => bloom::build(config, device, take),
            Self::Gemma(config) => gemma::build(config, device, take),
            Self::Gemma2(config) => gemma2::build(config, device, take),
            Self::Gemma3(config) => gemma3::build(config, device, take),
            Self::Glm(config) => glm::build(config, device, take),
            Self::Baichuan(config) => baichuan::build(config, device, take),
            Self::ChatGlm(config) => chatglm::build(config, device, take),
        }
    }
}

/// What stands on top of the last hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Output {
    /// A layer with an output for each token of the vocabulary.
    #[default]
    Vocabulary,
    /// A layer with one output and no bias, `score`.
    Score,
    /// Nothing.
    None,
}

/// A checked `config.json`, with every key it came with.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    family: FamilyConfig,
    raw: Map<String, Value>,
    output: Output,
}

impl ModelConfig {
    /// Reads and checks `config.json` of a model folder. No weights are touched.
    ///
    /// # Errors
    /// The folder holds an adapter ([`Error::Adapter`]); the file is missing or no JSON object; the architecture is unknown or the weights are quantised
    /// ([`Error::Unsupported`]); a value is missing or outside its range ([`Error::Config`]).
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        if let Some(before) = interrupted_save(dir) {
            let why = format!(
                "a save of this folder was interrupted; what it held before is whole in {}: rename that, or save again",
                before.display()
            );
            return Err(Error::weights(dir, why));
        }
        if !path.exists() && dir.join(ADAPTER_CONFIG).exists() {
            let why = "is an adapter, not a model: load the model it was made for, and this adapter onto it";
            return Err(Error::adapter(dir, why));
        }
        Self::from_json(read_object(&path)?, &path)
    }

    /// Checks a configuration that was read from `path`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn from_json(raw: Map<String, Value>, path: &Path) -> Result<Self> {
        let keys = Keys::new(path, &raw);
        let unsupported = |what: String, supported: &str| {
            Err(Error::Unsupported { path: path.to_owned(), what, supported: supported.to_owned() })
        };
        if let Some(method) = keys.object("quantization_config")? {
            let method = method.get::<String>("quant_method", "a text")?.unwrap_or_else(|| "unnamed".into());
            return unsupported(format!("quantisation {method:?}"), "weights in f32, bf16 or f16");
        }
        let families = SUPPORTED_FAMILIES.join(", ");
        let Some(model_type) = keys.get::<String>("model_type", "a text")? else {
            return Err(keys.refuse("model_type", &format!("one of {families}")));
        };
        let Some(family) = FamilyConfig::read(&model_type, keys)? else {
            return unsupported(format!("model_type {model_type:?}"), &families);
        };
        Ok(Self { family, raw, output: Output::default() })
    }

    /// Makes the configuration of a Llama, checked as if it had been read from a file.
    ///
    /// # Errors
    /// [`Error::Config`] for a value outside its range.
    pub fn llama(config: LlamaConfig) -> Result<Self> {
        Self::from_json(config.to_json(), &PathBuf::from("the model's configuration"))
    }

    /// Sets the special tokens that `config.json` names.
    #[must_use]
    pub fn with_special_tokens(mut self, bos: Option<u32>, eos: Option<u32>, pad: Option<u32>) -> Self {
        for (key, id) in [("bos_token_id", bos), ("eos_token_id", eos), ("pad_token_id", pad)] {
            self.raw.insert(key.to_owned(), json!(id));
        }
        self
    }

    /// Changes what stands on top, and the keys of `config.json` that say so.
    pub(crate) fn with_output(
        mut self,
        output: Output,
        keys: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Self {
        self.output = output;
        for (key, value) in keys {
            self.raw.insert(key.to_owned(), value);
        }
        self
    }

    pub(crate) fn output(&self) -> Output {
        self.output
    }

    /// Returns the `model_type`.
    pub fn model_type(&self) -> &str {
        self.raw.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the part that belongs to the architecture.
    pub fn family(&self) -> &FamilyConfig {
        &self.family
    }

    /// Returns every key of the file, known or not.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// Returns the sizes that every decoder has.
    pub fn sizes(&self) -> Sizes {
        self.family.sizes()
    }

    /// Returns the number of tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.sizes().vocab_size
    }

    /// Returns the longest sequence the model takes, in tokens.
    pub fn context_length(&self) -> usize {
        self.sizes().max_position_embeddings
    }

    /// Returns what a user should know about keys of the file that this crate does not follow.
    pub fn notes(&self) -> Vec<String> {
        let rate = |key: &&str| {
            let rate = self.raw.get(*key).and_then(Value::as_f64).filter(|rate| *rate != 0.0)?;
            Some(format!("config.json: {key} = {rate} is not applied in training"))
        };
        DROPOUTS.iter().filter_map(rate).collect()
    }

    /// Returns the bytes of `config.json` for weights of the given data type; `None` keeps the type it names.
    pub(crate) fn to_file(&self, dtype: Option<&str>) -> Vec<u8> {
        let mut raw = self.raw.clone();
        if let Some(dtype) = dtype {
            // Folders from before transformers 5 say `torch_dtype`.
            let key = if raw.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
            raw.insert(key.to_owned(), json!(dtype));
        }
        let mut text = format!("{:#}", Value::Object(raw));
        text.push('\n');
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RopeConfig, RopeScaling};

    fn config_with(changes: &[(&str, Value)]) -> Result<ModelConfig> {
        let mut raw = LlamaConfig::default().to_json();
        for (key, value) in changes {
            raw.insert((*key).to_owned(), value.clone());
        }
        ModelConfig::from_json(raw, Path::new("m/config.json"))
    }

    fn llama(config: &ModelConfig) -> &LlamaConfig {
        match config.family() {
            FamilyConfig::Llama(llama) => llama,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32,
        };
        for scaling in [RopeScaling::Default, RopeScaling::Linear { factor: 2.0 }, scaling] {
            let rope = RopeConfig { theta: 5e5, scaling };
            let config = LlamaConfig { rope, num_key_value_heads: 2, ..LlamaConfig::default() };
            assert_eq!(llama(&ModelConfig::llama(config.clone()).unwrap()), &config);
        }
    }

    #[test]
    fn impossible_values_are_refused_with_their_key() {
        let cases = [
            ("vocab_size", json!(0), "vocab_size = 0: expected a whole number from 1 to 16777216"),
            ("hidden_size", json!(1u64 << 60), "hidden_size = 1152921504606846976"),
            ("hidden_size", json!("128"), "hidden_size = \"128\""),
            ("hidden_size", json!(-128), "hidden_size = -128"),
            ("hidden_size", Value::Null, "hidden_size = null"),
            (
                "num_attention_heads",
                json!(5),
                "num_attention_heads = 5: expected a divisor of hidden_size (128)",
            ),
            ("num_key_value_heads", json!(3), "num_key_value_heads = 3: expected a divisor"),
            ("head_dim", json!(31), "head_dim = 31: expected an even number"),
            ("rms_norm_eps", json!(0.0), "rms_norm_eps = 0.0: expected a finite number above 0"),
            ("hidden_act", json!("gelu"), "hidden_act = \"gelu\": expected \"silu\""),
            ("tie_word_embeddings", json!("yes"), "tie_word_embeddings = \"yes\""),
            ("rope_parameters", json!({"rope_theta": -1.0}), "rope_parameters.rope_theta = -1.0"),
            ("rope_scaling", json!({"type": "linear", "factor": 0.5}), "rope_scaling.factor = 0.5"),
            (
                "rope_scaling",
                json!({"rope_type": "llama3", "factor": 8.0}),
                "rope_scaling.low_freq_factor = missing",
            ),
            ("rope_scaling", json!([1]), "rope_scaling = [1]: expected an object"),
            ("partial_rotary_factor", json!(0.5), "partial_rotary_factor = 0.5: expected 1"),
        ];
        for (key, value, expected) in cases {
            let message = config_with(&[(key, value)]).unwrap_err().to_string();
            assert!(message.starts_with("m/config.json: ") && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn unknown_things_are_refused_by_name() {
        let named = |key: &str, value: Value| config_with(&[(key, value)]).unwrap_err().to_string();
        let message = named("model_type", json!("mamba"));
        let expected = "m/config.json: model_type \"mamba\" is not supported; supported: llama, mistral, ";
        assert!(message.starts_with(expected), "{message}");
        assert!(named("rope_scaling", json!({"rope_type": "yarn"})).contains("rope scaling \"yarn\""));
        assert!(
            named("quantization_config", json!({"quant_method": "gptq"})).contains("quantisation \"gptq\"")
        );
    }

    /// Older folders: `rope_scaling` with `type`, theta at top level; transformers lets `rope_scaling` win.
    #[test]
    fn older_rope_keys_win() {
        let changes = [("rope_theta", json!(7.0)), ("rope_scaling", json!({"type": "linear", "factor": 2}))];
        let rope = llama(&config_with(&changes).unwrap()).rope;
        assert_eq!(rope, RopeConfig { theta: 7.0, scaling: RopeScaling::Linear { factor: 2.0 } });
        let absent = [("rope_parameters", Value::Null), ("rope_theta", json!(9.0))];
        let rope = llama(&config_with(&absent).unwrap()).rope;
        assert_eq!(rope, RopeConfig { theta: 9.0, scaling: RopeScaling::Default });
    }

    #[test]
    fn unknown_keys_survive_and_the_data_type_is_renamed_in_place() {
        let config = config_with(&[("torch_dtype", json!("bfloat16")), ("house", json!({"x": 1}))]).unwrap();
        let read = |bytes: Vec<u8>| serde_json::from_slice::<Map<String, Value>>(&bytes).unwrap();
        assert_eq!(&read(config.to_file(None)), config.raw());
        let renamed = read(config.to_file(Some("float32")));
        assert_eq!((&renamed["torch_dtype"], &renamed["house"]), (&json!("float32"), &json!({"x": 1})));
        assert_eq!(config.notes(), Vec::<String>::new());
        let dropout = config_with(&[("attention_dropout", json!(0.1))]).unwrap();
        assert!(dropout.notes()[0].contains("attention_dropout = 0.1"));
    }
}
