//! `align reward`: what it learns, what it says, what it refuses, and that transformers reads the result.

use crate::runs::{interrupt, wait_for};
use crate::support;

use std::fs;
use std::path::Path;

use align_cli::metrics::{self, Place, is_named};
use align_core::{
    PackedBatch, ScoreModel,
    align_types::{Completion, PromptGroup, Purpose, RngStream},
};
use align_lm::{LoadOptions, SequenceClassifier};
use serde_json::{Value, json};
use support::{
    Answer, align, command, copy_of_tiny_llama, edit_json, json_lines, kills, python, reward_model,
    tiny_llama, write, write_pairs, write_scores, write_thumbs,
};

/// Writes pairs of answers of any length. The one that ends with "yes" is chosen; with `share` below 1 labels are right
/// with that probability.
fn write_rule(folder: &Path, name: &str, rows: u64, share: f64) {
    let mut rng = RngStream::new(7, Purpose::Synthetic, rows, 0);
    let mut words = |last: &str| {
        let count = 1 + (4.0 * rng.uniform()) as usize;
        let filler: String = (0..count).map(|_| if rng.uniform() < 0.5 { " yes" } else { " no" }).collect();
        (format!("{filler} {last}."), rng.uniform())
    };
    let mut line = |row: u64| {
        let ((good, luck), (bad, _)) = (words("yes"), words("no"));
        let (chosen, rejected) = if luck < share { (good, bad) } else { (bad, good) };
        format!("{}\n", json!({"prompt": format!("Question {row}?"), "chosen": chosen, "rejected": rejected}))
    };
    write(folder, name, (0..rows).map(&mut line).collect::<String>());
}

/// Writes rankings of three answers, the last two tied.
fn write_rankings(folder: &Path, name: &str, rows: usize) {
    let line = |row: usize| {
        let completions = [format!(" good {row}."), format!(" fair {row}"), format!(" poor {row}")];
        format!(
            "{}\n",
            json!({"prompt": format!("Rank {row}:"), "completions": completions, "ranks": [1, 2, 2]})
        )
    };
    write(folder, name, (0..rows).map(line).collect::<String>());
}

fn reward(folder: &Path, more: &str) -> Answer {
    let line = format!(
        "reward --model {} --output-dir {{run}} --overwrite --threads 2 {more}",
        tiny_llama().display()
    );
    align(folder, &line)
}

fn summary(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("run/summary.json")).unwrap()).unwrap()
}

#[test]
fn a_rule_is_learned_and_shuffled_labels_are_not() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_rule(folder, "right.jsonl", 160, 1.0);
    write_rule(folder, "shuffled.jsonl", 160, 0.5);
    write_rule(folder, "held.jsonl", 101, 1.0);
    let train = |data: &str| {
        let flags = "--eval-data {held.jsonl} --max-steps 60 --learning-rate 5e-3 --log-every 10";
        let answer = reward(folder, &format!("--data {{{data}}} {flags}")).ok();
        (answer, summary(folder))
    };
    let loss = |found: &Value| found["final"]["eval/loss"].as_f64().unwrap();
    let (answer, learned) = train("right.jsonl");
    assert!(loss(&learned) < 0.2, "{learned}");
    let found = &learned["held_out"]["agreement"];
    let accuracy = found["accuracy"]["mean"].as_f64().unwrap();
    assert!(accuracy > 0.9 && found["accuracy"]["interval"][0].as_f64().unwrap() > 0.8, "{found}");
    assert!(found["chosen_longer"]["mean"].as_f64().unwrap() < 0.8, "{found}");
    let text = &answer.stderr;
    assert!(
        text.contains("held out: accuracy") && text.contains("preferring the longer answer has"),
        "{text}"
    );
    let last = learned["final"]["eval/rewards/accuracies"].as_f64().unwrap();
    assert!((last - accuracy).abs() < 1e-9, "the same accuracy by two ways");
    assert_eq!(
        (&learned["model_dtype"], &learned["held_out"]["saved_weights"]),
        (&json!("float32"), &json!("float32"))
    );
    // Labels that say nothing pull every difference to 0, where the loss is ln 2.
    let (_, shuffled) = train("shuffled.jsonl");
    assert!(loss(&shuffled) > 0.35, "{shuffled}");
}

