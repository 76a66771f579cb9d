//! Every loss of the offline methods, as users start them, on a tiny model.

use crate::support;

use std::f64::consts::LN_2;
use std::path::Path;

use align_cli::metrics::{self, Place, is_named};
use align_core::align_types::config::DpoLossType;
use serde_json::{Value, json};
use support::{Answer, align, json_lines, reward_model, tiny_llama, write, write_pairs, write_prompts};

/// Runs two steps over whole batches of eight rows and returns the lines of `metrics.jsonl`.
fn two_steps(folder: &Path, arguments: &str) -> Vec<Value> {
    train(folder, arguments).ok();
    json_lines(&folder.join("run/metrics.jsonl"))
}

fn train(folder: &Path, arguments: &str) -> Answer {
    let line = format!(
        "{arguments} --model {} --output-dir {{run}} --overwrite --max-steps 2 --log-every 1 --batch-size 8 \
         --samples 0 --learning-rate 1e-4",
        tiny_llama().display()
    );
    align(folder, &line)
}

fn write_rows(folder: &Path, name: &str, rows: impl Iterator<Item = Value>) {
    let lines: String = rows.map(|row| format!("{row}\n")).collect();
    write(folder, name, lines);
}

/// Answers with what `feedback` says of the i-th.
fn write_answers(folder: &Path, name: &str, column: &str, feedback: impl Fn(usize) -> Value) {
    let row = |i| {
        let mut row =
            json!({"prompt": format!("What is {i} and {i}? "), "completion": format!("It is {}.", 2 * i)});
        row[column] = feedback(i);
        row
    };
    write_rows(folder, name, (0..8).map(row));
}

/// Asserts that the table defines every number of a run.
fn assert_defined(line: &Value, place: Place) {
    for name in line.as_object().unwrap().keys() {
        let here = [Place::Training, Place::Offline, place];
        let defined = metrics::all().any(|metric| here.contains(&metric.place) && is_named(metric, name));
        assert!(defined, "{name} is not in the table");
    }
}

/// What the loss is while policy and reference are equal, where that determines it: the papers' formulas at
/// h = 0.
fn at_the_reference(loss: DpoLossType) -> Option<f64> {
    use DpoLossType as L;
    let beta = 0.1f64;
    match loss {
        L::Sigmoid | L::Robust | L::SigmoidNorm | L::Aot | L::AotUnpaired => Some(LN_2),
        // Half of it is the logistic loss, half exp(0).
        L::Discopop => Some(0.5 * LN_2 + 0.5),
        L::Hinge | L::ApoZero | L::ApoDown => Some(1.0),
        L::Ipo => Some(1.0 / (4.0 * beta * beta)),
        L::SppoHard => Some(2.0 * (0.5 / beta).powi(2)),
        L::NcaPair | L::BcoPair => Some(2.0 * LN_2),
        // KL between a fair coin and (1 - e, e).
        L::ExoPair => Some(0.5 * (0.5f64 / 0.9).ln() + 0.5 * (0.5f64 / 0.1).ln()),
        _ => None,
    }
}

#[test]
fn every_loss_of_the_family_starts_where_it_must_and_falls() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    for loss in DpoLossType::ALL {
        let name = loss.name();
        let smoothing = if loss == DpoLossType::ExoPair { " --label-smoothing 0.1" } else { "" };
        let lines = two_steps(folder, &format!("dpo --data {{pairs.jsonl}} --loss-type {name}{smoothing}"));
        let losses: Vec<f64> = lines.iter().map(|line| line["loss"].as_f64().unwrap()).collect();
        if let Some(expected) = at_the_reference(loss) {
            assert!((losses[0] - expected).abs() < 1e-6 * expected, "{name}: {losses:?}, not {expected}");
        }
        assert!(losses[1] < losses[0], "{name}: {losses:?}");
        assert_defined(&lines[0], Place::Dpo);
        let free = lines[0].get("reference_free/margins").is_some();
        assert_eq!(free, !loss.uses_reference(), "{name}");
    }
}

#[test]
fn several_losses_are_weighted_and_shown() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    let arguments = "dpo --data {pairs.jsonl} --loss-type sigmoid --loss-type sft --loss-type hinge \
                     --loss-weights 1,0.25,2";
    let line = &two_steps(folder, arguments)[0];
    let part = |name: &str| line[name].as_f64().unwrap();
    let whole = part("loss/sigmoid") + 0.25 * part("loss/sft") + 2.0 * part("loss/hinge");
    assert!((part("loss") - whole).abs() < 1e-9 * whole, "{line}");
    assert!((part("loss/sigmoid") - LN_2).abs() < 1e-6 && (part("loss/hinge") - 1.0).abs() < 1e-6);
    let line = format!(
        "dpo --model {} --data {{pairs.jsonl}} --eval-data {{pairs.jsonl}} --keep-best loss/sft --output-dir {{best}} \
         --loss-type sigmoid --loss-type sft --max-steps 1 --samples 0",
        tiny_llama().display()
    );
    align(folder, &line).ok();
    align(folder, &line.replace("--loss-type sft", "").replace("{best}", "{other}"))
        .refused(2, &["--keep-best loss/sft: there is no such metric"]);
}

