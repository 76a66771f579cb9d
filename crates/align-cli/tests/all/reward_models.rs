//! Reward models behind `align ppo` and `align eval`: text goes between them and the policy, their scales and ensembles,
//! and what averages of them need in common.

use std::path::Path;

use serde_json::{Value, json};

use crate::ppo::line;
use crate::support::{
    HEAD, align, copy_of_tiny_llama, json_lines, negate, reward_model, reward_model_of_other_tokens,
    tiny_llama, write, write_pairs, write_prompts,
};

/// Flags of every `align eval`: the same samples in each.
const SMALL: &str =
    "--device cpu --no-progress --json --max-new-tokens 6 --num-completions 2 --measure rewards";

/// A policy `m`, prompts, and a reward model `rm` that reads text with another tokenizer than the policy.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_of_tiny_llama(folder.path(), "m");
    write_prompts(folder.path(), "prompts.jsonl", 6);
    reward_model_of_other_tokens(folder.path(), "rm");
    folder
}

/// Prompts, texts of their answers and rewards, and what was said beside them.
struct Scored {
    answers: Vec<(String, String)>,
    rewards: Vec<f64>,
    said: String,
}

/// Rewards of samples under `align eval`.
fn eval(folder: &Path, flags: &str) -> Scored {
    let line = format!("eval --model {{m}} --data {{prompts.jsonl}} --output {{rows.jsonl}} {SMALL} {flags}");
    let said = align(folder, &line).ok().stderr;
    let (mut answers, mut rewards) = (Vec::new(), Vec::new());
    for row in json_lines(&folder.join("rows.jsonl")) {
        for (sample, reward) in
            row["samples"].as_array().unwrap().iter().zip(row["rewards"].as_array().unwrap())
        {
            answers.push((text(&row["prompt"]), text(&sample["text"])));
            rewards.push(reward.as_f64().unwrap());
        }
    }
    assert_eq!(answers.len(), 12);
    Scored { answers, rewards, said }
}

/// Rewards of the samples of an `align ppo` of two iterations.
fn ppo(folder: &Path, flags: &str) -> Scored {
    let line = line("run", &format!("--overwrite --truncated score --samples 4 {flags}"));
    let said = align(folder, &line).ok().stderr;
    let rows = json_lines(&folder.join("run/completions.jsonl"));
    let answers: Vec<_> = rows.iter().map(|row| (text(&row["prompt"]), text(&row["completion"]))).collect();
    assert_eq!(answers.len(), 8);
    Scored { answers, rewards: rows.iter().map(|row| row["reward"].as_f64().unwrap()).collect(), said }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Rewards of the same texts under `align score`, which knows no policy.
fn score(folder: &Path, model: &str, answers: &[(String, String)]) -> Vec<f64> {
    let rows = answers.iter().map(|(prompt, text)| {
        format!("{}\n", json!({"prompt": prompt, "completions": [{"text": text, "finish_reason": "stop"}]}))
    });
    write(folder, "texts.jsonl", rows.collect::<String>());
    let line =
        format!("score --model {{{model}}} --data {{texts.jsonl}} --output {{scores.jsonl}} --no-progress");
    align(folder, &line).ok();
    json_lines(&folder.join("scores.jsonl")).iter().map(|row| row["rewards"][0].as_f64().unwrap()).collect()
}

fn assert_close(ours: &[f64], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-4), "{ours:?} and {theirs:?}");
}

/// The rewards are those of the texts in the reward model's own tokens, not those of the policy's tokens, which the weights
/// would take too.
#[test]
fn text_goes_between_a_policy_and_a_reward_model_with_another_tokenizer() {
    let folder = folder();
    let here = folder.path();
    reward_model(here, "same");
    for scored in [eval(here, "--reward-model {rm}"), ppo(here, "--reward-model {rm}")] {
        assert_close(&scored.rewards, &score(here, "rm", &scored.answers));
        let with_the_policys = score(here, "same", &scored.answers);
        let apart = scored.rewards.iter().zip(&with_the_policys).filter(|(a, b)| (*a - *b).abs() > 1e-2);
        assert!(apart.count() > 4, "{:?} {with_the_policys:?}", scored.rewards);
        assert!(scored.said.contains("raw logits"), "{}", scored.said);
    }
}

