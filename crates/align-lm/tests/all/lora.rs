//! Adapters against PEFT, against themselves, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use align_core::{
    CausalLm, PackedBatch, ScoreModel,
    align_types::{
        Completion, PromptGroup,
        config::{LoraConfig, LoraTargets},
    },
    tch::{Kind, Tensor},
};
use align_lm::{
    AdapterOptions, Companions, Error, LoadOptions, Model, ModelConfig, SaveDtype, SequenceClassifier,
    Trainable,
};
use align_testkit::{assert_close, fixture};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const ADAPTERS: [&str; 5] = ["llama", "llama-rslora", "gpt2", "gpt-neox", "phi3-patterns"];

/// A base of each way in which layers are stored or fused.
const BASES: [&str; 9] = [
    "tiny-llama",
    "tiny-llama-tied-sharded",
    "tiny-qwen3",
    "tiny-phi3",
    "tiny-gpt2",
    "tiny-gpt-neox",
    "tiny-bloom",
    "tiny-baichuan2-13b",
    "tiny-chatglm",
];

/// Written by `fixtures/lora/make.py`.
#[derive(Deserialize)]
struct Expected {
    base: String,
    groups: Vec<ExpectedGroup>,
}

#[derive(Deserialize)]
struct ExpectedGroup {
    prompt: Vec<u32>,
    completions: Vec<Vec<u32>>,
    logprobs: Vec<Vec<f64>>,
}

impl Expected {
    fn read(adapter: &str) -> Self {
        serde_json::from_slice(&fs::read(folder(adapter).join("expected.json")).unwrap()).unwrap()
    }

    fn log_probs(&self) -> Vec<f64> {
        self.groups.iter().flat_map(|g| g.logprobs.iter().flatten()).copied().collect()
    }

    fn groups(&self) -> Vec<PromptGroup> {
        self.groups.iter().map(|g| group(&g.prompt, &g.completions)).collect()
    }
}

fn folder(adapter: &str) -> PathBuf {
    fixture(&format!("lora/{adapter}"))
}

fn base(name: &str) -> Model {
    // The threads of libtorch spin against those of the other tests.
    align_core::threads::prepare_compute_thread();
    Model::load(&fixture(&format!("models/{name}")), &LoadOptions::default()).unwrap()
}

/// The base of an adapter of the fixtures with that adapter, trainable.
fn adapted(adapter: &str) -> (Model, Expected) {
    let expected = Expected::read(adapter);
    let mut model = base(&expected.base);
    model.load_adapter(&folder(adapter), &AdapterOptions { seed: 3, ..AdapterOptions::default() }).unwrap();
    (model, expected)
}

fn group(prompt: &[u32], completions: &[Vec<u32>]) -> PromptGroup {
    PromptGroup::new(prompt.to_vec(), completions.iter().cloned().map(Completion::new).collect())
}

fn rows() -> Vec<PromptGroup> {
    let answers = |lists: &[&[u32]]| lists.iter().map(|list| list.to_vec()).collect::<Vec<_>>();
    vec![
        group(&[5, 9, 17, 3], &answers(&[&[11, 7, 2], &[30, 1]])),
        group(&[8], &answers(&[&[40, 41, 42, 43, 44, 6]])),
        group(&[12, 13], &answers(&[&[2], &[14, 15, 16]])),
    ]
}

fn values(model: &Model, groups: &[PromptGroup]) -> Tensor {
    let batch = PackedBatch::new(groups).unwrap();
    model.token_log_probs(&batch, 1.0).unwrap().values().shallow_clone()
}

fn log_probs(model: &Model, groups: &[PromptGroup]) -> Vec<f64> {
    Vec::try_from(values(model, groups).to_kind(Kind::Double)).unwrap()
}

