//! Runs as users start them, on a tiny model.

use crate::support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use align_cli::metrics::{self, Place};
use align_testkit::real_data;
use serde_json::Value;
use support::{
    align, command, copy_of_tiny_llama, json_lines, python, tiny_llama, write, write_demonstrations,
    write_pairs,
};

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn close(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * a.abs().max(b.abs())
}

#[test]
fn dpo_starts_at_ln_2_and_learns_the_pairs() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 24);
    write_pairs(folder, "held.jsonl", 9);
    let line = format!(
        "dpo --model {} --data {{pairs.jsonl}} --eval-data {{held.jsonl}} --eval-every 5 --output-dir {{run}} \
         --max-steps 10 --log-every 1 --learning-rate 1e-3 --keep-best rewards/margins --json --threads 2",
        tiny_llama().display()
    );
    let answer = align(folder, &line).ok();
    let summary: Value = serde_json::from_str(&answer.stdout).unwrap();
    let run = folder.join("run");
    assert_eq!(
        summary,
        serde_json::from_slice::<Value>(&fs::read(run.join("summary.json")).unwrap()).unwrap()
    );

    let lines = json_lines(&run.join("metrics.jsonl"));
    assert_eq!(
        lines.iter().map(|line| line["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        (1..=10).collect::<Vec<_>>()
    );
    // Policy and reference are the same weights: every margin is 0, and -log sigmoid(0) = ln 2.
    assert!((number(&lines[0], "loss") - std::f64::consts::LN_2).abs() < 1e-6);
    assert!(number(&lines[0], "rewards/margins").abs() < 1e-6);
    let held: Vec<f64> = lines.iter().filter_map(|line| line["eval/rewards/margins"].as_f64()).collect();
    assert_eq!(held.len(), 2);
    assert!(held[0] > 0.0 && held[1] > held[0], "{held:?}");
    assert!(number(&lines[9], "rewards/accuracies") > 0.9);

    // Every number of the run is defined, and every defined number is there.
    let defined: Vec<&str> = metrics::all()
        .filter(|metric| matches!(metric.place, Place::Training | Place::Offline | Place::Dpo))
        .map(|metric| metric.name)
        .filter(|name| !name.starts_with("reference_free/") && *name != "loss/NAME")
        .collect();
    let shown: Vec<&String> = lines[0].as_object().unwrap().keys().collect();
    for name in &shown {
        assert!(defined.contains(&name.as_str()), "{name} is not in the table");
    }
    for name in &defined {
        assert!(shown.iter().any(|shown| shown == name), "{name} is not shown");
    }
    let elsewhere = ["eval_data", "completions_sampled"];
    for metric in metrics::all().filter(|metric| metric.place == Place::Summary) {
        if elsewhere.contains(&metric.name) {
            continue;
        }
        assert!(summary.get(metric.name).is_some(), "{} is not in the summary", metric.name);
    }

    let samples = json_lines(&run.join("completions.jsonl"));
    assert_eq!(
        samples.iter().map(|sample| sample["step"].as_u64().unwrap()).collect::<Vec<_>>(),
        [0, 0, 0, 0, 10, 10, 10, 10]
    );
    for name in
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    {
        assert!(run.join("model").join(name).exists(), "{name}");
    }
    let environment: Value =
        serde_json::from_slice(&fs::read(run.join("environment.json")).unwrap()).unwrap();
    assert_eq!(environment["threads"], 2);

    // config.toml is enough to run again, to the same bits.
    align(folder, "dpo --config {run/config.toml} --output-dir {again} --no-progress").ok();
    let weights = |run: &str| fs::read(folder.join(run).join("model/model.safetensors")).unwrap();
    assert!(weights("run") == weights("again"));
    // The model of a run is a model.
    align(folder, "logprobs --model {run/model} --data {held.jsonl} --output {scored.jsonl}").ok();
}

#[test]
fn sft_lowers_the_loss_of_every_layout() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_demonstrations(folder, "demonstrations.jsonl", 12);
    write_pairs(folder, "pairs.jsonl", 12);
    write(folder, "texts.jsonl", "{\"text\": \"The kettle is on and the bread is warm.\"}\n".repeat(4));
    let chat = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi.\"}, {\"role\": \"assistant\", \"content\": \"Hello!\"}]}\n";
    write(folder, "chats.jsonl", chat.repeat(4));
    for (data, more) in [
        ("demonstrations.jsonl", ""),
        ("demonstrations.jsonl", "--aggregation seq-mean-mean"),
        ("texts.jsonl", ""),
        ("chats.jsonl", ""),
        ("pairs.jsonl", "--sft-on-chosen"),
    ] {
        let line = format!(
            "sft --model {} --data {{{data}}} --output-dir {{run}} --overwrite --max-steps 6 --log-every 1 \
             --learning-rate 3e-3 --samples 0 {more}",
            tiny_llama().display()
        );
        align(folder, &line).ok();
        let lines = json_lines(&folder.join("run/metrics.jsonl"));
        let (first, last) = (number(&lines[0], "loss"), number(&lines[5], "loss"));
        assert!(last < first - 0.1, "{data}: {first} then {last}");
        assert!(!folder.join("run/completions.jsonl").exists());
        for (name, _) in lines[0].as_object().unwrap() {
            let known = |metric: &&align_cli::metrics::Metric| {
                metric.name == name && matches!(metric.place, Place::Training | Place::Sft)
            };
            assert!(metrics::all().any(|metric| known(&metric)), "{name} is not in the table");
        }
    }
}