#[test]
fn every_kind_of_rows_trains_in_one_run_and_every_number_is_defined() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_rankings(folder, "rankings.jsonl", 8);
    write_pairs(folder, "pairs.jsonl", 8);
    write_thumbs(folder, "thumbs.jsonl", 8);
    write_scores(folder, "scores.jsonl", 8);
    let flags = "--data {rankings.jsonl} --data {pairs.jsonl} --data {thumbs.jsonl} --data {scores.jsonl} \
                 --eval-data {rankings.jsonl} --batch-size 32 --max-steps 2 --log-every 1 --pair-band 0,1000 \
                 --center-rewards-coefficient 0.01";
    for ties in ["skip", "half", "rao-kupper --tie-margin 0.5"] {
        reward(folder, &format!("{flags} --ties {ties}")).ok();
        let lines = json_lines(&folder.join("run/metrics.jsonl"));
        let places = [Place::Training, Place::Reward];
        let defined: Vec<_> = metrics::all().filter(|metric| places.contains(&metric.place)).collect();
        let shown: Vec<&String> = lines[0].as_object().unwrap().keys().collect();
        for name in &shown {
            assert!(defined.iter().any(|metric| is_named(metric, name)), "{name} is not in the table");
        }
        for metric in &defined {
            assert!(shown.iter().any(|name| is_named(metric, name)), "{} is not shown", metric.name);
        }
        // Eight pairs, all inside; two comparisons of each ranking are no ties.
        assert_eq!(lines[0]["pair_band/inside"], 8.0);
        let found = summary(folder);
        assert_eq!(found["held_out"]["comparisons"], 16);
        assert_eq!(found["pair_band"].as_array().unwrap().len(), 1);
    }
    let config = fs::read_to_string(folder.join("run/config.toml")).unwrap();
    assert!(config.contains("ties = \"rao-kupper\"") && config.contains("pair_band = ["), "{config}");
    align(folder, "reward --config {run/config.toml} --output-dir {again}").ok();
    let weights = |run: &str| fs::read(folder.join(run).join("model/model.safetensors")).unwrap();
    assert!(weights("run") == weights("again"));
}

#[test]
fn a_reward_model_goes_on_and_its_dry_run_writes_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    let dry = reward(folder, "--data {pairs.jsonl} --dry-run").ok();
    assert!(dry.stdout.contains("# memory") && !folder.join("run").exists(), "{}", dry.stdout);
    reward(folder, "--data {pairs.jsonl} --max-steps 2").ok();
    let more = "reward --model {run/model} --data {pairs.jsonl} --output-dir {more} --max-steps 1";
    align(folder, more).ok();
    let first = json_lines(&folder.join("more/metrics.jsonl"))[0].clone();
    let rewards = first["rewards/mean"].as_f64().unwrap();
    // The head of the first run is gone on with: a fresh one would give the scores of the first run's first step.
    let begun = json_lines(&folder.join("run/metrics.jsonl"))[0]["rewards/mean"].as_f64().unwrap();
    assert!((rewards - begun).abs() > 1e-6);
    let other = copy_of_tiny_llama(folder, "two");
    fs::copy(folder.join("run/model/model.safetensors"), other.join("model.safetensors")).unwrap();
    let config = folder.join("run/model/config.json");
    fs::copy(&config, other.join("config.json")).unwrap();
    edit_json(&other.join("config.json"), &[("id2label", json!({"0": "no", "1": "yes"}))]);
    align(folder, "reward --model {two} --data {pairs.jsonl} --output-dir {x}")
        .refused(4, &["id2label", "one label"]);
}

