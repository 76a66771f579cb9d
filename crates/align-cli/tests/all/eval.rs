//! `align eval`: figures against numbers of the other commands, controls, rewards, and what is refused.

use crate::support;

use std::path::Path;

use align_cli::metrics::Place;
use serde_json::{Value, json};
use support::{align, assert_defined, copy_of_adapter, copy_of_tiny_llama, json_lines, write, write_pairs};
use tempfile::TempDir;

/// Flags of every call: small, and the same on every machine.
const SMALL: &str = "--device cpu --no-progress --json --max-new-tokens 6";

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_of_tiny_llama(folder.path(), "m");
    copy_of_adapter(folder.path(), "a");
    folder
}

/// What the command finds; every number of it is defined.
fn eval(folder: &Path, arguments: &str) -> Value {
    let answer = align(folder, &format!("eval {arguments} {SMALL}")).ok();
    let found = serde_json::from_str(&answer.stdout).unwrap();
    assert_defined(&found, Place::Eval);
    found
}

fn number(value: &Value, path: &str) -> f64 {
    value.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {value}"))
}

fn holds(value: &Value, path: &str, expected: f64) -> bool {
    number(value, &format!("{path}/interval/0")) <= expected
        && expected <= number(value, &format!("{path}/interval/1"))
}

/// A model against itself: DPO loss ln 2, every pair a tie, no divergence, and a win rate of 1/2 within its interval,
/// over samples that are not the same ones.
#[test]
fn a_model_against_itself() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 20);
    let same = "--model {m} --reference {m} --data {pairs.jsonl} --reward rule:length --num-completions 3";
    let found = eval(folder.path(), &format!("{same} --output {{rows.jsonl}}"));
    assert!((number(&found, "/held_out/figures/loss/mean") - 2f64.ln()).abs() < 1e-12);
    assert_eq!(found["held_out"]["method"], "dpo");
    assert_eq!(number(&found, "/held_out/pairs/ties"), 20.0);
    assert_eq!(number(&found, "/held_out/pairs/accuracy/mean"), 0.5);
    for estimate in ["k1", "k3", "full"] {
        assert!(number(&found, &format!("/kl/{estimate}/sequence/mean")).abs() < 1e-9, "{estimate}");
    }
    assert!(holds(&found, "/win_rate/rate", 0.5), "{}", found["win_rate"]);
    assert!(
        holds(&found, "/win_rate/length_control/at_equal_length", 0.5)
            || number(&found, "/win_rate/ties") == 180.0
    );
    assert_eq!(number(&found, "/win_rate/rate/count"), 20.0);
    let (wins, ties, losses) = (
        number(&found, "/win_rate/wins"),
        number(&found, "/win_rate/ties"),
        number(&found, "/win_rate/losses"),
    );
    assert_eq!(wins + ties + losses, 20.0 * 9.0, "each of three against each of three");
    let rows = json_lines(&folder.path().join("rows.jsonl"));
    assert_eq!(rows.len(), 20);
    assert!(rows.iter().any(|row| row["samples"] != row["reference_samples"]), "two streams of samples");
    for (row, expected) in rows.iter().zip(1..) {
        assert_eq!(row["row"], expected);
        assert_eq!(row["rewards"].as_array().unwrap().len(), 3);
        for (sample, reward) in
            row["samples"].as_array().unwrap().iter().zip(row["rewards"].as_array().unwrap())
        {
            let characters = sample["text"].as_str().unwrap().chars().count();
            assert_eq!(reward.as_f64(), Some(characters as f64));
        }
    }
}

/// Greedy answers of one model are one answer: every comparison is a tie.
#[test]
fn greedy_answers_of_one_model_tie() {
    let folder = folder();
    write(folder.path(), "p.jsonl", "{\"prompt\": \"One\"}\n{\"prompt\": \"Two\"}\n");
    let found =
        eval(folder.path(), "--model {m} --reference {m} --data {p.jsonl} --reward rule:length --greedy");
    assert_eq!((number(&found, "/win_rate/rate/mean"), number(&found, "/win_rate/ties")), (0.5, 2.0));
    assert!(found.get("kl").is_none() && found.get("held_out").is_none(), "{found}");
}