#[test]
fn kto_takes_labels_and_pairs() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    write_answers(folder, "thumbs.jsonl", "label", |i| (i % 2 == 0).into());
    for (loss, expected) in [("kto", 0.5), ("apo_zero_unpaired", 0.5), ("bco", 2.0 * LN_2)] {
        for file in ["pairs", "thumbs"] {
            let lines = two_steps(folder, &format!("kto --data {{{file}.jsonl}} --loss-type {loss}"));
            let first = lines[0]["loss"].as_f64().unwrap();
            assert!((first - expected).abs() < 1e-6, "{loss} of {file}: {first}");
            assert!(lines[1]["loss"].as_f64().unwrap() < first, "{loss} of {file}");
            assert_defined(&lines[1], Place::Kto);
        }
    }
    // λ_D 3 on half of the answers: (3 + 1) / 2 halves.
    let lines = two_steps(folder, "kto --data {thumbs.jsonl} --desirable-weight 3");
    assert!((lines[0]["loss"].as_f64().unwrap() - 1.0).abs() < 1e-6);
}

#[test]
fn kto_says_what_is_wrong_with_labels() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_answers(folder, "few.jsonl", "label", |i| (i == 0).into());
    let answer = train(folder, "kto --data {few.jsonl}").ok();
    assert!(answer.stderr.contains("use --desirable-weight from 7 to 9.33"), "{}", answer.stderr);
    let answer = train(folder, "kto --data {few.jsonl} --desirable-weight 8").ok();
    assert!(!answer.stderr.contains("desirable-weight"), "{}", answer.stderr);
    write_answers(folder, "good.jsonl", "label", |_| true.into());
    train(folder, "kto --data {good.jsonl}").refused(4, &["all 8 labels are true", "align sft"]);
    write_answers(folder, "scores.jsonl", "score", |i| i.into());
    train(folder, "kto --data {scores.jsonl}").refused(4, &["expected unpaired preference"]);
    let line = format!(
        "kto --data {{few.jsonl}} --model {} --output-dir {{alone}} --max-steps 1 --batch-size 1 --samples 0",
        tiny_llama().display()
    );
    let alone = align(folder, &line).ok();
    assert!(alone.stderr.contains("its baseline z0 is 0"), "{}", alone.stderr);
}

#[test]
fn una_takes_rows_of_three_kinds_in_one_run() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    write_answers(folder, "thumbs.jsonl", "label", |i| (i % 2 == 0).into());
    write_answers(folder, "scores.jsonl", "score", |i| i.into());
    let all =
        "una --data {pairs.jsonl} --data {thumbs.jsonl} --data {scores.jsonl} --score-min 0 --score-max 7";
    let weights = "--pair-weight 2 --binary-weight 3 --score-weight 0.5 --batch-size 24";
    let lines = two_steps(folder, &format!("{all} {weights}").replace("--batch-size 24", ""));
    assert_defined(&lines[0], Place::Una);
    // A batch of all rows has every kind.
    let line = format!(
        "{all} {weights} --model {} --output-dir {{whole}} --max-steps 1 --samples 0",
        tiny_llama().display()
    );
    align(folder, &line).ok();
    let line = &json_lines(&folder.join("whole/metrics.jsonl"))[0];
    let part = |name: &str| line[name].as_f64().unwrap();
    assert!((part("loss/pairs") - LN_2).abs() < 1e-6);
    assert!((part("loss/binary") - 0.25).abs() < 1e-6);
    // Σ (1/2 − i/7)² / 8 over i = 0..7: the variance of eight equal steps, (8² − 1) / 12 / 7².
    assert!((part("loss/scored") - 63.0 / 12.0 / 49.0).abs() < 1e-6);
    let whole = 2.0 * part("loss/pairs") + 3.0 * part("loss/binary") + 0.5 * part("loss/scored");
    assert!((part("loss") - whole).abs() < 1e-9);
    assert!((part("una/prediction") - 0.5).abs() < 1e-6 && (part("una/target") - 0.5).abs() < 1e-6);
}

#[test]
fn una_says_what_is_wrong_with_scores() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_answers(folder, "scores.jsonl", "score", |i| (i as f64 - 2.5).into());
    train(folder, "una --data {scores.jsonl}")
        .refused(4, &["the scores are -2.5 to 4.5", "--score-min", "score-transform sigmoid"]);
    train(folder, "una --data {scores.jsonl} --score-min 0 --score-max 4").refused(4, &["-2.5 to 4.5"]);
    train(folder, "una --data {scores.jsonl} --score-min 0").refused(2, &["--score-max"]);
    train(folder, "una --data {scores.jsonl} --score-transform sigmoid").ok();
    train(folder, "una --data {scores.jsonl} --loss-type raw_mse").ok();
    train(folder, "una --data {scores.jsonl} --loss-type qrpo")
        .refused(4, &["scores.jsonl:1", "ref_rewards must be a list of numbers"]);
    write_answers(folder, "equal.jsonl", "score", |_| 0.5.into());
    train(folder, "una --data {equal.jsonl}").refused(4, &["all scores are 0.5"]);
}

