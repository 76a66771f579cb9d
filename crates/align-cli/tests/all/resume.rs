//! A run that was killed and continued ends with the bytes of one that was not, or is refused.

use crate::support;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use support::kills::{self, finish, nudge_weights, wait_while, weights_of};
use support::{
    Answer, align, command, copy_of_adapter, copy_of_tiny_llama, edit_json, json_lines, tiny_llama, write,
    write_pairs,
};

/// Kills of each run that find it at work.
const KILLS: u64 = 2;

/// Runs that may be over before a kill reaches them.
const MISSES: u64 = 40;

fn survives_kills(method: &str, threads: usize, more: &str) {
    kills::Run { method, threads, more, kills: KILLS }.survives();
}

#[test]
fn dpo_on_one_thread() {
    survives_kills("dpo", 1, "");
}

#[test]
fn dpo_on_two_threads() {
    survives_kills("dpo", 2, "");
}

#[test]
fn dpo_with_the_best_kept_and_the_reference_precomputed() {
    survives_kills("dpo", 2, "--keep-best rewards/margins --precompute-ref-log-probs");
}

#[test]
fn a_mixture_on_disk_with_the_reference_precomputed() {
    let mixture = "--data {more.jsonl} --data-weights 1,3 --row-store disk --precompute-ref-log-probs";
    survives_kills("dpo", 2, mixture);
}

#[test]
fn dpo_against_another_reference() {
    survives_kills("dpo", 1, "--keep-best loss --ref-model {other}");
}

#[test]
fn sft_on_one_thread() {
    survives_kills("sft", 1, "");
}

#[test]
fn sft_on_two_threads() {
    survives_kills("sft", 2, "--keep-best loss");
}

#[test]
fn dpo_with_an_adapter_that_drops_inputs() {
    survives_kills("dpo", 2, "--lora-rank 4 --lora-dropout 0.2 --keep-best loss");
}

#[test]
fn dpo_from_an_adapter() {
    survives_kills("dpo", 1, &format!("--adapter {}", align_testkit::fixture("lora/llama").display()));
}

#[test]
fn sft_with_an_adapter() {
    survives_kills("sft", 2, "--lora-rank 4 --lora-dropout 0.1 --lora-targets q_proj,v_proj --lora-rslora");
}

/// Rows are in the file as soon as they and all before them are drawn; a kill at any time costs no whole row, and the
/// samples are those of a run that was not killed.
fn generate_survives_kills(family: &str) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "prompts.jsonl", 120);
    let model = copy_of_tiny_llama(folder, "model");
    if family == "gemma" {
        // The weights of a tied Llama have the names and shapes that this family has.
        fs::remove_file(model.join("model.safetensors")).unwrap();
        let tied = tiny_llama().with_file_name("tiny-llama-tied-sharded");
        for entry in fs::read_dir(&tied).unwrap().flatten() {
            fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
        }
        let rope = json!({"rope_type": "default", "rope_theta": 10000.0});
        let changes = [
            ("model_type", json!("gemma")),
            ("hidden_act", json!("gelu_pytorch_tanh")),
            ("hidden_activation", json!("gelu_pytorch_tanh")),
            ("rope_parameters", rope),
        ];
        edit_json(&model.join("config.json"), &changes);
    }
    let line = |name: &str| {
        format!(
            "generate --model {} --prompts {{prompts.jsonl}} --output {{{name}}} --threads 2 --num-completions 3 \
             --max-new-tokens 60 --repetition-penalty 1.1 --resume",
            model.display()
        )
    };
    finish(folder, &line("whole"));
    let rows = || {
        let partial = fs::read(folder.join("out.partial")).unwrap_or_default();
        partial.iter().filter(|byte| **byte == b'\n').count()
    };
    let mut kills = 0;
    for attempt in 0..KILLS + MISSES {
        if kills == KILLS {
            break;
        }
        let before = rows();
        let mut child = command(folder, &line("out")).spawn().unwrap();
        wait_while(&mut child, || rows() <= before);
        std::thread::sleep(Duration::from_millis(attempt % 7));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(rows() > before, "a kill takes no whole row away");
            kills += 1;
        } else {
            assert!(child.wait().unwrap().success());
            fs::remove_file(folder.join("out")).unwrap();
            fs::remove_file(folder.join("out.origin.json")).unwrap();
        }
    }
    assert_eq!(kills, KILLS, "kills that found a running program");
    finish(folder, &line("out"));
    let samples = |name: &str| -> Vec<(Value, Vec<Value>)> {
        let of = |line: &Value| {
            let completions = line["completions"].as_array().unwrap();
            (line["row"].clone(), completions.iter().map(|c| c["token_ids"].clone()).collect())
        };
        json_lines(&folder.join(name)).iter().map(of).collect()
    };
    assert_eq!(samples("whole"), samples("out"));
    assert!(!folder.join("out.partial").exists());
}

