//! `align ppo`: what is particular to each choice.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use align_core::{
    PackedBatch, ValueModel,
    align_types::{Completion, PromptGroup},
};
use align_lm::{LoadOptions, PolicyWithValue, ValueNetwork};
use serde_json::Value;

use crate::ppo::{folder, line, metrics, summary};
use crate::support::{
    Answer, align, command, edit_json, json_lines, kills::weights_of, reward_model,
    reward_model_of_other_tokens, tiny_llama, write, write_demonstrations,
};

fn config(folder: &Path, run: &str) -> toml::Table {
    fs::read_to_string(folder.join(run).join("config.toml")).unwrap().parse().unwrap()
}

/// An advantage, the metrics that its first line has, those that it lacks, and settings that follow from it.
type Particular =
    (&'static str, &'static [&'static str], &'static [&'static str], &'static [(&'static str, &'static str)]);

const PARTICULAR: [Particular; 8] = [
    (
        "ppo",
        &[
            "loss/value_avg",
            "val/explained_variance",
            "critic/grad_norm",
            "objective/kl",
            "policy/clipfrac_avg",
        ],
        &["loss/kl_avg", "groups/ties", "loss/value"],
        &[
            ("num_ppo_epochs", "4"),
            ("whiten_advantages", "\"on\""),
            ("lam", "0.95"),
            ("kl_placement", "\"reward\""),
        ],
    ),
    (
        "a2c",
        &["loss/value_avg", "val/explained_variance", "critic/grad_norm", "objective/kl"],
        &["loss/kl_avg", "policy/clipfrac_avg"],
        &[("num_ppo_epochs", "1"), ("whiten_advantages", "\"off\""), ("critic_learning_rate", "1e-5")],
    ),
    (
        "reinforce",
        &["objective/kl", "returns/std"],
        &["loss/value_avg", "critic/grad_norm", "policy/clipfrac_avg"],
        &[("num_ppo_epochs", "1"), ("kl_coef", "0.05")],
    ),
    (
        "rloo",
        &["objective/kl", "policy/clipfrac_avg", "groups/without_signal"],
        &["loss/value_avg", "loss/kl_avg"],
        &[("num_ppo_epochs", "1"), ("kl_placement", "\"reward\""), ("aggregation", "\"token-mean\"")],
    ),
    (
        "grpo",
        &["objective/kl", "policy/clipfrac_avg", "loss/kl_avg"],
        &["loss/value_avg"],
        &[
            ("kl_coef", "0.04"),
            ("kl_estimator", "\"k3\""),
            ("kl_placement", "\"loss\""),
            ("aggregation", "\"seq-mean-mean\""),
        ],
    ),
    (
        "dr-grpo",
        &["policy/clipfrac_avg"],
        // Without a weight of the divergence no reference is loaded.
        &["loss/value_avg", "loss/kl_avg", "objective/kl"],
        &[("kl_coef", "0"), ("aggregation", "\"seq-sum-const\"")],
    ),
    (
        "dapo",
        &["policy/clipfrac_avg"],
        &["loss/value_avg", "loss/kl_avg", "objective/kl"],
        &[("cliprange_high", "0.28"), ("dynamic_sampling", "\"on\""), ("aggregation", "\"token-mean\"")],
    ),
    (
        "online-dpo",
        &["objective/kl", "groups/ties"],
        &["loss/value_avg", "loss/policy_avg", "advantages/mean", "policy/clipfrac_avg"],
        &[("beta", "0.1"), ("num_ppo_epochs", "1")],
    ),
];

#[test]
fn every_advantage_learns_and_shows_what_is_its_own() {
    let folder = folder();
    for (advantage, there, absent, settings) in PARTICULAR {
        let has_critic = ["ppo", "a2c"].contains(&advantage);
        let critic = if has_critic { "--truncated score" } else { "" };
        let flags = format!("--advantage {advantage} --num-completions 3 --reward rule:length {critic}");
        align(folder.path(), &line(advantage, &flags)).ok();
        let lines = metrics(folder.path(), advantage);
        assert!(lines[1]["loss"].as_f64().unwrap().is_finite(), "{advantage}");
        assert!(lines[0]["grad_norm"].as_f64().unwrap() > 0.0, "{advantage}");
        assert!(weights_of(&folder.path().join(advantage).join("model")) != weights_of(&tiny_llama()));
        for name in there {
            assert!(lines[0][*name].is_number(), "{advantage} lacks {name}: {}", lines[0]);
        }
        for name in absent {
            assert!(lines[0].get(*name).is_none(), "{advantage} has {name}: {}", lines[0]);
        }
        let resolved = config(folder.path(), advantage);
        for (key, value) in settings {
            let expected: toml::Table = format!("x = {value}").parse().unwrap();
            assert_eq!(resolved.get(*key), expected.get("x"), "{advantage}: {key}");
        }
        assert_eq!(resolved.contains_key("critic_learning_rate"), has_critic, "{advantage}");
        assert_eq!(resolved.contains_key("lam"), advantage == "ppo");
        assert_eq!(resolved.contains_key("beta"), advantage == "online-dpo");
        assert_eq!(folder.path().join(advantage).join("critic").exists(), has_critic, "{advantage}");
        match advantage {
            // Policy and reference are the same model: the loss of a pair is ln 2.
            "online-dpo" => {
                assert!((lines[0]["loss"].as_f64().unwrap() - 2f64.ln()).abs() < 1e-5, "{}", lines[0]);
            }
            // Four updates on one batch leave the policy that sampled it; one begins and ends at a ratio of 1.
            "ppo" => assert!(lines[0]["policy/approxkl_avg"].as_f64().unwrap() > 0.0, "{}", lines[0]),
            _ => assert_eq!(lines[0]["val/ratio"], 1.0, "{advantage}"),
        }
        // Enough to run again with the same numbers.
        let again = format!(
            "ppo --config {{{advantage}/config.toml}} --output-dir {{again}} --overwrite --no-progress"
        );
        align(folder.path(), &again).ok();
        let loss = |run: &str| metrics(folder.path(), run)[1]["loss"].to_string();
        assert_eq!(loss("again"), loss(advantage), "{advantage}");
        assert_eq!(config(folder.path(), "again").get("lam"), resolved.get("lam"));
    }
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"))
}

#[test]
fn variants_of_models_and_sources_do_what_they_are_for() {
    let folder = folder();
    let here = folder.path();
    reward_model(here, "rm");
    write_demonstrations(here, "texts.jsonl", 6);
    write(here, "long.jsonl", format!("{{\"text\": \"{}\"}}\n", "word ".repeat(300)));
    let score = "--reward rule:length --truncated score";
    let run = |run: &str, flags: &str| align(here, &line(run, flags)).ok().stderr;
    let lines = |run: &str| metrics(here, run);

    run("plain", score);
    let plain = lines("plain");

    // One network: its loss is that of both, and the head lies beside the model.
    run("shared", &format!("{score} --critic shared --vf-coef 0.5"));
    let first = &lines("shared")[0];
    let sum = number(first, "loss/policy_avg") + 0.5 * number(first, "loss/value_avg");
    assert!((number(first, "loss") - sum).abs() < 1e-6 * sum.abs().max(1.0), "{first}");
    assert!(
        here.join("shared/model/value_head.safetensors").exists() && !here.join("shared/critic").exists()
    );
    assert!(config(here, "shared").contains_key("vf_coef") && !config(here, "plain").contains_key("vf_coef"));

    // An adapter: the samples of the first iteration are those of the model below it.
    run("lora", &format!("{score} --lora-rank 2 --ref-model {}", tiny_llama().display()));
    assert!(here.join("lora/model/adapter_config.json").exists());
    assert!(!here.join("lora/model/model.safetensors").exists());
    assert_eq!(lines("lora")[0]["objective/scores"], plain[0]["objective/scores"]);

    // A reference that follows is nearer than the first one.
    run("ema", &format!("{score} --ref-ema 0.5"));
    let second = &lines("ema")[1];
    assert_ne!(second["objective/kl"], second["objective/kl_first_reference"]);
    assert!(plain[1].get("objective/kl_first_reference").is_none());

    run("overlap", &format!("{score} --overlap"));
    let off = |run: &str| number(&lines(run)[1], "sampling/sampling_logp_difference/max");
    assert!(off("overlap") > 1e-4, "samples are of the weights before the first step: {}", off("overlap"));
    assert!(off("plain") < 1e-4, "{}", off("plain"));

    let said = run("model", "--reward-model {rm} --truncated score");
    assert!(said.contains("rm (the first --reward-model") && said.contains("score head"), "{said}");
    let of_model = lines("model");
    let (name, mean) =
        of_model[0].as_object().unwrap().iter().find(|(n, _)| n.starts_with("rewards/model:")).unwrap();
    assert!(name.ends_with("/mean") && *mean == of_model[0]["objective/scores"], "{name}");

    // Above a threshold that no answer reaches, and above one that all do; between the two a prompt may be in the range.
    for (threshold, outside) in [("1e6", Some(1.0)), ("-1", Some(1.0)), ("9", None)] {
        let flags = "--advantage grpo --num-completions 2 --reward rule:length --curriculum edge --samples 8";
        let flags = format!("{flags} --curriculum-decay 0 --curriculum-threshold {threshold} --overwrite");
        run("edge", &flags);
        // Nothing is known of any prompt at first; then the four that were sampled are inside of the range or not.
        let edge = lines("edge");
        assert_eq!((number(&edge[0], "curriculum/unseen"), edge[0].get("curriculum/filtered")), (1.0, None));
        let samples = json_lines(&here.join("edge/completions.jsonl"));
        let mut solved: BTreeMap<&str, u32> = BTreeMap::new();
        for sample in samples.iter().filter(|sample| sample["step"] == 1) {
            let reward = sample["reward"].as_f64().unwrap();
            *solved.entry(sample["prompt"].as_str().unwrap()).or_default() +=
                u32::from(reward > threshold.parse().unwrap());
        }
        assert_eq!(solved.len(), 4, "{solved:?}");
        let expected = solved.values().filter(|solved| **solved != 1).count() as f64 / 4.0;
        assert_eq!(number(&edge[1], "curriculum/filtered"), expected, "{threshold}: {solved:?}");
        assert!(outside.is_none_or(|outside| outside == expected), "{threshold}: {solved:?}");
    }

    run(
        "ptx",
        &format!(
            "{score} --ptx-data {{texts.jsonl}} --ptx-data {{long.jsonl}} --ptx-coef 2 --ptx-batch-size 3 --max-length 64"
        ),
    );
    let first = &lines("ptx")[0];
    let sum = number(first, "loss/policy_avg") + 2.0 * number(first, "loss/ptx_avg");
    assert!((number(first, "loss") - sum).abs() < 1e-6 * sum.abs().max(1.0), "{first}");
    // What was cut of these rows is said like what was cut of the prompts.
    let found = summary(here, "ptx");
    assert_eq!((&found["ptx_data"]["cut"], &found["rows_cut"]), (&1.into(), &0.into()), "{found}");

    // The reference answers like the policy at first: what is left of the reward is a difference of equals.
    run("relative", &format!("{score} --reward-baseline reference"));
    let (ours, theirs) = (&lines("relative")[0], &plain[0]);
    assert_eq!(ours["objective/scores"], theirs["objective/scores"]);
    assert!(number(ours, "objective/rlhf_reward") < 0.5 * number(theirs, "objective/rlhf_reward"), "{ours}");
    assert!(number(theirs, "objective/non_score_reward").abs() < 1e-3, "{theirs}");
}

/// A critic begins with a reward model in the units of what that model adds to the reward: weight · (r − mean) / std.
#[test]
fn a_critic_begins_in_the_units_of_the_reward() {
    let folder = folder();
    let here = folder.path();
    let model = reward_model(here, "same");
    let group = PromptGroup::new(vec![3, 4, 5], vec![Completion::new(vec![6, 7, 8])]);
    let batch = PackedBatch::new(&[group]).unwrap();
    let options = LoadOptions::default();
    let raw = ValueNetwork::from_classifier(&model, &options).unwrap();
    let raw = mean_value(&raw.values(&batch).unwrap());
    write(
        &model,
        "reward_normalization.json",
        "{\"mean\": 1.0, \"std\": 2.0, \"rows\": 9, \"of\": \"samples\"}",
    );
    for (flags, expected) in [
        ("", raw),
        ("--reward-weights -3", -3.0 * raw),
        ("--normalize --reward-weights -3", -3.0 * (raw - 1.0) / 2.0),
    ] {
        // With this rate nothing is learned.
        let more = format!(
            "--reward-model {{same}} --truncated score --critic-learning-rate 1e-30 --overwrite {flags}"
        );
        align(here, &line("run", &more)).ok();
        let critic = ValueNetwork::load(&here.join("run/critic"), &options).unwrap();
        let value = mean_value(&critic.values(&batch).unwrap());
        assert!((value - expected).abs() < 1e-4, "{flags}: {value} and not {expected}");
    }
}

/// Prompts have room for an answer in a reward model of the same tokens; of other tokens that is known when they are there, and
/// an answer that is too long for the model has no reward.
#[test]
fn reward_models_may_take_less_than_the_policy() {
    let folder = folder();
    let here = folder.path();
    let short = |model: PathBuf, tokens: u64| {
        edit_json(&model.join("config.json"), &[("max_position_embeddings", tokens.into())]);
    };
    short(reward_model(here, "same"), 32);
    short(reward_model_of_other_tokens(here, "other"), 22);
    let said = |flags: &str| {
        align(here, &line("run", &format!("{flags} --overwrite --truncated score"))).ok().stderr
    };
    let same = said("--reward-model {same}");
    assert!(same.contains("--max-length is lowered to 32 tokens"), "{same}");
    let other = said("--reward-model {other}");
    assert!(!other.contains("lowered"), "{other}");
    assert!(other.contains("answers that are too long have no reward"), "{other}");
    let abstained = number(&metrics(here, "run")[0], "completions/abstained");
    assert!(abstained > 0.0 && abstained < 1.0, "{abstained}");
}

/// The mean value of the states of an answer.
fn mean_value(values: &align_core::TokenValues) -> f64 {
    let list = Vec::<f32>::try_from(values.values().detach()).unwrap();
    f64::from(list.iter().sum::<f32>()) / list.len() as f64
}

/// With --normalize-values a critic is trained on returns of mean 0 and variance 1; the folders that a run leaves are read
/// by programs that know of no moments.
#[test]
fn critics_are_saved_in_units_of_the_reward() {
    let folder = folder();
    let here = folder.path();
    // All rewards are near 1000.
    let program = "while IFS= read -r line; do\nid=${line#*:}; echo \"{\\\"id\\\": ${id%%,*}, \\\"reward\\\": $((900 + ${#line}))}\"\ndone\n";
    write(here, "score.sh", program);
    let group = PromptGroup::new(vec![3, 4, 5], vec![Completion::new(vec![6, 7, 8])]);
    let batch = PackedBatch::new(&[group]).unwrap();
    for (run, flags) in [("separate", ""), ("shared", "--critic shared")] {
        let more = format!("--truncated score --kl-coef 0 --normalize-values {flags}");
        let mut command = command(here, &line(run, &more));
        let score = format!("sh '{}'", here.join("score.sh").display());
        Answer::to(command.arg("--reward-command").arg(score)).ok();
        let scores = number(&metrics(here, run)[1], "objective/scores");
        assert!((900.0..1300.0).contains(&scores), "{scores}");
        let options = LoadOptions::default();
        let value = match run {
            "separate" => {
                let critic = ValueNetwork::load(&here.join(run).join("critic"), &options).unwrap();
                mean_value(&critic.values(&batch).unwrap())
            }
            _ => {
                let pair = PolicyWithValue::load(&here.join(run).join("model"), &options).unwrap();
                mean_value(&pair.logits_and_values(&batch).unwrap().1)
            }
        };
        // In the units of training it would be a few units from 0.
        assert!((value - scores).abs() < 0.3 * scores, "{run}: {value} for rewards of {scores}");
    }
}
