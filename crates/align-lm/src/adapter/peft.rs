//! `adapter_config.json`, as PEFT 0.21 reads and writes it.

use std::collections::BTreeMap;
use std::path::Path;

use align_core::align_types::config::LoraConfig;
use serde_json::{Map, Value, json};

use super::plan::{AdapterPlan, LinearLayer, Share};
use crate::config::Output;
use crate::keys::Keys;
use crate::{Error, Result};

/// Keys that are read.
const READ: [&str; 11] = [
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "bias",
    "init_lora_weights",
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
];

/// Keys that change nothing once the tensors are there: where they came from, how they were first set, which layers of
/// several they belong to. `fan_in_fan_out` follows from the base.
const ASIDE: [&str; 16] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "revision",
    "qalora_group_size",
];

/// Ways to begin that leave the base as it is.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "orthogonal", "eva"];

/// The key of the layers that are trained in full beside an adapter.
const SAVED: &str = "modules_to_save";

/// Names the task that a base with this output has in PEFT.
fn task(output: Output) -> &'static str {
    match output {
        Output::Score => "SEQ_CLS",
        Output::Vocabulary | Output::None => "CAUSAL_LM",
    }
}

/// What an `adapter_config.json` says.
#[derive(Debug)]
pub(super) struct PeftConfig {
    pub(super) rank: usize,
    alpha: f64,
    dropout: f64,
    use_rslora: bool,
    /// Whether the score head lies beside the adapter.
    pub(super) saves_score: bool,
    /// The names of `target_modules` where they alone say which layers are adapted; with a pattern, or with layers
    /// left out, only the tensors do.
    pub(super) targets: Option<Vec<String>>,
    ranks: BTreeMap<String, usize>,
    alphas: BTreeMap<String, f64>,
    /// What the adapter was made for.
    pub(super) base: Option<String>,
}

impl PeftConfig {
    pub(super) fn read(path: &Path, map: &Map<String, Value>, output: Output) -> Result<Self> {
        let keys = Keys::new(path, map);
        let saves_score = output == Output::Score;
        refuse_what_is_not_built(path, map, saves_score)?;
        let text = |key: &str| keys.get::<String>(key, "a string");
        let only = |key: &str, found: Option<String>, built: &str| match found {
            Some(found) if found != built => {
                Err(unsupported(path, key, &json!(found), &format!("{built:?}")))
            }
            _ => Ok(()),
        };
        let kind = text("peft_type")?.ok_or_else(|| keys.refuse("peft_type", "\"LORA\""))?;
        only("peft_type", Some(kind), "LORA")?;
        only("task_type", text("task_type")?, task(output))?;
        only("bias", text("bias")?, "none")?;
        let dropout = keys.get::<f64>("lora_dropout", "a number in [0, 1)")?.unwrap_or(0.0);
        if !(0.0..1.0).contains(&dropout) {
            return Err(keys.refuse("lora_dropout", "a number in [0, 1)"));
        }
        Ok(Self {
            rank: keys.size("r", usize::MAX, None)?,
            alpha: keys.positive("lora_alpha", None)?,
            dropout,
            use_rslora: keys.flag("use_rslora")?,
            saves_score,
            targets: read_targets(keys, map)?,
            ranks: read_pattern(keys, map, "rank_pattern")?,
            alphas: read_pattern(keys, map, "alpha_pattern")?,
            base: text("base_model_name_or_path")?.filter(|base| !base.is_empty()),
        })
    }

    /// Returns what the configuration says of a layer.
    pub(super) fn share(&self, path: &Path, layer: &LinearLayer) -> Result<Share> {
        Ok(Share {
            rank: one_of(path, "rank_pattern", &self.ranks, layer)?.unwrap_or(self.rank),
            alpha: one_of(path, "alpha_pattern", &self.alphas, layer)?.unwrap_or(self.alpha),
        })
    }

    pub(super) fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            use_rslora: self.use_rslora,
            ..LoraConfig::default()
        }
    }
}

fn unsupported(path: &Path, key: &str, value: &Value, supported: &str) -> Error {
    Error::Unsupported {
        path: path.to_owned(),
        what: format!("{key} = {value}"),
        supported: supported.into(),
    }
}