#[test]
fn the_result_does_not_depend_on_micro_batches() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 16);
    write_demonstrations(folder, "demonstrations.jsonl", 16);
    for (method, data) in [("dpo", "pairs.jsonl"), ("sft", "demonstrations.jsonl")] {
        let runs: Vec<Vec<Value>> = [1, 150, 100_000]
            .iter()
            .map(|tokens| {
                let line = format!(
                    "{method} --model {} --data {{{data}}} --output-dir {{{method}-{tokens}}} --max-steps 4 --log-every 1 \
                     --learning-rate 1e-4 --samples 0 --micro-batch-tokens {tokens} --threads 1",
                    tiny_llama().display()
                );
                align(folder, &line).ok();
                json_lines(&folder.join(format!("{method}-{tokens}/metrics.jsonl")))
            })
            .collect();
        for other in &runs[1..] {
            for (step, (a, b)) in runs[0].iter().zip(other).enumerate() {
                let tolerance = if step == 0 { 1e-6 } else { 1e-5 };
                for key in ["loss", "grad_norm"] {
                    let (a, b) = (number(a, key), number(b, key));
                    assert!(close(a, b, tolerance), "{method} step {}: {key} {a} {b}", step + 1);
                }
            }
        }
    }
}

#[test]
fn references_may_be_precomputed_another_model_or_none() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    let run = |name: &str, more: &str| {
        let line = format!(
            "dpo --model {} --data {{pairs.jsonl}} --eval-data {{pairs.jsonl}} --output-dir {{{name}}} --max-steps 3 \
             --log-every 1 --learning-rate 1e-4 --samples 0 {more}",
            tiny_llama().display()
        );
        align(folder, &line).ok();
        json_lines(&folder.join(name).join("metrics.jsonl"))
    };
    let plain = run("plain", "");
    let precomputed = run("precomputed", "--precompute-ref-log-probs --threads 2");
    for (a, b) in plain.iter().zip(&precomputed) {
        assert!(close(number(a, "loss"), number(b, "loss"), 1e-5));
    }
    assert!(close(number(&plain[2], "eval/loss"), number(&precomputed[2], "eval/loss"), 1e-5));
    let same = run("same", &format!("--ref-model {}", tiny_llama().display()));
    assert_eq!(number(&plain[2], "loss"), number(&same[2], "loss"));
    let free = run("free", "--reference-free");
    assert!(free[0].get("rewards/margins").is_none() && free[0].get("reference_free/margins").is_some());
    // The first loss of another reference is not ln 2: after three steps the policy has left its start.
    let other = run("other", &format!("--ref-model {}", folder.join("plain/model").display()));
    assert!((number(&other[0], "loss") - std::f64::consts::LN_2).abs() > 1e-6);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_writes_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 10);
    let model = tiny_llama().display().to_string();
    let line = format!("dpo --model {model} --data {{pairs.jsonl}} --batch-size 4 --epochs 2 --dry-run");
    let answer = align(folder, &format!("{line} --weight-decay 0.01")).ok();
    assert!(answer.stderr.contains("warning: --weight-decay 0.01 does nothing"), "{}", answer.stderr);
    let answer = align(folder, &line).ok();
    assert!(!answer.stderr.contains("warning"), "{}", answer.stderr);
    assert!(answer.stdout.contains("# steps         6 (3 per epoch)"), "{}", answer.stdout);
    // What it prints is a configuration file.
    write(folder, "printed.toml", &answer.stdout);
    let json = align(folder, "dpo --config {printed.toml} --dry-run --json --output-dir {run}").ok().stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((json["steps"].as_u64(), json["rows"].as_u64()), (Some(6), Some(10)));
    // 320 x 32 embeddings and head; per layer 2 x 32 (norms), 32 x 32 + 2 x 32 x 16 + 32 x 32 (attention) and
    // 3 x 32 x 64 (feed-forward); 32 of the last norm.
    assert_eq!(json["parameters"], 2 * 320 * 32 + 2 * (64 + 3072 + 6144) + 32);
    assert!(!folder.join("run").exists());
    align(folder, &format!("{line} --bad-rows skip --max-length 5")).refused(4, &["nothing is left"]);
}

