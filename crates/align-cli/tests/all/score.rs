//! `align score`: rewards against transformers, margins, kills, scales, and what is refused.

use crate::support;

use std::fs;
use std::path::Path;

use align_cli::metrics::Place;
use serde_json::{Value, json};
use support::{
    HEAD, align, assert_defined, command, copy_of_tiny_llama, edit_json, json_lines, negate, poison_token,
    reward_model, tree, write, write_pairs,
};
use tempfile::TempDir;

/// Flags of every call: the same on every machine, and quiet.
const SMALL: &str = "--device cpu --no-progress";

/// A folder with the reward model `rm`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    reward_model(folder.path(), "rm");
    folder
}

fn write_rows(folder: &Path, name: &str, rows: impl IntoIterator<Item = Value>) {
    write(folder, name, rows.into_iter().map(|row| format!("{row}\n")).collect::<String>());
}

/// Runs `align score --model rm` and returns the rows it wrote.
fn score(folder: &Path, arguments: &str) -> Vec<Value> {
    align(folder, &format!("score --model {{rm}} --output {{out.jsonl}} {SMALL} {arguments}")).ok();
    json_lines(&folder.join("out.jsonl"))
}

fn summary(folder: &Path, arguments: &str) -> Value {
    let answer = align(folder, &format!("score --model {{rm}} {SMALL} --json {arguments}")).ok();
    serde_json::from_str(&answer.stdout).unwrap()
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn assert_close(ours: &[f64], theirs: &[f64], off: f64) {
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < off), "{ours:?} and {theirs:?}");
}

/// `fixtures/classifiers/rewards.py` got the expected rewards from transformers, for texts and for conversations.
#[test]
fn rewards_are_those_of_transformers() {
    let folder = folder();
    let expected = fs::read(align_testkit::fixture("classifiers/rewards.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    for key in ["prompt", "messages"] {
        let cases = expected["items"].as_array().unwrap().iter().filter(|case| case.get(key).is_some());
        let cases: Vec<&Value> = cases.collect();
        // As `align generate` writes answers, which may be empty, and as plain strings.
        let rows = cases.iter().map(|case| {
            let answer = case["completion"].clone();
            json!({"prompt": case[key], "completions": [{"text": answer, "finish_reason": "stop"}, answer]})
        });
        write_rows(folder.path(), "rows.jsonl", rows);
        let found = score(folder.path(), "--data {rows.jsonl}");
        assert!(cases.len() > 1 && found.len() == cases.len());
        for (case, line) in cases.iter().zip(found) {
            let expected = case["reward"].as_f64().unwrap();
            assert_close(&numbers(&line["rewards"]), &[expected, expected], 1e-4);
        }
    }
}

/// The same two answers in every layout, and alone: a prompt that is computed once changes nothing.
#[test]
fn an_answer_has_one_reward_in_every_kind_of_row() {
    let folder = folder();
    let (prompt, good, bad) = ("What is it?", " A river, I think.", " No");
    let single = |answer: &str| json!({"prompt": prompt, "completion": answer});
    let with = |mut row: Value, key: &str, value: Value| {
        row[key] = value;
        row
    };
    write_rows(folder.path(), "single.jsonl", [single(good), single(bad)]);
    let alone = score(folder.path(), "--data {single.jsonl} --micro-batch-tokens 1");
    let alone = [numbers(&alone[0]["rewards"])[0], numbers(&alone[1]["rewards"])[0]];
    assert!((alone[0] - alone[1]).abs() > 0.1, "the test needs answers that differ: {alone:?}");
    for (name, rows) in [
        ("labels", vec![with(single(good), "label", json!(true)), with(single(bad), "label", json!(false))]),
        ("scores", vec![with(single(good), "score", json!(4)), with(single(bad), "score", json!(1))]),
        ("pairs", vec![json!({"prompt": prompt, "rejected": bad, "chosen": good})]),
        ("ranking", vec![json!({"prompt": prompt, "completions": [good, bad], "ranks": [1, 2]})]),
        (
            "answers",
            vec![json!({"row": 9, "prompt": prompt, "completions": [{"text": good}, {"text": bad}]})],
        ),
    ] {
        write_rows(folder.path(), "rows.jsonl", rows);
        let found = score(folder.path(), "--data {rows.jsonl}");
        assert_eq!(found[0]["row"], 1, "{name}");
        let rewards: Vec<f64> = found.iter().flat_map(|line| numbers(&line["rewards"])).collect();
        assert_close(&rewards, &alone, 1e-4);
    }
}

#[test]
fn margins_are_differences_and_the_accuracy_counts_them() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 30);
    let mut rows = json_lines(&folder.path().join("pairs.jsonl"));
    // An answer against itself: a tie.
    rows[4]["rejected"] = rows[4]["chosen"].clone();
    write_rows(folder.path(), "pairs.jsonl", rows);
    let found = score(folder.path(), "--data {pairs.jsonl} --margins");
    let mut right = 0.0;
    for line in &found {
        let rewards = numbers(&line["rewards"]);
        assert_eq!(line["margin"].as_f64().unwrap(), rewards[0] - rewards[1]);
        right += if rewards[0] > rewards[1] {
            1.0
        } else if rewards[0] < rewards[1] {
            0.0
        } else {
            0.5
        };
    }
    assert_eq!(found[4]["margin"], 0.0);
    let told = summary(folder.path(), "--data {pairs.jsonl} --margins --output {again.jsonl}");
    assert_eq!((&told["rows"], &told["kept"], &told["rewards"]), (&json!(30), &json!(0), &json!("raw")));
    assert!((told["agreement"]["accuracy"]["mean"].as_f64().unwrap() - right / 30.0).abs() < 1e-12, "{told}");
    assert_eq!(told["agreement"]["ties"], 1);
    let interval = numbers(&told["agreement"]["accuracy"]["interval"]);
    assert!(interval[0] < right / 30.0 && right / 30.0 < interval[1], "{told}");
    let line = "score --model {rm} --data {pairs.jsonl} --margins --output {shown.jsonl} --no-progress";
    let shown = align(folder.path(), line).ok();
    assert!(
        shown.stdout.contains("accuracy") && shown.stdout.contains("ties count half: 1"),
        "{}",
        shown.stdout
    );
    assert!(shown.stderr.contains("raw logits"), "{}", shown.stderr);
    write_rows(folder.path(), "one.jsonl", [json!({"prompt": "a", "completion": "b"})]);
    align(folder.path(), "score --model {rm} --data {one.jsonl} --margins --output {no.jsonl}")
        .refused(4, &["one.jsonl:1", "--margins are of pairs", "hint: "]);
    assert!(!folder.path().join("no.jsonl").exists());
}