/// The gradient of the sum of log-probabilities over batches, in every parameter.
fn gradients(model: &Model, batches: &[&[PromptGroup]]) -> Vec<(String, Tensor)> {
    let parameters = model.parameters();
    batches.iter().for_each(|groups| values(model, groups).sum(Kind::Double).backward());
    let out = parameters.iter().map(|p| (p.name.clone(), p.tensor.grad().copy())).collect();
    align_core::clear_gradients(parameters.iter().map(|p| &p.tensor)).unwrap();
    out
}

fn bits(parameters: &[align_core::Parameter]) -> Vec<(String, Vec<f32>)> {
    let read = |t: &Tensor| Vec::<f32>::try_from(t.detach().reshape([-1])).unwrap();
    parameters.iter().map(|p| (p.name.clone(), read(&p.tensor))).collect()
}

#[test]
fn log_probabilities_are_those_of_peft() {
    for name in ADAPTERS {
        let (mut model, expected) = adapted(name);
        assert_close(&log_probs(&model, &expected.groups()), &expected.log_probs(), 1e-5);
        let off = log_probs(&model.base().unwrap(), &expected.groups());
        let changed = off.iter().zip(expected.log_probs()).any(|(a, b)| (a - b).abs() > 0.1);
        assert!(changed, "{name}: the adapter does nothing");
        model.merge_adapter().unwrap();
        assert_close(&log_probs(&model, &expected.groups()), &expected.log_probs(), 1e-5);
        assert!(model.lora().is_none() && model.parameters().is_empty());
    }
}

#[test]
fn a_merged_model_is_saved_as_its_base_was() {
    for name in ADAPTERS {
        let (mut model, expected) = adapted(name);
        assert!(model.save(&tempfile::tempdir().unwrap().path().join("x"), SaveDtype::Source).is_err());
        model.merge_adapter().unwrap();
        let out = tempfile::tempdir().unwrap();
        model.save(&out.path().join("m"), SaveDtype::F32).unwrap();
        let again = Model::load(&out.path().join("m"), &LoadOptions::default()).unwrap();
        assert_eq!(log_probs(&again, &expected.groups()), log_probs(&model, &expected.groups()), "{name}");
        assert_eq!(again.unused_tensors(), Vec::<String>::new());
        // As its base was: the same tensors in the same data types.
        model.save(&out.path().join("s"), SaveDtype::Source).unwrap();
        let saved = out.path().join("s/model.safetensors");
        let before = fixture(&format!("models/{}/model.safetensors", expected.base));
        assert_eq!(dtypes(&saved), dtypes(&before), "{name}");
    }
}

#[test]
fn a_new_adapter_changes_nothing_and_is_all_that_is_trained() {
    for name in BASES {
        let mut model = base(name);
        let before = log_probs(&model, &rows());
        let tensors = model.parameters();
        model.add_adapter(&LoraConfig { rank: 4, alpha: 8.0, ..Default::default() }, 0).unwrap();
        let same = |model: &Model| assert_eq!(log_probs(model, &rows()), before, "{name}");
        same(&model);
        same(&model.base().unwrap());
        same(&model.replica().unwrap());
        let layers = model.config().linear_layers().unwrap();
        let parameters = model.parameters();
        assert_eq!(parameters.len(), 2 * layers.len(), "{name}");
        assert!(parameters.iter().all(|p| p.decay && p.tensor.kind() == Kind::Float));
        for (layer, pair) in layers.iter().zip(parameters.chunks(2)) {
            let prefix = format!("base_model.model.{}", layer.name);
            assert_eq!(pair[0].name, format!("{prefix}.lora_A.weight"));
            assert_eq!(pair[1].name, format!("{prefix}.lora_B.weight"));
            // Kaiming-uniform with a = sqrt 5: the bound is sqrt(6 / ((1 + 5) inputs)).
            let bound = 1.0 / (layer.inputs as f64).sqrt();
            let (most, mean) =
                (pair[0].tensor.abs().max().double_value(&[]), pair[0].tensor.abs().mean(None));
            assert!(most <= bound && most > 0.9 * bound, "{name}: {most} of {bound}");
            assert!((mean.double_value(&[]) - bound / 2.0).abs() < 0.1 * bound);
        }
        let gradients = gradients(&model, &[&rows()]);
        // B is zero, so that nothing flows to A yet.
        for pair in gradients.chunks(2) {
            assert_eq!(pair[0].1.abs().max().double_value(&[]), 0.0, "{name}: {}", pair[0].0);
            assert!(pair[1].1.abs().max().double_value(&[]) > 0.0, "{name}: {}", pair[1].0);
        }
        assert!(tensors.iter().all(|p| !p.tensor.grad().defined() && !p.tensor.requires_grad()));
        let head = ["lm_head", "embed_out", "output_layer"];
        assert!(!layers.iter().any(|layer| head.iter().any(|head| layer.name.contains(head))));
    }
}

