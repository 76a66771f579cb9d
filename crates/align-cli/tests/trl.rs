//! Three full-batch DPO steps against TRL 1.16; fixtures/trl/dpo_three_steps.py made the numbers.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod support;

use align_testkit::fixture;
use serde_json::Value;
use support::{align, json_lines, tiny_llama};

#[test]
fn three_full_batch_steps_follow_trl() {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(fixture("trl/dpo_three_steps.json")).unwrap()).unwrap();
    let settings = &expected["settings"];
    let folder = tempfile::tempdir().unwrap();
    let pairs = fixture("trl/pairs.jsonl");
    let rows = std::fs::read_to_string(&pairs).unwrap().lines().count();
    let line = format!(
        "dpo --model {} --data {} --output-dir {{run}} --batch-size {rows} --max-steps {} --learning-rate {} \
         --beta {} --max-grad-norm {} --lr-scheduler {} --log-every 1 --samples 0",
        tiny_llama().display(),
        pairs.display(),
        settings["steps"],
        settings["learning_rate"],
        settings["beta"],
        settings["max_grad_norm"],
        settings["lr_scheduler"].as_str().unwrap(),
    );
    align(folder.path(), &line).ok();
    let got = json_lines(&folder.path().join("run/metrics.jsonl"));
    let steps = expected["steps"].as_array().unwrap();
    assert_eq!(got.len(), steps.len());
    for (ours, theirs) in got.iter().zip(steps) {
        for (key, value) in theirs.as_object().unwrap() {
            let (number, trl) = (ours[key].as_f64().unwrap(), value.as_f64().unwrap());
            // The floor is for zeros: margins before the first update are exactly 0 in both programs.
            let close = (number - trl).abs() <= (1e-3 * trl.abs()).max(1e-6);
            assert!(close, "step {}: {key} is {number}, TRL has {trl}", ours["step"]);
        }
    }
}
