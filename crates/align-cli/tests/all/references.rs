//! The reference of the offline methods: beside the policy, precomputed and kept, or following it.

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::kills::{Run, nudge_weights, weights_of};
use support::{
    Answer, align, command, copy_of_adapter, copy_of_tiny_llama, edit_json, json_lines, tiny_llama, write,
    write_pairs, write_scores, write_thumbs,
};

/// A reference that moves across the checkpoints after every second step.
const MOVING: &str = "--sync-ref-model --ref-model-mixup-alpha 0.6 --ref-model-sync-steps 3";

fn survives_kills(method: &str, threads: usize, more: &str) {
    Run { method, threads, more, kills: 2 }.survives();
}

#[test]
fn dpo_with_a_moving_reference_survives_kills() {
    survives_kills("dpo", 2, MOVING);
}

#[test]
fn dpo_with_another_moving_reference_in_16_bits_survives_kills() {
    survives_kills("dpo", 1, &format!("{MOVING} --ref-model {{other}} --dtype bf16 --keep-best loss"));
}

#[test]
fn kto_survives_kills() {
    survives_kills("kto", 2, "");
}

#[test]
fn kto_with_the_reference_precomputed_survives_kills() {
    survives_kills("kto", 2, "--precompute-ref-log-probs");
}

#[test]
fn kto_with_a_moving_reference_survives_kills() {
    survives_kills("kto", 1, MOVING);
}

#[test]
fn bco_with_a_moving_reference_survives_kills() {
    survives_kills("kto", 2, &format!("--loss-type bco {MOVING}"));
}

#[test]
fn una_survives_kills() {
    survives_kills("una", 2, "");
}

#[test]
fn una_with_the_reference_precomputed_survives_kills() {
    survives_kills("una", 1, "--precompute-ref-log-probs --row-store disk");
}

#[test]
fn una_with_a_moving_reference_survives_kills() {
    survives_kills("una", 2, MOVING);
}

#[test]
fn kto_with_an_adapter_survives_kills() {
    survives_kills("kto", 2, "--lora-rank 4 --lora-dropout 0.2");
}

#[test]
fn una_from_an_adapter_survives_kills() {
    survives_kills("una", 1, &format!("--adapter {}", align_testkit::fixture("lora/llama").display()));
}

/// With alpha 1 after every step the policy is its own reference: its loss is ln 2 always. In 16 bits, too, as both are
/// kept in float32 and rounded alike.
#[test]
fn a_reference_that_becomes_the_policy_keeps_the_loss_of_dpo_at_ln_2() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 12);
    for (run, more) in [("full", "--threads 2"), ("half", "--dtype bf16 --threads 1")] {
        let line = format!(
            "dpo --model {} --data {{pairs.jsonl}} --output-dir {{{run}}} --max-steps 5 --log-every 1 \
             --learning-rate 1e-3 --samples 0 --sync-ref-model --ref-model-mixup-alpha 1 --ref-model-sync-steps 1 {more}",
            tiny_llama().display()
        );
        align(folder, &line).ok();
        let lines = json_lines(&folder.join(run).join("metrics.jsonl"));
        assert_eq!(lines.len(), 5);
        for line in lines {
            let loss = line["loss"].as_f64().unwrap();
            assert!((loss - std::f64::consts::LN_2).abs() < 1e-5, "{line}");
            assert!(line["grad_norm"].as_f64().unwrap() > 0.0);
        }
    }
}

/// A small run with the reference precomputed.
struct Cached {
    temporary: tempfile::TempDir,
    method: &'static str,
    runs: std::cell::Cell<usize>,
}

