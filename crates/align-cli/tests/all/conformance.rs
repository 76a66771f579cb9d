//! Hazards of the field that a user meets on the command line.

use crate::support;

use std::path::Path;

use serde_json::Value;
use support::{
    Answer, align, command, json_lines, tiny_llama, write, write_demonstrations, write_pairs, write_prompts,
};

/// The commands below `words`, as its own help lists them.
fn subcommands(words: &str) -> Vec<String> {
    let help = align(Path::new("."), &format!("{words} --help")).ok().stdout;
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A description that is broken over lines is indented deeper.
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(|name| format!("{words} {name}").trim().to_owned()).collect()
}

/// A help text that cannot be printed (a stray percent sign did it elsewhere) is met by those who need it most.
#[test]
fn help_is_printed_for_every_command_there_is() {
    let mut commands = subcommands("");
    assert!(commands.len() >= 7, "{commands:?}");
    let nested: Vec<String> = commands.iter().flat_map(|name| subcommands(name)).collect();
    assert!(nested.contains(&"data check".to_owned()), "{nested:?}");
    commands.extend(nested);
    for command in commands {
        for flag in ["--help", "-h"] {
            let help = align(Path::new("."), &format!("{command} {flag}")).ok();
            assert!(help.stdout.contains(&format!("Usage: align {command}")), "{command}: {}", help.stdout);
            assert_eq!(help.stderr, "", "{command}");
        }
    }
}

/// The flags of a command that trains: its rows and the default rate of its literature.
struct Method {
    name: &'static str,
    rows: &'static str,
    rate: f64,
    /// What it needs beside its rows.
    flags: &'static str,
}

/// Rates of TRL 1.16's configurations: SFTConfig 2e-5, RewardConfig 1e-4, DPOConfig and KTOConfig 1e-6, PPOConfig 3e-6
/// while TRL had it; UNA takes that of KTO.
const METHODS: &[Method] = &[
    Method { name: "sft", rows: "demonstrations.jsonl", rate: 2e-5, flags: "" },
    Method { name: "reward", rows: "pairs.jsonl", rate: 1e-4, flags: "" },
    Method { name: "dpo", rows: "pairs.jsonl", rate: 1e-6, flags: "" },
    Method { name: "kto", rows: "pairs.jsonl", rate: 1e-6, flags: "" },
    Method { name: "una", rows: "pairs.jsonl", rate: 1e-6, flags: "" },
    Method {
        name: "ppo",
        rows: "prompts.jsonl",
        rate: 3e-6,
        flags: "--reward rule:length --truncated score --batch-size 2 --max-new-tokens 4",
    },
];

fn train(folder: &Path, method: &str, rows: &str, run: &str, more: &str) -> String {
    format!(
        "{method} --model {} --data {{{rows}}} --output-dir {{{run}}} --log-every 1 --samples 0 --threads 1 {more}",
        tiny_llama().display()
    )
    .replace("{run}", &folder.join(run).display().to_string())
}

/// A default that the manual states and the program does not have has cost people whole runs.
#[test]
fn default_learning_rates_are_those_of_the_manual() {
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let documented = |method: &str| -> f64 {
        let section = manual.split("\n## ").find(|s| s.starts_with(&format!("align {method}\n"))).unwrap();
        let row = section.lines().find(|line| line.starts_with("| `--learning-rate")).unwrap();
        row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap().trim().trim_matches('`').parse().unwrap()
    };
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    write_demonstrations(folder, "demonstrations.jsonl", 4);
    write_prompts(folder, "prompts.jsonl", 4);
    for Method { name, rows, rate, flags } in METHODS {
        let flags = format!("--max-steps 1 --lr-scheduler constant {flags}");
        align(folder, &train(folder, name, rows, name, &flags)).ok();
        let used = json_lines(&folder.join(name).join("metrics.jsonl"))[0]["learning_rate"].as_f64().unwrap();
        assert_eq!((used, documented(name)), (*rate, *rate), "{name}");
    }
    let trains = manual.split("\n## ").filter(|section| section.contains("\n| `--learning-rate")).count();
    assert_eq!(trains, METHODS.len(), "a command that trains is not in the table");
}

