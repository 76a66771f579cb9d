//! The front program: what it answers without libtorch.

use crate::support;

use std::path::Path;
use std::process::Command;

use support::{Answer, align, write};

const COMMANDS: [&str; 9] =
    ["doctor", "data", "data check", "logprobs", "generate", "sft", "dpo", "report", "completions"];

/// Copies `align` alone into an empty folder, and runs it there with an empty environment.
struct Alone(tempfile::TempDir);

impl Alone {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_align"), folder.path().join("align")).unwrap();
        Self(folder)
    }

    fn run(&self, arguments: &str) -> Answer {
        let mut command = Command::new(self.0.path().join("align"));
        command.args(arguments.split_whitespace()).env_clear().current_dir(self.0.path());
        Answer::to(&mut command)
    }
}

#[test]
fn help_of_every_command_needs_no_libtorch() {
    let align = Alone::new();
    for command in COMMANDS {
        let answer = align.run(&format!("{command} --help")).ok();
        assert!(answer.stdout.contains("Usage: align"), "{command}: {}", answer.stdout);
        assert_eq!(answer.stderr, "");
    }
    let answer = align.run("--version").ok();
    assert!(answer.stdout.starts_with("align "), "{}", answer.stdout);
    let answer = align.run("--help").ok();
    assert!(answer.stdout.contains("130  interrupted"), "{}", answer.stdout);
}

#[cfg(target_os = "linux")]
#[test]
fn the_loader_is_asked_for_no_libtorch() {
    let listed =
        Command::new(env!("CARGO_BIN_EXE_align")).env("LD_TRACE_LOADED_OBJECTS", "1").output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("libc.so"), "{listed}");
    for library in ["libtorch", "libc10", "libgomp"] {
        assert!(!listed.contains(library), "{listed}");
    }
    let worker =
        Command::new(env!("CARGO_BIN_EXE_align-torch")).env("LD_TRACE_LOADED_OBJECTS", "1").output().unwrap();
    assert!(String::from_utf8_lossy(&worker.stdout).contains("libtorch"), "the check above could not fail");
}