/// The end of an answer is what is scored: an end token that is also the padding would be passed over.
#[test]
fn the_padding_is_a_token_with_which_no_answer_ends() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 6);
    let model = copy_of_tiny_llama(folder, "model");
    let config: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    // The configuration forgets its end token, which the tokenizer appends all the same, and pads with it.
    let end = config["eos_token_id"].clone();
    edit_json(&model.join("config.json"), &[("pad_token_id", end.clone()), ("eos_token_id", Value::Null)]);
    let line = "reward --model {model} --data {pairs.jsonl} --output-dir {run} --max-steps 1";
    let answer = align(folder, line).ok();
    assert!(answer.stderr.contains("pad_token_id is"), "{}", answer.stderr);
    let saved: Value =
        serde_json::from_slice(&fs::read(folder.join("run/model/config.json")).unwrap()).unwrap();
    assert_ne!(saved["pad_token_id"], end);
}

#[test]
fn rows_are_never_cut() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let long = json!({"prompt": "a", "chosen": "word ".repeat(60), "rejected": "b"});
    let short = json!({"prompt": "a", "chosen": " b c", "rejected": " d"});
    write(folder, "pairs.jsonl", format!("{long}\n{short}\n"));
    let answer = reward(folder, "--data {pairs.jsonl} --max-length 32 --max-steps 1").ok();
    assert!(answer.stderr.contains("1 rows were dropped: they are over the limit"), "{}", answer.stderr);
    let found = summary(folder);
    assert_eq!((&found["rows_dropped"], &found["rows_cut"]), (&json!(1), &json!(0)));
    reward(folder, "--data {pairs.jsonl} --max-length 32 --truncation error").refused(4, &["pairs.jsonl:1"]);
    reward(folder, "--data {pairs.jsonl} --truncation keep-start").refused(2, &["no row may be cut"]);
    write(folder, "long.jsonl", format!("{long}\n"));
    reward(folder, "--data {long.jsonl} --max-length 32").refused(4, &["nothing is left", "long.jsonl:1"]);
}

#[test]
fn bad_rankings_and_flags_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let case = |row: Value, texts: &[&str]| {
        write(folder, "rows.jsonl", format!("{row}\n"));
        reward(folder, "--data {rows.jsonl}").refused(4, texts);
    };
    let ranking =
        |answers: &[&str], ranks: &[u32]| json!({"prompt": "a", "completions": answers, "ranks": ranks});
    case(ranking(&[" b"], &[1]), &["rows.jsonl:1", "two or more"]);
    case(ranking(&[" b", " c"], &[1, 2, 3]), &["rows.jsonl:1", "2 `completions` and 3 `ranks`"]);
    case(ranking(&[" b", " c"], &[2, 2]), &["rows.jsonl:1", "all have the same rank"]);
    let pair = |more: (&str, f64)| json!({"prompt": "a", "chosen": " b", "rejected": " c", more.0: more.1});
    case(pair(("preference", 1.5)), &["rows.jsonl:1", "preference", "from 0 to 1"]);
    write(folder, "rows.jsonl", format!("{}\n", ranking(&[" b", " c"], &[2, 2])));
    reward(folder, "--data {rows.jsonl} --ties half --max-steps 1").ok();
    reward(folder, "--data {rows.jsonl} --ties half --pair-band 0,1").refused(4, &["none of the 1 rows"]);
    write_pairs(folder, "pairs.jsonl", 4);
    let empty = reward(folder, "--data {pairs.jsonl} --pair-band 900,901");
    empty.refused(4, &["none of 4 pairs lies inside", "rewards are from"]);
    for (flags, texts) in [
        ("--pair-band 2,1", &["--pair-band 2,1", "LO < HI"][..]),
        ("--pair-band-every 5", &["needs --pair-band"]),
        ("--ties rao-kupper", &["tie-margin"]),
        ("--samples 2", &["answers nothing"]),
        ("--keep-best rewards/marginz --eval-data p", &["did you mean rewards/margins?"]),
    ] {
        reward(folder, &format!("--data {{pairs.jsonl}} {flags}")).refused(2, texts);
    }
}

