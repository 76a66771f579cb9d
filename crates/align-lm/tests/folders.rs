//! Folders: what is written is read back bit by bit, and what is damaged or hostile is refused by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use align_core::CausalLm;
use align_lm::{Companions, Error, LoadOptions, Model, SaveDtype};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    align_testkit::fixture(&format!("models/{name}"))
}

fn load(dir: &Path) -> Result<Model, Error> {
    Model::load(dir, &LoadOptions::default())
}

fn message(dir: &Path) -> String {
    load(dir).unwrap_err().to_string()
}

/// A copy of a fixture that a test may damage.
fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn json_of(path: &Path) -> Map<String, Value> {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A safetensors file from a header and the number of bytes of data after it.
fn safetensors(header: &Value, data: usize) -> Vec<u8> {
    let text = header.to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn same_weights(a: &Model, b: &Model) -> bool {
    let (a, b) = (a.parameters(), b.parameters());
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.name == b.name && a.tensor.equal(&b.tensor))
}

fn fill(model: &Model, value: f64) {
    let _guard = align_core::no_grad();
    model.parameters().iter().for_each(|p| drop(p.tensor.shallow_clone().fill_(value)));
}

#[test]
fn what_is_saved_is_byte_equal_to_what_was_loaded() {
    let mut compared = 0;
    for entry in fs::read_dir(fixture("")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // The shards of one fixture become one file.
        if !fixture(&name).join("model.safetensors").exists() {
            continue;
        }
        let name = name.as_str();
        compared += 1;
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("new/model");
        load(&fixture(name)).unwrap().save_with_tokenizer(&dir, SaveDtype::Source, &fixture(name)).unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let file = entry.unwrap().file_name();
            let (theirs, ours) = (fixture(name).join(&file), dir.join(&file));
            match file.to_str().unwrap() {
                "expected.json" => assert!(!ours.exists()),
                "config.json" => assert_eq!(json_of(&ours), json_of(&theirs)),
                _ => assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{name}/{file:?}"),
            }
        }
    }
    assert!(compared > 20);
}

#[test]
fn what_remote_code_needs_is_copied() {
    let out = tempfile::tempdir().unwrap();
    let (from, dir) = (out.path().join("from"), out.path().join("model"));
    fs::create_dir(&from).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(fixture("tiny-baichuan-7b").join(name), from.join(name)).unwrap();
    }
    let kept = [
        "added_tokens.json",
        "configuration_baichuan.py",
        "generation_utils.py",
        "modeling_baichuan.py",
        "quantizer.py",
        "tokenization_baichuan.py",
        "tokenizer.model",
        "tokenizer_config.json",
    ];
    for name in kept.iter().chain(&["notes.txt", "training_args.bin", "pytorch_model.bin.index.json"]) {
        fs::write(from.join(name), name).unwrap();
    }
    fs::create_dir(from.join("folder.py")).unwrap();
    load(&from).unwrap().save_with_tokenizer(&dir, SaveDtype::Source, &from).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !["config.json", "model.safetensors"].contains(&name.as_str()));
    names.sort();
    assert_eq!(names, kept);
    assert!(kept.iter().all(|name| fs::read_to_string(dir.join(name)).unwrap() == *name));
}

#[test]
fn shards_become_one_file_and_tying_is_kept() {
    let out = tempfile::tempdir().unwrap();
    let original = load(&fixture("tiny-llama-tied-sharded")).unwrap();
    let dir = out.path().join("model");
    original.save(&dir, SaveDtype::Source).unwrap();
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
    let text = fs::read(dir.join("model.safetensors")).unwrap();
    assert!(!String::from_utf8_lossy(&text).contains("lm_head"));
    assert!(same_weights(&load(&dir).unwrap(), &original));
}

#[test]
fn the_data_type_can_be_changed_and_config_json_says_so() {
    let out = tempfile::tempdir().unwrap();
    let narrow = load(&fixture("tiny-llama-bf16")).unwrap();
    let (wide, again) = (out.path().join("wide"), out.path().join("again"));
    narrow.save(&wide, SaveDtype::F32).unwrap();
    assert_eq!(json_of(&wide.join("config.json"))["dtype"], "float32");
    let loaded = load(&wide).unwrap();
    assert!(same_weights(&loaded, &narrow));
    loaded.save(&again, SaveDtype::Bf16).unwrap();
    let bytes = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert!(bytes(&again) == bytes(&fixture("tiny-llama-bf16")));
    assert_eq!(json_of(&again.join("config.json"))["dtype"], "bfloat16");
}

