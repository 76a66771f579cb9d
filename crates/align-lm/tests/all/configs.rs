//! Configurations of every family: what is built is read, what is not is refused with its key.

use std::path::Path;

use align_lm::{FamilyConfig, Model, ModelConfig, SUPPORTED_FAMILIES, Sizes};
use serde_json::{Map, Value, json};

fn raw(fixture: &str) -> Map<String, Value> {
    let path = align_testkit::fixture(&format!("models/{fixture}")).join("config.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn read(raw: Map<String, Value>) -> Result<ModelConfig, align_lm::Error> {
    ModelConfig::from_json(raw, Path::new("m/config.json"))
}

fn changed(fixture: &str, changes: &[(&str, Value)]) -> Map<String, Value> {
    let mut raw = raw(fixture);
    raw.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    raw
}

fn with(fixture: &str, changes: &[(&str, Value)]) -> ModelConfig {
    read(changed(fixture, changes)).unwrap()
}

fn without(fixture: &str, keys: &[&str]) -> ModelConfig {
    let mut raw = raw(fixture);
    keys.iter().for_each(|key| drop(raw.remove(*key).unwrap()));
    read(raw).unwrap()
}

#[test]
fn every_family_has_a_fixture_and_can_start_from_random_weights() {
    let all = [
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "gpt2",
        "gpt-neox",
        "bloom",
        "gemma",
        "gemma2",
        "gemma3",
        "glm",
        "glm4",
        "baichuan-7b",
        "chatglm",
    ];
    let mut types = Vec::new();
    for name in all {
        let raw = raw(&format!("tiny-{name}"));
        types.push(raw["model_type"].as_str().unwrap().to_owned());
        let config = read(raw).unwrap();
        let model = Model::init(&config, 7).unwrap();
        assert_eq!(model.config().sizes(), config.sizes());
        assert_eq!(config.notes(), Vec::<String>::new(), "{name}");
    }
    types.sort();
    let mut supported = SUPPORTED_FAMILIES.to_vec();
    supported.sort();
    assert_eq!(types, supported);
}

#[test]
fn what_is_not_built_is_refused_with_its_key() {
    let longrope =
        json!({"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [1.0]});
    let cases = [
        ("tiny-mistral", "layer_types", json!(["full_attention"]), "layer_types = "),
        ("tiny-mistral", "sliding_window", json!(0), "sliding_window = 0: expected a whole number from 1"),
        ("tiny-mistral", "hidden_act", json!("gelu"), "hidden_act = \"gelu\": expected \"silu\""),
        ("tiny-qwen2", "layer_types", json!(["full_attention", "chunked_attention"]), "layer_types = "),
        ("tiny-qwen2", "layer_types", json!(["full_attention"]), "expected 2 times \"full_attention\""),
        ("tiny-qwen2", "layer_types", json!(["full_attention", "sliding_attention"]), "sliding_window = "),
        ("tiny-qwen2", "rope_parameters", json!({"rope_type": "yarn"}), "rope scaling \"yarn\""),
        ("tiny-qwen3", "head_dim", json!(7), "head_dim = 7: expected an even number"),
        ("tiny-phi3", "rope_parameters", longrope, "rope scaling \"longrope\""),
        (
            "tiny-phi3",
            "rope_parameters",
            json!({"partial_rotary_factor": 1.5}),
            "rope_parameters.partial_rotary_factor = 1.5: expected a number above 0 and up to 1",
        ),
        ("tiny-gpt2", "add_cross_attention", json!(true), "add_cross_attention = true: expected false"),
        ("tiny-gpt2", "n_head", json!(5), "n_head = 5: expected a divisor of n_embd (32)"),
        ("tiny-gpt2", "activation_function", json!("tanh"), "activation_function = \"tanh\""),
        ("tiny-gpt-neox", "hidden_act", json!("mish"), "hidden_act = \"mish\""),
        (
            "tiny-bloom",
            "apply_residual_connection_post_layernorm",
            json!(true),
            "apply_residual_connection_post_layernorm = true",
        ),
        ("tiny-gemma", "use_bidirectional_attention", json!(true), "use_bidirectional_attention = true"),
        ("tiny-gemma", "hidden_act", json!("silu"), "hidden_act = \"silu\""),
        ("tiny-gemma2", "attn_logit_softcapping", json!(-1.0), "attn_logit_softcapping = -1.0"),
        ("tiny-gemma3", "use_bidirectional_attention", json!(true), "use_bidirectional_attention = true"),
        (
            "tiny-gemma3",
            "rope_parameters",
            json!({"full_attention": {"rope_type": "dynamic"}}),
            "rope scaling \"dynamic\"",
        ),
        ("tiny-glm", "num_key_value_heads", json!(3), "num_key_value_heads = 3: expected a divisor"),
        ("tiny-glm4", "hidden_act", json!("gelu"), "hidden_act = \"gelu\""),
        ("tiny-baichuan-7b", "rope_scaling", json!({"type": "linear", "factor": 2}), "rope_scaling = "),
        ("tiny-chatglm", "rmsnorm", json!(false), "rmsnorm = false: expected true"),
        ("tiny-chatglm", "position_encoding_2d", json!(true), "position_encoding_2d = true: expected false"),
        ("tiny-chatglm", "pre_seq_len", json!(128), "pre_seq_len = 128"),
        ("tiny-chatglm", "multi_query_group_num", json!(3), "multi_query_group_num = 3: expected a divisor"),
        ("tiny-chatglm", "kv_channels", json!(6), "kv_channels = 6: expected a multiple of 4"),
    ];
    for (fixture, key, value, expected) in cases {
        let message = read(changed(fixture, &[(key, value)])).unwrap_err().to_string();
        assert!(message.starts_with("m/config.json: ") && message.contains(expected), "{fixture}: {message}");
    }
}

/// Keys that a file leaves out have the values that transformers 5.23 gives them.
#[test]
fn absent_keys_have_the_defaults_of_transformers() {
    let FamilyConfig::Mistral(mistral) = without("tiny-mistral", &["sliding_window"]).family().clone() else {
        panic!("no Mistral")
    };
    assert_eq!(mistral.sliding_window, Some(4096));
    let off = with("tiny-mistral", &[("sliding_window", Value::Null)]);
    assert!(matches!(off.family(), FamilyConfig::Mistral(mistral) if mistral.sliding_window.is_none()));

    let gemma2 = without("tiny-gemma2", &["layer_types", "attn_logit_softcapping", "tie_word_embeddings"]);
    let FamilyConfig::Gemma2(config) = gemma2.family() else { panic!("no Gemma 2") };
    assert_eq!(config.windows, [Some(9), None]);
    assert_eq!((config.attn_logit_softcapping, config.sizes.tie_word_embeddings), (Some(50.0), true));

    let gemma3 = without("tiny-gemma3", &["layer_types", "rope_parameters"]);
    let FamilyConfig::Gemma3(config) = gemma3.family() else { panic!("no Gemma 3") };
    assert_eq!((config.base.rope.theta, config.local_rope.theta), (1e6, 1e4));
    assert_eq!(config.base.windows, [Some(9); 3]);

    let neox = with("tiny-gpt-neox", &[("rope_parameters", Value::Null), ("rotary_emb_base", json!(500))]);
    let FamilyConfig::GptNeox(config) = neox.family() else { panic!("no GPT-NeoX") };
    assert_eq!((config.rope.theta, config.rotary_dim), (500.0, 4));

    let heads = |config: &ModelConfig| {
        let Sizes { head_dim, num_key_value_heads, .. } = config.sizes();
        (head_dim, num_key_value_heads)
    };
    let wide = with("tiny-qwen3", &[("head_dim", Value::Null), ("num_attention_heads", json!(32))]);
    assert_eq!(heads(&wide), (128, 2));
    assert_eq!(heads(&with("tiny-qwen2", &[("num_key_value_heads", Value::Null)])), (8, 4));
}

/// The configuration files of the releases have these keys and no others that tell them apart.
#[test]
fn the_four_releases_of_baichuan_are_told_apart() {
    let marks = |fixture, vocabulary: usize| {
        let mut raw = raw(fixture);
        raw.remove("normalised_head");
        raw.insert("vocab_size".into(), json!(vocabulary));
        match read(raw).unwrap().family() {
            FamilyConfig::Baichuan(config) => (config.rotary, config.normalised_head),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(marks("tiny-baichuan-7b", 64_000), (true, false));
    assert_eq!(marks("tiny-baichuan2-13b", 64_000), (false, false));
    assert_eq!(marks("tiny-baichuan-7b", 125_696), (true, true));
    assert_eq!(marks("tiny-baichuan2-13b", 125_696), (false, true));
}

#[test]
fn dropout_is_named_whatever_a_family_calls_it() {
    for (fixture, key) in
        [("tiny-gpt2", "resid_pdrop"), ("tiny-bloom", "hidden_dropout"), ("tiny-phi3", "embd_pdrop")]
    {
        let notes = with(fixture, &[(key, json!(0.1))]).notes();
        assert_eq!(notes, [format!("config.json: {key} = 0.1 is not applied in training")]);
    }
}