/// A margin asks for more, a preference below 1/2 for the opposite: both change the loss of the same scores.
#[test]
fn margins_and_preferences_of_rows_are_read() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let loss = |more: &str| {
        write(
            folder,
            "rows.jsonl",
            format!("{{\"prompt\":\"a\",\"chosen\":\" b\",\"rejected\":\" c\"{more}}}\n"),
        );
        reward(folder, "--data {rows.jsonl} --max-steps 1").ok();
        let line = json_lines(&folder.join("run/metrics.jsonl"))[0].clone();
        (line["loss"].as_f64().unwrap(), line["rewards/margins"].as_f64().unwrap())
    };
    let softplus = |x: f64| (1.0 + x.exp()).ln();
    let (plain, d) = loss("");
    assert!((plain - softplus(-d)).abs() < 1e-5);
    let (margin, _) = loss(",\"margin\":1.5");
    assert!((margin - softplus(1.5 - d)).abs() < 1e-5);
    let (soft, _) = loss(",\"preference\":0.25");
    assert!((soft - (0.25 * softplus(-d) + 0.75 * softplus(d))).abs() < 1e-5);
}

/// The middle half of eight pairs by what the first weights say of them: those and no others are trained on, and the
/// distances of the second choice are those of other weights.
#[test]
fn pairs_outside_of_the_band_are_left_out() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    reward(folder, "--data {pairs.jsonl} --max-steps 1 --learning-rate 1e-12").ok();
    align(folder, "score --model {run/model} --data {pairs.jsonl} --output {margins.jsonl} --margins").ok();
    let distance = |line: Value| line["margin"].as_f64().unwrap().abs();
    let distances: Vec<f64> = json_lines(&folder.join("margins.jsonl")).into_iter().map(distance).collect();
    let mut sorted = distances.clone();
    sorted.sort_by(f64::total_cmp);
    let [low, high] = [2, 6].map(|below| (sorted[below - 1] + sorted[below]) / 2.0);
    let flags = format!(
        "--data {{pairs.jsonl}} --max-steps 2 --log-every 1 --learning-rate 1e-3 --pair-band {low:.9},{high:.9} \
         --pair-band-every 1"
    );
    reward(folder, &flags).ok();
    let choice = |step: u64| -> Value {
        serde_json::from_slice(&fs::read(folder.join(format!("run/pair_band/step-{step}.json"))).unwrap())
            .unwrap()
    };
    let inside: String = distances.iter().map(|d| if (low..high).contains(d) { '1' } else { '0' }).collect();
    assert_eq!(choice(0)["rows"], inside.as_str(), "{distances:?}");
    let lines = json_lines(&folder.join("run/metrics.jsonl"));
    let shown =
        ["inside", "below", "above"].map(|name| lines[0][format!("pair_band/{name}")].as_f64().unwrap());
    assert_eq!(shown, [4.0, 2.0, 2.0]);
    assert_eq!(lines[1]["pair_band/step"], 1.0);
    assert!(choice(0)["counts"]["largest"] != choice(1)["counts"]["largest"]);
}

#[test]
fn runs_survive_kills() {
    for more in [
        "",
        "--pair-band 0.005,1000 --pair-band-every 5",
        "--lora-rank 4 --lora-dropout 0.2 --keep-best rewards/accuracies",
    ] {
        kills::Run { method: "reward", threads: 2, more, kills: 2 }.survives();
    }
}

/// Loads the result with transformers or PEFT where Python has them.
/// Scoring all pairs takes a while; Ctrl-C does not wait for its end, and nothing is chosen then.
#[test]
fn ctrl_c_ends_the_choice_of_a_band() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 6000);
    let line = format!(
        "reward --model {} --data {{pairs.jsonl}} --output-dir {{run}} --max-steps 2 --pair-band 0,1000 --threads 1",
        tiny_llama().display()
    );
    let child = command(folder, &line).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for(|| folder.join("run/pair_band").exists());
    std::thread::sleep(std::time::Duration::from_millis(200));
    interrupt(child.id());
    let answer = Answer::of(&child.wait_with_output().unwrap());
    assert_eq!(answer.code, 130, "{}", answer.stderr);
    assert_eq!(fs::read_dir(folder.join("run/pair_band")).unwrap().count(), 0, "{}", answer.stderr);
}

