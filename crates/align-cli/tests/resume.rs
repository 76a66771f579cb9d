//! A run that was killed and continued ends with the bytes of one that was not, or is refused.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use align_types::{Purpose, RngStream};
use serde_json::{Value, json};
use support::{
    Answer, align, command, copy_of_adapter, copy_of_tiny_llama, edit_json, json_lines, tiny_llama, write,
    write_demonstrations, write_pairs,
};

/// Kills of each run that find it at work.
const KILLS: u64 = 4;

/// Runs that may be over before a kill reaches them.
const MISSES: u64 = 40;

fn survives_kills(method: &str, threads: usize, more: &str) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 20);
    write_pairs(folder, "more.jsonl", 7);
    write_demonstrations(folder, "demonstrations.jsonl", 20);
    let other = copy_of_tiny_llama(folder, "other");
    nudge_weights(&other);
    let data = if method == "dpo" { "pairs.jsonl" } else { "demonstrations.jsonl" };
    let line = |run: &str| {
        format!(
            "{method} --model {} --data {{{data}}} --eval-data {{{data}}} --eval-every 4 --output-dir {{{run}}} \
             --max-steps 12 --save-every 2 --log-every 1 --learning-rate 1e-3 --batch-size 6 --samples 1 \
             --threads {threads} {more}",
            tiny_llama().display()
        )
    };
    let begun = Instant::now();
    finish(folder, &line("whole"));
    let whole = begun.elapsed();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    eprintln!("{method} {more} on {threads} threads: kills from seed {seed}");
    let resume = format!("{} --resume", line("run"));
    let (mut kills, mut attempt) = (0, 0);
    while kills < KILLS {
        attempt += 1;
        assert!(attempt <= KILLS + MISSES, "only {kills} of {attempt} kills found a running program");
        let share = RngStream::new(seed, Purpose::Synthetic, attempt, 0).uniform();
        let mut child = command(folder, &resume).spawn().unwrap();
        // Every other kill comes anywhere, the others while a checkpoint of this process is there already.
        let delay = if kills % 2 == 0 {
            let before = newest_checkpoint(&folder.join("run"));
            wait_while(&mut child, || newest_checkpoint(&folder.join("run")) <= before);
            whole.mul_f64(share / 4.0)
        } else {
            whole.mul_f64(share)
        };
        std::thread::sleep(delay);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        } else {
            // It was quicker than the kill: it is as good as any, and the next kills get a new run.
            assert_same(folder, seed);
            fs::remove_dir_all(folder.join("run")).unwrap();
        }
    }
    finish(folder, &resume);
    assert_same(folder, seed);
}

/// Asserts that `run` ended as `whole` did, but for times.
fn assert_same(folder: &Path, seed: u64) {
    let bytes = |run: &str, name: &str| fs::read(folder.join(run).join(name)).unwrap();
    let adapter = folder.join("whole/model/adapter_config.json").exists();
    let weights = if adapter { "model/adapter_model.safetensors" } else { "model/model.safetensors" };
    for name in [weights, "completions.jsonl"] {
        assert!(bytes("whole", name) == bytes("run", name), "{name} differs, seed {seed}");
    }
    let numbers = |run: &str| -> Vec<(u64, String, String)> {
        let of = |line: &Value| {
            (line["step"].as_u64().unwrap(), line["loss"].to_string(), line["eval/loss"].to_string())
        };
        json_lines(&folder.join(run).join("metrics.jsonl")).iter().map(of).collect()
    };
    assert_eq!(
        numbers("whole"),
        numbers("run"),
        "every step is logged once, with the same losses, seed {seed}"
    );
    let best = |run: &str| -> Value {
        serde_json::from_slice::<Value>(&bytes(run, "summary.json")).unwrap()["best"].clone()
    };
    assert_eq!(best("whole"), best("run"), "seed {seed}");
    if let Some(kept) = best("run")["checkpoint"].as_str() {
        let weights = format!("{kept}/{weights}");
        assert!(bytes("whole", &weights) == bytes("run", &weights), "{weights} differs, seed {seed}");
    }
}

/// Returns the step of the newest checkpoint, 0 where there is none.
fn newest_checkpoint(run: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return 0 };
    let step = |name: &str| name.strip_prefix("step-").and_then(|step| step.parse().ok());
    entries.flatten().filter_map(|entry| step(&entry.file_name().to_string_lossy())).max().unwrap_or(0)
}

/// Waits while a condition holds and the program runs.
fn wait_while(child: &mut Child, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while condition() && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing happened for two minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads the weights of a model folder, or of an adapter's.
fn weights_of(model: &Path) -> Vec<u8> {
    let names = ["model.safetensors", "adapter_model.safetensors"];
    names.iter().find_map(|name| fs::read(model.join(name)).ok()).unwrap()
}

/// Changes a bit of the weights that changes what the model answers, and keeps them numbers.
fn nudge_weights(model: &Path) {
    let mut path = model.join("model.safetensors");
    if !path.exists() {
        path = model.join("adapter_model.safetensors");
    }
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn finish(folder: &Path, line: &str) -> Answer {
    Answer::of(&command(folder, line).output().unwrap()).ok()
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