/// The loss of pairs from the sums that `align logprobs` writes for both models.
#[test]
fn the_loss_of_pairs_is_that_of_their_log_probabilities() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 9);
    let sums = |flags: &str, output: &str| -> Vec<[f64; 2]> {
        let line = format!(
            "logprobs --model {{m}} {flags} --data {{pairs.jsonl}} --output {{{output}}} --device cpu"
        );
        align(folder.path(), &line).ok();
        let sum = |row: &Value, answer: usize| row["completions"][answer]["sum"].as_f64().unwrap();
        json_lines(&folder.path().join(output)).iter().map(|row| [sum(row, 0), sum(row, 1)]).collect()
    };
    let (policy, reference) = (sums("--adapter {a}", "policy.jsonl"), sums("", "reference.jsonl"));
    let found = eval(
        folder.path(),
        "--model {m} --adapter {a} --reference {m} --data {pairs.jsonl} --measure held-out --beta 0.3 --output {rows.jsonl}",
    );
    let losses: Vec<f64> = policy
        .iter()
        .zip(&reference)
        .map(|(p, r)| (1.0 + (-0.3 * ((p[0] - r[0]) - (p[1] - r[1]))).exp()).ln())
        .collect();
    let mean = losses.iter().sum::<f64>() / 9.0;
    assert!((number(&found, "/held_out/figures/loss/mean") - mean).abs() < 1e-6, "{found}");
    assert!(holds(&found, "/held_out/figures/loss", mean));
    let rows = json_lines(&folder.path().join("rows.jsonl"));
    for ((row, loss), sums) in rows.iter().zip(losses).zip(policy) {
        assert!((row["loss"].as_f64().unwrap() - loss).abs() < 1e-6);
        assert!((row["answers"][0]["logp"].as_f64().unwrap() - sums[0]).abs() < 1e-6);
    }
}

/// What one thread finds, two find: samples, rewards, divergences, to the last digit; another seed finds something else.
#[test]
fn figures_depend_on_the_seed_and_not_on_threads() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 8);
    let line = "--model {m} --adapter {a} --reference {m} --data {pairs.jsonl} --reward rule:length --num-completions 2";
    let one = eval(folder.path(), &format!("{line} --threads 1 --seed 4"));
    assert_eq!(one, eval(folder.path(), &format!("{line} --threads 2 --seed 4")));
    assert!(number(&one, "/kl/full/sequence/mean") > 0.0);
    assert_ne!(one, eval(folder.path(), &format!("{line} --threads 2 --seed 5")));
}

#[test]
fn every_kind_of_rows_has_its_loss() {
    let folder = folder();
    let row = |more: &str| format!("{{\"prompt\": \"Say\", \"completion\": \" word\"{more}}}\n");
    write(folder.path(), "kto.jsonl", row(", \"label\": true") + &row(", \"label\": false"));
    write(folder.path(), "una.jsonl", row(", \"score\": 2") + &row(", \"score\": 4"));
    write(folder.path(), "sft.jsonl", row("") + &row(""));
    let method = |rows: &str, flags: &str| {
        eval(folder.path(), &format!("--model {{m}} --data {{{rows}}} --measure held-out {flags}"))
    };
    let kto = method("kto.jsonl", "--reference {m}");
    assert_eq!(
        (kto["held_out"]["method"].as_str(), number(&kto, "/held_out/figures/loss/mean")),
        (Some("kto"), 0.5)
    );
    let una = method("una.jsonl", "--reference {m} --score-min 0 --score-max 8");
    // (1/2 − 1/4)² and (1/2 − 1/2)².
    assert_eq!(number(&una, "/held_out/figures/loss/mean"), 0.25f64.powi(2) / 2.0);
    let sft = method("sft.jsonl", "");
    let loss = number(&sft, "/held_out/figures/loss/mean");
    assert!((number(&sft, "/held_out/figures/perplexity/mean") - loss.exp()).abs() < 1e-9);
    align(
        folder.path(),
        &format!("eval --model {{m}} --reference {{m}} --data {{una.jsonl}} --measure held-out {SMALL}"),
    )
    .refused(4, &["una.jsonl:1", "score-min"]);
}