/// Rows of two windows, killed while some are written, and continued on another number of threads.
#[test]
fn a_killed_command_ends_with_the_same_bytes() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 700);
    let line = |output: &str, threads: usize| {
        format!(
            "score --model {{rm}} --data {{pairs.jsonl}} --margins --micro-batch-tokens 200 --threads {threads} \
             --output {{{output}}} {SMALL}"
        )
    };
    let whole = align(folder.path(), &format!("{} --json", line("whole", 2))).ok();
    let (output, partial) = (folder.path().join("out"), folder.path().join("out.partial"));
    let mut attempt = 0;
    let written = loop {
        attempt += 1;
        assert!(attempt < 30, "the command was always over before it could be killed");
        let mut child = command(folder.path(), &line("out", 1)).spawn().unwrap();
        let rows = || fs::read_to_string(&partial).map_or(0, |text| text.matches('\n').count());
        while rows() == 0 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().unwrap();
        if !output.exists() {
            break rows();
        }
        fs::remove_file(&output).unwrap();
    };
    assert!((1..700).contains(&written));
    let resumed = align(folder.path(), &format!("{} --json --resume", line("out", 2))).ok();
    assert!(fs::read(&output).unwrap() == fs::read(folder.path().join("whole")).unwrap());
    let (whole, resumed): (Value, Value) =
        (serde_json::from_str(&whole.stdout).unwrap(), serde_json::from_str(&resumed.stdout).unwrap());
    assert_eq!(resumed["kept"], written);
    assert_eq!(whole["agreement"], resumed["agreement"], "rows from before count, too");
    assert!(!tree(folder.path()).iter().any(|name| name.contains("partial")));
    align(folder.path(), &format!("{} --resume --max-length 50", line("out", 1)))
        .refused(2, &["max_length (nothing there, 50 now)", "hint: "]);
}