#[test]
fn a_model_folder_is_replaced_and_anything_else_is_left_alone() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("model");
    let model = load(&fixture("tiny-llama")).unwrap();
    model.save(&dir, SaveDtype::Source).unwrap();
    // Left by a killed save.
    fs::create_dir(out.path().join(".model.partial")).unwrap();
    fs::write(out.path().join(".model.partial/rubbish"), "x").unwrap();
    fill(&model, 0.25);
    model.save(&dir, SaveDtype::Source).unwrap();
    assert!(same_weights(&load(&dir).unwrap(), &model));
    let left: Vec<_> = fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["model"]);

    fs::write(out.path().join("notes.txt"), "mine").unwrap();
    let refused = model.save(out.path(), SaveDtype::Source).unwrap_err().to_string();
    assert!(refused.contains("is not empty and holds no model of this kind"), "{refused}");
    let refused = model.save(&out.path().join("notes.txt"), SaveDtype::Source).unwrap_err().to_string();
    assert!(refused.contains("is a file"), "{refused}");
    assert_eq!(fs::read_to_string(out.path().join("notes.txt")).unwrap(), "mine");
}

/// Runs this test again as a child process, in which `CHILD` names the folder to save to.
const CHILD: &str = "ALIGN_LM_TEST_SAVE_TO";

fn child(test: &str, dir: &Path, before: &str) -> Command {
    let mut command = Command::new("sh");
    let script = format!("{before} exec \"$0\" --exact {test} --nocapture");
    command.arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env(CHILD, dir);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A limit on the size of files stands for a full disk: the write fails half-way.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_the_old_folder_stays() {
    let model = load(&fixture("tiny-llama")).unwrap();
    if let Some(dir) = std::env::var_os(CHILD) {
        fill(&model, 0.5);
        let error = model.save(Path::new(&dir), SaveDtype::Source).unwrap_err();
        assert!(matches!(error, Error::Io { doing: "cannot be written", .. }), "{error}");
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("model");
    model.save(&dir, SaveDtype::Source).unwrap();
    // 64 blocks of at most 1024 bytes; the weights need 158 kB.
    let test = "a_full_disk_is_an_error_and_the_old_folder_stays";
    let status = child(test, &dir, "trap '' XFSZ; ulimit -f 64;").status().unwrap();
    assert!(status.success(), "the child did not see the error");
    assert!(same_weights(&load(&dir).unwrap(), &model));
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1, "nothing half-written is left");
}

#[cfg(unix)]
#[test]
fn a_killed_save_leaves_a_whole_folder_or_none() {
    if let Some(dir) = std::env::var_os(CHILD) {
        let model = load(&fixture("tiny-llama")).unwrap();
        for round in 0.. {
            fill(&model, f64::from(round % 7));
            model.save(Path::new(&dir), SaveDtype::Source).unwrap();
        }
    }
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("model");
    for round in 0..8u64 {
        let test = "a_killed_save_leaves_a_whole_folder_or_none";
        let mut process = child(test, &dir, "").spawn().unwrap();
        while !dir.exists() {
            assert!(process.try_wait().unwrap().is_none(), "the child ended by itself");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(300 + 7 * round));
        process.kill().unwrap();
        process.wait().unwrap();
        // Killed between two renames, the folder before is whole under its hidden name.
        let whole = if dir.exists() { dir.clone() } else { out.path().join(".model.replaced") };
        // Every save fills all weights with one number: two numbers would be two saves.
        let weights = load(&whole).unwrap().parameters();
        let number = weights[0].tensor.double_value(&[0, 0]);
        assert!(weights.iter().all(|p| p.tensor.eq(number).all().int64_value(&[]) == 1));
    }
}

/// As a kill between the two renames leaves it.
#[test]
fn an_interrupted_save_is_told_and_mended_by_the_next() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("model");
    let model = load(&fixture("tiny-llama")).unwrap();
    model.save(&dir, SaveDtype::Source).unwrap();
    let hidden = out.path().join(".model.replaced");
    fs::rename(&dir, &hidden).unwrap();
    let told = message(&dir);
    assert!(
        told.contains("save of this folder was interrupted") && told.contains(".model.replaced"),
        "{told}"
    );
    assert_eq!(align_lm::interrupted_save(&dir), Some(hidden));
    // A save that fails brings the old folder back, one that succeeds replaces it.
    let missing = out.path().join("no-such-folder");
    assert!(model.save_with_tokenizer(&dir, SaveDtype::Source, &missing).is_err());
    fill(&model, 0.25);
    model.save(&dir, SaveDtype::Source).unwrap();
    assert!(same_weights(&load(&dir).unwrap(), &model));
    assert_eq!(align_lm::interrupted_save(&dir), None);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1, "nothing is left beside the folder");
}

