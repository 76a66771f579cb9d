//! Adapters as users train, use and merge them.

use crate::support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::{
    align, copy_of_adapter, copy_of_tiny_llama, edit_json, json_lines, tiny_llama, tree, write,
    write_demonstrations, write_pairs,
};

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// The log-probabilities in a file of `align logprobs`, and the tokens they belong to.
fn scores(path: &Path) -> Vec<f64> {
    let lines = json_lines(path);
    let answers = lines.iter().flat_map(|line| line["completions"].as_array().unwrap());
    answers.flat_map(|answer| answer["logprobs"].as_array().unwrap()).map(|x| x.as_f64().unwrap()).collect()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert!(a.len() == b.len() && !a.is_empty());
    a.iter().zip(b).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()))
}

#[test]
fn an_adapter_is_trained_used_trained_on_and_merged() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 24);
    let model = tiny_llama().display().to_string();
    let dpo =
        format!("dpo --model {model} --data {{pairs.jsonl}} --log-every 1 --threads 2 --learning-rate 1e-2");
    align(folder, &format!("{dpo} --max-steps 8 --lora-rank 4 --lora-dropout 0.1 --output-dir {{run}}")).ok();
    let lines = json_lines(&folder.join("run/metrics.jsonl"));
    // B is zero, so that the policy is its own reference: -log sigmoid(0) = ln 2.
    assert!((number(&lines[0], "loss") - std::f64::consts::LN_2).abs() < 1e-6);
    assert!(number(&lines[7], "loss") < 0.6, "{lines:?}");
    for name in ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"]
    {
        assert!(folder.join("run/model").join(name).exists(), "{name}");
    }
    for name in tree(&folder.join("run")) {
        assert!(!name.ends_with("/model.safetensors") && !name.ends_with("/config.json"), "{name}: the base");
    }
    let config: Value =
        serde_json::from_slice(&fs::read(folder.join("run/model/adapter_config.json")).unwrap()).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(4), &json!(8)));
    assert_eq!(config["base_model_name_or_path"], json!(model));

    let score = |flags: &str, out: &str| {
        align(folder, &format!("logprobs {flags} --data {{pairs.jsonl}} --output {{{out}}}")).ok();
        scores(&folder.join(out))
    };
    let adapted = score(&format!("--model {model} --adapter {{run/model}}"), "adapted.jsonl");
    let base = score(&format!("--model {model}"), "base.jsonl");
    assert!(largest_difference(&adapted, &base) > 0.1);
    align(folder, &format!("merge --model {model} --adapter {{run/model}} --output {{merged}}")).ok();
    assert!(largest_difference(&adapted, &score("--model {merged}", "merged.jsonl")) < 1e-4);
    assert!(folder.join("merged/tokenizer.json").exists());
    let generate = |flags: &str, out: &str| {
        write(folder, "prompts.jsonl", "{\"prompt\": \"Say something about the river.\"}\n");
        let line = format!("generate {flags} --prompts {{prompts.jsonl}} --output {{{out}}} --greedy");
        align(folder, &format!("{line} --max-new-tokens 12")).ok();
        json_lines(&folder.join(out))[0]["completions"][0]["token_ids"].clone()
    };
    let with_adapter = generate(&format!("--model {model} --adapter {{run/model}}"), "a.jsonl");
    assert_eq!(with_adapter, generate("--model {merged}", "m.jsonl"));

    // Training goes on with it: policy and reference are equal again, and the base is not touched.
    let more = format!("{dpo} --max-steps 2 --adapter {{adapter}} --output-dir {{more}}");
    fs::create_dir(folder.join("adapter")).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(folder.join("run/model").join(name), folder.join("adapter").join(name)).unwrap();
    }
    edit_json(&folder.join("adapter/adapter_config.json"), &[("lora_dropout", json!(0.0))]);
    align(folder, &more).ok();
    let lines = json_lines(&folder.join("more/metrics.jsonl"));
    assert!((number(&lines[0], "loss") - std::f64::consts::LN_2).abs() < 1e-6);
    let weights = |run: &str| fs::read(folder.join(run).join("adapter_model.safetensors")).unwrap();
    assert!(weights("more/model") != weights("run/model"));
    // With dropout a training pass is not what the reference computes, and is not checked to be.
    edit_json(&folder.join("adapter/adapter_config.json"), &[("lora_dropout", json!(0.3))]);
    align(folder, &format!("{more} --overwrite")).ok();
    let lines = json_lines(&folder.join("more/metrics.jsonl"));
    assert!((number(&lines[0], "loss") - std::f64::consts::LN_2).abs() > 1e-4);
}