#[test]
fn ctrl_c_saves_and_the_run_goes_on_to_the_same_bits() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 16);
    let line = |run: &str| {
        format!(
            "dpo --model {} --data {{pairs.jsonl}} --output-dir {{{run}}} --max-steps 120 --log-every 1 --save-every 0 \
             --learning-rate 1e-4 --samples 0 --threads 1",
            tiny_llama().display()
        )
    };
    let child = command(folder, &line("run")).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for(|| {
        fs::read_to_string(folder.join("run/metrics.jsonl")).is_ok_and(|text| text.lines().count() >= 2)
    });
    interrupt(child.id());
    let answer = support::Answer::of(&child.wait_with_output().unwrap());
    assert_eq!(answer.code, 130, "{}", answer.stderr);
    assert!(
        answer.stderr.contains("interrupted after step") && answer.stderr.contains("hint: "),
        "{}",
        answer.stderr
    );
    assert!(!folder.join("run/model").exists());
    assert_eq!(fs::read_dir(folder.join("run/checkpoints")).unwrap().count(), 1);
    let answer = align(folder, &format!("{} --resume", line("run"))).ok();
    assert!(answer.stderr.contains("continuing after step"), "{}", answer.stderr);
    align(folder, &line("whole")).ok();
    let weights = |run: &str| fs::read(folder.join(run).join("model/model.safetensors")).unwrap();
    assert!(weights("run") == weights("whole"));
    assert_eq!(json_lines(&folder.join("run/metrics.jsonl")).len(), 120);
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 400);
    // One step of all rows takes long enough to be interrupted twice before it ends and its state is saved.
    let line = format!(
        "dpo --model {} --data {{pairs.jsonl}} --output-dir {{run}} --max-steps 500 --batch-size 400 --log-every 1 \
         --samples 0 --threads 1",
        tiny_llama().display()
    );
    let saved = || {
        let _ = fs::remove_dir_all(folder.join("run"));
        let mut child = command(folder, &line).stderr(std::process::Stdio::null()).spawn().unwrap();
        wait_for(|| {
            fs::read_to_string(folder.join("run/metrics.jsonl")).is_ok_and(|text| text.ends_with('\n'))
        });
        let code = loop {
            interrupt(child.id());
            std::thread::sleep(Duration::from_millis(5));
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
        };
        assert_eq!(code, Some(130));
        fs::read_dir(folder.join("run/checkpoints")).map_or(0, Iterator::count)
    };
    // The first Ctrl-C alone would have ended the run with the state of its step in a checkpoint. On a busy machine the
    // step may end between the two.
    assert!((0..5).any(|_| saved() == 0), "the second Ctrl-C waits for the step and its checkpoint");
}

pub fn interrupt(process: u32) {
    // SAFETY: sends a signal to a child that was not waited for.
    unsafe { libc::kill(process as libc::pid_t, libc::SIGINT) };
}