#[test]
fn a_new_adapter_is_a_function_of_seed_and_layer() {
    let lora = LoraConfig::default();
    let of = |lora: &LoraConfig, seed| {
        let mut model = base("tiny-llama");
        model.add_adapter(lora, seed).unwrap();
        bits(&model.parameters())
    };
    let all = of(&lora, 1);
    assert_eq!(all, of(&lora, 1));
    assert_ne!(all, of(&lora, 2));
    let some = of(&LoraConfig { targets: LoraTargets::Names(vec!["v_proj".into()]), ..lora }, 1);
    assert!(some.len() == 4 && some.iter().all(|one| all.contains(one)));
    assert_ne!(some[0].1, some[2].1, "layers differ");
}

/// Along its own direction, the slope of a function is the length of its gradient.
#[test]
fn gradients_are_the_slopes_of_the_log_probabilities() {
    for name in ADAPTERS {
        let (model, expected) = adapted(name);
        let groups = expected.groups();
        let total = || values(&model, &groups).sum(Kind::Double).double_value(&[]);
        let gradients = gradients(&model, &[&groups]);
        for (parameter, (name, gradient)) in model.parameters().iter().zip(&gradients) {
            let length = gradient.norm().double_value(&[]);
            let step = 3e-3;
            let walk = |by: f64| {
                let _guard = align_core::no_grad();
                let _ = parameter.tensor.shallow_clone().g_add_(&(gradient * (by / length)));
            };
            walk(step);
            let ahead = total();
            walk(-2.0 * step);
            let slope = (ahead - total()) / (2.0 * step);
            walk(step);
            assert!((slope - length).abs() < 1e-2 * length.max(0.1), "{name}: {length} against {slope}");
        }
    }
}

#[test]
fn dropout_is_for_training_and_does_not_depend_on_the_cut() {
    let (model, _) = adapted("llama");
    let groups = rows();
    let off = log_probs(&model, &groups);
    model.begin_step(Some(4));
    let on = log_probs(&model, &groups);
    assert!(off.iter().zip(&on).all(|(a, b)| a != b), "{off:?}, {on:?}");
    assert_eq!(on, log_probs(&model, &groups), "the same step, the same masks");
    let apart: Vec<f64> = groups.iter().flat_map(|g| log_probs(&model, std::slice::from_ref(g))).collect();
    assert_close(&on, &apart, 1e-5);
    let whole = gradients(&model, &[&groups]);
    let replica = model.replica().unwrap();
    assert_eq!(log_probs(&replica, &groups), off, "a new model does not train");
    replica.begin_step(Some(4));
    for cut in [vec![&groups[..1], &groups[1..]], vec![&groups[2..], &groups[..1], &groups[1..2]]] {
        for ((name, a), (_, b)) in whole.iter().zip(gradients(&replica, &cut)) {
            let off = (a - b).abs().max().double_value(&[]);
            assert!(off <= 1e-5 * a.abs().max().double_value(&[]).max(1e-2), "{name}: {off}");
        }
    }
    model.begin_step(Some(5));
    assert_ne!(on, log_probs(&model, &groups));
    let mut other = base("tiny-llama");
    other.load_adapter(&folder("llama"), &AdapterOptions { seed: 4, ..Default::default() }).unwrap();
    other.begin_step(Some(4));
    assert_ne!(on, log_probs(&other, &groups), "another seed");
    for copy in [model.frozen_copy().unwrap(), model.base().unwrap()] {
        copy.begin_step(None);
        assert!(copy.parameters().is_empty());
    }
    model.begin_step(None);
    assert_eq!(off, log_probs(&model, &groups));
}