/// What was read at the beginning is written at the end, whatever became of the files.
#[test]
fn companions_outlive_their_folder_and_a_missing_folder_is_an_error() {
    let source = copy("tiny-llama");
    let model = load(source.path()).unwrap();
    let companions = Companions::read(source.path()).unwrap();
    let tokenizer = fs::read(source.path().join("tokenizer.json")).unwrap();
    let path = source.path().to_owned();
    drop(source);
    let out = tempfile::tempdir().unwrap();
    let gone = model.save_with_tokenizer(&out.path().join("a"), SaveDtype::Source, &path).unwrap_err();
    assert!(gone.to_string().contains(path.to_str().unwrap()), "{gone}");
    assert!(!out.path().join("a").exists());
    model.save_with(&out.path().join("b"), SaveDtype::Source, &companions).unwrap();
    assert!(fs::read(out.path().join("b/tokenizer.json")).unwrap() == tokenizer);
}

/// A run that is continued from float32 ends in the data type of its base.
#[test]
fn data_types_can_be_taken_from_another_folder() {
    let out = tempfile::tempdir().unwrap();
    let (wide, narrow) = (out.path().join("wide"), out.path().join("narrow"));
    let base = load(&fixture("tiny-llama-bf16")).unwrap();
    assert_eq!(base.source_dtype(), "bfloat16");
    base.save(&wide, SaveDtype::F32).unwrap();
    let mut model = load(&wide).unwrap();
    assert_eq!(model.source_dtype(), "float32");
    model.adopt_dtypes(&fixture("tiny-llama-bf16")).unwrap();
    assert_eq!(model.source_dtype(), "bfloat16");
    model.save(&narrow, SaveDtype::Source).unwrap();
    let bytes = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert!(bytes(&narrow) == bytes(&fixture("tiny-llama-bf16")));
    assert!(model.adopt_dtypes(&fixture("tiny-gpt2")).is_err());
}

#[test]
fn damaged_weights_are_refused_with_file_and_tensor() {
    let entry = |dtype: &str, shape: Value, from: u64, to: u64| json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]});
    let file = |header: Value, data| safetensors(&header, data);
    let name = "model.embed_tokens.weight";
    let whole = fs::read(fixture("tiny-llama").join("model.safetensors")).unwrap();
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let two = |a: Value, b: Value| json!({name: a, "x": b});
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "shorter than the 8 bytes"),
        (huge, "claims a header of 18446744073709551615 bytes"),
        (whole[..1000].to_vec(), "truncated or no safetensors"),
        (whole[..whole.len() - 1].to_vec(), "the file is truncated or damaged"),
        ([whole.as_slice(), &[0]].concat(), "has 1 bytes that belong to no tensor"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), "Git LFS pointer"),
        (safetensors(&json!([1, 2]), 0), "its header is no JSON object"),
        (
            file(json!({name: entry("F32", json!([2, 2]), 0, 16)}), 15),
            "\"model.embed_tokens.weight\": its data are said to lie at 0..16 of 15 bytes",
        ),
        (file(json!({name: entry("F32", json!([2, 2]), 16, 0)}), 16), "lie at 16..0"),
        (
            file(json!({name: entry("F32", json!([3, 2]), 0, 16)}), 16),
            "F32 of shape [3, 2] does not fill 16 bytes",
        ),
        (file(json!({name: entry("F32", json!([u64::MAX, u64::MAX]), 0, 16)}), 16), "does not fill 16 bytes"),
        (
            file(json!({name: entry("F99", json!([2, 2]), 0, 16)}), 16),
            "\"model.embed_tokens.weight\": bad header entry",
        ),
        (file(json!({name: entry("F32", json!([-2, 2]), 0, 16)}), 16), "bad header entry"),
        (
            file(two(entry("F32", json!([2]), 0, 8), entry("F32", json!([2]), 4, 12)), 12),
            "\"x\": its data overlap",
        ),
        (
            file(two(entry("F32", json!([2]), 0, 8), entry("F32", json!([2]), 9, 17)), 17),
            "\"x\": its data leave a gap",
        ),
    ];
    let dir = copy("tiny-llama");
    let path = dir.path().join("model.safetensors");
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let message = message(dir.path());
        assert!(message.starts_with(path.to_str().unwrap()) && message.contains(expected), "{message}");
    }
}

