//! Methods learn a rule that rows follow, on answers under prompts they have not seen; from shuffled labels they learn
//! nothing of it.
//!
//! The rule: 24 made-up words are good answers, 24 others are bad ones. Which is which cannot be guessed, so that words
//! of both kinds are exchangeable where labels are shuffled. What a run has learnt is measured by the area under the
//! ROC curve of log π − log π_0 over the 48 words, each under a prompt of its own. For exchangeable words it is
//! distributed as the Mann-Whitney statistic: mean 1/2 and standard deviation sqrt((24 + 24 + 1) / (12 · 24 · 24)) =
//! 0.084; the bounds are 3.5 standard deviations away.

use crate::support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;

use align_types::{Purpose, RngStream};
use serde_json::{Value, json};
use support::{align, json_lines, tiny_llama, write};

/// Words of each kind.
const WORDS: usize = 24;
/// How often each word stands in the training rows.
const TIMES: usize = 5;
/// 3.5 standard deviations of the area without a rule.
const CHANCE: f64 = 0.3;

/// Made-up words without repetition.
fn words(rng: &mut RngStream) -> Vec<String> {
    let mut words = BTreeSet::new();
    while words.len() < 2 * WORDS {
        let mut letter = |letters: &str| letters.as_bytes()[rng.below(letters.len())] as char;
        let word: String = (0..3).flat_map(|_| [letter("bdfgklmnprstvz"), letter("aeiou")]).collect();
        words.insert(word);
    }
    let mut words: Vec<String> = words.into_iter().collect();
    rng.shuffle(&mut words);
    words
}

/// The task, which is made once: every run trains in a folder of its own.
fn task() -> &'static Task {
    static TASK: OnceLock<Task> = OnceLock::new();
    TASK.get_or_init(Task::new)
}

/// Rows of every kind.
struct Task {
    /// Files by name.
    files: BTreeMap<&'static str, String>,
    /// What every run begins with: the scores of the untrained model.
    before: (Vec<f64>, Vec<f64>),
}

impl Task {
    /// Makes training rows of every kind, true and shuffled, and the held-out pairs.
    fn new() -> Self {
        let mut task = Self { files: BTreeMap::new(), before: Default::default() };
        let mut rng = RngStream::new(5, Purpose::Synthetic, 0, 0);
        let words = words(&mut rng);
        let (good, bad) = words.split_at(WORDS);
        let mut number = 0;
        let mut prompt = || {
            number += 1;
            format!("Say word {number}:")
        };
        let mut pairs = Vec::new();
        for _ in 0..TIMES {
            let mut others = bad.to_vec();
            rng.shuffle(&mut others);
            pairs.extend(good.iter().zip(others).map(|(good, bad)| (prompt(), good.clone(), bad)));
        }
        let held_out = good.iter().zip(bad).map(|(good, bad)| preference(&prompt(), good, bad));
        task.write("held-out.jsonl", held_out.collect());

        let swapped = |(prompt, good, bad): &(String, String, String), swap: bool| {
            if swap { preference(prompt, bad, good) } else { preference(prompt, good, bad) }
        };
        task.write("pairs.jsonl", pairs.iter().map(|pair| swapped(pair, false)).collect());
        let shuffled = pairs.iter().map(|pair| swapped(pair, rng.uniform() < 0.5)).collect();
        task.write("pairs-shuffled.jsonl", shuffled);

        let answers: Vec<(&String, &String, bool)> = pairs
            .iter()
            .flat_map(|(prompt, good, bad)| [(prompt, good, true), (prompt, bad, false)])
            .collect();
        let mut labels: Vec<bool> = answers.iter().map(|(.., label)| *label).collect();
        let labelled = |labels: &[bool], key: &str, value: &dyn Fn(bool) -> Value| {
            let row = |((prompt, word, _), label): (&(&String, &String, bool), &bool)| json!({"prompt": prompt, "completion": format!(" {word}."), key: value(*label)});
            answers.iter().zip(labels).map(row).collect::<Vec<_>>()
        };
        let score = |label: bool| json!(if label { 0.9 } else { 0.2 });
        task.write("labels.jsonl", labelled(&labels, "label", &Value::Bool));
        task.write("scores.jsonl", labelled(&labels, "score", &score));
        rng.shuffle(&mut labels);
        task.write("labels-shuffled.jsonl", labelled(&labels, "label", &Value::Bool));
        task.write("scores-shuffled.jsonl", labelled(&labels, "score", &score));
        task.before = task.scores(&tiny_llama(), tempfile::tempdir().unwrap().path());
        task
    }

    fn write(&mut self, name: &'static str, rows: Vec<Value>) {
        self.files.insert(name, rows.iter().map(|row| format!("{row}\n")).collect());
    }

    /// Puts a file into a folder.
    fn put(&self, name: &str, folder: &Path) {
        write(folder, name, &self.files[name]);
    }