/// Blocks that are computed again drop what they dropped, each pass its own.
#[test]
fn dropout_is_repeated_where_activations_are_computed_again() {
    let (kept, _) = adapted("llama");
    let dir = fixture("models/tiny-llama");
    let options = LoadOptions { recompute: true, ..LoadOptions::default() };
    let mut again = Model::load(&dir, &options).unwrap();
    again.load_adapter(&folder("llama"), &AdapterOptions { seed: 3, ..AdapterOptions::default() }).unwrap();
    let groups = rows();
    let cut = [&groups[..1], &groups[1..]];
    kept.begin_step(Some(2));
    again.begin_step(Some(2));
    let expected = gradients(&kept, &cut);
    // Both passes wait for one backward pass.
    let losses = cut.map(|groups| values(&again, groups).sum(Kind::Double));
    again.backward(&(&losses[0] + &losses[1])).unwrap();
    for ((name, expected), parameter) in expected.iter().zip(again.parameters()) {
        let off = (expected - parameter.tensor.grad()).abs().max().double_value(&[]);
        assert!(off <= 1e-5 * expected.abs().max().double_value(&[]).max(1e-2), "{name}: {off}");
    }
}

#[test]
fn what_is_saved_is_loaded_bit_by_bit() {
    for name in ADAPTERS {
        let (model, expected) = adapted(name);
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("adapter");
        for _ in 0..2 {
            // The second time it replaces the first.
            model.save_adapter_with_tokenizer(&out, model.source().unwrap()).unwrap();
        }
        let again = |trainable| {
            let mut again = base(&expected.base);
            again.load_adapter(&out, &AdapterOptions { trainable, seed: 0 }).unwrap();
            again
        };
        assert_eq!(bits(&again(Trainable::All).parameters()), bits(&model.parameters()), "{name}");
        assert_eq!(again(Trainable::All).lora(), model.lora());
        let frozen = again(Trainable::No);
        assert!(frozen.parameters().is_empty());
        assert_eq!(log_probs(&frozen, &expected.groups()), log_probs(&model, &expected.groups()));
        let config = json_of(&out.join("adapter_config.json"));
        let source = fixture(&format!("models/{}", expected.base));
        assert_eq!(config["base_model_name_or_path"], source.to_str().unwrap());
        assert_eq!(config["fan_in_fan_out"], name == "gpt2");
        let has_tokenizer = source.join("tokenizer.json").exists();
        assert_eq!(out.join("tokenizer.json").exists(), has_tokenizer);
    }
}

#[test]
fn copies_and_bases_stay_as_they_were() {
    let (model, expected) = adapted("llama");
    let groups = expected.groups();
    let (now, off) = (log_probs(&model, &groups), log_probs(&model.base().unwrap(), &groups));
    let (copy, base, replica) =
        (model.frozen_copy().unwrap(), model.base().unwrap(), model.replica().unwrap());
    {
        let _guard = align_core::no_grad();
        model.parameters().iter().for_each(|p| drop(p.tensor.shallow_clone().fill_(0.05)));
    }
    assert_eq!(log_probs(&copy, &groups), now);
    assert_eq!(log_probs(&base, &groups), off);
    assert_eq!(log_probs(&replica, &groups), log_probs(&model, &groups), "a replica shares the adapter");
    assert_ne!(log_probs(&replica, &groups), now);
    assert!(model.save_adapter(Path::new("/proc/none")).is_err());
    assert!(base.save_adapter(&tempfile::tempdir().unwrap().path().join("x")).is_err());
}