#[test]
fn folders_that_are_no_reward_models() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 3);
    copy_of_tiny_llama(folder.path(), "lm");
    let two = reward_model(folder.path(), "two");
    edit_json(&two.join("config.json"), &[("id2label", json!({"0": "a", "1": "b"}))]);
    let before = tree(folder.path());
    for (model, texts) in [
        ("lm", &["missing score.weight", "no score head", "hint: a language model is no reward model"][..]),
        ("two", &["id2label", "one label"]),
        ("nowhere", &["there is no such model folder"]),
    ] {
        let line = format!("score --model {{{model}}} --data {{pairs.jsonl}} --output {{out}}");
        align(folder.path(), &line).refused(4, texts);
    }
    assert_eq!(tree(folder.path()), before, "something was written");
}

#[test]
fn rewards_that_are_no_numbers_name_their_row() {
    let folder = folder();
    write_rows(
        folder.path(),
        "rows.jsonl",
        ["a", "b", "~", "c"].map(|answer| json!({"prompt": "x", "completion": answer})),
    );
    poison_token(&folder.path().join("rm"), "~");
    align(folder.path(), "score --model {rm} --data {rows.jsonl} --output {out}")
        .refused(4, &["rows.jsonl:3: its reward is NaN", "hint: the weights of"]);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn rows_that_do_not_fit_are_errors_unless_they_may_be_cut() {
    let folder = folder();
    let long = "word ".repeat(2000);
    write_rows(
        folder.path(),
        "long.jsonl",
        ["short", &long].map(|answer| json!({"prompt": "x", "completion": answer})),
    );
    align(folder.path(), "score --model {rm} --data {long.jsonl} --output {out}")
        .refused(4, &["long.jsonl:2", "the limit is", "hint: --max-length"]);
    let told = summary(folder.path(), "--data {long.jsonl} --output {out} --max-length 20");
    assert_eq!((&told["rows"], &told["cut"]), (&json!(2), &json!(1)));
    let lines = json_lines(&folder.path().join("out"));
    assert_eq!((lines[0].get("cut"), &lines[1]["cut"]), (None, &json!(true)));
    align(
        folder.path(),
        "score --model {rm} --data {long.jsonl} --max-length 20 --fit-normalization samples",
    )
    .refused(2, &["--fit-normalization", "cuts 1 rows", "hint: leave --max-length out"]);
    write(folder.path(), "bad.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"a\",\"compl\n");
    align(folder.path(), "score --model {rm} --data {bad.jsonl} --output {bad}")
        .refused(4, &["bad.jsonl:2: broken JSON", "hint: "]);
    let told = summary(folder.path(), "--data {bad.jsonl} --output {bad} --bad-rows skip");
    assert_eq!((&told["rows"], &told["bad_rows"]), (&json!(1), &json!(1)));
    write_rows(
        folder.path(),
        "sampled.jsonl",
        [json!({"prompt": "a", "completions": [{"text": "b", "finish_reason": "length"}, {"text": "c"}]})],
    );
    let told = summary(folder.path(), "--data {sampled.jsonl} --output {out}");
    assert_eq!(told["unfinished"], 1);
    for (rows, texts) in [
        (json!({"prompt": "a", "completions": []}), &["bad.jsonl:1", "`completions` is an empty list"][..]),
        (json!({"prompt": "a", "completions": [{"txt": "b"}]}), &["`completions[0]` has no `text`"]),
        (json!({"prompt": "a", "completions": "b"}), &["`completions` is not a list"]),
    ] {
        write_rows(folder.path(), "bad.jsonl", [rows]);
        align(folder.path(), "score --model {rm} --data {bad.jsonl} --output {bad}").refused(4, texts);
    }
}

/// Of the pairs one is cut: it has a margin and a mark, and the accuracy is that of the others.
#[test]
fn rows_that_are_cut_are_marked_and_in_no_figure() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 6);
    let mut rows = json_lines(&folder.path().join("pairs.jsonl"));
    write_rows(
        folder.path(),
        "whole.jsonl",
        rows.iter().enumerate().filter(|(row, _)| *row != 2).map(|(_, row)| row.clone()),
    );
    rows[2]["chosen"] = json!(" word".repeat(400));
    write_rows(folder.path(), "pairs.jsonl", rows);
    let told = summary(folder.path(), "--data {pairs.jsonl} --margins --max-length 300 --output {out}");
    let marked = |line: &Value| line.get("cut").is_some();
    let found: Vec<bool> = json_lines(&folder.path().join("out")).iter().map(marked).collect();
    assert_eq!((told["cut"].as_u64(), found), (Some(1), vec![false, false, true, false, false, false]));
    assert!(json_lines(&folder.path().join("out"))[2]["margin"].is_number());
    let whole = summary(folder.path(), "--data {whole.jsonl} --margins --output {other}");
    assert_eq!(told["agreement"]["comparisons"], 5);
    for figure in ["accuracy", "ties", "chosen_longer"] {
        assert_eq!(told["agreement"][figure], whole["agreement"][figure], "{figure}");
    }
    let long = json!({"prompt": "x", "chosen": " word".repeat(50), "rejected": " no".repeat(50)});
    write_rows(folder.path(), "long.jsonl", [long.clone(), long]);
    let line = "score --model {rm} --data {long.jsonl} --margins --max-length 20 --output {no}";
    align(folder.path(), line).refused(2, &["--margins: --max-length cuts 2 rows", "hint: "]);
}

