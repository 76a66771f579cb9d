//! Public data sets as they are published: the doctor answers for every file, and many of them train.

use crate::support;

use align_testkit::real_data;
use serde_json::Value;
use support::{align, tiny_llama, tree};

/// Files that train as they are or with their columns mapped: command, file, further flags.
const TRAINED: [(&str, &str, &str); 19] = [
    ("sft", "alpaca/random_9k.json", "--bad-rows skip"),
    ("sft", "alpaca_eval/alpaca_eval.jsonl", ""),
    ("sft", "codealpaca/code_alpaca_2k.json", "--bad-rows skip"),
    ("sft", "dolly/dolly_3k.json", ""),
    ("sft", "gsm8k/test.jsonl", "--columns prompt=question,completion=answer"),
    ("sft", "llama-factory-demos/alpaca_zh_demo.json", "--train-on assistant"),
    ("sft", "llama-factory-demos/c4_demo.jsonl", ""),
    (
        "sft",
        "llama-factory-demos/glaive_toolcall_en_demo.json",
        "--train-on last-answer --truncation keep-end",
    ),
    ("sft", "math/test.json", "--columns prompt=problem,completion=solution"),
    ("sft", "mbpp/mbpp.jsonl", "--columns prompt=text,completion=code"),
    (
        "sft",
        "self-instruct/user_oriented_instructions.jsonl",
        "--columns prompt=instruction,completion=motivation_app",
    ),
    (
        "sft",
        "tldr/tldr_samples.csv",
        "--columns prompt=context,completion=sample --truncation keep-end --bad-rows skip",
    ),
    ("sft", "xstest/xstest_v2_completions_gpt4_gpteval.csv", ""),
    ("dpo", "hh-rlhf/harmless-base/test.jsonl.gz", "--bad-rows skip"),
    ("dpo", "llama-factory-demos/dpo_en_demo.json", "--truncation keep-end"),
    ("dpo", "rasbt-preference/instruction-data-with-preference.json", ""),
    (
        "dpo",
        "tldr/oai1b.csv_judged.csv",
        "--columns prompt=query,chosen=reference_responses,rejected=postprocessed_response --truncation keep-end",
    ),
    ("dpo", "tulu3-preference/preference_sample.jsonl", "--truncation keep-end"),
    ("dpo", "ultrafeedback/train_clean.jsonl", "--truncation keep-end --bad-rows skip"),
];

#[test]
fn published_files_train() {
    let Some(root) = real_data("README.md") else { return };
    let root = root.parent().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    for (command, file, more) in TRAINED {
        let line = format!(
            "{command} --model {} --data {} --output-dir {{run}} --overwrite --max-steps 2 --max-length 128 \
             --batch-size 4 --samples 0 --json {more}",
            tiny_llama().display(),
            root.join(file).display()
        );
        let answer = align(temporary.path(), &line);
        assert_eq!(answer.code, 0, "{file}: {}", answer.stderr);
        let summary: Value = serde_json::from_str(&answer.stdout).unwrap();
        assert!(summary["final"]["loss"].as_f64().unwrap().is_finite(), "{file}: {summary}");
        assert_eq!(summary["steps"], 2, "{file}");
    }
}

#[test]
fn the_doctor_answers_for_every_file() {
    let Some(root) = real_data("README.md") else { return };
    let root = root.parent().unwrap();
    let (mut good, mut refused) = (0, 0);
    let files =
        tree(root).into_iter().filter(|name| root.join(name).is_file() && !name.ends_with("README.md"));
    for name in files {
        let answer = align(root, &format!("data check {{{name}}} --json"));
        match answer.code {
            0 => good += 1,
            4 => {
                refused += 1;
                // Findings on stdout, and on stderr why the file cannot be trained on as it is.
                assert!(answer.stderr.contains("error: "), "{name}: {}", answer.stderr);
            }
            code => panic!("{name}: {code}: {}", answer.stderr),
        }
        let found: Value = serde_json::from_str(&answer.stdout).unwrap();
        assert_eq!(found["files"].as_array().unwrap().len(), 1, "{name}");
    }
    assert!(good >= 25 && refused >= 50, "{good} good, {refused} refused");
}