#[test]
fn generate_with_the_engine() {
    generate_survives_kills("llama");
}

#[test]
fn generate_with_the_tensor_backend() {
    generate_survives_kills("gemma");
}

/// A run of four steps on a copy of the model, of which a kill left what it had after two.
struct Torn {
    temporary: tempfile::TempDir,
    line: String,
    expected: Vec<u8>,
}

impl Torn {
    fn new(method: &str, more: &str) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        copy_of_tiny_llama(folder, "model");
        copy_of_tiny_llama(folder, "other");
        copy_of_adapter(folder, "adapter");
        write_pairs(folder, "pairs.jsonl", 8);
        write_pairs(folder, "held.jsonl", 4);
        let line = format!(
            "{method} --model {{model}} --data {{pairs.jsonl}} --eval-data {{held.jsonl}} --output-dir {{run}} \
             --max-steps 4 --save-every 2 --learning-rate 1e-3 --threads 1 --resume {more}"
        );
        finish(folder, &line);
        let expected = weights_of(&folder.join("run/model"));
        let torn = Self { line, expected, temporary };
        torn.unfinish();
        fs::remove_dir_all(torn.path("run/checkpoints/step-4")).unwrap();
        torn
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// Takes away what is written last.
    fn unfinish(&self) {
        fs::remove_file(self.path("run/summary.json")).unwrap();
        fs::remove_dir_all(self.path("run/model")).unwrap();
    }

    fn resume(&self) -> Answer {
        align(self.temporary.path(), &self.line)
    }

    fn resume_to_the_same_bits(&self) {
        let answer = self.resume().ok();
        assert!(answer.stderr.contains("continuing after step 2"), "{}", answer.stderr);
        assert!(self.expected == weights_of(&self.path("run/model")));
    }
}

#[test]
fn changed_inputs_are_refused_and_nothing_is_lost() {
    for (more, changed) in [
        ("--samples 0", &["pairs.jsonl", "held.jsonl", "model/model.safetensors"][..]),
        ("--samples 0 --ref-model {other}", &["other/model.safetensors"]),
        ("--samples 0 --lora-rank 2", &["model/model.safetensors"]),
        ("--samples 0 --lora-rank 2 --reference-free", &["model/model.safetensors"]),
        (
            "--samples 0 --adapter {adapter}",
            &["model/model.safetensors", "adapter/adapter_model.safetensors"],
        ),
    ] {
        let torn = Torn::new("dpo", more);
        for name in changed {
            let before = fs::read(torn.path(name)).unwrap();
            match name.rsplit_once('/') {
                Some((model, _)) => nudge_weights(&torn.path(model)),
                None => {
                    let text = String::from_utf8(before.clone()).unwrap().replacen("river", "sea", 1);
                    fs::write(torn.path(name), text).unwrap();
                }
            }
            torn.resume().refused(2, &["was started with other inputs", "data files", "reference", "hint: "]);
            assert!(torn.path("run/checkpoints/step-2").exists() && !torn.path("run/summary.json").exists());
            fs::write(torn.path(name), before).unwrap();
        }
        torn.resume_to_the_same_bits();
    }
}

#[test]
fn the_first_weights_are_not_read_again_where_only_the_last_matter() {
    let torn = Torn::new("sft", "--samples 0 --sft-on-chosen");
    fs::remove_file(torn.path("model/model.safetensors")).unwrap();
    torn.resume_to_the_same_bits();
}

#[test]
fn samples_are_whole_before_a_run_is_finished() {
    let torn = Torn::new("dpo", "--samples 2");
    torn.resume_to_the_same_bits();
    let file = torn.path("run/completions.jsonl");
    let whole = fs::read_to_string(&file).unwrap();
    assert_eq!(whole.lines().count(), 4);
    // Killed between the last checkpoint and the end, with a torn line.
    torn.unfinish();
    fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    torn.resume().ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), whole);
    // A run whose samples cannot be written is not finished.
    torn.unfinish();
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    torn.resume().refused(3, &["cannot write", "completions.jsonl"]);
    assert!(!torn.path("run/summary.json").exists());
    fs::remove_dir(&file).unwrap();
    write(torn.temporary.path(), "run/completions.jsonl", &whole);
    torn.resume().ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), whole);
}