/// The end-of-sequence token, which every answer gets, is made the one that pads: transformers reads before it.
#[test]
fn answers_that_end_with_the_padding_are_counted() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 3);
    let told = summary(folder.path(), "--data {pairs.jsonl} --output {out}");
    assert_eq!(told["padded"], 0);
    let config: Value =
        serde_json::from_slice(&fs::read(folder.path().join("rm/config.json")).unwrap()).unwrap();
    let end = config["eos_token_id"].clone();
    edit_json(&folder.path().join("rm/config.json"), &[("pad_token_id", end)]);
    let line = format!("score --model {{rm}} --data {{pairs.jsonl}} --output {{out}} --json {SMALL}");
    let answer = align(folder.path(), &line).ok();
    let told: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(told["padded"], 6);
    assert!(answer.stderr.contains("6 answers end with the model's pad_token_id"), "{}", answer.stderr);
}

#[test]
fn flags_that_do_not_belong_together() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 2);
    for (flags, texts) in [
        ("", &["--output <FILE> is missing"][..]),
        ("--margins", &["--margins needs --output"]),
        ("--resume --report {r}", &["--resume needs --output"]),
        ("--output {o} --subset-column x", &["--subset-column needs --report"]),
        ("--output {o} --model {rm}", &["several --model need --ensemble", "mean, min, variance"]),
        ("--output {o} --ensemble mean --normalize", &["--ensemble needs several --model"]),
        ("--output {o} --model {rm} --ensemble mean", &["--ensemble needs --normalize", "no common scale"]),
        ("--fit-normalization samples --normalize", &["exclude each other"]),
        ("--fit-normalization nothing", &["nothing", "samples, demonstrations"]),
        ("--output {o} --ensemble-coefficient 2", &["needs --ensemble variance"]),
        (
            "--output {o} --model {rm} --ensemble variance --normalize --ensemble-coefficient -1",
            &["--ensemble-coefficient -1", "at least 0"],
        ),
        ("--output {pairs.jsonl}", &["would replace"]),
        ("--report {pairs.jsonl}", &["--report", "would replace --data", "hint: "]),
        ("--output {o} --report {o}", &["would replace --output"]),
        ("--output {o} --report {o.origin.json}", &["would replace --output"]),
        ("--report {rm/config.json}", &["in the folder of a model that is read"]),
        ("--report {rm/new.json}", &["in the folder of a model that is read"]),
        ("--report {rm}", &["this is a folder"]),
        ("--output {o} --micro-batch-tokens 0", &["at least 1"]),
    ] {
        align(folder.path(), &format!("score --model {{rm}} --data {{pairs.jsonl}} {flags}"))
            .refused(2, texts);
    }
}