#[cfg(unix)]
#[test]
fn a_program_scores_rows_and_is_blamed_by_row() {
    let folder = folder();
    write(
        folder.path(),
        "p.jsonl",
        "{\"prompt\": \"One\", \"answer\": \"1\"}\n{\"prompt\": \"Two\", \"answer\": \"2\"}\n",
    );
    let script = |name: &str, answer: &str| {
        let text = format!(
            "i=0\nwhile IFS= read -r line; do\necho \"$line\" >> \"$0.asked\"\n{answer}\ni=$((i+1))\ndone\n"
        );
        write(folder.path(), name, text)
    };
    let call = |script: &Path| {
        let mut command = support::command(
            folder.path(),
            &format!("eval --model {{m}} --data {{p.jsonl}} --measure rewards {SMALL} --reward-command"),
        );
        support::Answer::to(command.arg(format!("sh '{}'", script.display())))
    };
    let some = script(
        "some.sh",
        "if [ $i = 0 ]; then r=null; else r=2.5; fi; echo \"{\\\"id\\\": $i, \\\"reward\\\": $r}\"",
    );
    let found: Value = serde_json::from_str(&call(&some).ok().stdout).unwrap();
    assert_eq!(
        (number(&found, "/samples/reward/mean/mean"), number(&found, "/samples/reward/abstained")),
        (2.5, 1.0)
    );
    let asked = json_lines(&folder.path().join("some.sh.asked"));
    assert_eq!((asked[1]["prompt"].as_str(), &asked[1]["row"]), (Some("Two"), &json!({"answer": "2"})));
    let silent = script("silent.sh", "echo hm >&2; echo \"{\\\"id\\\": $i, \\\"reward\\\": null}\"");
    let answer = call(&silent).ok();
    assert!(
        answer.stderr.contains("command:sh (2 times)") && answer.stderr.contains("hm\n"),
        "{}",
        answer.stderr
    );
    let dying = script(
        "dying.sh",
        "[ $(wc -l < \"$0.asked\") = 1 ] && exit 9; id=${line#*:}; echo \"{\\\"id\\\": ${id%%,*}, \\\"reward\\\": 1}\"",
    );
    let answer = call(&dying).ok();
    assert!(
        answer.stderr.contains("exit status: 9") && answer.stderr.contains("started again"),
        "{}",
        answer.stderr
    );
    let broken = script("broken.sh", "echo nonsense");
    call(&broken).refused(4, &["p.jsonl:1", "nonsense"]);
    call(Path::new("/nowhere/at/all.sh")).refused(4, &["p.jsonl:1", "ended"]);
}

#[test]
fn weights_add_rewards_up() {
    let folder = folder();
    write(folder.path(), "p.jsonl", "{\"prompt\": \"One\"}\n");
    let line = "--model {m} --data {p.jsonl} --measure rewards --greedy --reward rule:length";
    let plain = eval(folder.path(), line);
    let double = eval(folder.path(), &format!("{line} --reward rule:regex=.* --reward-weights 2,-1"));
    let mean = |value: &Value| number(value, "/samples/reward/mean/mean");
    assert_eq!(mean(&double), 2.0 * mean(&plain) - 1.0);
    assert_eq!(double["samples"]["reward"]["name"], "2 rule:length + -1 rule:regex=.*");
}

