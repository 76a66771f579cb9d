use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::keys::{Keys, read_object};
use crate::rope::RopeConfig;
use crate::{Error, Result};

/// The `model_type`s that can be loaded.
pub const SUPPORTED_FAMILIES: &[&str] = &["llama"];

const CONFIG_FILE: &str = "config.json";

/// Upper bounds beyond which a number in `config.json` is a mistake, not a model.
mod most {
    pub(super) const WIDTH: usize = 1 << 20;
    pub(super) const LAYERS: usize = 1 << 12;
    /// Heads, and the width of one.
    pub(super) const HEADS: usize = 1 << 14;
    pub(super) const VOCABULARY: usize = 1 << 24;
    pub(super) const POSITIONS: usize = 1 << 30;
}

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
    fn read(keys: Keys<'_>) -> Result<Self> {
        let hidden_size = keys.size("hidden_size", most::WIDTH, None)?;
        let heads = keys.size("num_attention_heads", most::HEADS, None)?;
        if !hidden_size.is_multiple_of(heads) {
            let expected = format!("a divisor of hidden_size ({hidden_size})");
            return Err(keys.refuse("num_attention_heads", &expected));
        }
        let key_value_heads = keys.size("num_key_value_heads", heads, Some(heads))?;
        if !heads.is_multiple_of(key_value_heads) {
            let expected = format!("a divisor of num_attention_heads ({heads})");
            return Err(keys.refuse("num_key_value_heads", &expected));
        }
        let head_dim = keys.size("head_dim", most::HEADS, Some(hidden_size / heads))?;
        if !head_dim.is_multiple_of(2) {
            return Err(keys.refuse("head_dim", "an even number: rotary embeddings turn pairs"));
        }
        let activation = keys.get::<String>("hidden_act", "\"silu\"")?;
        if activation.is_some_and(|name| name != "silu") {
            return Err(keys.refuse("hidden_act", "\"silu\""));
        }
        let positions = keys.size("max_position_embeddings", most::POSITIONS, Some(2048))?;
        Ok(Self {
            vocab_size: keys.size("vocab_size", most::VOCABULARY, None)?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size", most::WIDTH, None)?,
            num_hidden_layers: keys.size("num_hidden_layers", most::LAYERS, None)?,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim,
            max_position_embeddings: positions,
            rms_norm_eps: keys.positive("rms_norm_eps", Some(1e-6))?,
            rope: RopeConfig::read(keys, positions)?,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?,
            attention_bias: keys.flag("attention_bias")?,
            mlp_bias: keys.flag("mlp_bias")?,
            initializer_range: keys.positive("initializer_range", Some(0.02))?,
        })
    }

    fn to_json(&self) -> Map<String, Value> {
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

/// The part of a configuration that belongs to one architecture.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum FamilyConfig {
    /// Llama 1 to 3 and everything saved as `model_type` `llama`.
    Llama(LlamaConfig),
}

/// A checked `config.json`, with every key it came with.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    family: FamilyConfig,
    raw: Map<String, Value>,
}

impl ModelConfig {
    /// Reads and checks `config.json` of a model folder. No weights are touched.
    ///
    /// # Errors
    /// The file is missing or no JSON object; the architecture is unknown or the weights are quantised
    /// ([`Error::Unsupported`]); a value is missing or outside its range ([`Error::Config`]).
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
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
        let family = match keys.get::<String>("model_type", "a text")?.as_deref() {
            Some("llama") => FamilyConfig::Llama(LlamaConfig::read(keys)?),
            Some(other) => {
                return unsupported(format!("model_type {other:?}"), &SUPPORTED_FAMILIES.join(", "));
            }
            None => {
                return Err(keys.refuse("model_type", &format!("one of {}", SUPPORTED_FAMILIES.join(", "))));
            }
        };
        Ok(Self { family, raw })
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

    /// Returns the part that belongs to the architecture.
    pub fn family(&self) -> &FamilyConfig {
        &self.family
    }

    /// Returns every key of the file, known or not.
    pub fn raw(&self) -> &Map<String, Value> {
        &self.raw
    }

    /// Returns the number of tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        match &self.family {
            FamilyConfig::Llama(llama) => llama.vocab_size,
        }
    }

    /// Returns the longest sequence the model takes, in tokens.
    pub fn context_length(&self) -> usize {
        match &self.family {
            FamilyConfig::Llama(llama) => llama.max_position_embeddings,
        }
    }

    /// Returns what a user should know about keys of the file that this crate does not follow.
    pub fn notes(&self) -> Vec<String> {
        match self.raw.get("attention_dropout").and_then(Value::as_f64) {
            Some(rate) if rate != 0.0 => {
                vec![format!("config.json: attention_dropout = {rate} is not applied in training")]
            }
            _ => Vec::new(),
        }
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

/// Reads the tokens that end a text from `generation_config.json` and `config.json` of a model folder, without
/// duplicates. A folder that names none gives an empty list.
///
/// # Errors
/// A file is not a JSON object, or `eos_token_id` is neither a token nor a list of tokens.
pub fn stop_token_ids(dir: &Path) -> Result<Vec<u32>> {
    let mut all: Vec<u32> = Vec::new();
    for name in ["generation_config.json", CONFIG_FILE] {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        let map = read_object(&path)?;
        let keys = Keys::new(&path, &map);
        let expected = "a token id or a list of token ids";
        let ids = match map.get("eos_token_id") {
            Some(Value::Array(_)) => keys.get::<Vec<u32>>("eos_token_id", expected)?.unwrap_or_default(),
            _ => keys.get::<u32>("eos_token_id", expected)?.into_iter().collect(),
        };
        ids.into_iter().for_each(|id| {
            if !all.contains(&id) {
                all.push(id);
            }
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RopeScaling;

    fn config_with(changes: &[(&str, Value)]) -> Result<ModelConfig> {
        let mut raw = LlamaConfig::default().to_json();
        for (key, value) in changes {
            raw.insert((*key).to_owned(), value.clone());
        }
        ModelConfig::from_json(raw, Path::new("m/config.json"))
    }

    fn llama(config: &ModelConfig) -> &LlamaConfig {
        let FamilyConfig::Llama(llama) = config.family();
        llama
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
        assert_eq!(message, "m/config.json: model_type \"mamba\" is not supported; supported: llama");
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