pub fn wait_for(there: impl Fn() -> bool) {
    let begun = Instant::now();
    while !there() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing happened for a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_reader_that_goes_away_does_not_stop_a_run() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    let script = "$ALIGN dpo --model $MODEL --data $DIR/pairs.jsonl --output-dir $DIR/run --max-steps 3 --samples 0 \
                  2>&1 >/dev/null | true; echo ${PIPESTATUS[0]}";
    let mut command = std::process::Command::new("bash");
    command
        .args(["-c", script])
        .env("ALIGN", env!("CARGO_BIN_EXE_align"))
        .env("MODEL", tiny_llama())
        .env("DIR", folder);
    assert_eq!(support::Answer::of(&command.output().unwrap()).stdout.trim(), "0");
    assert!(folder.join("run/summary.json").exists());
}

#[test]
fn a_long_row_is_cut_to_the_context_and_counted() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    let model = copy_of_tiny_llama(folder, "model");
    support::edit_json(&model.join("config.json"), &[("max_position_embeddings", 40.into())]);
    let answer = align(folder, "dpo --model {model} --data {pairs.jsonl} --output-dir {run} --json").ok();
    assert!(answer.stderr.contains("lowered to the model's context of 40 tokens"), "{}", answer.stderr);
    let summary: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert!(summary["rows_cut"].as_u64().unwrap() > 0, "{summary}");
}

/// Trains a little on a real file and returns the lines of its metrics.
fn train_on_real(folder: &Path, data: &Path, more: &str) -> Vec<Value> {
    let line = format!(
        "dpo --model {} --data {} --output-dir {{run}} --overwrite --log-every 1 --threads 2 --max-length 128 \
         --max-prompt-length 48 --samples 0 {more}",
        tiny_llama().display(),
        data.display()
    );
    align(folder, &line).ok();
    json_lines(&folder.join("run/metrics.jsonl"))
}

#[test]
fn ultrafeedback_pairs_train_as_they_are() {
    let Some(data) = real_data("ultrafeedback/train_clean.jsonl") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let more = "--max-steps 8 --batch-size 16 --learning-rate 1e-3 --bad-rows skip";
    let lines = train_on_real(folder, &data, more);
    assert!((number(&lines[0], "loss") - std::f64::consts::LN_2).abs() < 1e-6);
    assert!(lines.iter().all(|line| number(line, "loss").is_finite()));
}