#[test]
fn wrong_flags_need_no_libtorch() {
    let align = Alone::new();
    let run = "--model m --data d --output-dir o";
    for (line, texts) in [
        ("dpo --betta 0.1", &["unknown flag --betta", "hint: did you mean --beta?"][..]),
        ("sft --beta 0.1", &["unknown flag --beta", "hint: `--beta` is a flag of align"]),
        ("dpo --lora-rnak 8", &["unknown flag --lora-rnak", "did you mean --lora-rank?"]),
        ("trian", &["unknown command trian"]),
        ("dop", &["unknown command dop", "hint: did you mean dpo?"]),
        ("dpo --reward-url u", &["--reward-url is not in this version yet"]),
        ("sft --reward-url=r", &["--reward-url is not in this version yet"]),
        ("rest", &["align rest is not in this version yet"]),
        ("cgpo --model m", &["align cgpo is not in this version yet"]),
        ("", &["no command"]),
        ("data", &["no command"]),
        ("completions", &["SHELL", "is missing"]),
        ("completions tcsh", &["tcsh", "hint: choices: bash"]),
        ("logprobs --model m --data d", &["--output <FILE> is missing"]),
        ("generate --model m --output o", &["--prompts <FILE> is missing"]),
        ("dpo --data d --output-dir o", &["--model DIR is missing", "hint: give --model DIR"]),
        ("dpo --model m --output-dir o", &["--data FILE is missing"]),
        ("dpo --model m --data d", &["--output-dir DIR is missing"]),
        ("dpo --beta", &["--beta needs a value"]),
        ("dpo --resume --overwrite", &["exclude each other"]),
        ("dpo --reference-free --ref-model r", &["exclude each other"]),
        ("dpo --loss-type ipoo", &["--loss-type ipoo", "hint: choices: sigmoid"]),
        ("dpo --dtype fp8", &["--dtype fp8: there is no such choice", "hint: choices: f32, bf16"]),
        ("dpo --device gpu", &["--device gpu", "expected auto, cpu, cuda or cuda:N"]),
        ("dpo --columns prompt", &["expected NAME=COLUMN"]),
    ] {
        align.run(line).refused(2, texts);
    }
    for (flags, texts) in [
        ("--beta 0", &["--beta 0: expected a finite number above 0"][..]),
        ("--beta -1", &["--beta -1: expected a finite number above 0"]),
        ("--beta nan", &["--beta NaN: expected a finite number above 0"]),
        ("--beta inf", &["--beta inf: expected a finite number above 0"]),
        ("--beta 1e300", &["--beta 1e300: expected a finite number above 0 and at most 1000000"]),
        (
            "--learning-rate 1e9",
            &["--learning-rate 1000000000: expected a finite number above 0 and at most 1000"],
        ),
        ("--max-grad-norm inf", &["--max-grad-norm inf: expected a finite number"]),
        ("--seed 99999999999999999999", &["--seed", "a whole number of at most 18446744073709551615"]),
        ("--label-smoothing 0.5", &["--label-smoothing 0.5", "[0, 0.5)"]),
        ("--learning-rate nan", &["--learning-rate NaN", "above 0"]),
        ("--learning-rate -2e-5", &["--learning-rate -0.00002", "above 0"]),
        ("--batch-size 0", &["--batch-size 0", "at least 1"]),
        ("--batch-size -3", &["--batch-size -3", "whole number"]),
        ("--batch-size 1.5", &["--batch-size 1.5", "whole number"]),
        ("--max-steps 0", &["--max-steps 0", "at least 1"]),
        ("--epochs inf", &["--epochs inf", "finite"]),
        ("--adam-beta2 1", &["--adam-beta2 1", "[0, 1)"]),
        ("--max-length 1", &["--max-length 1", "at least 2"]),
        ("--threads 0", &["--threads 0"]),
        ("--load-in-4bit", &["--load-in-4bit needs --lora-rank R or --adapter DIR", "are never trained"]),
        ("--eval-every 5", &["--eval-every needs --eval-data"]),
        ("--keep-best loss", &["--keep-best needs --eval-data"]),
        (
            "--eval-data e --keep-best reward/margins",
            &["--keep-best reward/margins: there is no such metric", "hint: choices: loss, rewards/chosen"],
        ),
        ("--columns promt=q", &["--columns promt=q", "did you mean prompt?"]),
    ] {
        align.run(&format!("dpo {run} {flags}")).refused(2, texts);
    }
    let generate = "generate --model m --prompts p --output o";
    for (flags, text) in [
        ("--temperature 0", "--temperature 0: expected a number above 0 (use --greedy for 0)"),
        ("--top-p 1.5", "--top-p 1.5"),
        ("--num-completions 0", "--num-completions 0"),
        ("--stop=", "--stop"),
        ("--stop x --stop=", "--stop"),
        ("--min-p 1.1", "--min-p 1.1: expected a number in [0, 1]"),
        ("--min-p=-0.1", "--min-p -0.1"),
        ("--repetition-penalty 0", "--repetition-penalty 0: expected a number in [0.01, 100]"),
        ("--greedy --temperature 0.7", "--greedy and --temperature 0.7 contradict each other"),
        ("--greedy --num-completions 2", "--greedy and --num-completions 2 contradict"),
        ("--greedy --top-p 0.9", "--greedy and --top-p 0.9 contradict"),
        ("--greedy --top-k 5", "--greedy and --top-k 5 contradict"),
        ("--greedy --min-p 0.1", "--greedy and --min-p 0.1 contradict"),
    ] {
        align.run(&format!("{generate} {flags}")).refused(2, &[text]);
    }
    let left: Vec<_> = std::fs::read_dir(align.0.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing but the program is in the folder");
}

#[test]
fn wrong_configuration_files_need_no_libtorch() {
    let align = Alone::new();
    let folder = align.0.path().to_owned();
    for (text, texts) in [
        ("model = \"m\"\nbetta = 1\n", &["run.toml:2: unknown key betta", "hint: did you mean beta?"][..]),
        (
            "learning_rat = 1\n",
            &["run.toml:1: unknown key learning_rat", "hint: did you mean learning_rate?"],
        ),
        ("beta = \"much\"\n", &["run.toml:1: beta = much: expected a number"]),
        (
            "\n\nbeta = -1\nmodel = \"m\"\ndata = [\"d\"]\noutput_dir = \"o\"\n",
            &["run.toml:3: beta = -1: expected"],
        ),
        ("batch_size 8\n", &["run.toml:1:"]),
        ("model = \"m\"\n", &["--data FILE is missing", "data = "]),
        ("config = \"x\"\n", &["run.toml:1: config cannot be a key", "hint: leave this line out"]),
        ("lam = 1\n", &["run.toml:1: unknown key lam of align dpo", "hint: lam is a key of align ppo"]),
        ("reward_url = \"u\"\n", &["run.toml:1: reward_url is not in this version yet"]),
    ] {
        write(&folder, "run.toml", text);
        align.run("dpo --config run.toml").refused(2, texts);
    }
    align.run("dpo --config absent.toml").refused(2, &["cannot read --config absent.toml"]);
}

#[test]
fn a_missing_second_program_is_the_environments_fault() {
    let align = Alone::new();
    let texts = ["align-torch is not there", "hint: build both programs: cargo build --release -p align-cli"];
    align.run("dpo --model m --data d --output-dir o").refused(3, &texts);
    align.run("doctor").refused(3, &texts);
    let answer = align.run("doctor --json").refused(3, &texts);
    let report: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert!(!align.0.path().join("o").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_missing_libtorch_is_named_with_what_to_do() {
    // A copy of a program whose library does not exist: align-torch with the name of a library overwritten.
    let align = Alone::new();
    let mut bytes = std::fs::read(env!("CARGO_BIN_EXE_align-torch")).unwrap();
    let name = b"libtorch_cpu.so\0";
    let mut found = 0;
    for start in 0..bytes.len() - name.len() {
        if &bytes[start..start + name.len()] == name {
            bytes[start + 3] = b'x';
            found += 1;
        }
    }
    assert!(found > 0, "align-torch needs libtorch_cpu.so");
    let copy = write(align.0.path(), "align-torch", bytes);
    std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    align
        .run("doctor")
        .refused(3, &["libxorch_cpu.so not found", "hint: ", "cargo xtask setup", "LD_LIBRARY_PATH"]);
}

#[test]
fn completion_scripts_know_the_flags() {
    let align = Alone::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = align.run(&format!("completions {shell}")).ok().stdout;
        assert!(script.contains("micro-batch-tokens"), "{shell}");
    }
    if let Ok(mut bash) = Command::new("bash").arg("-n").stdin(std::process::Stdio::piped()).spawn() {
        let script = align.run("completions bash").stdout;
        std::io::Write::write_all(&mut bash.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(bash.wait().unwrap().success());
    }
}

#[test]
fn a_closed_pipe_is_silent() {
    let line = format!(
        "{} completions bash | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_align")
    );
    let answer = Answer::of(&Command::new("bash").args(["-c", &line]).output().unwrap());
    assert_eq!((answer.stdout.trim(), answer.stderr.as_str()), ("0", ""));
}

#[test]
fn the_manual_pages_are_fresh() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (name, made) in
        [("cli.md", align_cli::manual::markdown()), ("metrics.md", align_cli::metrics::markdown())]
    {
        let path = docs.join(name);
        if std::env::var_os("ALIGN_BLESS").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            kept, made,
            "docs/{name} is old: ALIGN_BLESS=1 cargo test --release -p align-cli --test all front"
        );
    }
}