#[test]
fn the_result_does_not_depend_on_micro_batches() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_demonstrations(folder, "rows.jsonl", 12);
    let losses = |run: &str, more: &str| -> Vec<f64> {
        let line = format!(
            "sft --model {} --data {{rows.jsonl}} --output-dir {{{run}}} --max-steps 4 --log-every 1 --samples 0 \
             --learning-rate 1e-2 --lora-rank 4 {more}",
            tiny_llama().display()
        );
        align(folder, &line).ok();
        json_lines(&folder.join(run).join("metrics.jsonl")).iter().map(|line| number(line, "loss")).collect()
    };
    let one = losses("one", "--lora-dropout 0.3 --threads 1");
    for (run, more) in [("cut", "--threads 1 --micro-batch-tokens 40"), ("two", "--threads 2")] {
        let more = &format!("--lora-dropout 0.3 {more}");
        assert!(largest_difference(&one, &losses(run, more)) < 1e-4, "{more}");
    }
    assert!(largest_difference(&one, &losses("other", "--lora-dropout 0.2 --threads 1")) > 1e-4);
}

#[test]
fn a_dry_run_counts_what_is_trained() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    let dry = |more: &str| -> Value {
        let line =
            format!("dpo --model {} --data {{pairs.jsonl}} --dry-run --json {more}", tiny_llama().display());
        serde_json::from_str(&align(folder, &line).ok().stdout).unwrap()
    };
    let full = dry("");
    assert_eq!(full["trained_parameters"], full["parameters"]);
    let lora = dry("--lora-rank 2 --lora-targets q_proj,v_proj");
    // Two layers; q_proj 32 to 32, v_proj 32 to 16.
    let trained = 2 * 2 * (32 + 32 + 32 + 16);
    assert_eq!(lora["trained_parameters"], trained);
    assert_eq!(lora["parameters"], trained + full["parameters"].as_i64().unwrap());
    assert!(number(&lora, "memory_mb") < number(&full, "memory_mb"));
    copy_of_adapter(folder, "adapter");
    // Rank 4 on all seven layers of both blocks, of 64 inner width: A and B of each.
    let (q, k, inner) = (32 + 32, 32 + 16, 32 + 64);
    assert_eq!(dry("--adapter {adapter}")["trained_parameters"], 2 * 4 * (2 * q + 2 * k + 3 * inner));
}