#[test]
fn settings_that_the_model_does_not_allow_are_refused_by_name() {
    let refused = |lora: LoraConfig| {
        let mut model = base("tiny-llama");
        let error = model.add_adapter(&lora, 0).unwrap_err();
        assert_eq!(model.config().check_lora(&lora).unwrap_err().to_string(), error.to_string());
        assert!(model.lora().is_none());
        error.to_string()
    };
    let names = |names: &[&str]| LoraTargets::Names(names.iter().map(|name| (*name).to_owned()).collect());
    for (lora, texts) in [
        (LoraConfig { rank: 0, ..Default::default() }, &["lora-rank = 0"][..]),
        // Two key-value heads of 8: k_proj has 16 outputs.
        (
            LoraConfig { rank: 17, ..Default::default() },
            &["lora-rank = 17", "k_proj", "16 outputs", "at most 16"],
        ),
        (
            LoraConfig { targets: names(&["q_proj", "query"]), ..Default::default() },
            &["lora-targets = query", "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"],
        ),
        (LoraConfig { targets: names(&["lm_head"]), ..Default::default() }, &["lora-targets = lm_head"]),
        (LoraConfig { targets: names(&["_proj"]), ..Default::default() }, &["lora-targets = _proj"]),
        (LoraConfig { alpha: -1.0, ..Default::default() }, &["lora-alpha = -1"]),
        (LoraConfig { dropout: 1.0, ..Default::default() }, &["lora-dropout = 1"]),
    ] {
        let message = refused(lora);
        texts.iter().for_each(|text| assert!(message.contains(text), "{text} is not in {message}"));
    }
    let mut model = base("tiny-llama");
    model.add_adapter(&LoraConfig { rank: 16, ..Default::default() }, 0).unwrap();
    let error = model.add_adapter(&LoraConfig::default(), 0).unwrap_err().to_string();
    assert!(error.contains("has one already"), "{error}");
    assert!(base("tiny-llama").merge_adapter().is_err());
    let config = ModelConfig::read(&fixture("models/tiny-llama")).unwrap();
    let one = LoraConfig { rank: 2, targets: names(&["layers.1.self_attn.q_proj"]), ..Default::default() };
    assert_eq!(config.check_lora(&one).unwrap(), 2 * (32 + 32));
    assert_eq!(config.check_adapter(&folder("llama-rslora")).unwrap(), 2 * 4 * (32 + 32 + 32 + 16));
}

/// The data type of every tensor of a file.
fn dtypes(path: &Path) -> Vec<(String, Value)> {
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let mut dtypes: Vec<(String, Value)> =
        tensors.map(|(name, info)| (name, info["dtype"].clone())).collect();
    dtypes.sort_by(|a, b| a.0.cmp(&b.0));
    dtypes
}

