//! Health checks: real runs that are ill say so, healthy ones are silent.

use crate::support;

use std::path::Path;

use serde_json::Value;
use support::{Answer, align, json_lines, tiny_llama, write, write_pairs};

/// Trains and returns the names of the checks that spoke, in order, and what the program said.
fn spoken(folder: &Path, arguments: &str) -> (Vec<String>, Answer) {
    let line = format!(
        "{arguments} --model {} --output-dir {{run}} --overwrite --samples 0 --threads 2 --no-progress",
        tiny_llama().display()
    );
    let answer = align(folder, &line).ok();
    let summary: Value =
        serde_json::from_slice(&std::fs::read(folder.join("run/summary.json")).unwrap()).unwrap();
    let warnings = summary["warnings"].as_array().unwrap();
    for warning in warnings {
        let said = format!("warning: step {}: {}\n", warning["step"], warning["message"].as_str().unwrap());
        assert_eq!(answer.stderr.matches(&said).count(), 1, "`{said}` is not once in {}", answer.stderr);
    }
    assert_eq!(answer.stderr.matches("warning: step ").count(), warnings.len(), "{}", answer.stderr);
    (warnings.iter().map(|warning| warning["check"].as_str().unwrap().to_owned()).collect(), answer)
}

/// Writes the pairs as answers with a label each.
fn write_thumbs(folder: &Path) {
    let pairs = write_pairs(folder, "pairs-of-thumbs.jsonl", 40);
    let rows = json_lines(&pairs).into_iter().flat_map(|pair| {
        [("chosen", true), ("rejected", false)].map(|(side, label)| {
            let row = serde_json::json!({"prompt": pair["prompt"], "completion": pair[side], "label": label});
            format!("{row}\n")
        })
    });
    write(folder, "thumbs.jsonl", rows.collect::<String>());
}

#[test]
fn healthy_runs_are_silent() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 40);
    write_thumbs(folder);
    for arguments in [
        "dpo --data {pairs.jsonl} --max-steps 60 --learning-rate 1e-4",
        "dpo --data {pairs.jsonl} --max-steps 60 --learning-rate 1e-4 --reference-free",
        "dpo --data {pairs.jsonl} --max-steps 60 --learning-rate 1e-4 --loss-type ipo",
        "kto --data {thumbs.jsonl} --max-steps 60 --learning-rate 1e-4",
        "una --data {thumbs.jsonl} --data {pairs.jsonl} --max-steps 60 --learning-rate 1e-4",
        "sft --data {pairs.jsonl} --sft-on-chosen --max-steps 60 --learning-rate 1e-3",
        // The loss rises with the likelihood of the answers.
        "sft --data {pairs.jsonl} --sft-on-chosen --max-steps 60 --learning-rate 1e-3 --loss-type dft",
    ] {
        assert_eq!(spoken(folder, arguments).0, [""; 0], "{arguments}");
    }
}

/// At β = 1000 a few nats are thousands of reward, beyond which the sigmoid's gradient is 0 to the last bit.
#[test]
fn a_saturated_run_says_so() {
    let temporary = tempfile::tempdir().unwrap();
    write_pairs(temporary.path(), "pairs.jsonl", 40);
    let arguments = "dpo --data {pairs.jsonl} --max-steps 60 --learning-rate 1e-3 --beta 1000";
    let (checks, answer) = spoken(temporary.path(), arguments);
    assert_eq!(checks, ["no-gradient", "saturated"], "{}", answer.stderr);
    assert!(answer.stderr.contains("grad_norm is exactly 0 in 3 steps running: nothing is learned; "));
    assert!(answer.stderr.contains("rewards/margins is "), "{}", answer.stderr);
}