#[test]
fn data_check_counts_and_names_bad_rows() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "good.jsonl", "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"cc\"}\n");
    let answer = align(folder, "data check {good.jsonl}").ok();
    assert!(
        answer.stdout.contains("preference") && answer.stdout.contains("1 good, 0 bad"),
        "{}",
        answer.stdout
    );
    let json = align(folder, "data check {good.jsonl} --json").ok().stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (json["files"][0]["report"]["kept"].as_u64(), json["unit"].as_str()),
        (Some(1), Some("bytes"))
    );

    write(folder, "bad.jsonl", "{\"text\":\"a b\"}\n{\"text\":\" \"}\n{broken\n");
    let answer =
        align(folder, "data check {bad.jsonl}").refused(4, &["2 of 3 rows cannot be used", "hint: "]);
    assert!(
        answer.stdout.contains("bad.jsonl:2:") && answer.stdout.contains("bad.jsonl:3:"),
        "{}",
        answer.stdout
    );
    align(folder, "data check {absent.jsonl}").refused(4, &["absent.jsonl"]);
}

#[test]
fn data_check_looks_at_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(folder, "good.jsonl", "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"cc\"}\n");
    write(folder, "other.jsonl", "{\"question\":\"a\",\"answer\":\"b\"}\n");
    write(folder, "bad.jsonl", "{\"text\":\"a b\"}\n{\"text\":\" \"}\n");
    let line = "data check {absent.jsonl} {other.jsonl} {good.jsonl} {bad.jsonl} --json";
    let answer = align(folder, line).refused(
        4,
        &["2 of 4 files cannot be used", "cannot read", "absent.jsonl", "other.jsonl:1:", "hint: "],
    );
    let report: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    let files = report["files"].as_array().unwrap();
    let troubled: Vec<_> = files.iter().map(|file| !file["trouble"].is_null()).collect();
    assert_eq!(troubled, [true, true, false, false]);
    assert_eq!(files[3]["report"]["bad_count"], 1);
    let answer = align(folder, "data check {absent.jsonl} {other.jsonl} {good.jsonl}").refused(4, &[]);
    for text in ["absent.jsonl: cannot be used", "map them: --columns prompt=question", "1 good, 0 bad"] {
        assert!(answer.stdout.contains(text), "{text}: {}", answer.stdout);
    }
}