fn json_of(path: &Path) -> Map<String, Value> {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A copy of an adapter that a test may damage.
struct Damaged(TempDir);

impl Damaged {
    fn new(adapter: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(folder(adapter).join(name), dir.path().join(name)).unwrap();
        }
        Self(dir)
    }

    fn set(self, key: &str, value: Value) -> Self {
        let path = self.0.path().join("adapter_config.json");
        let mut map = json_of(&path);
        map.insert(key.into(), value);
        fs::write(path, Value::Object(map).to_string()).unwrap();
        self
    }

    /// Changes the header of the tensors, which keeps its length.
    fn header(self, from: &str, to: &str) -> Self {
        assert_eq!(from.len(), to.len());
        let path = self.0.path().join("adapter_model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        fs::write(path, bytes).unwrap();
        self
    }

    fn load_onto(&self, name: &str) -> Result<Model, Error> {
        let mut model = base(name);
        let checked = model.config().check_adapter(self.0.path()).map_err(|error| error.to_string());
        let loaded = model.load_adapter(self.0.path(), &AdapterOptions::default());
        assert_eq!(checked.err(), loaded.as_ref().err().map(ToString::to_string));
        loaded.map(|()| model)
    }

    fn refused(&self, texts: &[&str]) {
        let message = self.load_onto("tiny-llama").unwrap_err().to_string();
        texts.iter().for_each(|text| assert!(message.contains(text), "{text} is not in {message}"));
    }
}

#[test]
fn what_peft_can_do_beside_is_refused_by_name() {
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("task_type", json!("SEQ_CLS")),
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("use_dora", json!(true)),
        ("use_qalora", json!(true)),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("trainable_token_indices", json!([1, 2])),
        ("layer_replication", json!([[0, 2]])),
        ("target_parameters", json!(["experts"])),
        ("megatron_config", json!({"a": 1})),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("loftq")),
        ("rank_pattern", json!({"^model.*q_proj": 2})),
        ("something_new", json!(0.5)),
    ] {
        let adapter = Damaged::new("llama").set(key, value.clone());
        adapter.refused(&["adapter_config.json", &format!("{key} = "), "is not supported"]);
    }
    for (key, value) in [
        ("r", json!(0)),
        ("r", json!("4")),
        ("r", Value::Null),
        ("lora_alpha", json!(0)),
        ("lora_dropout", json!(1.0)),
        ("peft_type", Value::Null),
        ("target_modules", json!(7)),
        ("alpha_pattern", json!({"q_proj": "x"})),
        ("use_rslora", json!("yes")),
    ] {
        Damaged::new("llama").set(key, value).refused(&[
            "adapter_config.json",
            &format!("{key} = "),
            "expected",
        ]);
    }
    // What changes nothing is no obstacle.
    let harmless =
        Damaged::new("llama").set("something_new", json!(null)).set("init_lora_weights", json!("gaussian"));
    harmless.load_onto("tiny-llama").unwrap();
}

#[test]
fn adapters_that_do_not_fit_are_refused_with_the_layer() {
    let llama = || Damaged::new("llama");
    let q = "model.layers.0.self_attn.q_proj";
    // Another base: other names, or the same names and other shapes.
    let message = Damaged::new("gpt2").load_onto("tiny-llama").unwrap_err().to_string();
    assert!(message.contains("adapter_model.safetensors") && message.contains("transformer.h.0.attn.c_attn"));
    assert!(message.contains("its base is tiny-gpt2") && message.contains("q_proj"), "{message}");
    let message = llama().load_onto("tiny-qwen3").unwrap_err().to_string();
    assert!(message.contains("lora_") && message.contains("mean ["), "{message}");
    llama().set("r", json!(3)).refused(&["lora_A.weight is [4, 32]", "mean [3, 32]"]);
    llama().set("r", json!(33)).refused(&["rank 33 of", "from 1 to 32"]);
    llama().set("rank_pattern", json!({"q_proj": 0})).refused(&["rank 0 of", "q_proj"]);
    llama().set("alpha_pattern", json!({"q_proj": -1})).refused(&["alpha -1 of", "q_proj"]);
    llama()
        .set("alpha_pattern", json!({"q_proj": 1, "self_attn.q_proj": 2}))
        .refused(&["alpha_pattern", "both mean"]);
    llama().set("target_modules", json!(["q_proj"])).refused(&["which target_modules does not name"]);
    let more = Damaged::new("llama-rslora").set("target_modules", json!(["q_proj", "v_proj", "o_proj"]));
    more.refused(&["no tensors for model.layers.0.self_attn.o_proj"]);
    // A pattern leaves it to the tensors.
    Damaged::new("llama-rslora").set("target_modules", json!(".*proj")).load_onto("tiny-llama").unwrap();
    let renamed = |to: &str| llama().header(&format!("{q}.lora_A.weight"), to);
    renamed("model.layers.0.self_attn.q_proj.lora_X.weight").refused(&["lora_X.weight", "is not supported"]);
    renamed("model.layers.9.self_attn.q_proj.lora_A.weight").refused(&["no linear layer model.layers.9"]);
    llama().header("F32", "I32").refused(&["data type I32"]);
    llama().header("F32", "F64").refused(&["adapter_model.safetensors"]);

    let empty = tempfile::tempdir().unwrap();
    let config = ModelConfig::read(&fixture("models/tiny-llama")).unwrap();
    let refused = |dir: &Path| config.check_adapter(dir).unwrap_err().to_string();
    assert!(refused(empty.path()).contains("holds no adapter_config.json"));
    assert!(refused(&empty.path().join("none")).contains("no such adapter folder"));
    fs::copy(folder("llama").join("adapter_config.json"), empty.path().join("adapter_config.json")).unwrap();
    assert!(refused(empty.path()).contains("holds no adapter_model.safetensors"));
    fs::write(empty.path().join("adapter_model.bin"), "x").unwrap();
    assert!(refused(empty.path()).contains("a pickled adapter"));
    let model = Model::load(empty.path(), &LoadOptions::default()).unwrap_err().to_string();
    assert!(model.contains("is an adapter, not a model"), "{model}");
    for text in ["", "[]", "{\"r\": 4", "{}"] {
        fs::write(empty.path().join("adapter_config.json"), text).unwrap();
        assert!(refused(empty.path()).contains("adapter_config.json"), "{text}");
    }
}