#[test]
fn rewards_of_the_reference_travel_with_rows() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let row = |i: usize| {
        json!({
            "prompt": format!("Say {i}. "),
            "completion": format!("{i}{i}{i}"),
            "score": i as f64,
            "ref_rewards": [0.0, 1.0, 2.0, 3.0],
        })
    };
    write_rows(folder, "rows.jsonl", (0..8).map(row));
    for loss in ["qrpo", "a_star_po"] {
        for store in ["memory", "disk"] {
            let arguments =
                format!("una --data {{rows.jsonl}} --loss-type {loss} --beta 0.5 --row-store {store}");
            let answer = train(folder, &arguments).ok();
            assert!(!answer.stderr.contains("does not read: ref_rewards"), "{}", answer.stderr);
            let lines = json_lines(&folder.join("run/metrics.jsonl"));
            assert!(lines[1]["loss"].as_f64() < lines[0]["loss"].as_f64(), "{loss}");
        }
    }
}

#[test]
fn options_that_do_not_go_together_are_refused_with_the_reason() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    for (arguments, texts) in [
        ("--loss-type exo_pair", ["--label-smoothing 0", "undefined at 0"]),
        ("--loss-type ipo --label-smoothing 0.1", ["--label-smoothing", "none of the losses reads it"]),
        ("--loss-type orpo --precompute-ref-log-probs", ["--precompute-ref-log-probs", "has a reference"]),
        ("--ld-alpha 0.5 --precompute-ref-log-probs", ["--ld-alpha", "exclude each other"]),
        ("--loss-type apo_zero --reference-free", ["--reference-free", "needs the reference in h"]),
        ("--loss-type aot --use-weighting", ["--use-weighting", "sorts the batch"]),
        ("--loss-type nca_pair --f-divergence-type forward_kl", ["--f-divergence-type", "log Z(x) cancels"]),
        ("--loss-weights 1,2", ["--loss-weights", "one weight for each"]),
        ("--loss-type sigmoid --loss-type sigmoid", ["--loss-type", "each of them once"]),
        ("--loss-type sigmoyd", ["--loss-type sigmoyd: there is no such choice", "sigmoid"]),
        ("--beta 0", ["--beta 0", "above 0"]),
    ] {
        train(folder, &format!("dpo --data {{pairs.jsonl}} {arguments}")).refused(2, &texts);
        assert!(!folder.join("run").exists(), "{arguments}");
    }
}

#[test]
fn pairs_without_a_difference_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let row = |i: usize| json!({"prompt": format!("{i}? "), "chosen": "the same", "rejected": "the same"});
    write_rows(folder, "same.jsonl", (0..8).map(row));
    for method in ["dpo", "una"] {
        train(folder, &format!("{method} --data {{same.jsonl}}"))
            .refused(4, &["in all 8 pairs chosen and rejected are the same", "--max-length"]);
    }
}

/// Runs every preset for one step on rows of its kind.
#[test]
fn presets_train() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    write_answers(folder, "thumbs.jsonl", "label", |i| (i % 2 == 0).into());
    write_answers(folder, "scores.jsonl", "score", |i| i.into());
    write_answers(folder, "shares.jsonl", "score", |i| (i as f64 / 8.0).into());
    let columns =
        |i: usize| json!({"question": format!("{i}? "), "response_j": "Yes, it is.", "response_k": "no"});
    write_rows(folder, "exchange.jsonl", (0..8).map(columns));
    let turns = |i: usize| json!({"messages": [{"role": "user", "content": format!("{i}?")}, {"role": "assistant", "content": "Yes."}]});
    write_rows(folder, "chats.jsonl", (0..8).map(turns));
    write_prompts(folder, "prompts.jsonl", 8);
    reward_model(folder, "rm");
    let presets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/presets");
    for entry in std::fs::read_dir(presets).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let data = match name.as_str() {
            "README.md" => continue,
            "sft-chat.toml" => "--data {chats.jsonl}",
            "stack-exchange.toml" => "--data {exchange.jsonl}",
            "kto.toml" | "kto-few-good.toml" => "--data {thumbs.jsonl}",
            "una-scores.toml" => "--data {scores.jsonl}",
            "ppo.toml" => {
                "--data {prompts.jsonl} --reward-model {rm} --max-new-tokens 4 --batch-size 8 --truncated score"
            }
            "grpo-math.toml" => "--data {prompts.jsonl} --max-new-tokens 4 --batch-size 2",
            "una-mixed.toml" => "--data {pairs.jsonl} --data {thumbs.jsonl} --data {shares.jsonl}",
            _ => "--data {pairs.jsonl}",
        };
        let text = std::fs::read_to_string(&path).unwrap();
        let method = text.lines().nth(1).unwrap().split(' ').nth(2).unwrap();
        let line = format!(
            "{method} --config {} --model {} {data} --output-dir {{run}} --overwrite --max-steps 1 --samples 0",
            path.display(),
            tiny_llama().display()
        );
        align(folder, &line).ok();
    }
}
