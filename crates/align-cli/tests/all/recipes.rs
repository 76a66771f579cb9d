//! The commands of `docs/recipes.md`, run as they stand there.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{
    Answer, copy_of_tiny_llama, json_lines, write, write_demonstrations, write_pairs, write_prompts,
};

const PAGE: &str = include_str!("../../../../docs/recipes.md");

/// Takes the blocks of a language out of the page.
fn blocks(language: &str) -> Vec<&'static str> {
    let begin = format!("```{language}\n");
    PAGE.split(&begin).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn two_rounds_of_labels_and_ppo() {
    if !Command::new("python3").arg("--version").output().is_ok_and(|answer| answer.status.success()) {
        eprintln!("note: skipped, there is no python3 for the labels of docs/recipes.md");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    fs::create_dir(folder.join("models")).unwrap();
    copy_of_tiny_llama(&folder.join("models"), "sft");
    write_prompts(folder, "prompts.jsonl", 12);
    write_pairs(folder, "pairs-0.jsonl", 8);
    write_demonstrations(folder, "demonstrations.jsonl", 6);
    let (programs, scripts) = (blocks("python"), blocks("sh"));
    let ([program], [script]) = (programs.as_slice(), scripts.as_slice()) else {
        panic!("{programs:?} {scripts:?}")
    };
    write(folder, "label.py", program);
    let align = Path::new(env!("CARGO_BIN_EXE_align")).parent().unwrap();
    let path = format!("{}:{}", align.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(folder).env("PATH", path).env("NO_COLOR", "1");
    command.env("XDG_CACHE_HOME", folder.join("cache")).env("STEPS", "2").env("TOKENS", "6");
    Answer::of(&command.output().unwrap()).ok();

    for round in [1, 2] {
        let name = |what: &str, end: &str| folder.join(format!("{what}-{round}{end}"));
        let samples = json_lines(&name("samples", ".jsonl"));
        assert_eq!(samples.len(), 12);
        assert!(samples.iter().all(|row| row["completions"].as_array().unwrap().len() == 4));
        // The labels are those of the rule, and none is on both sides.
        let (pairs, held_out) =
            (json_lines(&name("pairs", ".jsonl")), json_lines(&name("held-out", ".jsonl")));
        assert!(pairs.len() > held_out.len() && !held_out.is_empty(), "{} {}", pairs.len(), held_out.len());
        let letters = |text: &Value| {
            let mut letters: Vec<char> = text.as_str().unwrap().to_lowercase().chars().collect();
            letters.sort_unstable();
            letters.dedup();
            letters.len()
        };
        for pair in pairs.iter().chain(&held_out) {
            assert!(letters(&pair["chosen"]) > letters(&pair["rejected"]), "{pair}");
        }
        assert!(held_out.iter().all(|pair| pairs.iter().all(|other| other["prompt"] != pair["prompt"])));
        // The reward model goes on from the one before and says otherwise of the same answers.
        let [before, after] = ["before", "after"].map(|when| json(&name(when, ".json")));
        let accuracy = |report: &Value| report["agreement"]["accuracy"]["mean"].as_f64().unwrap();
        for report in [&before, &after] {
            assert!((0.0..=1.0).contains(&accuracy(report)), "{report}");
        }
        assert_ne!(before, after);
        let config = fs::read_to_string(name("runs/reward", "/config.toml")).unwrap();
        assert!(config.contains(&format!("/runs/reward-{}/model\"", round - 1)), "{config}");
        // The policy goes on from the one before, and is held to the first.
        let config = fs::read_to_string(name("runs/ppo", "/config.toml")).unwrap();
        let start = if round == 1 { "/models/sft\"".to_owned() } else { "/runs/ppo-1/model\"".to_owned() };
        let setting = |key: &str| config.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        assert!(setting("model =").ends_with(&start), "{config}");
        assert!(setting("ref_model =").ends_with("/models/sft\""), "{config}");
        let summary = json(&name("runs/ppo", "/summary.json"));
        assert_eq!(summary["steps"], 2);
        let kl = json_lines(&name("runs/ppo", "/metrics.jsonl"))[0]["objective/kl"].as_f64().unwrap();
        // Only the policy of the first round is its reference still.
        assert_eq!(kl.abs() < 1e-5, round == 1, "{kl}");
        assert!(summary["final"]["eval/loss/ptx_avg"].as_f64().unwrap() > 0.0);
        assert!(name("runs/ppo", "/model/model.safetensors").exists());
    }
    let page = fs::read_to_string(folder.join("rounds.html")).unwrap();
    assert!(page.contains("loss/ptx_avg") && page.contains("Samples over time"), "rounds.html lacks a part");
}