#[test]
fn truncated_tensors_are_refused() {
    let adapter = Damaged::new("llama-rslora");
    let path = adapter.0.path().join("adapter_model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(97) {
        fs::write(&path, &whole[..length]).unwrap();
        adapter.refused(&["adapter_model.safetensors"]);
    }
}

/// What a preference loss compares with must not be noisy: while the policy drops inputs, its base, its copy and
/// their replicas do not.
#[test]
fn references_drop_nothing_while_the_policy_does() {
    let (model, expected) = adapted("llama");
    let groups = expected.groups();
    let references = [model.base().unwrap(), model.frozen_copy().unwrap()];
    let replicas = references.each_ref().map(|reference| reference.replica().unwrap());
    let values = || references.iter().chain(&replicas).map(|r| log_probs(r, &groups)).collect::<Vec<_>>();
    let (policy, before) = (log_probs(&model, &groups), values());
    assert_eq!((&before[0], &before[1]), (&before[2], &before[3]));
    model.begin_step(Some(4));
    assert_ne!(log_probs(&model, &groups), policy, "the adapter of the fixture drops inputs");
    assert_eq!(values(), before);
    let batch = PackedBatch::new(&groups).unwrap();
    for reference in references.iter().chain(&replicas) {
        assert!(reference.parameters().is_empty());
        assert!(!reference.logits(&batch).unwrap().requires_grad());
    }
}

fn classifier(name: &str) -> SequenceClassifier {
    align_core::threads::prepare_compute_thread();
    SequenceClassifier::from_causal_lm(&fixture(&format!("models/{name}")), 5, &LoadOptions::default())
        .unwrap()
}

fn scores(model: &SequenceClassifier, groups: &[PromptGroup]) -> Vec<f64> {
    let scores = model.scores(&PackedBatch::new(groups).unwrap()).unwrap();
    Vec::try_from(scores.detach().to_kind(Kind::Double)).unwrap()
}