/// Columns of other programs crash trainers or change what they learn; here they are named and change nothing.
#[test]
fn columns_that_are_not_read_are_named_and_change_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let plain = std::fs::read_to_string(write_pairs(folder, "pairs.jsonl", 6)).unwrap();
    let more = |line: &str| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row["tool"] = serde_json::json!({"name": null, "arguments": []});
        row["annotator"] = serde_json::json!(7);
        row.to_string() + "\n"
    };
    write(folder, "more.jsonl", plain.lines().map(more).collect::<String>());
    let run = |rows: &str, run: &str| {
        let answer =
            align(folder, &train(folder, "dpo", rows, run, "--max-steps 2 --learning-rate 1e-3")).ok();
        (answer.stderr, std::fs::read(folder.join(run).join("model/model.safetensors")).unwrap())
    };
    let (silent, expected) = run("pairs.jsonl", "plain");
    let (told, weights) = run("more.jsonl", "more");
    assert!(weights == expected, "columns that nothing reads changed the weights");
    assert!(!silent.contains("does not read"), "{silent}");
    assert!(told.contains("columns that training does not read: tool, annotator"), "{told}");
}

/// Trains and samples where no network can be reached: nothing is looked up anywhere.
#[cfg(target_os = "linux")]
#[test]
fn a_machine_without_a_network_trains_and_samples() {
    let alone = |line: &mut std::process::Command| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--map-root-user", "--net", "--"]).arg(line.get_program()).args(line.get_args());
        // A proxy that is set would be asked by a program that does not know it is alone.
        command.env("NO_COLOR", "1").env("https_proxy", "http://127.0.0.1:9");
        Answer::to(&mut command)
    };
    let allowed =
        std::process::Command::new("unshare").args(["--map-root-user", "--net", "--", "true"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("note: skipped, this user may not make a network of its own (unshare --net)");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    alone(&mut command(folder, &train(folder, "dpo", "pairs.jsonl", "run", "--max-steps 1"))).ok();
    let line = "generate --model {run/model} --prompts {pairs.jsonl} --output {out.jsonl} --max-new-tokens 2";
    alone(&mut command(folder, line)).ok();
    // A name of a model hub is no folder; it is said at once and not looked for.
    let line = "dpo --model someone/a-model --data {pairs.jsonl} --output-dir {never}";
    alone(&mut command(folder, line)).refused(4, &["someone/a-model"]);
}

/// Batches of one answer and a last batch of odd size: KTO trains, every step has a finite loss, and the size of the
/// last batch is its own denominator.
#[test]
fn kto_trains_with_odd_batches_and_batches_of_one() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let row = |i: usize| {
        let words = ["blue", "grey and low", "green"][i % 3];
        format!(
            "{{\"prompt\": \"The sky, seen {i} times, is\", \"completion\": \" {words}.\", \"label\": {}}}\n",
            i.is_multiple_of(2)
        )
    };
    write(folder, "labels.jsonl", (0..5).map(row).collect::<String>());
    for loss in ["kto", "bco", "apo_zero_unpaired"] {
        for batch in [1, 2, 3] {
            let run = format!("{loss}-{batch}");
            let more = format!("--loss-type {loss} --batch-size {batch} --epochs 2 --learning-rate 1e-3");
            align(folder, &train(folder, "kto", "labels.jsonl", &run, &more)).ok();
            let lines = json_lines(&folder.join(&run).join("metrics.jsonl"));
            assert_eq!(lines.len(), 2 * 5usize.div_ceil(batch), "{run}");
            for line in &lines {
                for key in ["loss", "grad_norm"] {
                    let number = line[key].as_f64();
                    assert!(number.is_some_and(|n| n.is_finite() && n > 0.0), "{run}: {line}");
                }
            }
            // Policy and reference are equal: 1 - σ(0) for each answer, ln 2 for each class of BCO.
            let first = lines[0]["loss"].as_f64().unwrap();
            if loss != "bco" {
                assert!((first - 0.5).abs() < 1e-6, "{run}: {first}");
            }
            if loss == "kto" && batch == 1 {
                assert!(lines.iter().all(|line| line["kl"] == 0.0), "a row alone has no mismatched pair");
            }
        }
    }
}