#[test]
fn bad_rows_are_refused_or_skipped() {
    let folder = folder();
    let row =
        |n: u32| format!("{{\"prompt\": \"Number {n}\", \"chosen\": \" yes\", \"rejected\": \" no\"}}\n");
    write(
        folder.path(),
        "rows.jsonl",
        row(1) + "{\"prompt\": \"x\", \"chosen\": \"  \", \"rejected\": \"y\"}\n" + &row(3),
    );
    let line = "--model {m} --reference {m} --data {rows.jsonl} --measure held-out";
    align(folder.path(), &format!("eval {line} {SMALL}")).refused(4, &["rows.jsonl:2", "--bad-rows skip"]);
    let found = eval(folder.path(), &format!("{line} --bad-rows skip"));
    assert_eq!(number(&found, "/held_out/rows"), 2.0);
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_is_loaded() {
    let folder = folder();
    write(folder.path(), "p.jsonl", "{\"prompt\": \"One\"}\n");
    let refused = |flags: &str, code: i32, texts: &[&str]| {
        align(folder.path(), &format!("eval --model {{m}} --data {{p.jsonl}} {SMALL} {flags}"))
            .refused(code, texts);
    };
    refused("--measure kl", 2, &["--measure kl needs --reference DIR"]);
    refused("--measure rewards", 2, &["--reward-model"]);
    refused("--measure kl --reference {m} --greedy", 2, &["--greedy", "samples of the model itself"]);
    refused("--reward rule:lenght", 2, &["there is no such rule", "rule:length"]);
    refused("--reward rule:regex=(", 2, &["unclosed group"]);
    refused("--reward rule:length --reward-weights 1,2", 2, &["2 numbers for 1 rewards"]);
    refused("--reward rule:length --reward-timeout 0", 2, &["--reward-timeout 0"]);
    refused("--method dpo", 2, &["--reference DIR is missing"]);
    refused("--beta 0 --reference {m}", 2, &["beta"]);
    refused("", 2, &["nothing to measure"]);
    refused("--measure held-out --reference {m}", 2, &["prompts without answers"]);
    refused("--reference {nowhere}", 4, &["nowhere"]);
    refused("--reward-model {m}", 4, &["score"]);
    refused("--reward-command no-such-program-anywhere", 3, &["cannot start"]);
    refused("--reward rule:length --output {m}", 2, &["this is a folder"]);
    refused("--reward rule:length --output {p.jsonl}", 2, &["which this command reads"]);
}

/// A flag that nothing would look at is a mistake, and said to be one.
#[test]
fn flags_that_would_change_nothing_are_refused() {
    let folder = folder();
    write(folder.path(), "p.jsonl", "{\"prompt\": \"One\"}\n");
    write(folder.path(), "sft.jsonl", "{\"prompt\": \"One\", \"completion\": \" two\"}\n");
    write(folder.path(), "kto.jsonl", "{\"prompt\": \"One\", \"completion\": \" two\", \"label\": true}\n");
    write_pairs(folder.path(), "dpo.jsonl", 2);
    let refused = |rows: &str, flags: &str, texts: &[&str]| {
        let line = format!("eval --model {{m}} --data {{{rows}.jsonl}} {SMALL} {flags}");
        align(folder.path(), &line).refused(2, texts);
    };
    let nothing = "would change nothing";
    for flag in ["--reward rule:length", "--reward-model {m}", "--reward-command cat"] {
        let name = flag.split(' ').next().unwrap();
        refused("sft", &format!("--measure held-out {flag}"), &[name, nothing, "add --measure rewards"]);
    }
    refused("p", "--measure rewards --reward rule:length --beta 0.2", &["--beta", nothing, "held-out"]);
    refused("p", "--reward rule:length --beta 0.2", &["--beta", nothing, "prompts without answers"]);
    refused("sft", "--measure held-out --beta 0.2", &["--beta", nothing, "sft"]);
    refused("sft", "--method sft --beta 0.2", &["--beta", nothing, "leave --beta out"]);
    let scores = "--reference {m} --measure held-out --score-min 0 --score-max 1";
    for method in ["sft", "dpo", "kto"] {
        for named in [String::new(), format!("--method {method}")] {
            refused(method, &format!("{scores} {named}"), &["--score-min", nothing, method, "only una"]);
        }
    }
    refused("dpo", "--reference {m} --method dpo --score-max 1", &["--score-max", nothing, "only una"]);
}

/// A table for people on stdout, nothing else there.
#[test]
fn the_table_names_its_figures() {
    let folder = folder();
    write_pairs(folder.path(), "pairs.jsonl", 6);
    let line = "eval --model {m} --reference {m} --data {pairs.jsonl} --reward rule:length --max-new-tokens 6 --device cpu";
    let table = align(folder.path(), line).ok().stdout;
    for name in [
        "held-out, dpo: 6 rows, 6 prompts",
        "chosen is longer",
        "win rate",
        "at equal length",
        "per token, k3",
    ] {
        assert!(table.contains(name), "{name} is not in:\n{table}");
    }
}