#[test]
fn an_index_that_lies_is_refused() {
    let dir = copy("tiny-llama-tied-sharded");
    let path = dir.path().join("model.safetensors.index.json");
    let original = json_of(&path);
    let with = |tensor: &str, file: Value| {
        let mut index = original.clone();
        index["weight_map"][tensor] = file;
        fs::write(&path, Value::Object(index).to_string()).unwrap();
        message(dir.path())
    };
    let name = "model.norm.weight";
    for outside in ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b"] {
        let message = with(name, json!(outside));
        assert!(message.contains("not the name of a file of this folder"), "{message}");
    }
    assert!(with(name, json!(3)).contains("\"model.norm.weight\" lies in 3"));
    let missing = with(name, json!("model-9.safetensors"));
    assert!(missing.contains("model-9.safetensors: is missing") && missing.contains(name), "{missing}");
    let shard = original["weight_map"]["model.embed_tokens.weight"].clone();
    assert_ne!(shard, original["weight_map"][name]);
    assert!(with(name, shard).contains("has no tensor \"model.norm.weight\""));
    fs::write(&path, "{\"weight_map\": 1}").unwrap();
    assert!(message(dir.path()).contains("has no object \"weight_map\""));
    fs::write(&path, "{\"weight_map\": ").unwrap();
    assert!(message(dir.path()).contains("not valid JSON"));
}

#[test]
fn weights_that_contradict_the_configuration_are_refused_before_they_are_read() {
    let dir = copy("tiny-llama");
    let path = dir.path().join("config.json");
    let original = json_of(&path);
    let with = |key: &str, value: Value| {
        let mut config = original.clone();
        config[key] = value;
        fs::write(&path, Value::Object(config).to_string()).unwrap();
        message(dir.path())
    };
    let deeper = with("num_hidden_layers", json!(3));
    assert!(deeper.contains("missing model.layers.2.self_attn.q_proj.weight"), "{deeper}");
    assert!(deeper.contains("and 4 more"), "{deeper}");
    let wider = with("intermediate_size", json!(1 << 20));
    let expected = "model.layers.0.mlp.gate_proj.weight is [64, 32], the configuration means [1048576, 32]";
    assert!(wider.contains(expected), "{wider}");
    assert!(with("vocab_size", json!(321)).contains("model.embed_tokens.weight is [320, 32]"));
    assert!(with("attention_bias", json!(true)).contains("missing model.layers.0.self_attn.q_proj.bias"));
    let tied = with("tie_word_embeddings", json!(true));
    assert!(
        tied.contains("tie_word_embeddings is true, but lm_head.weight and model.embed_tokens.weight"),
        "{tied}"
    );
    assert!(with("model_type", json!("t5")).contains("model_type \"t5\" is not supported; supported: llama"));
    fs::remove_file(&path).unwrap();
    assert!(message(dir.path()).contains("config.json: cannot be read"));
}

#[test]
fn other_data_types_and_missing_weights_are_named() {
    let dir = copy("tiny-llama");
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, with_first_replaced(&bytes, b"F32", b"I32")).unwrap();
    let integer = message(dir.path());
    assert!(integer.contains("tensor \"lm_head.weight\" of data type I32 is not supported"), "{integer}");
    fs::remove_file(&path).unwrap();
    let none = message(dir.path());
    assert!(
        none.contains("holds none of model.safetensors, model.safetensors.index.json, pytorch_model.bin")
    );
}

fn with_first_replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn superfluous_tensors_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let model = load(&fixture("tiny-llama")).unwrap();
    model.save(dir.path(), SaveDtype::Source).unwrap();
    // Two layers in the file, one in the configuration.
    let path = dir.path().join("config.json");
    let mut config = json_of(&path);
    config["num_hidden_layers"] = json!(1);
    fs::write(&path, Value::Object(config).to_string()).unwrap();
    let smaller = load(dir.path()).unwrap();
    assert_eq!(smaller.unused_tensors().len(), 9);
    assert!(
        smaller.notes()[0].contains("9 tensors of the checkpoint are not used, the first is model.layers.1.")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens to the header, the answer is a model or an error.
    #[test]
    fn damaged_headers_never_panic(at in 0usize..2200, bytes in prop::collection::vec(any::<u8>(), 1..6)) {
        let dir = copy("tiny-llama-mha-bias");
        let path = dir.path().join("model.safetensors");
        let mut file = fs::read(&path).unwrap();
        file[at..at + bytes.len()].copy_from_slice(&bytes);
        fs::write(&path, file).unwrap();
        if let Err(error) = load(dir.path()) {
            prop_assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
        }
    }
}