/// Writes the scale (r - 1) / 2 of a model.
fn write_scale(folder: &Path, model: &str, of: &str) {
    let text = format!("{{\"mean\": 1.0, \"std\": 2.0, \"rows\": 9, \"of\": \"{of}\"}}");
    write(&folder.join(model), "reward_normalization.json", text);
}

#[test]
fn rewards_are_normalized_where_that_is_asked_for_and_it_is_said() {
    let folder = folder();
    let here = folder.path();
    let refused = "--reward-model {rm} --normalize";
    align(here, &line("run", refused)).refused(4, &["there is no normalisation", "--fit-normalization"]);
    write_scale(here, "rm", "samples");
    for scored in
        [eval(here, "--reward-model {rm} --normalize"), ppo(here, "--reward-model {rm} --normalize")]
    {
        let raw = score(here, "rm", &scored.answers);
        let expected: Vec<f64> = raw.iter().map(|raw| (raw - 1.0) / 2.0).collect();
        assert_close(&scored.rewards, &expected);
        for part in
            ["rewards are normalized, (r - 1.0000) / 2.0000, measured on 9 samples", "does not say on which"]
        {
            assert!(scored.said.contains(part), "{part}: {}", scored.said);
        }
    }
    let metrics = json_lines(&here.join("run/metrics.jsonl"));
    assert!(metrics[0].as_object().unwrap().keys().any(|name| name.ends_with("rm, normalized/mean")));
}

/// The negative head of a model gives opposite raw rewards -r; on the scale of both, (r - 1) / 2 and (-r - 1) / 2.
#[test]
fn several_reward_models_are_one_reward() {
    let folder = folder();
    let here = folder.path();
    // With a tokenizer of its own, too: the same text, other tokens.
    let other = reward_model(here, "other");
    negate(&other, |name| name == HEAD);
    write_scale(here, "rm", "samples");
    write_scale(here, "other", "samples");
    let both = "--reward-model {rm} --reward-model {other} --normalize";
    let minimum = |a: f64, b: f64| a.min(b);
    let half_variance = |a: f64, b: f64| (a + b) / 2.0 - 0.5 * ((a - b) / 2.0).powi(2);
    type Rule = dyn Fn(f64, f64) -> f64;
    let rules: [(&str, &Rule); 2] =
        [("min", &minimum), ("variance --ensemble-coefficient 0.5", &half_variance)];
    for (choice, rule) in rules {
        let flags = format!("{both} --ensemble {choice}");
        let mut found = vec![eval(here, &flags)];
        if choice == "min" {
            found.push(ppo(here, &flags));
        }
        for scored in found {
            let on_scale = |model: &str| -> Vec<f64> {
                score(here, model, &scored.answers).iter().map(|raw| (raw - 1.0) / 2.0).collect()
            };
            let (one, two) = (on_scale("rm"), on_scale("other"));
            let expected: Vec<f64> = one.iter().zip(&two).map(|(a, b)| rule(*a, *b)).collect();
            assert_close(&scored.rewards, &expected);
        }
    }
    // An ensemble is one reward among others: it has one weight.
    let weighted = eval(here, &format!("{both} --ensemble mean --reward rule:length --reward-weights 0,2"));
    let lengths: Vec<f64> =
        weighted.answers.iter().map(|(_, text)| 2.0 * text.chars().count() as f64).collect();
    assert_close(&weighted.rewards, &lengths);
    write_scale(here, "other", "demonstrations");
    let run =
        |flags: &str| align(here, &format!("eval --model {{m}} --data {{prompts.jsonl}} {SMALL} {flags}"));
    run(&format!("{both} --ensemble min")).refused(4, &["Demonstrations", "Samples"]);
    for (flags, texts) in [
        ("--reward-model {rm} --normalize --ensemble min", &["--ensemble needs several --reward-model"][..]),
        ("--reward-model {rm} --reward-model {other} --ensemble min", &["--ensemble needs --normalize"]),
        ("--reward rule:length --ensemble-coefficient 2", &["needs --ensemble variance"]),
        (&format!("{both} --ensemble mean --reward-weights 1,2"), &["2 numbers for 1 rewards"]),
    ] {
        run(flags).refused(2, texts);
        align(here, &line("refused", flags)).refused(2, texts);
    }
}