/// `fixtures/lora/make_classifier.py` made the adapter, its head and the scores with PEFT.
#[test]
fn scores_of_an_adapter_of_peft_are_those_of_peft() {
    let expected: Value =
        serde_json::from_slice(&fs::read(folder("llama-classifier").join("expected.json")).unwrap()).unwrap();
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let of = |g: &Value| {
        group(&ids(&g["prompt"]), &g["completions"].as_array().unwrap().iter().map(ids).collect::<Vec<_>>())
    };
    let groups: Vec<PromptGroup> = expected["groups"].as_array().unwrap().iter().map(of).collect();
    let lists = expected["groups"].as_array().unwrap().iter().flat_map(|g| g["scores"].as_array().unwrap());
    let theirs: Vec<f64> = lists.map(|score| score.as_f64().unwrap()).collect();
    let mut model = classifier("tiny-llama");
    let options = AdapterOptions { trainable: Trainable::All, seed: 0 };
    model.load_adapter(&folder("llama-classifier"), &options).unwrap();
    assert_close(&scores(&model, &groups), &theirs, 1e-4);
    assert_close(&scores(&model.replica().unwrap(), &groups), &theirs, 1e-4);
    assert_close(&scores(&model.frozen_copy().unwrap(), &groups), &theirs, 1e-4);
    model.merge_adapter().unwrap();
    let out = tempfile::tempdir().unwrap();
    model.save(&out.path().join("m"), SaveDtype::F32).unwrap();
    let merged = SequenceClassifier::load(&out.path().join("m"), &LoadOptions::default()).unwrap();
    assert_close(&scores(&merged, &groups), &theirs, 1e-4);
}

#[test]
fn an_adapter_of_a_reward_model_trains_the_head_in_full_and_is_read_back() {
    for name in ["tiny-llama", "tiny-gpt2", "tiny-bloom"] {
        let mut model = classifier(name);
        let before = scores(&model, &rows());
        model.add_adapter(&LoraConfig { rank: 2, alpha: 4.0, ..Default::default() }, 0).unwrap();
        assert_eq!(scores(&model, &rows()), before, "{name}: a new adapter changes nothing");
        let parameters = ScoreModel::parameters(&model);
        let head = parameters.last().unwrap();
        assert_eq!(head.name, "base_model.model.score.weight");
        assert_eq!(parameters.len(), 2 * model.config().linear_layers().unwrap().len() + 1);
        let counted: usize = parameters.iter().map(|it| it.tensor.numel()).sum();
        let lora = LoraConfig { rank: 2, alpha: 4.0, ..Default::default() };
        assert_eq!(model.config().check_lora(&lora).unwrap(), counted, "{name}");
        let batch = PackedBatch::new(&rows()).unwrap();
        model.scores(&batch).unwrap().sum(Kind::Double).backward();
        assert!(head.tensor.grad().abs().max().double_value(&[]) > 0.0, "{name}: the head has no gradient");
        // A head that is trained: the base's own, which others may share, stays.
        let _ = align_core::tch::no_grad(|| head.tensor.shallow_clone().multiply_scalar_(-2.0));
        let doubled: Vec<f64> = before.iter().map(|score| -2.0 * score).collect();
        assert_close(&scores(&model, &rows()), &doubled, 1e-5);
        let out = tempfile::tempdir().unwrap();
        model.save_adapter_with(&out.path().join("a"), &Companions::default()).unwrap();
        let config = json_of(&out.path().join("a/adapter_config.json"));
        assert_eq!(
            (&config["task_type"], &config["modules_to_save"]),
            (&json!("SEQ_CLS"), &json!(["score"]))
        );
        let mut again = classifier(name);
        again.load_adapter(&out.path().join("a"), &AdapterOptions::default()).unwrap();
        assert_eq!(scores(&again, &rows()), scores(&model, &rows()), "{name}");
        // A language model has no use for it, and a reward model none for a language model's.
        let error = base(name).load_adapter(&out.path().join("a"), &AdapterOptions::default()).unwrap_err();
        assert!(error.to_string().contains("modules_to_save"), "{error}");
    }
    let error =
        classifier("tiny-llama").load_adapter(&folder("llama"), &AdapterOptions::default()).unwrap_err();
    assert!(error.to_string().contains("task_type"), "{error}");
}