#[test]
fn data_check_finds_what_is_wrong_with_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let pair = "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"b\"}\n";
    write(folder, "pairs.jsonl", pair.repeat(2));
    write(folder, "eval.csv", "prompt,chosen,rejected\na,b,b\na,\"c\nd\",e\n");
    let answer = align(folder, "data check {pairs.jsonl} --eval-data {eval.csv}").ok();
    for text in [
        "2: rows whose answers are all the same",
        "1: rows that were there before",
        "1: rows to evaluate on that are trained on",
        "eval.csv:2 is ",
        "1: rows to evaluate on whose prompt is trained on",
        "eval.csv:3 is ",
    ] {
        assert!(answer.stdout.contains(text), "{text}: {}", answer.stdout);
    }
    write(folder, "other.jsonl", "{\"question\":\"a\",\"answer\":\"b\"}\n");
    align(folder, "data check {other.jsonl}").refused(4, &["other.jsonl:1", "hint: ", "completion=answer"]);
    align(folder, "data check {other.jsonl} --columns prompt=question,completion=answer").ok();
}

/// Each preset names its command in its second line; what it needs beside is a model, rows and a place.
#[test]
fn presets_are_in_order_and_listed() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let page = std::fs::read_to_string(docs.join("presets/README.md")).unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(docs.join("presets")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        count += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(page.contains(&format!("({name})")), "{name} is not in docs/presets/README.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().nth(1).unwrap().trim_start_matches("# ");
        let words = line.replace(&format!("docs/presets/{name}"), &path.display().to_string());
        let words: Vec<_> = words.split(' ').map(std::ffi::OsString::from).collect();
        let settings = align_cli::settings::parse(&words);
        assert!(settings.is_ok(), "{name}: {}", settings.unwrap_err());
    }
    assert!(count > 10);
}