#[test]
fn raw_transcripts_train_once_their_empty_answers_are_skipped() {
    let Some(data) = real_data("hh-rlhf/harmless-base/test.jsonl.gz") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let line =
        format!("dpo --model {} --data {} --output-dir {{run}}", tiny_llama().display(), data.display());
    let answer =
        align(folder, &line).refused(4, &["4 of 1700 rows cannot be used", "hint: ", "--bad-rows skip"]);
    let places = answer
        .stderr
        .lines()
        .filter(|line| line.contains(&*data.to_string_lossy()) && line.starts_with("  "));
    assert_eq!(places.count(), 4, "{}", answer.stderr);
    assert!(!folder.join("run").exists());
    let lines = train_on_real(folder, &data, "--bad-rows skip --max-steps 1");
    assert!((number(&lines[0], "loss") - std::f64::consts::LN_2).abs() < 1e-6);
    let summary: Value = serde_json::from_slice(&fs::read(folder.join("run/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["rows_skipped"], 4);

    // Held-out margins start at 0, where policy and reference are equal, and rise.
    let rows: Vec<String> = align_data::RowReader::open(&data)
        .unwrap()
        .map(|row| format!("{}\n", Value::Object(row.unwrap().unwrap().value)))
        .collect();
    write(folder, "train.jsonl", rows[..1000].concat());
    let held = write(folder, "held.jsonl", rows[1300..].concat());
    let more = format!(
        "--bad-rows skip --eval-data {} --eval-every 10 --max-steps 20 --batch-size 32 --learning-rate 1e-3",
        held.display()
    );
    let lines = train_on_real(folder, &folder.join("train.jsonl"), &more);
    let margins: Vec<f64> = lines.iter().filter_map(|line| line["eval/rewards/margins"].as_f64()).collect();
    assert!(matches!(margins[..], [first, second] if first > 0.0 && second > first), "{margins:?}");
}

#[test]
fn nested_pairs_are_refused_with_what_they_lack() {
    let Some(data) = real_data("hh-rlhf-helpful-rewardbench/anthropic_helpful_0521.jsonl") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let line =
        format!("dpo --model {} --data {} --output-dir {{run}}", tiny_llama().display(), data.display());
    align(temporary.path(), &line).refused(
        4,
        &[
            ":1: ",
            "`evaluation_sample`",
            "hint: the nearest is preference",
            "lacks `prompt` and `chosen` and `rejected`",
        ],
    );
    assert!(!temporary.path().join("run").exists());
}

#[test]
fn transformers_loads_the_result_and_agrees() {
    let Some(mut command) = python("models/check_saved.py", "transformers, torch") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    let line = format!(
        "dpo --model {} --data {{pairs.jsonl}} --output-dir {{run}} --max-steps 5 --learning-rate 1e-3 --samples 0",
        tiny_llama().display()
    );
    align(folder, &line).ok();
    align(folder, "logprobs --model {run/model} --data {pairs.jsonl} --output {scored.jsonl}").ok();
    command.arg(folder.join("run/model")).arg(folder.join("scored.jsonl"));
    let answer = support::Answer::of(&command.output().unwrap()).ok();
    assert!(answer.stdout.contains("largest difference"), "{}", answer.stdout);
}

/// The event files of a run, of one that went on in a second process too, say in TensorBoard what metrics.jsonl says.
/// `align-train` has the same without Python, by a reader of its own, and TensorBoard's bytes.
#[test]
fn tensorboard_reads_what_the_metrics_say() {
    let Some(mut check) = python("tensorboard/check.py", "numpy, tensorboard") else { return };
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    let line = |run: &str| {
        format!(
            "dpo --model {} --data {{pairs.jsonl}} --eval-data {{pairs.jsonl}} --eval-every 2 --output-dir {{{run}}} \
             --max-steps 4 --save-every 2 --log-every 1 --learning-rate 1e-3 --samples 0",
            tiny_llama().display()
        )
    };
    for run in ["whole", "torn"] {
        align(folder, &line(run)).ok();
        check.arg(folder.join(run));
    }
    // As a kill before the end leaves it.
    fs::remove_file(folder.join("torn/summary.json")).unwrap();
    fs::remove_dir_all(folder.join("torn/model")).unwrap();
    fs::remove_dir_all(folder.join("torn/checkpoints/step-4")).unwrap();
    align(folder, &format!("{} --resume", line("torn"))).ok();
    let said = support::Answer::of(&check.output().unwrap()).ok().stdout;
    let ends: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once(": ")?.1)).collect();
    let expected = [1, 2].map(|files| format!("4 steps in {files} event files are those of metrics.jsonl"));
    assert_eq!(ends, expected, "{said}");
}

#[test]
fn a_held_out_loss_that_is_no_number_is_said_without_progress_too() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let row = |word: &str| format!("{{\"prompt\":\"a\",\"chosen\":\"{word}\",\"rejected\":\"c\"}}\n");
    write(folder, "pairs.jsonl", row("b"));
    write(folder, "held-out.jsonl", row("~"));
    let model = copy_of_tiny_llama(folder, "model");
    // The vector of a token that only the held-out row has becomes NaN.
    let tokenizer: Value = serde_json::from_slice(&fs::read(model.join("tokenizer.json")).unwrap()).unwrap();
    let token = tokenizer["model"]["vocab"]["~"].as_u64().unwrap() as usize;
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let embedding = &header["model.embed_tokens.weight"];
    let width = embedding["shape"][1].as_u64().unwrap() as usize;
    assert_eq!(embedding["dtype"], "F32");
    let start = 8 + length + embedding["data_offsets"][0].as_u64().unwrap() as usize + 4 * width * token;
    bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path, bytes).unwrap();
    let line = "dpo --model {model} --data {pairs.jsonl} --eval-data {held-out.jsonl} --output-dir {run} \
                --samples 0 --no-progress";
    let answer = align(folder, line).ok();
    assert!(answer.stderr.contains("warning: held-out rows after step 1"), "{}", answer.stderr);
    assert!(answer.stderr.contains("held-out.jsonl:1"), "{}", answer.stderr);
}
