//! Score heads against transformers, value heads against their definition, and what is saved against what was loaded.

use std::fs;
use std::path::{Path, PathBuf};

use align_core::tch::{Kind, Tensor};
use align_core::{
    CausalLm, PackedBatch, Parameter, ScoreModel, ValueModel,
    align_types::{Completion, PromptGroup},
};
use align_lm::{
    Error, LoadOptions, Model, PolicyWithValue, SUPPORTED_FAMILIES, SaveDtype, SequenceClassifier, Trainable,
    ValueNetwork,
};
use align_testkit::assert_close;
use serde::Deserialize;
use serde_json::{Map, Value, json};

const CLASSIFIERS: [&str; 8] = ["llama", "qwen2", "gpt2", "gpt-neox", "bloom", "mistral", "gemma2", "glm4"];

/// Written by `fixtures/classifiers/make.py`.
#[derive(Deserialize)]
struct Expected {
    groups: Vec<ExpectedGroup>,
}

#[derive(Deserialize)]
struct ExpectedGroup {
    prompt: Vec<u32>,
    completions: Vec<Vec<u32>>,
    scores: Vec<f64>,
    padded: Vec<f64>,
}

fn classifier(name: &str) -> PathBuf {
    align_testkit::fixture(&format!("classifiers/{name}"))
}

fn causal(name: &str) -> PathBuf {
    align_testkit::fixture(&format!("models/{name}"))
}

fn load(dir: &Path) -> Result<SequenceClassifier, Error> {
    align_core::threads::prepare_compute_thread();
    SequenceClassifier::load(dir, &LoadOptions::default())
}

fn expected(name: &str) -> Expected {
    serde_json::from_slice(&fs::read(classifier(name).join("expected.json")).unwrap()).unwrap()
}

fn group(prompt: &[u32], completions: &[Vec<u32>]) -> PromptGroup {
    PromptGroup::new(prompt.to_vec(), completions.iter().cloned().map(Completion::new).collect())
}

fn groups(expected: &Expected) -> Vec<PromptGroup> {
    expected.groups.iter().map(|g| group(&g.prompt, &g.completions)).collect()
}

fn unpacked(groups: &[PromptGroup]) -> Vec<PromptGroup> {
    let one = |g: &PromptGroup, c: &Completion| PromptGroup::new(g.prompt.clone(), vec![c.clone()]);
    groups.iter().flat_map(|g| g.completions.iter().map(move |c| one(g, c))).collect()
}