#[cfg(unix)]
#[test]
fn a_program_that_goes_on_behind_its_last_answer_is_heard() {
    let folder = folder();
    let here = folder.path();
    let script = |name: &str, then: &str| {
        let answer = "id=${line#*:}; echo \"{\\\"id\\\": ${id%%,*}, \\\"reward\\\": ${id%%,*}}\"";
        write(here, name, format!("while IFS= read -r line; do\n{answer}\ndone\n{then}\n"));
        format!("sh {}", here.join(name).display())
    };
    let eval = |command: &str| {
        let line =
            format!("eval --model {{m}} --data {{prompts.jsonl}} --output {{out}} {SMALL} --reward-command");
        crate::support::Answer::to(crate::support::command(here, &line).arg(command))
    };
    let ppo = |run: &str, command: &str, more: &str| {
        let line = line(run, &format!("--truncated score {more} --reward-command"));
        crate::support::Answer::to(crate::support::command(here, &line).arg(command))
    };
    let chatty = script("chatty.sh", "echo '12 rows done'");
    eval(&chatty).refused(4, &["prompts.jsonl:6", "`12 rows done`", "one line too many"]);
    assert!(!here.join("out").exists());
    // The run is whole: what it learned from was right.
    ppo("run", &chatty, "").refused(4, &["prompts.jsonl:", "`12 rows done`", "one line too many"]);
    assert!(here.join("run/model/model.safetensors").exists() && here.join("run/summary.json").exists());
    ppo("run", &chatty, "--resume").ok();

    let failing = script("failing.sh", "echo 'no space for the log' >&2; exit 5");
    for answer in [eval(&failing).ok(), ppo("second", &failing, "").ok()] {
        for part in ["gave all its answers", "exit status: 5", "no space for the log"] {
            assert!(answer.stderr.contains(part), "{part}: {}", answer.stderr);
        }
    }
    let hanging = script("hanging.sh", "exec sleep 600");
    let line =
        format!("eval --model {{m}} --data {{prompts.jsonl}} {SMALL} --reward-timeout 3 --reward-command");
    let begin = std::time::Instant::now();
    let answer = crate::support::Answer::to(crate::support::command(here, &line).arg(&hanging)).ok();
    assert!(answer.stderr.contains("did not end within 3 s"), "{}", answer.stderr);
    assert!(begin.elapsed() < std::time::Duration::from_secs(60));
}

/// What models need in common for an average of their weights: the weights and the head that they began with, and the
/// tokenizer. Each is found out from the folders.
#[test]
fn an_average_takes_models_of_one_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    write_pairs(here, "pairs.jsonl", 8);
    let train = |model: &str, run: &str, seed: usize| {
        align(
            here,
            &format!(
                "reward --model {model} --data {{pairs.jsonl}} --output-dir {{{run}}} --max-steps 2 --seed {seed} \
                 --no-progress --threads 1"
            ),
        )
        .ok();
        format!("--average {{{run}/model}}")
    };
    let merge = |models: &[&str], output: &str| {
        align(here, &format!("merge {} --output {{{output}}} --no-progress", models.join(" ")))
    };
    let base = tiny_llama().display().to_string();
    let first = train(&base, "first", 1);
    // The seed draws the head.
    let head = train(&base, "head", 2);
    merge(&[&first, &head], "x")
        .refused(4, &["first/model", "head/model", "heads have a cosine of", "hint: train every"]);
    // One beginning: another order of rows alone.
    let begun = here.join("first/model").display().to_string();
    let (two, three) = (train(&begun, "two", 3), train(&begun, "three", 4));
    merge(&[&two, &three], "averaged").ok();
    merge(&[&first, &two], "averaged-too").ok();
    let line = "score --model {averaged} --data {pairs.jsonl} --output {scores} --no-progress";
    align(here, line).ok();

    // Another base below the same head: all its other weights have the opposite sign.
    reward_model(here, "rm");
    negate(&reward_model(here, "base"), |name| name != HEAD);
    let rm = "--average {rm}";
    merge(&[rm, "--average {base}"], "x")
        .refused(4, &["weights below the heads have a cosine of -1.00", "hint: "]);
    reward_model_of_other_tokens(here, "tokens");
    merge(&[rm, "--average {tokens}"], "x").refused(4, &["rm and", "different tokenizers", "hint: "]);
    assert!(!here.join("x").exists());
}
