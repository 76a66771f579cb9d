//! Number formats and memory, as users ask for them.

use crate::support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{align, copy_of_tiny_llama, json_lines, tiny_llama, write, write_pairs};

fn losses(folder: &Path, more: &str) -> Vec<f64> {
    let line = format!(
        "dpo --model {} --data {{pairs.jsonl}} --output-dir {{run}} --overwrite --max-steps 4 --log-every 1 \
         --learning-rate 1e-3 --samples 0 --threads 2 --batch-size 4 {more}",
        tiny_llama().display()
    );
    align(folder, &line).ok();
    json_lines(&folder.join("run/metrics.jsonl")).iter().map(|line| line["loss"].as_f64().unwrap()).collect()
}

#[test]
fn training_in_bf16_and_with_activations_again_goes_the_way_of_f32() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 12);
    let plain = losses(folder, "");
    let close = |other: &[f64], tolerance: f64| {
        assert_eq!(plain.len(), other.len());
        assert!(plain.iter().zip(other).all(|(a, b)| (a - b).abs() < tolerance), "{plain:?} {other:?}");
    };
    close(&losses(folder, "--gradient-checkpointing"), 1e-5);
    for more in ["--dtype bf16", "--dtype bf16 --gradient-checkpointing"] {
        let bf16 = losses(folder, more);
        assert!((bf16[0] - std::f64::consts::LN_2).abs() < 1e-6, "the reference starts as the policy");
        // Log-probabilities are off by some hundredths, of which β = 0.1 and some tens of tokens make as much again.
        close(&bf16, 0.1);
        assert!(bf16[3] < bf16[0] && bf16[1..] != plain[1..]);
    }
}

/// The final model has the data type of `--model`, checkpoints have float32, and a resumed run ends like any other.
#[test]
fn a_run_ends_in_the_data_type_it_began_with() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 12);
    let base = copy_of_tiny_llama(folder, "base");
    let narrow = align_testkit::fixture("models/tiny-llama-bf16");
    for name in ["config.json", "model.safetensors"] {
        fs::copy(narrow.join(name), base.join(name)).unwrap();
    }
    let line = |more: &str| {
        format!(
            "dpo --model {} --data {{pairs.jsonl}} --output-dir {{run}} --max-steps 4 --save-every 2 --samples 0 \
             --learning-rate 1e-3 {more}",
            base.display()
        )
    };
    let answer = align(folder, &line("")).ok();
    assert!(answer.stderr.contains("(bfloat16, as --model)"), "{}", answer.stderr);
    let run = folder.join("run");
    let weights = || fs::read(run.join("model/model.safetensors")).unwrap();
    let bytes = |path: &str| fs::metadata(run.join(path)).unwrap().len();
    let checkpoint = bytes("checkpoints/step-4/model/model.safetensors");
    assert!(bytes("model/model.safetensors") * 10 < checkpoint * 6);
    let summary: Value = serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["model_dtype"], "bfloat16");
    let whole = weights();
    // As a kill before the final model leaves it.
    fs::remove_file(run.join("summary.json")).unwrap();
    fs::remove_dir_all(run.join("model")).unwrap();
    fs::remove_dir_all(run.join("checkpoints/step-4")).unwrap();
    align(folder, &line("--resume")).ok();
    assert!(weights() == whole);
}

#[test]
fn scoring_and_sampling_take_other_formats() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    write(folder, "prompts.jsonl", "{\"prompt\": \"The kettle\"}\n{\"prompt\": \"Why do\"}\n");
    let model = tiny_llama().display().to_string();
    let sums = |more: &str| -> Vec<f64> {
        let line = format!("logprobs --model {model} --data {{pairs.jsonl}} --output {{out.jsonl}} {more}");
        align(folder, &line).ok();
        let rows = json_lines(&folder.join("out.jsonl"));
        rows.iter().map(|row| row["completions"][0]["sum"].as_f64().unwrap()).collect()
    };
    let wide = sums("");
    let off = |other: &[f64]| wide.iter().zip(other).map(|(a, b)| ((a - b) / a).abs()).fold(0.0, f64::max);
    let (narrow, packed) = (off(&sums("--dtype bf16")), off(&sums("--load-in-4bit --dtype bf16")));
    assert!(narrow > 0.0 && narrow < 0.01, "{narrow}");
    assert!(packed > narrow && packed < 0.2, "{packed}");
    // Rows of one format are not continued in another.
    let again = format!("logprobs --model {model} --data {{pairs.jsonl}} --output {{out.jsonl}} --resume");
    align(folder, &again).refused(2, &["made with other settings", "dtype"]);

    let line =
        format!("generate --model {model} --prompts {{prompts.jsonl}} --output {{drawn.jsonl}} --greedy");
    for (more, said) in [("", false), ("--dtype bf16", true), ("--load-in-4bit", false)] {
        let answer = align(folder, &format!("{line} {more} --max-new-tokens 8 --device cpu")).ok();
        assert_eq!(answer.stderr.contains("sampling in bfloat16"), said, "{}", answer.stderr);
        assert_eq!(json_lines(&folder.join("drawn.jsonl")).len(), 2);
    }
}

#[test]
fn the_estimate_knows_what_memory_is_saved() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 12);
    let memory = |more: &str| -> f64 {
        let line =
            format!("dpo --model {} --data {{pairs.jsonl}} --dry-run --json {more}", tiny_llama().display());
        let answer: Value = serde_json::from_str(&align(folder, &line).ok().stdout).unwrap();
        answer["memory_mb"].as_f64().unwrap()
    };
    let plain = memory("");
    assert!(memory("--gradient-checkpointing") < plain);
    assert!(memory("--dtype bf16 --gradient-checkpointing") < plain);
}
