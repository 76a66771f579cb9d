//! Public data sets as they are published: the doctor answers for every file, and many of them train.

use std::{path::Path, process::Command};

use crate::support;

use align_testkit::real_data;
use serde_json::Value;
use support::{align, json_lines, tiny_llama, tree};

/// Files that train as they are or with their columns mapped: command, file, further flags.
const TRAINED: [(&str, &str, &str); 23] = [
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
    ("kto", "kto/kto_en_demo.json", "--truncation keep-end --bad-rows skip"),
    ("kto", "kto/kto-mix-test.json", "--truncation keep-end --bad-rows skip"),
    ("una", "hh-rlhf/harmless-base/test.jsonl.gz", "--bad-rows skip"),
    ("una", "kto/kto_en_demo.json", "--truncation keep-end --bad-rows skip"),
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

/// Writes the rows from `first` on, `count` at most, of a file of JSON Lines, which may be compressed.
const SLICE: &str = "
import gzip, itertools, sys
name, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with (gzip.open if name.endswith('.gz') else open)(name, 'rb') as rows:
    sys.stdout.buffer.writelines(itertools.islice(rows, first, first + count))
";

/// Writes what a Python program prints.
fn python(arguments: &[&str], to: &Path) {
    let ran = Command::new("python3").args(arguments).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    std::fs::write(to, ran.stdout).unwrap();
}

/// Transcripts, pairs, rankings with ties and scores; the nested ones are flattened by the program in fixtures/.
#[test]
fn published_feedback_makes_reward_models() {
    let Some(root) = real_data("README.md") else { return };
    let root = root.parent().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let flatten = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/data/rankings.py");
    let at = |file: &str| root.join(file).display().to_string();
    python(&[flatten, "oasst", "--tie", &at("oasst/en_100_tree.jsonl")], &folder.join("trees.jsonl"));
    python(&[flatten, "prometheus", &at("prometheus-scores/vicuna_eval.json")], &folder.join("judged.jsonl"));
    let nested = |file: &str| folder.join(file).display().to_string();
    let files = [
        (at("hh-rlhf/harmless-base/test.jsonl.gz"), (200, 40), "--max-length 512"),
        (at("ultrafeedback/train_clean.jsonl"), (60, 20), "--max-length 1600"),
        (nested("trees.jsonl"), (100, 30), "--max-length 1600"),
        // The answers to a prompt lie anywhere: all rows are trained on and compared.
        (nested("judged.jsonl"), (240, 0), "--score-min 1 --score-max 5 --max-length 1600"),
    ];
    for (file, (train, test), more) in files {
        let slice = |first: usize, count: usize, to: &str| {
            python(&["-c", SLICE, &file, &first.to_string(), &count.to_string()], &folder.join(to));
        };
        slice(0, train, "train.jsonl");
        slice(if test > 0 { train } else { 0 }, if test > 0 { test } else { train }, "test.jsonl");
        // Some rows of the transcripts cannot be used, which is said; training leaves them out.
        let checked = align(folder, "data check {train.jsonl}");
        assert!([0, 4].contains(&checked.code), "{file}: {}", checked.stderr);
        let line = format!(
            "reward --model {} --data {{train.jsonl}} --eval-data {{test.jsonl}} --output-dir {{run}} --overwrite \
             --max-steps 2 --batch-size 4 --bad-rows skip {more}",
            tiny_llama().display(),
        );
        align(folder, &format!("{line} --dry-run")).ok();
        let said = align(folder, &line).ok().stderr;
        assert!(said.contains("held out: accuracy"), "{file}: {said}");
        assert!(said.contains("preferring the longer answer has"), "{file}: {said}");
        // What was trained on people's pairs is what a policy is trained against, on their prompts.
        let ppo = format!(
            "ppo --model {} --data {{train.jsonl}} --reward-model {{run/model}} --output-dir {{ppo}} --overwrite \
             --max-steps 2 --batch-size 4 --max-new-tokens 8 --truncated score --log-every 1 --bad-rows skip {more}",
            tiny_llama().display(),
        );
        // A range of scores is no flag of a command that reads none.
        let ppo = ppo.replace("--score-min 1 --score-max 5", "");
        let said = align(folder, &ppo).ok().stderr;
        assert!(said.contains("score head as value head"), "{file}: {said}");
        for line in json_lines(&folder.join("ppo/metrics.jsonl")) {
            let number = |name: &str| line[name].as_f64().unwrap_or(f64::NAN);
            assert!(
                number("objective/scores").is_finite() && number("objective/kl").is_finite(),
                "{file}: {line}"
            );
        }
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
