//! Rows and weights that teach nothing or do harm: refused before anything is written, or stopped at a state that one
//! can go on from.

use crate::support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::{align, copy_of_tiny_llama, json_lines, poison_token, tiny_llama, tree, write, write_pairs};

/// Writes rows as one JSON object per line.
fn write_rows(folder: &Path, name: &str, rows: impl IntoIterator<Item = Value>) {
    write(folder, name, rows.into_iter().map(|row| format!("{row}\n")).collect::<String>());
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> Value {
    json!({"prompt": prompt, "chosen": chosen, "rejected": rejected})
}

fn labelled(row: usize, label: bool) -> Value {
    json!({"prompt": format!("Number {row}?"), "completion": format!(" It is {row}."), "label": label})
}

fn scored(row: usize, score: f64) -> Value {
    json!({"prompt": format!("Number {row}?"), "completion": format!(" It is {row}."), "score": score})
}

/// Trains on `rows.jsonl`; flags of `more` come last.
fn line(method: &str, more: &str) -> String {
    let model =
        if more.contains("--model") { String::new() } else { format!("--model {}", tiny_llama().display()) };
    format!("{method} {model} --data {{rows.jsonl}} --output-dir {{run}} --samples 0 --threads 1 {more}")
}

/// Asserts that a run is refused before there is anything of it.
fn refused(folder: &Path, method: &str, more: &str, texts: &[&str]) {
    let answer = align(folder, &line(method, more)).refused(4, texts);
    assert!(!answer.hints().is_empty(), "{}", answer.stderr);
    assert!(!folder.join("run").exists(), "{:?}", tree(folder));
}

/// The vector of one token is NaN; only the sixth row has it.
#[test]
fn nan_in_a_later_step_stops_after_a_checkpoint_and_names_the_rows() {
    type Row = fn(usize, &str) -> Value;
    let rows: [(&str, Row); 5] = [
        ("dpo", |row, word| pair(&format!("Number {row}?"), &format!(" Yes{word}"), " No")),
        (
            "kto",
            |row, word| json!({"prompt": format!("Number {row}?"), "completion": format!(" It is{word}"), "label": row % 2 == 0}),
        ),
        ("sft", |row, word| json!({"prompt": format!("Number {row}?"), "completion": format!(" Yes{word}")})),
        (
            "una",
            |row, word| json!({"prompt": format!("Number {row}?"), "completion": format!(" It is{word}"), "score": row as f64 / 12.0}),
        ),
        ("reward", |row, word| pair(&format!("Number {row}?"), &format!(" Yes{word}"), " No")),
    ];
    for (method, row) in rows {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let rows =
            |with: &str| (0..12).map(|at| row(at, if at == 5 { with } else { "." })).collect::<Vec<_>>();
        write_rows(folder, "rows.jsonl", rows("~"));
        poison_token(&copy_of_tiny_llama(folder, "model"), "~");
        // The order of rows follows from the seed: with this one the sixth row is not in the first batch.
        let flags =
            "--model {model} --batch-size 2 --save-every 0 --log-every 1 --learning-rate 1e-4 --seed 3";
        let stopped = align(folder, &line(method, flags)).refused(4, &["is not finite", "rows.jsonl:6"]);
        let step: u64 =
            stopped.stderr.split_once("error: step ").unwrap().1.split(':').next().unwrap().parse().unwrap();
        assert!(step > 1, "{}", stopped.stderr);
        let checkpoint = format!("run/checkpoints/step-{}", step - 1);
        assert!(
            stopped
                .stderr
                .contains(&format!("the state before it is in {}", folder.join(&checkpoint).display()))
        );
        assert!(folder.join(&checkpoint).join("trainer.json").exists(), "{:?}", tree(folder));
        assert_eq!(json_lines(&folder.join("run/metrics.jsonl")).len() as u64, step - 1);
        assert!(!folder.join("run/model").exists() && !folder.join("run/summary.json").exists());

        // Again: the same step, the same rows. With another rate it would be another run.
        let again = align(folder, &line(method, &format!("{flags} --resume"))).refused(4, &["rows.jsonl:6"]);
        assert!(again.stderr.contains(&format!("error: step {step}: ")), "{}", again.stderr);
        let other = flags.replace("1e-4", "1e-5");
        align(folder, &line(method, &format!("{other} --resume"))).refused(
            2,
            &["was started with another configuration", "learning_rate (0.0001 in the run, 0.00001 now)"],
        );

        // What the hint says works: a new run from the checkpoint's model, without the row.
        write_rows(folder, "rows.jsonl", rows("."));
        let model = format!("{checkpoint}/model");
        let hint = format!("--model {}", folder.join(&model).display());
        assert!(stopped.hints().iter().any(|line| line.contains(&hint)), "{}", stopped.stderr);
        let new = line(method, &other.replace("{model}", &format!("{{{model}}}")));
        align(folder, &new.replace("{run}", "{new}")).ok();
    }
}

/// A distance of two rewards that is no number says nothing of the boundary: the row is named where pairs are chosen.
#[test]
fn nan_where_pairs_are_chosen_names_the_row() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let word = |at| if at == 5 { "~" } else { "." };
    let row = |at| pair(&format!("Number {at}?"), &format!(" Yes{}", word(at)), " No");
    write_rows(folder, "rows.jsonl", (0..12).map(row));
    poison_token(&copy_of_tiny_llama(folder, "model"), "~");
    let band = "--pair-band 0,1000 --batch-size 2 --save-every 0";
    let stopped = align(folder, &line("reward", &format!("--model {{model}} {band}")));
    let stopped = stopped.refused(4, &["rows.jsonl:6: its reward is NaN", "error: step 1: "]);
    assert!(stopped.stderr.contains("hint: the weights of the model that is trained are damaged"));
    assert!(!folder.join("run/checkpoints/step-1").exists(), "{:?}", tree(folder));
}