/// Refuses every key that asks for something else than plain low-rank adapters, those of later versions included: a key
/// that is not known must be off.
fn refuse_what_is_not_built(path: &Path, map: &Map<String, Value>, saves_score: bool) -> Result<()> {
    let is_off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    // PEFT lists both names of the heads of classifiers.
    let heads = |value: &Value| {
        let listed = value.as_array().map(Vec::as_slice).unwrap_or_default();
        listed.iter().all(|name| name == "score" || name == "classifier")
    };
    if let Some(saved) = map.get(SAVED).filter(|saved| !(is_off(saved) || saves_score && heads(saved))) {
        let supported = "the score head of a reward model, and nothing else";
        return Err(unsupported(path, SAVED, saved, supported));
    }
    let known =
        |key: &str| READ.contains(&key) || ASIDE.contains(&key) || key == "runtime_config" || key == SAVED;
    if let Some((key, value)) = map.iter().find(|(key, value)| !known(key) && !is_off(value)) {
        return Err(unsupported(path, key, value, "LoRA and rsLoRA of linear layers"));
    }
    match map.get("init_lora_weights") {
        Some(Value::String(start)) if !PLAIN_STARTS.contains(&start.as_str()) => {
            let supported = "adapters that leave the base as it is (convert it when it is saved in PEFT)";
            Err(unsupported(path, "init_lora_weights", &json!(start), supported))
        }
        _ => Ok(()),
    }
}

fn read_targets(keys: Keys<'_>, map: &Map<String, Value>) -> Result<Option<Vec<String>>> {
    let partly = keys.has("exclude_modules") || keys.has("layers_to_transform");
    match map.get("target_modules") {
        Some(Value::Array(_)) => {
            let names = keys.get::<Vec<String>>("target_modules", "a list of names")?;
            Ok(names.filter(|_| !partly))
        }
        Some(Value::String(_) | Value::Null) | None => Ok(None),
        Some(_) => Err(keys.refuse("target_modules", "a list of names, or a pattern")),
    }
}

/// Reads an object of numbers by name. PEFT takes the names for regular expressions; plain ones are ends of the names
/// of layers.
fn read_pattern<T: serde::de::DeserializeOwned>(
    keys: Keys<'_>,
    map: &Map<String, Value>,
    key: &str,
) -> Result<BTreeMap<String, T>> {
    let pattern = keys.get::<BTreeMap<String, T>>(key, "an object of names and numbers above 0")?;
    let pattern = pattern.unwrap_or_default();
    let plain = |name: &String| name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    match pattern.keys().find(|name| !plain(name)) {
        None => Ok(pattern),
        Some(name) => {
            let value = map.get(key).unwrap_or(&Value::Null);
            Err(unsupported(keys.path(), key, value, &format!("names instead of the expression {name:?}")))
        }
    }
}

fn one_of<T: Copy>(
    path: &Path,
    key: &str,
    pattern: &BTreeMap<String, T>,
    layer: &LinearLayer,
) -> Result<Option<T>> {
    let mut found = pattern.iter().filter(|(name, _)| layer.is_meant_by(name));
    match (found.next(), found.next()) {
        (Some((first, _)), Some((second, _))) => {
            let why = format!("{key}: {first:?} and {second:?} both mean {}", layer.name);
            Err(Error::adapter(path, why))
        }
        (first, _) => Ok(first.map(|(_, value)| *value)),
    }
}

/// Makes the content of an `adapter_config.json`.
pub(super) fn to_file(plan: &AdapterPlan, base: Option<&Path>, output: Output) -> Vec<u8> {
    let LoraConfig { rank, alpha, dropout, use_rslora, .. } = plan.lora;
    let apart = |value: &dyn Fn(&Share) -> Value, common: Value| -> Map<String, Value> {
        let values = plan.layers.iter().map(|(name, share)| (name.clone(), value(share)));
        values.filter(|(_, value)| *value != common).collect()
    };
    let content = json!({
        "alpha_pattern": apart(&|share| number(share.alpha), number(alpha)),
        "auto_mapping": null,
        "base_model_name_or_path": base.map(|base| base.to_string_lossy()),
        "bias": "none",
        "fan_in_fan_out": plan.fan_in_fan_out,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": number(alpha),
        "lora_dropout": dropout,
        SAVED: (output == Output::Score).then_some(["score"]),
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": apart(&|share| json!(share.rank), json!(rank)),
        "revision": null,
        "target_modules": plan.targets,
        "task_type": task(output),
        "use_dora": false,
        "use_rslora": use_rslora,
    });
    format!("{content:#}\n").into_bytes()
}

/// PEFT means alpha to be whole; other readers insist.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(value as i64) } else { json!(value) }
}