/// What is measured are the weights before they are rounded for saving.
#[test]
fn held_out_figures_say_which_weights_they_are_of() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    reward_model(folder, "rm");
    write_pairs(folder, "pairs.jsonl", 4);
    let line =
        "reward --model {rm} --data {pairs.jsonl} --eval-data {pairs.jsonl} --output-dir {run} --max-steps 1";
    let answer = align(folder, line).ok();
    let found = &summary(folder)["held_out"];
    let weights = (&found["measured_weights"], &found["saved_weights"]);
    assert_eq!(weights, (&json!("float32"), &json!("bfloat16")));
    assert!(
        answer.stderr.contains("with the float32 weights, which are saved in bfloat16"),
        "{}",
        answer.stderr
    );
}

/// Labels with weight 0 are counted; a run that would learn from nothing does not begin.
#[test]
fn rows_without_weight_are_said() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    write_thumbs(folder, "thumbs.jsonl", 4);
    let flags = "--data {thumbs.jsonl} --binary-weight 0 --max-steps 1";
    let answer = reward(folder, &format!("--data {{pairs.jsonl}} {flags}")).ok();
    assert!(
        answer.stderr.contains("4 labelled answers teach nothing: --binary-weight is 0"),
        "{}",
        answer.stderr
    );
    reward(folder, flags).refused(2, &["4 labelled answers teach nothing", "hint: "]);
}

fn check(folder: &Path, program: &str, arguments: &[&Path], modules: &str) {
    let Some(mut command) = python(program, modules) else { return };
    command.args(arguments).arg(folder.join("scores.jsonl"));
    let answer = Answer::of(&command.output().unwrap()).ok();
    assert!(answer.stdout.contains("largest difference"), "{}", answer.stdout);
}

/// Writes what a model says of a few answers, as the programs in `fixtures/` read it.
fn write_scores_of(folder: &Path, model: &SequenceClassifier) {
    let answers = [vec![9u32, 4, 1], vec![7, 8, 30, 1]];
    let group = PromptGroup::new(vec![0, 15, 22], answers.iter().cloned().map(Completion::new).collect());
    let scores = model.scores(&PackedBatch::new(&[group]).unwrap()).unwrap();
    let scores = Vec::<f32>::try_from(scores.detach()).unwrap();
    let completions: Vec<Value> =
        answers.iter().zip(scores).map(|(ids, score)| json!({"token_ids": ids, "score": score})).collect();
    write(
        folder,
        "scores.jsonl",
        json!({"prompt_tokens": [0, 15, 22], "completions": completions}).to_string(),
    );
}

#[test]
fn transformers_and_peft_load_the_result_and_agree() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 8);
    reward(folder, "--data {pairs.jsonl} --max-steps 5 --learning-rate 1e-3").ok();
    let saved = folder.join("run/model");
    write_scores_of(folder, &SequenceClassifier::load(&saved, &LoadOptions::default()).unwrap());
    check(folder, "classifiers/check_saved.py", &[&saved], "torch, transformers");
    reward(folder, "--data {pairs.jsonl} --max-steps 5 --learning-rate 1e-2 --lora-rank 4").ok();
    let mut adapted = SequenceClassifier::begin(&tiny_llama(), 0, &LoadOptions::default()).unwrap();
    adapted.load_adapter(&saved, &align_lm::AdapterOptions::default()).unwrap();
    write_scores_of(folder, &adapted);
    check(folder, "lora/check_saved_classifier.py", &[&tiny_llama(), &saved], "torch, transformers, peft");
}