    /// The summed log-probabilities of the held-out answers under a model, good ones and bad ones, by way of a folder.
    fn scores(&self, model: &Path, folder: &Path) -> (Vec<f64>, Vec<f64>) {
        self.put("held-out.jsonl", folder);
        let model = model.display();
        let line =
            format!("logprobs --model {model} --data {{held-out.jsonl}} --output {{out.jsonl}} --threads 1");
        align(folder, &line).ok();
        let sum = |row: &Value, side: usize| row["completions"][side]["sum"].as_f64().unwrap();
        let rows = json_lines(&folder.join("out.jsonl"));
        rows.iter().map(|row| (sum(row, 0), sum(row, 1))).unzip()
    }

    /// Trains from the same beginning and returns the area under the curve on the held-out words.
    fn learn(&self, method: &str, rows: &str) -> f64 {
        let (command, flags) = method.split_once(' ').unwrap_or((method, ""));
        // As many answers per step whether a row has one or two.
        let batch = if rows.starts_with("pairs") { 20 } else { 40 };
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let line = format!(
            "{command} --model {} --data {{{rows}.jsonl}} --output-dir {{run}} --epochs 5 --batch-size \
             {batch} --learning-rate 2e-3 --samples 0 --save-every 0 --threads 1 {flags}",
            tiny_llama().display()
        );
        self.put(&format!("{rows}.jsonl"), folder);
        align(folder, &line).ok();
        let (before, after) = (&self.before, self.scores(&folder.join("run/model"), folder));
        let gains = |after: &[f64], before: &[f64]| {
            after.iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>()
        };
        area(&gains(&after.0, &before.0), &gains(&after.1, &before.1))
    }
}

fn preference(prompt: &str, chosen: &str, rejected: &str) -> Value {
    json!({"prompt": prompt, "chosen": format!(" {chosen}."), "rejected": format!(" {rejected}.")})
}

/// The share of (good, bad) in which the good one is above, ties counting one half.
fn area(good: &[f64], bad: &[f64]) -> f64 {
    let wins = |g: &f64| {
        bad.iter()
            .map(|b| {
                if g > b {
                    1.0
                } else if g == b {
                    0.5
                } else {
                    0.0
                }
            })
            .sum::<f64>()
    };
    good.iter().map(wins).sum::<f64>() / (good.len() * bad.len()) as f64
}

/// Fails when a method does not learn the rule, or learns it from rows that do not follow it.
fn learns(methods: &[&str], rows: &str) {
    let task = task();
    for method in methods {
        let (learnt, control) = (task.learn(method, rows), task.learn(method, &format!("{rows}-shuffled")));
        println!("{method}: {learnt:.3}, from shuffled labels {control:.3}");
        assert!(learnt > 0.95, "{method}: {learnt}");
        assert!((control - 0.5).abs() < CHANCE, "{method}, from shuffled labels: {control}");
    }
}

#[test]
fn the_dpo_family_learns_from_pairs() {
    let simpo = "dpo --loss-type simpo --beta 2";
    learns(&["dpo --beta 0.3", "dpo --loss-type ipo", "dpo --loss-type aot --beta 0.3", simpo], "pairs");
}

#[test]
fn kto_and_bco_learn_from_labels() {
    learns(&["kto --beta 0.3", "kto --loss-type bco --beta 0.3"], "labels");
}

#[test]
fn una_learns_from_pairs() {
    learns(&["una --beta 0.3"], "pairs");
}

#[test]
fn una_learns_from_labels() {
    learns(&["una --beta 0.3"], "labels");
}

#[test]
fn una_learns_from_scores() {
    learns(&["una --beta 0.3"], "scores");
}

/// On pairs UNA is DPO: the same lines of metrics and the same weights, bit by bit.
#[test]
fn una_on_pairs_is_dpo_bit_for_bit() {
    let temporary = tempfile::tempdir().unwrap();
    task().put("pairs.jsonl", temporary.path());
    let run = |command: &str| {
        let line = format!(
            "{command} --model {} --data {{pairs.jsonl}} --output-dir {{{command}}} --max-steps 4 --beta 0.2 \
             --learning-rate 1e-3 --log-every 1 --samples 0 --threads 2 --micro-batch-tokens 100",
            tiny_llama().display()
        );
        align(temporary.path(), &line).ok();
        let folder = temporary.path().join(command);
        let weights = std::fs::read(folder.join("model/model.safetensors")).unwrap();
        (json_lines(&folder.join("metrics.jsonl")), weights)
    };
    let ((dpo, weights_of_dpo), (una, weights_of_una)) = (run("dpo"), run("una"));
    assert!(weights_of_dpo == weights_of_una, "the weights differ");
    assert_eq!((dpo.len(), una.len()), (4, 4));
    for (dpo, una) in dpo.iter().zip(&una) {
        for key in [
            "step",
            "loss",
            "grad_norm",
            "tokens",
            "rewards/chosen",
            "rewards/rejected",
            "rewards/margins",
            "rewards/accuracies",
            "logps/chosen",
            "logps/rejected",
        ] {
            assert!(dpo[key].is_number(), "{key}");
            assert_eq!(dpo[key], una[key], "{key}");
        }
    }
}