/// Mean 0 and variance 1 over the answers that the scale was measured on; without a scale it is refused.
#[test]
fn rewards_are_brought_to_the_scale_of_reference_answers() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 20);
    align(folder.path(), "score --model {rm} --data {pairs.jsonl} --normalize --output {out}").refused(
        4,
        &["there is no normalisation", "hint: `align score --model DIR", "--fit-normalization samples"],
    );
    let fitted =
        summary(folder.path(), "--data {pairs.jsonl} --fit-normalization samples --output {raw.jsonl}");
    // The scale that was written into the folder of the model is no other model.
    let again = summary(
        folder.path(),
        "--data {pairs.jsonl} --fit-normalization samples --output {raw.jsonl} --resume",
    );
    assert_eq!((&again["kept"], &again["normalization"]), (&json!(20), &fitted["normalization"]));
    let raw: Vec<f64> = json_lines(&folder.path().join("raw.jsonl"))
        .iter()
        .flat_map(|line| numbers(&line["rewards"]))
        .collect();
    let mean = raw.iter().sum::<f64>() / 40.0;
    let std = (raw.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / 40.0).sqrt();
    let scale: Value =
        serde_json::from_slice(&fs::read(folder.path().join("rm/reward_normalization.json")).unwrap())
            .unwrap();
    assert_eq!(scale, fitted["normalization"]);
    assert_eq!((&scale["rows"], &scale["of"]), (&json!(40), &json!("samples")));
    assert_close(&[scale["mean"].as_f64().unwrap(), scale["std"].as_f64().unwrap()], &[mean, std], 1e-9);
    let lines = score(folder.path(), "--data {pairs.jsonl} --normalize --margins");
    let normalized: Vec<f64> = lines.iter().flat_map(|line| numbers(&line["rewards"])).collect();
    let expected: Vec<f64> = raw.iter().map(|reward| (reward - mean) / std).collect();
    assert_close(&normalized, &expected, 1e-5);
    assert_eq!(lines[0]["margin"].as_f64().unwrap(), normalized[0] - normalized[1]);
    // Rows of another scale are rows of another command.
    align(folder.path(), "score --model {rm} --data {pairs.jsonl} --output {out.jsonl} --resume")
        .refused(2, &["normalize (true there, false now)"]);
    // Other weights have another scale.
    let weights = fs::read(folder.path().join("rm/model.safetensors")).unwrap();
    negate(&folder.path().join("rm"), |name| name == HEAD);
    align(folder.path(), "score --model {rm} --data {pairs.jsonl} --normalize --output {out}").refused(
        4,
        &["reward_normalization.json", "measured on other weights", "hint: ", "--fit-normalization"],
    );
    fs::write(folder.path().join("rm/model.safetensors"), weights).unwrap();
    fs::write(folder.path().join("rm/reward_normalization.json"), "{\"mean\": 0.0}").unwrap();
    align(folder.path(), "score --model {rm} --data {pairs.jsonl} --normalize --output {out}")
        .refused(4, &["reward_normalization.json", "missing field"]);
}

/// Two models of which one has the negative head of the other: on their scales their rewards are opposite, so that the
/// mean is 0 and the worst is minus the distance.
#[test]
fn ensembles_of_opposite_models() {
    let folder = folder();
    let other = reward_model(folder.path(), "other");
    negate(&other, |name| name == HEAD);
    write_pairs(folder.path(), "pairs.jsonl", 8);
    for model in ["rm", "other"] {
        let line =
            format!("score --model {{{model}}} --data {{pairs.jsonl}} --fit-normalization samples {SMALL}");
        align(folder.path(), &line).ok();
    }
    let of = |arguments: &str| -> Vec<f64> {
        let lines = score(folder.path(), &format!("--data {{pairs.jsonl}} --normalize {arguments}"));
        lines.iter().flat_map(|line| numbers(&line["rewards"])).collect()
    };
    let one = of("");
    let zeros = vec![0.0; one.len()];
    assert_close(&of("--model {other} --ensemble mean"), &zeros, 1e-4);
    let worst: Vec<f64> = one.iter().map(|reward| -reward.abs()).collect();
    assert_close(&of("--model {other} --ensemble min"), &worst, 1e-4);
    // The variance of r and -r around 0 is r².
    let penalised: Vec<f64> = one.iter().map(|reward| -0.5 * reward * reward).collect();
    let found = of("--model {other} --ensemble variance --ensemble-coefficient 0.5");
    assert_close(&found, &penalised, 1e-3);
    // On demonstrations zero means something else than on samples.
    let line = "score --model {other} --data {pairs.jsonl} --fit-normalization demonstrations --no-progress";
    align(folder.path(), line).ok();
    let line =
        "score --model {rm} --model {other} --data {pairs.jsonl} --normalize --ensemble mean --output {out}";
    align(folder.path(), line).refused(4, &["Demonstrations", "Samples"]);
    // Heads that point away from each other did not begin as one.
    align(folder.path(), "merge --average {rm} --average {other} --output {avg}")
        .refused(4, &["cosine of -1.00", "hint: train every model from one initial"]);
}