#[test]
fn a_run_that_forgets_both_answers_says_so() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 40);
    let arguments =
        "dpo --data {pairs.jsonl} --max-steps 60 --learning-rate 0.3 --lr-scheduler constant --log-every 1";
    let (checks, answer) = spoken(folder, arguments);
    assert!(checks.contains(&"likelihood-displacement".to_owned()), "{checks:?}: {}", answer.stderr);
    assert!(answer.stderr.contains(": rewards/chosen fell from "), "{}", answer.stderr);
    // It is so, by the log-probabilities themselves.
    let lines = json_lines(&folder.join("run/metrics.jsonl"));
    for name in ["logps/chosen", "logps/rejected"] {
        let mean = |part: &[Value]| {
            part.iter().map(|line| line[name].as_f64().unwrap()).sum::<f64>() / part.len() as f64
        };
        assert!(mean(&lines[40..]) < 1.1 * mean(&lines[..20]), "{name}");
    }
}

/// Short answers are likelier than long ones: without a reference the length alone tells them apart.
#[test]
fn pairs_that_nobody_need_learn_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let row = |row: usize| {
        format!(
            "{{\"prompt\": \"Number {row}?\", \"chosen\": \" Yes.\", \"rejected\": \" No, and{} it is not.\"}}\n",
            " again".repeat(row % 5 + 9)
        )
    };
    write(folder, "pairs.jsonl", (0..64).map(row).collect::<String>());
    let rest = "--data {pairs.jsonl} --max-steps 8 --batch-size 8 --learning-rate 1e-6";
    let (checks, answer) = spoken(folder, &format!("dpo --reference-free {rest}"));
    assert_eq!(checks, ["separated-from-the-start"]);
    assert!(answer.stderr.contains("step 4: reference_free/accuracies is 1 or more on each of steps 1 to 4"));
    // With the model itself as the reference rewards are 0 at first, and no pair is in order.
    assert_eq!(spoken(folder, &format!("dpo {rest}")).0, [""; 0]);
}

#[test]
fn a_loss_that_rises_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    write_pairs(temporary.path(), "pairs.jsonl", 40);
    let arguments =
        "sft --data {pairs.jsonl} --sft-on-chosen --max-steps 60 --learning-rate 3 --warmup-steps 60";
    let (checks, answer) = spoken(temporary.path(), arguments);
    assert_eq!(checks, ["loss-rises"], "{}", answer.stderr);
    assert!(answer.stderr.contains("lower --learning-rate, or give --warmup-steps"));
}

/// The loss of dft is near 0 for answers that are very unlikely: it does not say that they are.
#[test]
fn demonstrations_that_become_unlikely_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    write_pairs(temporary.path(), "pairs.jsonl", 40);
    let arguments = "sft --data {pairs.jsonl} --sft-on-chosen --max-steps 60 --learning-rate 3 --warmup-steps 60 \
                     --loss-type dft";
    let (checks, answer) = spoken(temporary.path(), arguments);
    assert!(checks.contains(&"likelihood-falls".to_owned()), "{checks:?}: {}", answer.stderr);
}

/// Where undesirable answers weigh thirty times as much, every answer becomes less likely, those under other prompts too.
#[test]
fn a_baseline_that_is_always_zero_is_said_at_the_end() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_thumbs(folder);
    let arguments = "kto --data {thumbs.jsonl} --max-steps 25 --learning-rate 1e-4 --undesirable-weight 30";
    let (checks, answer) = spoken(folder, arguments);
    assert_eq!(checks, ["baseline-always-zero"], "{}", answer.stderr);
    assert!(answer.stderr.contains("step 25: kl was exactly 0 on every one of 25 steps: this is legal"));
    // One row has no other prompt: there it is 0 by definition, which is said before the first step.
    let (checks, answer) = spoken(folder, &format!("{arguments} --batch-size 1"));
    assert_eq!(checks, [""; 0]);
    assert!(answer.stderr.contains("a batch of one row"), "{}", answer.stderr);
}

#[test]
fn labelled_answers_saturate_too() {
    let temporary = tempfile::tempdir().unwrap();
    write_thumbs(temporary.path());
    let arguments = "kto --data {thumbs.jsonl} --max-steps 60 --learning-rate 0.1 --lr-scheduler constant --undesirable-weight 30";
    let (checks, answer) = spoken(temporary.path(), arguments);
    assert!(checks.contains(&"saturated".to_owned()), "{checks:?}: {}", answer.stderr);
}
