//! Every family of models through the commands: log-probabilities, greedy samples, one step of DPO, and what it saved.
//!
//! The expected numbers are those that `fixtures/models/make_models.py` got from transformers, or from the reference
//! beside it. They are token ids, so that a tokenizer with one word for each id stands for the model's own.
//! `fixtures/models/check_saved.py --all` checks that transformers loads what is saved.

use crate::support;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use serde_json::{Value, json};
use support::{align, json_lines, write};

/// Each `model_type` with a folder of it below `fixtures/models`.
const FAMILIES: [(&str, &str); 16] = [
    ("llama", "tiny-llama"),
    ("mistral", "tiny-mistral"),
    ("qwen2", "tiny-qwen2"),
    ("qwen3", "tiny-qwen3"),
    ("gemma", "tiny-gemma"),
    ("gemma2", "tiny-gemma2"),
    ("gemma3_text", "tiny-gemma3"),
    ("phi3", "tiny-phi3"),
    ("gpt2", "tiny-gpt2"),
    ("gpt_neox", "tiny-gpt-neox"),
    ("bloom", "tiny-bloom"),
    ("baichuan", "tiny-baichuan-7b"),
    ("baichuan", "tiny-baichuan2-13b"),
    ("chatglm", "tiny-chatglm"),
    ("glm", "tiny-glm"),
    ("glm4", "tiny-glm4"),
];

/// The id of the end-of-sequence token in every fixture.
const EOS: u64 = 1;

/// Writes token ids as the words of [`copy`]'s tokenizer.
fn words(ids: &Value) -> String {
    let words: Vec<_> =
        ids.as_array().unwrap().iter().map(|id| format!("w{:03}", id.as_u64().unwrap())).collect();
    words.join(" ")
}

/// Copies a model with a tokenizer whose word `w007` is token 7.
fn copy(name: &str, to: &Path) -> Value {
    let from = align_testkit::fixture(&format!("models/{name}"));
    fs::create_dir(to).unwrap();
    let all: Vec<_> = fs::read_dir(&from).unwrap().map(|entry| entry.unwrap().path()).collect();
    for file in all {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name.contains("config.json") && !name.contains("tokenizer") || name.contains("safetensors") {
            fs::copy(&file, to.join(name)).unwrap();
        }
    }
    let config: Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    let size =
        [&config["vocab_size"], &config["padded_vocab_size"]].into_iter().find_map(Value::as_u64).unwrap();
    let vocabulary: serde_json::Map<_, _> = (0..size).map(|id| (format!("w{id:03}"), id.into())).collect();
    // The end is a word that is found inside others, because it is written right behind an answer.
    let end = json!({
        "id": EOS, "content": "w001", "special": true, "normalized": false,
        "single_word": false, "lstrip": false, "rstrip": false,
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w000"},
    });
    write(to, "tokenizer.json", tokenizer.to_string());
    let class = "PreTrainedTokenizerFast";
    write(to, "tokenizer_config.json", json!({"tokenizer_class": class, "eos_token": "w001"}).to_string());
    config
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Sums the log-probabilities of the chosen minus those of the rejected answer.
fn margin(line: &Value) -> f64 {
    let sum = |index: usize| line["completions"][index]["sum"].as_f64().unwrap();
    sum(0) - sum(1)
}

/// Log-probabilities are those of transformers. Returns the margin of the pair of [`one_step`] before that step.
fn logprobs(folder: &Path, expected: &Value) -> f64 {
    let groups = expected["groups"].as_array().unwrap();
    let answers = groups.iter().flat_map(|group| {
        let completions = group["completions"].as_array().unwrap().iter();
        completions
            .zip(group["logprobs"].as_array().unwrap())
            .map(move |(ids, logps)| (&group["prompt"], ids, logps))
    });
    let answers: Vec<_> = answers.collect();
    let row = |(prompt, ids, _): &(&Value, &Value, &Value)| {
        format!("{}\n", json!({"prompt": words(prompt), "completion": format!(" {}", words(ids))}))
    };
    write(folder, "rows.jsonl", answers.iter().map(row).collect::<String>());
    align(folder, "logprobs --model {model} --data {rows.jsonl} --output {logprobs.jsonl} --threads 1").ok();
    let lines = json_lines(&folder.join("logprobs.jsonl"));
    assert_eq!(lines.len(), answers.len());
    for (line, (prompt, ids, logps)) in lines.iter().zip(answers) {
        assert_eq!(line["prompt_tokens"], *prompt);
        let ours = numbers(&line["completions"][0]["logprobs"]);
        let (theirs, ids) = (numbers(logps), ids.as_array().unwrap());
        // The end-of-sequence token, which the text does not have, comes behind.
        assert_eq!(&line["completions"][0]["token_ids"].as_array().unwrap()[..ids.len()], ids);
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
        }
    }
    // The answers of the first group come first.
    let begin = groups[0]["completions"].as_array().unwrap().len();
    let sum = |index: usize| lines[begin + index]["completions"][0]["sum"].as_f64().unwrap();
    sum(0) - sum(1)
}