/// The average of a model with itself is the model, without the scale of one of them.
#[test]
fn an_average_of_equal_models_is_the_model() {
    let folder = folder();
    reward_model(folder.path(), "copy");
    write_pairs(folder.path(), "pairs.jsonl", 4);
    align(folder.path(), "score --model {rm} --data {pairs.jsonl} --fit-normalization samples --no-progress")
        .ok();
    align(folder.path(), "merge --average {rm} --average {copy} --output {avg}").ok();
    assert!(!folder.path().join("avg/reward_normalization.json").exists());
    let one = score(folder.path(), "--data {pairs.jsonl}");
    align(
        folder.path(),
        &format!("score --model {{avg}} --data {{pairs.jsonl}} --output {{avg.jsonl}} {SMALL}"),
    )
    .ok();
    assert_eq!(one, json_lines(&folder.path().join("avg.jsonl")));
    edit_json(&folder.path().join("copy/config.json"), &[("pad_token_id", json!(7))]);
    align(folder.path(), "merge --average {rm} --average {copy} --output {other}")
        .refused(4, &["differ in pad_token_id", "hint: "]);
    for (flags, texts) in [
        ("--average {rm}", &["one model has no average"][..]),
        ("--average {rm} --average {copy} --model {rm}", &["--average and --model or --adapter exclude"]),
        ("--model {rm}", &["--adapter <DIR> is missing"]),
        ("--adapter {rm}", &["--model <DIR> is missing"]),
    ] {
        align(folder.path(), &format!("merge {flags} --output {{new}}")).refused(2, texts);
    }
}

/// A report over rankings with subsets, against the rewards that the same command writes.
#[test]
fn a_report_says_how_far_rewards_can_be_trusted() {
    let folder = folder();
    let rows = (0..12).map(|row| {
        let answers = [format!(" It is {row}."), " no idea at all".to_owned(), format!(" {}", "so ".repeat(row + 1))];
        let source = if row % 3 == 0 { "web" } else { "book" };
        json!({"prompt": format!("What is {row}?"), "completions": answers, "ranks": [2, 1, 2], "source": source})
    });
    write_rows(folder.path(), "ranked.jsonl", rows);
    let line = "--data {ranked.jsonl} --output {rewards.jsonl} --report {report.json} --subset-column source";
    let told = summary(folder.path(), line);
    let written: Value =
        serde_json::from_slice(&fs::read(folder.path().join("report.json")).unwrap()).unwrap();
    assert_eq!(told["agreement"], written["agreement"]);
    let (mut right, mut nll, mut brier, mut web) = (0.0, 0.0, 0.0, 0.0);
    for (row, line) in json_lines(&folder.path().join("rewards.jsonl")).iter().enumerate() {
        let rewards = numbers(&line["rewards"]);
        for other in [0, 2] {
            let margin = rewards[1] - rewards[other];
            let correct = f64::from(u8::from(margin > 0.0));
            right += correct;
            web += if row % 3 == 0 { correct } else { 0.0 };
            let wrong = 1.0 / (1.0 + margin.exp());
            nll -= (1.0 - wrong).ln();
            brier += wrong * wrong;
        }
    }
    let found = &written["agreement"];
    assert_defined(found, Place::Report);
    let number =
        |path: &str| found.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {found}"));
    assert_eq!(
        (&found["kind"], &found["comparisons"], &found["equal_ranks"]),
        (&json!("rankings"), &json!(24), &json!(12))
    );
    assert_close(
        &[number("/accuracy/mean"), number("/probabilities/nll/mean"), number("/probabilities/brier/mean")],
        &[right / 24.0, nll / 24.0, brier / 24.0],
        1e-9,
    );
    assert_eq!(number("/subsets/source/web/comparisons"), 8.0);
    assert_close(&[number("/subsets/source/web/accuracy/mean")], &[web / 8.0], 1e-12);
    assert!(
        found["chosen_longer"]["mean"].is_number() && found["probabilities"]["calibration_error"].is_object()
    );
    assert!(found["temperature"].is_object(), "{found}");
    let shown =
        align(folder.path(), "score --model {rm} --data {ranked.jsonl} --report {r.json} --no-progress")
            .ok()
            .stdout;
    for text in
        ["24 comparisons in 12 rows", "chosen is longer", "calibration error (ECE)", "Brier", "temperature"]
    {
        assert!(shown.contains(text), "{shown}");
    }
    write_rows(folder.path(), "plain.jsonl", [json!({"prompt": "a", "completion": "b"})]);
    align(folder.path(), "score --model {rm} --data {plain.jsonl} --report {no.json}")
        .refused(4, &["plain.jsonl:1", "not known which answer", "hint: "]);
    align(folder.path(), "score --model {rm} --data {ranked.jsonl} --report {no.json} --subset-column sauce")
        .refused(4, &["--subset-column sauce: no row has this column"]);
    assert!(!folder.path().join("no.json").exists());
}