impl Cached {
    fn new(method: &'static str) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        copy_of_tiny_llama(temporary.path(), "model");
        let folder = temporary.path();
        let name = "rows.jsonl";
        match method {
            "kto" => write_thumbs(folder, name, 8),
            "una" => write_scores(folder, name, 8),
            _ => write_pairs(folder, name, 8),
        };
        write_pairs(folder, "held.jsonl", 3);
        Self { temporary, method, runs: Default::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    fn line(&self, more: &str) -> String {
        self.runs.set(self.runs.get() + 1);
        let threads = if more.contains("--threads") { "" } else { "--threads 1" };
        format!(
            "{} --model {{model}} --data {{rows.jsonl}} --output-dir {{run{}}} --max-steps 2 --batch-size 4 \
             --learning-rate 1e-3 --samples 0 --precompute-ref-log-probs {threads} {more}",
            self.method,
            self.runs.get()
        )
    }

    fn run(&self, more: &str) -> Answer {
        align(self.temporary.path(), &self.line(more)).ok()
    }

    fn weights(&self) -> Vec<u8> {
        weights_of(&self.path(&format!("run{}/model", self.runs.get())))
    }

    /// Runs and asserts how many rows were found and how many computed.
    fn counts(&self, more: &str, found: usize, computed: usize) -> Answer {
        let answer = self.run(more);
        let said = format!("{found} rows found, {computed} computed");
        assert!(answer.stderr.contains(&said), "{more}: `{said}` is not in {}", answer.stderr);
        answer
    }

    fn entries(&self) -> Vec<PathBuf> {
        let folder = self.path("cache/align/ref-log-probs");
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }
}

#[test]
fn what_is_found_gives_the_bits_of_what_is_computed() {
    for method in ["dpo", "kto", "una"] {
        let cached = Cached::new(method);
        let answer = cached.counts("", 0, 8);
        let place = cached.path("cache/align/ref-log-probs").display().to_string();
        assert!(answer.stderr.contains(&place), "{}", answer.stderr);
        let computed = cached.weights();
        cached.counts("", 8, 0);
        assert!(cached.weights() == computed, "{method}");
        // Rows on disk are the same rows.
        cached.counts("--row-store disk", 8, 0);
        assert!(cached.weights() == computed, "{method}");
        // Without a place to keep them they are the same, too.
        let without = |home: &Path| {
            let mut command = command(cached.temporary.path(), &cached.line(""));
            let answer = Answer::to(command.env_remove("XDG_CACHE_HOME").env("HOME", home)).ok();
            assert!(answer.stderr.contains("are not kept"), "{}", answer.stderr);
            assert!(answer.stderr.contains("0 rows found, 8 computed, in memory"), "{}", answer.stderr);
            assert!(cached.weights() == computed, "{method}");
        };
        without(Path::new(""));
        write(cached.temporary.path(), "file", "");
        without(&cached.path("file"));
    }
}

#[test]
fn another_key_is_computed() {
    let cached = Cached::new("dpo");
    cached.counts("--eval-data {held.jsonl}", 0, 11);
    cached.counts("--eval-data {held.jsonl}", 11, 0);
    // Held-out rows and those to train on are the same kind of rows.
    cached.counts("", 8, 0);
    cached.counts("--max-length 300", 0, 8);
    cached.counts("--max-prompt-length 200", 0, 8);
    cached.counts("--truncation keep-end", 0, 8);
    cached.counts("--dtype bf16", 0, 8);
    // What does not decide them does not count.
    cached.counts("--beta 0.5 --weight-decay 0.5 --seed 3 --threads 2", 8, 0);
    let rows = cached.path("rows.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    fs::write(&rows, text.replacen("river", "sea", 1)).unwrap();
    cached.counts("", 0, 8);
    fs::write(&rows, &text).unwrap();
    cached.counts("", 8, 0);
    write(cached.temporary.path(), "model/chat_template.jinja", "{{ messages[0].content }}");
    cached.counts("", 0, 8);
    cached.counts("", 8, 0);
    nudge_weights(&cached.path("model"));
    cached.counts("", 0, 8);
    copy_of_tiny_llama(cached.temporary.path(), "other");
    // The weights of the model as it was: the reference decides, not the policy.
    cached.counts("--ref-model {other}", 8, 0);
}

#[test]
fn an_adapter_that_is_the_reference_counts() {
    let cached = Cached::new("dpo");
    copy_of_adapter(cached.temporary.path(), "adapter");
    cached.counts("", 0, 8);
    // Without the adapter it is the same reference.
    cached.counts("--lora-rank 2", 8, 0);
    cached.counts("--adapter {adapter}", 0, 8);
    cached.counts("--adapter {adapter}", 8, 0);
    nudge_weights(&cached.path("adapter"));
    cached.counts("--adapter {adapter}", 0, 8);
}

#[test]
fn damaged_entries_and_those_of_another_model_are_computed_again() {
    let cached = Cached::new("dpo");
    cached.counts("", 0, 8);
    let computed = cached.weights();
    let entry = cached.entries().remove(0);
    let whole = fs::read(&entry).unwrap();
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    copy_of_tiny_llama(cached.temporary.path(), "other");
    nudge_weights(&cached.path("other"));
    cached.counts("--ref-model {other}", 0, 8);
    let of_another = cached.entries().into_iter().find(|path| *path != entry).unwrap();
    let of_another = fs::read(of_another).unwrap();
    for bytes in [&flipped, &whole[..whole.len() - 1].to_vec(), &Vec::new(), &of_another] {
        fs::write(&entry, bytes).unwrap();
        let answer = cached.counts("", 0, 8);
        assert!(answer.stderr.contains("warning: reference log-probabilities are computed again: "));
        assert!(answer.stderr.contains(&entry.display().to_string()), "{}", answer.stderr);
        assert!(cached.weights() == computed, "it was not trusted");
        assert!(fs::read(&entry).unwrap() == whole, "it was replaced");
    }
    cached.counts("", 8, 0);
}

#[test]
fn what_a_moving_reference_excludes_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    copy_of_adapter(folder, "adapter");
    write_pairs(folder, "rows.jsonl", 4);
    for (method, more, texts) in [
        (
            "dpo",
            "--sync-ref-model --precompute-ref-log-probs",
            &["exclude each other", "those of another"][..],
        ),
        (
            "kto",
            "--sync-ref-model --lora-rank 2",
            &["--lora-rank exclude each other", "not mixing their product"],
        ),
        ("una", "--sync-ref-model --adapter {adapter}", &["--adapter exclude each other"]),
        (
            "dpo",
            "--sync-ref-model --loss-type simpo",
            &["--sync-ref-model: none of the losses has a reference"],
        ),
        (
            "dpo",
            "--sync-ref-model --reference-free",
            &["--sync-ref-model: none of the losses has a reference"],
        ),
        (
            "kto",
            "--sync-ref-model --ref-model-mixup-alpha 0",
            &["--ref-model-mixup-alpha 0", "above 0 and at most 1"],
        ),
        (
            "una",
            "--sync-ref-model --ref-model-mixup-alpha 1.5",
            &["--ref-model-mixup-alpha 1.5", "at most 1"],
        ),
        ("dpo", "--sync-ref-model --ref-model-mixup-alpha nan", &["--ref-model-mixup-alpha"]),
        ("dpo", "--sync-ref-model --ref-model-sync-steps 0", &["--ref-model-sync-steps 0", "at least 1"]),
        ("kto", "--ref-model-mixup-alpha 0.5", &["--ref-model-mixup-alpha: needs --sync-ref-model"]),
        ("una", "--ref-model-sync-steps 5", &["--ref-model-sync-steps: needs --sync-ref-model"]),
    ] {
        let line = format!(
            "{method} --model {} --data {{rows.jsonl}} --output-dir {{run}} {more}",
            tiny_llama().display()
        );
        align(folder, &line).refused(2, texts);
        assert!(!folder.join("run").exists());
    }
}

#[test]
fn a_reference_that_is_another_model_is_refused_by_every_method() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let other = copy_of_tiny_llama(folder, "other");
    edit_json(&other.join("config.json"), &[("vocab_size", json!(512))]);
    write_pairs(folder, "pairs.jsonl", 4);
    write_thumbs(folder, "thumbs.jsonl", 4);
    write_scores(folder, "scores.jsonl", 4);
    for (method, data) in [("dpo", "pairs"), ("kto", "thumbs"), ("una", "scores")] {
        for more in ["", "--precompute-ref-log-probs", "--sync-ref-model"] {
            let line = format!(
                "{method} --model {} --ref-model {{other}} --data {{{data}.jsonl}} --output-dir {{run}} {more}",
                tiny_llama().display()
            );
            align(folder, &line).refused(4, &["its vocabulary has 512 tokens, that of --model 320"]);
        }
    }
    assert!(!folder.join("run").exists());
}

#[test]
fn a_dry_run_says_what_the_reference_is_and_takes() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    copy_of_adapter(folder, "adapter");
    write_thumbs(folder, "rows.jsonl", 4);
    let answer = |more: &str| -> (String, f64) {
        let line = format!("kto --model {} --data {{rows.jsonl}} --dry-run {more}", tiny_llama().display());
        let json = align(folder, &format!("{line} --json")).ok().stdout;
        let json: Value = serde_json::from_str(&json).unwrap();
        let reference = json["reference"].as_str().unwrap().to_owned();
        let text = align(folder, &line).ok().stdout;
        assert!(text.contains(&format!("# reference     {reference}\n")), "{text}");
        (reference, json["memory_mb"].as_f64().unwrap())
    };
    let (plain, memory) = answer("");
    assert_eq!(plain, "the model as it is before the first step");
    assert!(answer("--precompute-ref-log-probs").0.contains("found or computed"));
    assert!(answer("--lora-rank 2").0.contains("without the adapter, which takes no memory"));
    assert!(answer("--adapter {adapter}").0.contains("the memory of an adapter"));
    let (half, less) = answer("--dtype bf16");
    assert!(half == plain && less < memory);
    let (follows, more) = answer(&format!("{MOVING} --dtype bf16"));
    assert!(follows.contains("every 3 steps it becomes 0.6 of it"), "{follows}");
    assert!(more > less, "a reference that follows is kept in float32");
}