/// The most likely tokens are those of transformers, up to the end of the sequence.
fn greedy(folder: &Path, config: &Value, expected: &Value) {
    let expected = expected["greedy"].as_array().unwrap();
    let row = |case: &Value| format!("{}\n", json!({"prompt": words(&case["prompt"])}));
    write(folder, "prompts.jsonl", expected.iter().map(row).collect::<String>());
    let steps = expected[0]["tokens"].as_array().unwrap().len();
    let line = format!(
        "generate --model {{model}} --prompts {{prompts.jsonl}} --output {{greedy.jsonl}} --greedy --threads 1 \
         --max-new-tokens {steps}"
    );
    align(folder, &line).ok();
    let ends = fs::read(folder.join("model/generation_config.json"))
        .map(|text| serde_json::from_slice::<Value>(&text).unwrap()["eos_token_id"].clone())
        .unwrap_or(json!([config["eos_token_id"]]));
    for (line, case) in json_lines(&folder.join("greedy.jsonl")).iter().zip(expected) {
        let theirs = case["tokens"].as_array().unwrap();
        let end = theirs.iter().position(|id| ends.as_array().unwrap().contains(id));
        let until = end.map_or(theirs.len(), |end| end + 1);
        let answer = &line["completions"][0];
        assert_eq!(answer["token_ids"].as_array().unwrap()[..], theirs[..until]);
        assert_eq!(answer["finish_reason"], if end.is_some() { "stop" } else { "length" });
    }
}

/// One step of DPO begins at ln 2, and the model that it saves is the one that it trained.
fn one_step(folder: &Path, expected: &Value, before: f64) {
    let group = &expected["groups"][1];
    let answer = |index: usize| format!(" {}", words(&group["completions"][index]));
    let pair = json!({"prompt": words(&group["prompt"]), "chosen": answer(0), "rejected": answer(1)});
    write(folder, "pairs.jsonl", format!("{pair}\n"));
    let beta = 0.5;
    let line = format!(
        "dpo --model {{model}} --data {{pairs.jsonl}} --eval-data {{pairs.jsonl}} --output-dir {{run}} --max-steps 1 \
         --beta {beta} --learning-rate 1e-4 --samples 0 --threads 1"
    );
    align(folder, &line).ok();
    let metrics = &json_lines(&folder.join("run/metrics.jsonl"))[0];
    // Policy and reference are the same weights: every margin is 0, and -log sigmoid(0) = ln 2.
    assert!((metrics["loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-6, "{metrics}");
    // What is saved at the end has the data type of the base, in which a step this small may be lost; checkpoints do not.
    let checkpoint = "run/checkpoints/step-1/model";
    for (model, output) in [(checkpoint, "after.jsonl"), ("run/model", "rounded.jsonl")] {
        let line =
            format!("logprobs --model {{{model}}} --data {{pairs.jsonl}} --output {{{output}}} --threads 1");
        align(folder, &line).ok();
    }
    let of = |name: &str| margin(&json_lines(&folder.join(name))[0]);
    let risen = of("after.jsonl") - before;
    // The held-out row is the trained one, so its margin is what the saved model has gained, times β.
    let told = metrics["eval/rewards/margins"].as_f64().unwrap() / beta;
    assert!(risen > 1e-3 && (risen - told).abs() < 1e-3, "{risen} {told}");
    let summary = fs::read(folder.join("run/summary.json")).unwrap();
    if serde_json::from_slice::<Value>(&summary).unwrap()["model_dtype"] == "float32" {
        assert_eq!(of("rounded.jsonl"), of("after.jsonl"));
    }
}

#[test]
fn every_family_scores_samples_trains_and_saves() {
    for model_type in align_lm::SUPPORTED_FAMILIES {
        assert!(FAMILIES.iter().any(|(tested, _)| tested == model_type), "{model_type} is not tested");
    }
    let waiting = Mutex::new(FAMILIES.iter());
    let work = || {
        while let Some((model_type, name)) = { waiting.lock().unwrap().next() } {
            println!("{model_type}: {name}");
            let temporary = tempfile::tempdir().unwrap();
            let folder = temporary.path();
            let config = copy(name, &folder.join("model"));
            assert_eq!(config["model_type"], *model_type);
            assert_eq!(config["eos_token_id"].as_u64(), Some(EOS));
            let expected = align_testkit::fixture(&format!("models/{name}/expected.json"));
            let expected: Value = serde_json::from_slice(&fs::read(expected).unwrap()).unwrap();
            let before = logprobs(folder, &expected);
            greedy(folder, &config, &expected);
            one_step(folder, &expected, before);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
}
