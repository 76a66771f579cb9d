//! What loading takes at its peak, measured in a process of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use align_lm::{FrozenStorage, LoadOptions, Model, Trainable};
use serde_json::{Map, json};

const CHILD: &str = "ALIGN_LM_TEST_LOAD";
const VOCABULARY: usize = 100_000;
const WIDTH: usize = 256;
const INNER: usize = 16_384;

/// Writes a Llama of 51 million parameters with weights of zero, which take no room on disk.
fn write_model(dir: &Path, dtype: &str, bytes: usize) -> usize {
    let config = json!({
        "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": true,
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut tensors = vec![("model.embed_tokens".to_owned(), vec![VOCABULARY, WIDTH])];
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()))
        };
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(&format!("self_attn.{name}"), &[WIDTH, WIDTH]);
        }
        add("mlp.gate_proj", &[INNER, WIDTH]);
        add("mlp.up_proj", &[INNER, WIDTH]);
        add("mlp.down_proj", &[WIDTH, INNER]);
        add("input_layernorm", &[WIDTH]);
        add("post_attention_layernorm", &[WIDTH]);
    }
    tensors.push(("model.norm".to_owned(), vec![WIDTH]));
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += bytes * shape.iter().product::<usize>();
        header.insert(
            format!("{name}.weight"),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(dir.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    end / bytes
}

/// A line of the kernel's account of this process, in bytes.
fn status(key: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
}

/// Loads a folder in a child process; returns its peak above what it held before.
fn peak_of_loading(dir: &Path, storage: &str) -> usize {
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new(test);
    command.args(["--exact", "loading_takes_the_weights_and_little_more", "--nocapture"]);
    let output = command.env(CHILD, dir).env("ALIGN_LM_TEST_STORAGE", storage).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    let line = text.lines().find_map(|line| line.split("peak: ").nth(1));
    line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))).parse().unwrap()
}

#[test]
fn loading_takes_the_weights_and_little_more() {
    if let Some(dir) = std::env::var_os(CHILD) {
        let frozen = match std::env::var("ALIGN_LM_TEST_STORAGE").unwrap().as_str() {
            "f32" => FrozenStorage::Float,
            "half" => FrozenStorage::Half,
            _ => FrozenStorage::Nf4,
        };
        let options = LoadOptions { trainable: Trainable::No, frozen, ..LoadOptions::default() };
        // The code of libtorch comes into memory when it is first run.
        drop(Model::load(&align_testkit::fixture("models/tiny-llama"), &options).unwrap());
        let (before, code) = (status("VmRSS"), status("RssFile"));
        let model = Model::load(Path::new(&dir), &options).unwrap();
        println!("code: {}", status("RssFile") - code);
        println!("peak: {}", status("VmHWM") - before);
        drop(model);
        return;
    }
    for (dtype, bytes) in [("F32", 4), ("BF16", 2)] {
        let out = tempfile::tempdir().unwrap();
        let parameters = write_model(out.path(), dtype, bytes);
        for (storage, weights) in [("f32", 4 * parameters), ("half", 2 * parameters)] {
            let peak = peak_of_loading(out.path(), storage);
            println!("{dtype} as {storage}: {:.3} of the weights", peak as f64 / weights as f64);
            assert!(peak * 10 > weights * 9, "the weights are there");
            assert!(peak * 10 < weights * 12, "{dtype} as {storage}: {peak} bytes for {weights} of weights");
        }
        // The embedding stays float32; the rest is packed one matrix (17 MB) after the other.
        let peak = peak_of_loading(out.path(), "nf4");
        let embedding = 4 * VOCABULARY * WIDTH;
        let linear = 4 * parameters - embedding;
        println!("{dtype} as nf4: {peak} bytes, {embedding} of them the embedding, of {linear} for the rest");
        // What allocators leave unused differs from run to run; all in float32 at once would be more than this.
        assert!(peak > embedding && peak < embedding + linear, "{peak}");
    }
}