/// Weights move by the learning rate in each step, whatever the gradient: products of weights of a thousand overflow.
#[test]
fn a_learning_rate_that_destroys_the_weights_stops_the_run() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "rows.jsonl", 24);
    let flags = "--learning-rate 1000 --max-grad-norm 1e9 --lr-scheduler constant";
    align(folder, &line("dpo", flags)).refused(
        4,
        &["error: step 2: ", "is not finite", "rows.jsonl:", "step-1", "hint: lower --learning-rate"],
    );
    assert!(folder.join("run/checkpoints/step-1/trainer.json").exists());
}

#[test]
fn pairs_without_difference() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_rows(folder, "rows.jsonl", (0..6).map(|row| pair(&format!("Number {row}?"), " Yes.", " Yes.")));
    for method in ["dpo", "una"] {
        refused(folder, method, "", &["in all 6 pairs chosen and rejected are the same tokens"]);
    }
    // Different texts that are the same after cutting.
    let same = " and the same words again and again".repeat(9);
    let rows = (0..6).map(|row| pair("Hi.", &format!("{same} {row}"), &format!("{same} not {row}")));
    write_rows(folder, "rows.jsonl", rows);
    let texts = ["in all 6 pairs chosen and rejected are the same tokens", "--max-length"];
    refused(folder, "dpo", "--max-length 32", &texts);
    align(folder, &line("dpo", "--dry-run")).ok();

    // Some of them are counted and said, and the others are trained on.
    let rows =
        (0..6).map(|row| pair(&format!("Number {row}?"), " Yes.", if row < 2 { " Yes." } else { " No." }));
    write_rows(folder, "rows.jsonl", rows);
    let answer = align(folder, &line("dpo", "")).ok();
    assert!(answer.stderr.contains("2 rows have answers that are all the same"), "{}", answer.stderr);
    let summary: Value = serde_json::from_slice(&fs::read(folder.join("run/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["data"]["identical_answers"]["count"], 2, "{summary}");
}

#[test]
fn labels_and_scores_that_are_all_equal() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    for label in [true, false] {
        write_rows(folder, "rows.jsonl", (0..5).map(|row| labelled(row, label)));
        for method in ["kto", "kto --loss-type bco", "una"] {
            refused(folder, method, "", &[&format!("all 5 labels are {label}")]);
        }
    }
    write_rows(folder, "rows.jsonl", (0..5).map(|row| scored(row, 0.5)));
    refused(folder, "una", "", &["all scores are 0.5"]);
    // One row of the other kind is enough.
    write_rows(folder, "rows.jsonl", (0..5).map(|row| labelled(row, row == 3)));
    align(folder, &line("kto", "--desirable-weight 4.5")).ok();
}

#[test]
fn scores_outside_their_range() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_rows(
        folder,
        "rows.jsonl",
        [0.5, -2.0, 7.5].into_iter().enumerate().map(|(row, score)| scored(row, score)),
    );
    refused(folder, "una", "", &["-2", "7.5", "score-min"]);
    refused(folder, "una", "--score-min 0 --score-max 5", &["-2", "7.5"]);
    align(folder, &line("una", "--score-min -2 --score-max 7.5")).ok();
}

#[test]
fn rows_of_mixed_kinds() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let mixed = [labelled(1, true), labelled(2, false), pair("Hi.", " Yes.", " No."), scored(4, 0.25)];
    write_rows(folder, "rows.jsonl", mixed.clone());
    refused(folder, "kto", "", &["rows.jsonl:3"]);
    let mut pairs_first = mixed;
    pairs_first.rotate_left(2);
    write_rows(folder, "rows.jsonl", pairs_first.clone());
    for method in ["dpo", "una"] {
        refused(folder, method, "", &["rows.jsonl:2", "row 1 is preference"]);
    }
    // `una` takes a file of each kind.
    let [pair, scored, up, down] = pairs_first;
    write_rows(folder, "rows.jsonl", [pair]);
    write_rows(folder, "scores.jsonl", [scored]);
    write_rows(folder, "labels.jsonl", [up, down]);
    align(folder, &line("una", "--data {scores.jsonl} --data {labels.jsonl}")).ok();
}

/// An infinite gradient has no direction, and neither has a β of 0 a pull.
#[test]
fn strengths_that_are_none() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_rows(folder, "rows.jsonl", [labelled(1, true), labelled(2, false)]);
    for method in ["dpo", "kto", "una"] {
        align(folder, &line(method, "--beta 0")).refused(2, &["beta 0: expected a finite number above 0"]);
    }
    let weights = "--desirable-weight 0 --undesirable-weight 0";
    align(folder, &line("kto", weights)).refused(2, &["desirable-weight", "above 0"]);
    assert!(!folder.join("run").exists());
}
