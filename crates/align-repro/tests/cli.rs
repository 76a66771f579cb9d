//! The program: exit codes, what it refuses, what it writes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::process::{Command, Output};

fn align_repro(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_align-repro")).args(args).output().unwrap()
}

fn error_of(args: &[&str], code: i32) -> String {
    let output = align_repro(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    text
}

#[test]
fn usage_errors_have_code_2_and_name_what_exists() {
    assert!(error_of(&["dpo-vs-pop"], 2).contains("dpo-vs-ppo"));
    let text = error_of(&["dpo-vs-ppo", "--arms", "toy-h4"], 2);
    assert!(text.contains("toy-h4") && text.contains("toy-h3-p1"), "{text}");
    error_of(&["dpo-vs-ppo", "--quick", "--full"], 2);
    error_of(&["dpo-vs-ppo", "--seeds", "0"], 2);
    error_of(&[], 2);
    assert!(error_of(&["una", "--data", "x.jsonl"], 2).contains("its own data"));
}

#[test]
fn missing_data_has_code_4_and_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let args = ["dpo-vs-ppo", "--data", "no/such.jsonl", "--out", out.to_str().unwrap()];
    assert!(error_of(&args, 4).contains("no/such.jsonl"));
    assert!(!out.exists(), "nothing is left behind");
}

#[test]
fn a_folder_with_other_files_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let args = ["dpo-vs-ppo", "--arms", "theorem", "--out", folder.path().to_str().unwrap()];
    assert!(error_of(&args, 2).contains("not empty"));
}

#[test]
fn the_listing_names_arms_claims_and_controls() {
    let output = align_repro(&["--list"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for word in [
        "dpo-vs-ppo",
        "toy-h3-p1-uniform",
        "h3-p1-end",
        "pairs-shuffled",
        "--quick",
        "--full",
        "without a flag",
        "kto-tenth-flat",
        "offset-spares-qrpo",
    ] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn a_run_writes_its_files_and_prints_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let args = ["dpo-vs-ppo", "--quick", "--arms", "theorem", "--out", out.to_str().unwrap()];
    let output = align_repro(&args);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("dpo-minimum") && table.contains("passed: 9 of 9"), "{table}");
    let result = std::fs::read_to_string(out.join("result.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&result).unwrap();
    assert_eq!(value["passes"], true);
    for file in ["environment.json", "report.md", "report.html", "run.json"] {
        assert!(out.join(file).exists(), "{file}");
    }
    // Again, in the same folder, and resumed: the same bytes.
    for more in [None, Some("--resume")] {
        let args: Vec<&str> = args.into_iter().chain(more).collect();
        assert!(align_repro(&args).status.success());
        assert_eq!(std::fs::read_to_string(out.join("result.json")).unwrap(), result);
    }
    let other = ["dpo-vs-ppo", "--full", "--arms", "theorem", "--resume", "--out", out.to_str().unwrap()];
    assert!(error_of(&other, 2).contains("another plan, size"));
}