#[test]
fn what_does_not_go_together_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    copy_of_adapter(folder, "adapter");
    let other = copy_of_tiny_llama(folder, "other");
    edit_json(&other.join("config.json"), &[("num_hidden_layers", json!(1))]);
    let broken = copy_of_adapter(folder, "broken");
    fs::write(broken.join("adapter_model.safetensors"), "x").unwrap();
    let dora = copy_of_adapter(folder, "dora");
    edit_json(&dora.join("adapter_config.json"), &[("use_dora", json!(true))]);
    write(folder, "lora.toml", "lora_alpha = 3.5\n");
    let before = tree(folder);
    let model = tiny_llama().display().to_string();
    let refused = |line: &str, code: i32, texts: &[&str]| {
        align(folder, line).refused(code, texts);
        assert_eq!(tree(folder), before, "`{line}` wrote something");
    };
    let train = format!("dpo --model {model} --data {{pairs.jsonl}} --output-dir {{run}}");
    for (more, code, texts) in [
        ("--lora-alpha 3", 2, &["--lora-alpha 3: needs --lora-rank"][..]),
        ("--lora-dropout 0.1", 2, &["--lora-dropout 0.1: needs --lora-rank"]),
        ("--lora-targets q_proj", 2, &["--lora-targets q_proj: needs --lora-rank"]),
        ("--lora-rslora", 2, &["--lora-rslora", "needs --lora-rank"]),
        ("--config {lora.toml}", 2, &["lora.toml:1: lora_alpha = 3.5: needs --lora-rank"]),
        ("--lora-rank 0", 2, &["--lora-rank 0", "at least 1"]),
        ("--lora-rank 4 --lora-dropout 1", 2, &["--lora-dropout 1", "[0, 1)"]),
        ("--lora-rank 4 --lora-alpha 0", 2, &["--lora-alpha 0", "above 0"]),
        ("--lora-rank 64", 2, &["--lora-rank 64", "q_proj has 32 inputs", "at most 32"]),
        ("--lora-rank 4 --lora-targets q_proj,query", 2, &["--lora-targets query", "there are", "v_proj"]),
        ("--lora-rank 4 --adapter {adapter}", 2, &["--lora-rank 4", "--adapter"]),
        ("--adapter {none}", 4, &["none: there is no such adapter folder", "hint: "]),
        ("--adapter {other}", 4, &["other: is no adapter", "adapter_config.json"]),
        ("--adapter {broken}", 4, &["broken/adapter_model.safetensors"]),
        ("--adapter {dora}", 4, &["use_dora = true", "not supported"]),
    ] {
        refused(&format!("{train} {more}"), code, texts);
    }
    let data = "--data {pairs.jsonl} --output {out.jsonl}";
    let base = "--model {other} --adapter {adapter}";
    let layer = "no linear layer model.layers.1.";
    refused(
        &format!("logprobs {base} {data}"),
        4,
        &["adapter_model.safetensors", layer, "its base is tiny-llama"],
    );
    refused(&format!("generate {base} --prompts {{pairs.jsonl}} --output {{out.jsonl}}"), 4, &[layer]);
    refused(&format!("dpo {base} --data {{pairs.jsonl}} --output-dir {{run}}"), 4, &[layer]);
    refused(
        &format!("logprobs --model {{adapter}} {data}"),
        4,
        &["is an adapter, not a model", "--adapter DIR"],
    );
    refused(
        "dpo --model {adapter} --data {pairs.jsonl} --output-dir {run}",
        4,
        &["is an adapter, not a model"],
    );
    refused(&format!("merge {base} --output {{out}}"), 4, &[layer]);
    refused("merge --model {other} --output {out}", 2, &["--adapter <DIR> is missing"]);
    refused("merge --model {other} --adapter {adapter} --output {other}", 2, &["--output", "is not empty"]);
    refused(
        "merge --model {other} --adapter {adapter} --output {lora.toml}",
        2,
        &["is a file, not a folder"],
    );
}

#[test]
fn rows_made_with_another_adapter_are_not_continued() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 3);
    let adapter = copy_of_adapter(folder, "adapter");
    let line =
        format!("logprobs --model {} --data {{pairs.jsonl}} --output {{out.jsonl}}", tiny_llama().display());
    align(folder, &format!("{line} --adapter {{adapter}}")).ok();
    let lines = fs::read_to_string(folder.join("out.jsonl")).unwrap();
    align(folder, &format!("{line} --adapter {{adapter}} --resume")).ok();
    align(folder, &format!("{line} --resume")).refused(2, &["made with other settings", "adapter"]);
    edit_json(&adapter.join("adapter_config.json"), &[("lora_alpha", json!(13))]);
    align(folder, &format!("{line} --adapter {{adapter}} --resume")).refused(2, &["adapter_sha256"]);
    assert_eq!(fs::read_to_string(folder.join("out.jsonl")).unwrap(), lines);
}