fn doubles(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn scores(model: &dyn ScoreModel, groups: &[PromptGroup]) -> Vec<f64> {
    let scores = model.scores(&PackedBatch::new(groups).unwrap()).unwrap();
    assert_eq!(scores.kind(), Kind::Float);
    doubles(&scores)
}

fn json_of(path: &Path) -> Map<String, Value> {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn gradients(parameters: &[Parameter]) -> Vec<Vec<f64>> {
    let out = parameters.iter().map(|p| doubles(&p.tensor.grad())).collect();
    align_core::clear_gradients(parameters.iter().map(|p| &p.tensor)).unwrap();
    out
}

#[test]
fn scores_are_those_of_transformers() {
    for name in CLASSIFIERS {
        let (model, expected) = (load(&classifier(name)).unwrap(), expected(name));
        assert_eq!(model.notes(), Vec::<String>::new(), "{name}");
        let theirs: Vec<f64> = expected.groups.iter().flat_map(|g| g.scores.clone()).collect();
        assert_close(&scores(&model, &groups(&expected)), &theirs, 1e-4);
        // Padding behind an answer is skipped, also where it is longer than the answer.
        let pad = model.config().raw()["pad_token_id"].as_u64().unwrap() as u32;
        let behind = |c: &Vec<u32>| [c.as_slice(), &[pad, pad]].concat();
        let padded: Vec<PromptGroup> = (expected.groups.iter())
            .map(|g| group(&g.prompt, &g.completions.iter().map(behind).collect::<Vec<_>>()))
            .collect();
        let theirs: Vec<f64> = expected.groups.iter().flat_map(|g| g.padded.clone()).collect();
        assert_close(&scores(&model, &padded), &theirs, 1e-4);
        // An answer of nothing but padding: the prompt's last token speaks.
        let (prompt, end) = expected.groups[1].prompt.split_at(6);
        let bare = scores(&model, &[group(&expected.groups[1].prompt, &[vec![pad]])]);
        assert_close(&bare, &scores(&model, &[group(prompt, &[end.to_vec()])]), 1e-5);
    }
}

#[test]
fn packed_groups_are_separate_rows_in_scores_and_gradients() {
    for name in CLASSIFIERS {
        let (model, expected) = (load(&classifier(name)).unwrap(), expected(name));
        let (packed, rows) = (groups(&expected), unpacked(&groups(&expected)));
        assert_close(&scores(&model, &packed), &scores(&model, &rows), 1e-5);
        let factors = Tensor::from_slice(&[0.3f32, -1.0, 0.7, 0.2, -0.4, 1.1, 0.6, -0.5, 0.9]);
        let parameters = ScoreModel::parameters(&model);
        let gradients_of = |groups: &[PromptGroup]| {
            let scores = model.scores(&PackedBatch::new(groups).unwrap()).unwrap();
            (scores * &factors).sum(Kind::Float).backward();
            gradients(&parameters)
        };
        for ((a, b), p) in gradients_of(&packed).iter().zip(&gradients_of(&rows)).zip(&parameters) {
            let largest = b.iter().fold(0.0f64, |most, x| most.max(x.abs()));
            let off = a.iter().zip(b).fold(0.0f64, |most, (x, y)| most.max((x - y).abs()));
            assert!(largest > 0.0 && off <= 2e-5 * largest, "{name}: {} {off:e} of {largest:e}", p.name);
        }
    }
}

/// A model that computes activations again has only the end of its graph in the loss: its own backward pass finds the
/// rest, for scores and for values.
#[test]
fn gradients_are_the_same_when_activations_are_computed_again() {
    let again = LoadOptions { recompute: true, ..LoadOptions::default() };
    let batch = PackedBatch::new(&[group(&[3, 4, 5], &[vec![6, 7, 1], vec![8]])]).unwrap();
    let score = |options: &LoadOptions| {
        let model = SequenceClassifier::load(&classifier("llama"), options).unwrap();
        model.backward(&model.scores(&batch).unwrap().sum(Kind::Float)).unwrap();
        gradients(&ScoreModel::parameters(&model))
    };
    let value = |options: &LoadOptions| {
        let model = ValueNetwork::on_folder(&causal("tiny-bloom"), 0, options).unwrap();
        model.backward(&model.values(&batch).unwrap().values().sum(Kind::Float)).unwrap();
        gradients(&ValueModel::parameters(&model))
    };
    let both = |options: &LoadOptions| {
        let policy = Model::load(&causal("tiny-qwen2"), options).unwrap();
        let model = PolicyWithValue::new(policy, 0).unwrap();
        let (logits, values) = model.logits_and_values(&batch).unwrap();
        let loss = logits.square().mean(Kind::Float) + values.values().sum(Kind::Float);
        CausalLm::backward(&model, &loss).unwrap();
        gradients(&CausalLm::parameters(&model))
    };
    let plain = LoadOptions::default();
    for (kept, again) in
        [(score(&plain), score(&again)), (value(&plain), value(&again)), (both(&plain), both(&again))]
    {
        assert!(kept.len() > 10);
        for (kept, again) in kept.iter().zip(&again) {
            assert!(kept.iter().any(|x| *x != 0.0));
            assert_close(again, kept, 1e-5);
        }
    }
}

/// Along its own direction a gradient is as steep as it is long: (f(θ + εd) − f(θ − εd)) / 2ε = |g| for d = g / |g|.
#[test]
fn gradients_are_those_of_finite_differences() {
    const STEP: f64 = 1e-2;
    for name in CLASSIFIERS {
        let (model, expected) = (load(&classifier(name)).unwrap(), expected(name));
        let batch = PackedBatch::new(&groups(&expected)[1..2]).unwrap();
        // The margin of a pair.
        let margin = || model.scores(&batch).unwrap().get(0) - model.scores(&batch).unwrap().get(1);
        margin().backward();
        let parameters = ScoreModel::parameters(&model);
        let directions: Vec<Tensor> = parameters.iter().map(|p| p.tensor.grad().copy()).collect();
        let squares: f64 = directions.iter().map(|d| d.square().sum(Kind::Double).double_value(&[])).sum();
        let length = squares.sqrt();
        let moved = |by: f64| {
            let _guard = align_core::no_grad();
            for (p, d) in parameters.iter().zip(&directions) {
                let _ = p.tensor.shallow_clone().g_add_(&(d * (by / length)));
            }
            margin().double_value(&[])
        };
        let (up, down) = (moved(STEP), moved(-2.0 * STEP));
        let slope = (up - down) / (2.0 * STEP);
        assert!((slope - length).abs() < 2e-2 * length, "{name}: {slope} against {length}");
    }
}

#[test]
fn what_is_saved_is_byte_equal_to_what_was_loaded() {
    for name in CLASSIFIERS {
        let out = tempfile::tempdir().unwrap();
        load(&classifier(name)).unwrap().save(out.path(), SaveDtype::Source).unwrap();
        let file = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
        assert!(file(out.path()) == file(&classifier(name)), "{name}");
        assert_eq!(json_of(&out.path().join("config.json")), json_of(&classifier(name).join("config.json")));
    }
}

/// One folder of each family.
fn families() -> Vec<PathBuf> {
    let folders =
        ["llama", "mistral", "qwen2", "qwen3", "phi3", "gpt2", "gpt-neox", "bloom", "gemma", "gemma2"];
    let rest = ["gemma3", "glm", "glm4", "baichuan2-13b", "chatglm"];
    let families: Vec<_> = folders.iter().chain(&rest).map(|name| causal(&format!("tiny-{name}"))).collect();
    assert_eq!(families.len(), SUPPORTED_FAMILIES.len());
    families
}

#[test]
fn a_fresh_head_goes_on_every_family_and_is_read_back() {
    let rows = [group(&[3, 4, 5], &[vec![6, 7, 1], vec![8, 1]])];
    for dir in families() {
        let make = |seed| SequenceClassifier::from_causal_lm(&dir, seed, &LoadOptions::default()).unwrap();
        let model = make(5);
        assert_eq!(model.notes(), Vec::<String>::new(), "{dir:?}");
        let parameters = ScoreModel::parameters(&model);
        let head = parameters.iter().find(|p| p.name == "score.weight").unwrap();
        let width = model.config().sizes().hidden_size as i64;
        assert_eq!(head.tensor.size(), [1, width]);
        assert!(parameters.iter().all(|p| !p.name.contains("lm_head") && !p.name.contains("embed_out")));
        assert_eq!(scores(&make(5), &rows), scores(&model, &rows));
        assert_ne!(scores(&make(6), &rows), scores(&model, &rows));

        let out = tempfile::tempdir().unwrap();
        model.save(out.path(), SaveDtype::Source).unwrap();
        let config = json_of(&out.path().join("config.json"));
        let class = config["architectures"][0].as_str().unwrap();
        assert!(class.len() > 25 && class.ends_with("ForSequenceClassification"), "{class}");
        assert_eq!(
            (&config["id2label"], &config["label2id"]),
            (&json!({"0": "LABEL_0"}), &json!({"LABEL_0": 0}))
        );
        assert_ne!(config["pad_token_id"], config["eos_token_id"]);
        let again = load(out.path()).unwrap();
        assert_eq!(scores(&again, &rows), scores(&model, &rows));
        assert_eq!(scores(&again.frozen_copy().unwrap(), &rows), scores(&model, &rows));
    }
}

/// Variance 1/(H + 1), from 500 heads of 32 numbers: the standard error of the variance is below 1 %.
#[test]
fn heads_are_drawn_with_the_variance_of_the_papers() {
    let dir = causal("tiny-qwen3");
    let options = LoadOptions::default();
    let all: Vec<Tensor> = (0..500)
        .map(|seed| match seed % 2 {
            0 => ScoreModel::parameters(&SequenceClassifier::from_causal_lm(&dir, seed, &options).unwrap()),
            _ => ValueModel::parameters(&ValueNetwork::on_folder(&dir, seed, &options).unwrap()),
        })
        .map(|parameters| {
            let head =
                parameters.iter().find(|p| ["score.weight", "v_head.weight"].contains(&p.name.as_str()));
            head.unwrap().tensor.detach().to_kind(Kind::Double)
        })
        .collect();
    let all = Tensor::cat(&all, 1);
    assert_eq!(all.numel(), 500 * 32);
    let (mean, variance) = (all.mean(Kind::Double).double_value(&[]), all.var(true).double_value(&[]));
    assert!(mean.abs() < 4.0 * (1.0f64 / 33.0 / 16000.0).sqrt(), "{mean}");
    assert!((variance * 33.0 - 1.0).abs() < 0.04, "{variance}");
}

fn with_config(dir: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    fs::copy(dir.join("model.safetensors"), out.path().join("model.safetensors")).unwrap();
    let mut config = json_of(&dir.join("config.json"));
    change(&mut config);
    fs::write(out.path().join("config.json"), Value::Object(config).to_string()).unwrap();
    out
}

#[test]
fn folders_that_are_no_reward_models_are_refused() {
    let refused = |dir: &Path| load(dir).unwrap_err().to_string();
    let missing = refused(&causal("tiny-llama"));
    assert!(missing.contains("missing score.weight: [\"LlamaForCausalLM\"] has no score head"), "{missing}");
    let with =
        |change: fn(&mut Map<String, Value>)| refused(with_config(&classifier("llama"), change).path());
    let two = with(|c| drop(c.insert("id2label".into(), json!({"0": "a", "1": "b"}))));
    assert!(two.contains("id2label = {\"0\":\"a\",\"1\":\"b\"}: expected one label"), "{two}");
    let absent = with(|c| drop(c.remove("id2label")));
    assert!(absent.contains("id2label = missing: expected one label") && absent.contains("there are two"));
    let three = with(|c| {
        c.remove("id2label");
        c.insert("num_labels".into(), json!(3));
    });
    assert!(three.contains("num_labels = 3: expected one label"), "{three}");
    let one = with_config(&classifier("llama"), |c| {
        c.remove("id2label");
        c.insert("num_labels".into(), json!(1));
    });
    load(one.path()).unwrap();
    let wide = with(|c| drop(c.insert("hidden_size".into(), json!(64))));
    assert!(wide.contains("the configuration means"), "{wide}");
}

#[test]
fn the_padding_is_never_the_end() {
    let fresh = |change: &dyn Fn(&mut Map<String, Value>)| {
        let dir = with_config(&causal("tiny-gpt2"), |c| change(c));
        SequenceClassifier::from_causal_lm(dir.path(), 0, &LoadOptions::default()).unwrap()
    };
    let pad = |change: &dyn Fn(&mut Map<String, Value>)| fresh(change).config().raw()["pad_token_id"].clone();
    let set = |c: &mut Map<String, Value>, bos: Value, eos: Value, pad: Value| {
        c.insert("bos_token_id".into(), bos);
        c.insert("eos_token_id".into(), eos);
        c.insert("pad_token_id".into(), pad);
    };
    assert_eq!(pad(&|c| set(c, json!(0), json!(1), json!(2))), 2);
    assert_eq!(pad(&|c| set(c, json!(0), json!([1, 2]), json!(2))), 0);
    assert_eq!(pad(&|c| set(c, json!(1), json!(1), json!(1))), 63);
    assert_eq!(pad(&|c| set(c, json!(63), json!(63), Value::Null)), 62);
    assert_eq!(pad(&|c| set(c, Value::Null, Value::Null, json!(900))), 63);

    let model = fresh(&|c| set(c, json!(0), json!(1), json!(2)));
    let chosen = model.with_pad_token_id(5).unwrap();
    assert_eq!(chosen.config().raw()["pad_token_id"], 5);
    let rows = |end: &[u32]| [group(&[3, 4], &[[&[6, 7], end].concat()])];
    assert_eq!(scores(&chosen, &rows(&[5, 5])), scores(&chosen, &rows(&[])));
    assert_ne!(scores(&chosen, &rows(&[8])), scores(&chosen, &rows(&[])));
    let end = chosen.with_pad_token_id(1).unwrap_err().to_string();
    assert!(
        end.contains("pad_token_id = 1: expected a token of the vocabulary of 64 that ends no answer"),
        "{end}"
    );

    // A folder from elsewhere that pads with the end token is followed, and the user told.
    let dir = with_config(&classifier("llama"), |c| drop(c.insert("pad_token_id".into(), json!(1))));
    let model = load(dir.path()).unwrap();
    assert!(model.notes()[0].contains("pad_token_id = 1 ends answers, too"), "{:?}", model.notes());
    assert_eq!(scores(&model, &rows(&[1])), scores(&model, &rows(&[])));
}

#[test]
fn replicas_share_weights_and_own_their_gradients() {
    let model = load(&classifier("llama")).unwrap();
    let critic = ValueNetwork::on_folder(&causal("tiny-qwen3"), 0, &LoadOptions::default()).unwrap();
    let batch = PackedBatch::new(&[group(&[3, 4], &[vec![5], vec![6, 7]])]).unwrap();
    let (score, value) = (model.replicate().unwrap(), critic.replicate().unwrap());
    let [score, value] = std::thread::spawn(move || {
        score.scores(&batch).unwrap().sum(Kind::Float).backward();
        value.values(&batch).unwrap().values().sum(Kind::Float).backward();
        [score.parameters(), value.parameters()]
    })
    .join()
    .unwrap();
    let ours = [ScoreModel::parameters(&model), ValueModel::parameters(&critic)];
    for (ours, theirs) in ours.iter().flatten().zip([score, value].iter().flatten()) {
        assert_eq!(ours.tensor.data_ptr(), theirs.tensor.data_ptr(), "{}", ours.name);
        assert!(!ours.tensor.grad().defined() && theirs.tensor.grad().defined(), "{}", ours.name);
    }
}

/// The number of a state, from the hidden state of its last token in a row of its own.
fn value_of(hidden: &Model, head: &[Parameter], tokens: &[u32]) -> f64 {
    let batch = PackedBatch::new(&[group(&tokens[..1], &[[&tokens[1..], &[0]].concat()])]).unwrap();
    let row = hidden.hidden_states(&batch).unwrap().get(tokens.len() as i64 - 1);
    let of = |name: &str| head.iter().find(|p| p.name == name).unwrap().tensor.shallow_clone();
    (row.dot(&of("v_head.weight").reshape([-1])) + of("v_head.bias").get(0)).double_value(&[])
}

#[test]
fn values_are_those_of_the_states_of_a_completion() {
    let prompt = [3, 4, 5];
    let completions = [vec![6, 7, 1], vec![8]];
    let batch = PackedBatch::new(&[group(&[9], &[vec![2]]), group(&prompt, &completions)]).unwrap();
    for dir in [causal("tiny-llama"), causal("tiny-gpt2"), causal("tiny-chatglm")] {
        let hidden = Model::load(&dir, &LoadOptions::default()).unwrap();
        let critic = ValueNetwork::on_folder(&dir, 3, &LoadOptions::default()).unwrap();
        let parameters = ValueModel::parameters(&critic);
        {
            // A bias of zero would hide that it is added.
            let _guard = align_core::no_grad();
            let bias = parameters.iter().find(|p| p.name == "v_head.bias").unwrap();
            assert_eq!(bias.tensor.double_value(&[0]), 0.0);
            let _ = bias.tensor.shallow_clone().fill_(0.25);
        }
        let value = |tokens: &[u32]| value_of(&hidden, &parameters, tokens);
        let values = critic.values(&batch).unwrap();
        let before =
            [vec![value(&[9])], (0..3).map(|i| value(&[&prompt, &completions[0][..i]].concat())).collect()];
        let before = [before.concat(), vec![value(&prompt)]].concat();
        assert_close(&doubles(values.values()), &before, 1e-5);
        let after = [&[9, 2][..], &[3, 4, 5, 6, 7, 1], &[3, 4, 5, 8]].map(value);
        assert_close(&doubles(values.after()), &after, 1e-5);
        assert_eq!(values.lens(), [1, 3, 1]);
    }
}

/// A run folder holds critics in units of the reward: v · std + mean, whatever they were trained in.
#[test]
fn rescaled_critics_give_values_in_other_units_also_from_disk() {
    let batch = PackedBatch::new(&[group(&[3, 4, 5], &[vec![6, 7, 1], vec![8]])]).unwrap();
    let (mean, std) = (-3.0, 2.5);
    let expected = |values: &Tensor| doubles(values).into_iter().map(|v| v * std + mean).collect::<Vec<_>>();
    let options = LoadOptions::default();
    let folder = tempfile::tempdir().unwrap();
    let critic = ValueNetwork::on_folder(&causal("tiny-llama"), 3, &options).unwrap();
    {
        let _guard = align_core::no_grad();
        let parameters = ValueModel::parameters(&critic);
        let bias = parameters.iter().find(|p| p.name == "v_head.bias").unwrap();
        let _ = bias.tensor.shallow_clone().fill_(0.25);
    }
    let raw = critic.values(&batch).unwrap();
    critic.rescaled(mean, std).unwrap().save(&folder.path().join("critic"), SaveDtype::F32).unwrap();
    let read = ValueNetwork::load(&folder.path().join("critic"), &options).unwrap().values(&batch).unwrap();
    assert_close(&doubles(read.values()), &expected(raw.values()), 1e-5);
    assert_close(&doubles(read.after()), &expected(raw.after()), 1e-5);
    // The critic itself stays.
    assert!(critic.values(&batch).unwrap().values().equal(raw.values()));

    let pair = PolicyWithValue::new(Model::load(&causal("tiny-llama"), &options).unwrap(), 4).unwrap();
    let raw = ValueModel::values(&pair, &batch).unwrap();
    pair.rescaled(mean, std).unwrap().save(&folder.path().join("pair"), SaveDtype::F32).unwrap();
    let read = PolicyWithValue::load(&folder.path().join("pair"), &options).unwrap();
    let (logits, values) = read.logits_and_values(&batch).unwrap();
    assert_close(&doubles(values.values()), &expected(raw.values()), 1e-5);
    assert!(logits.equal(&pair.logits(&batch).unwrap()));
}

#[test]
fn one_forward_gives_the_logits_of_the_policy_and_values() {
    let batch = PackedBatch::new(&[group(&[3, 4, 5], &[vec![6, 7, 1], vec![8]])]).unwrap();
    for dir in [causal("tiny-llama"), causal("tiny-bloom")] {
        let plain = Model::load(&dir, &LoadOptions::default()).unwrap();
        let both = PolicyWithValue::new(Model::load(&dir, &LoadOptions::default()).unwrap(), 4).unwrap();
        let (logits, values) = both.logits_and_values(&batch).unwrap();
        assert!(logits.equal(&both.logits(&batch).unwrap()));
        // Without values the last block computes fewer rows, which other products round.
        assert!(logits.allclose(&plain.logits(&batch).unwrap(), 1e-5, 1e-6, false));
        assert!(values.values().equal(both.values(&batch).unwrap().values()));
        let parameters = CausalLm::parameters(&both);
        assert_eq!(parameters.len(), plain.parameters().len() + 2);
        let names: Vec<(&str, bool)> = parameters.iter().map(|p| (p.name.as_str(), p.decay)).collect();
        assert_eq!(names[names.len() - 2..], [("v_head.weight", true), ("v_head.bias", false)]);
        // The value loss alone reaches the transformer and its own head, and not the output layer of its own.
        values.values().sum(Kind::Float).backward();
        for p in &parameters {
            assert_eq!(p.tensor.grad().defined(), p.name != "lm_head.weight", "{}", p.name);
        }
    }
    let frozen = LoadOptions { trainable: Trainable::No, ..LoadOptions::default() };
    let frozen = PolicyWithValue::new(Model::load(&causal("tiny-llama"), &frozen).unwrap(), 4).unwrap();
    assert!(ValueModel::parameters(&frozen).is_empty());
}

#[test]
fn value_heads_are_read_back_bit_by_bit() {
    let batch = PackedBatch::new(&[group(&[3, 4, 5], &[vec![6, 7, 1], vec![8]])]).unwrap();
    let numbers = |model: &dyn ValueModel| {
        let values = model.values(&batch).unwrap();
        [doubles(values.values()), doubles(values.after())].concat()
    };
    for name in ["tiny-llama-bf16", "tiny-gpt-neox"] {
        let (dir, options) = (causal(name), LoadOptions::default());
        let out = tempfile::tempdir().unwrap();
        let (shared, separate) = (out.path().join("shared"), out.path().join("separate"));
        let both = PolicyWithValue::new(Model::load(&dir, &options).unwrap(), 1).unwrap();
        both.save_with_tokenizer(&shared, SaveDtype::Source, &dir).unwrap();
        assert_eq!(numbers(&PolicyWithValue::load(&shared, &options).unwrap()), numbers(&both));
        // The model of the pair is the folder it came from, for everybody who reads models.
        let weights = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
        assert!(weights(&shared) == weights(&dir));
        Model::load(&shared, &options).unwrap();

        let critic = ValueNetwork::on_folder(&dir, 1, &options).unwrap();
        assert_eq!(critic.notes(), Vec::<String>::new());
        critic.save(&separate, SaveDtype::Source).unwrap();
        assert_eq!(numbers(&ValueNetwork::load(&separate, &options).unwrap()), numbers(&critic));
        assert_eq!(numbers(&critic), numbers(&both));
        assert!(!String::from_utf8_lossy(&weights(&separate)).contains("lm_head"));
        assert!(!String::from_utf8_lossy(&weights(&separate)).contains("embed_out"));

        let file = separate.join("value_head.safetensors");
        let bytes = fs::read(&file).unwrap();
        let refused = || ValueNetwork::load(&separate, &options).unwrap_err().to_string();
        fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        assert!(refused().contains("truncated or damaged"));
        fs::copy(dir.join("model.safetensors"), &file).unwrap();
        assert!(refused().contains("missing v_head.weight, v_head.bias"), "{}", refused());
        fs::remove_file(&file).unwrap();
        assert!(refused().contains("value_head.safetensors: is missing: this folder holds no value head"));
    }
}

/// The critic of a reward model begins with its scores: the value after a completion is the completion's score.
#[test]
fn a_critic_can_start_from_a_reward_model() {
    let (dir, options) = (classifier("bloom"), LoadOptions::default());
    let groups = [group(&[3, 4, 5], &[vec![6, 7, 1], vec![8]])];
    let critic = ValueNetwork::from_classifier(&dir, &options).unwrap();
    assert_eq!(critic.notes(), Vec::<String>::new());
    let values = critic.values(&PackedBatch::new(&groups).unwrap()).unwrap();
    assert_close(&doubles(values.after()), &scores(&load(&dir).unwrap(), &groups), 1e-6);
    let refused = ValueNetwork::from_classifier(&causal("tiny-bloom"), &options).unwrap_err().to_string();
    assert!(refused.contains("missing score.weight"), "{refused}");
}
