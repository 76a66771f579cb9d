//! Bad input: a clear line on stderr, the exit code, a hint, and nothing written.

use crate::support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::{Answer, align, copy_of_tiny_llama, edit_json, tiny_llama, tree, write, write_pairs};

/// Runs a command that is refused, and asserts that the folder is as before.
fn refused(folder: &Path, arguments: &str, code: i32, texts: &[&str]) {
    let before = tree(folder);
    align(folder, arguments).refused(code, texts);
    assert_eq!(tree(folder), before, "`{arguments}` wrote something");
}

fn dpo(data: &str) -> String {
    format!("dpo --model {} --data {{{data}}} --output-dir {{run}}", tiny_llama().display())
}

fn sft(data: &str) -> String {
    format!("sft --model {} --data {{{data}}} --output-dir {{run}}", tiny_llama().display())
}

#[test]
fn rows_that_cannot_be_used() {
    const GOOD: &str = "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}\n";
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let skip = "--bad-rows skip";
    for (name, content, texts) in [
        ("broken", "{\"prompt\":\"a\",\"chosen\":\n", &["broken.jsonl:2: broken JSON", skip][..]),
        (
            "number",
            "{\"prompt\":5,\"chosen\":\"b\",\"rejected\":\"c\"}\n",
            &["number.jsonl:2:", "`prompt`", skip],
        ),
        ("missing", "{\"prompt\":\"a\",\"chosen\":\"b\"}\n", &["missing.jsonl:2:", "`rejected`", skip]),
        (
            "blank",
            "{\"prompt\":\"a\",\"chosen\":\" \\n\",\"rejected\":\"c\"}\n",
            &["blank.jsonl:2: `chosen` is empty", skip],
        ),
        ("list", "[1, 2]\n", &["list.jsonl:2:", skip]),
        (
            "null",
            "{\"prompt\":\"a\",\"chosen\":null,\"rejected\":\"c\"}\n",
            &["null.jsonl:2:", "`chosen`", skip],
        ),
        ("other", "{\"text\":\"a\"}\n", &["other.jsonl:2:", "`text`", skip]),
    ] {
        let name = format!("{name}.jsonl");
        write(folder, &name, format!("{GOOD}{content}"));
        refused(folder, &dpo(&name), 4, &[texts, &["error: 1 of 2 rows cannot be used", "hint: "]].concat());
    }
    let mut bytes = GOOD.as_bytes().to_vec();
    bytes.extend(b"{\"prompt\":\"\xff\xfe\",\"chosen\":\"b\",\"rejected\":\"c\"}\n");
    write(folder, "utf8.jsonl", bytes);
    refused(folder, &dpo("utf8.jsonl"), 4, &["utf8.jsonl:2:", "UTF-8", skip]);

    write(folder, "many.jsonl", format!("{GOOD}{}", "{oops\n".repeat(13)));
    refused(
        folder,
        &dpo("many.jsonl"),
        4,
        &["13 of 14 rows", "many.jsonl:2:", "many.jsonl:11:", "and 3 more"],
    );

    let messages = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"ho\"}]}\n";
    write(folder, "roles.jsonl", format!("{messages}{{\"messages\":[{{\"role\":\"user\"}}]}}\n"));
    refused(folder, &sft("roles.jsonl"), 4, &["roles.jsonl:2:", "content", skip]);
}

#[test]
fn files_that_are_no_rows() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write(folder, "empty.jsonl", "");
    refused(folder, &dpo("empty.jsonl"), 4, &["empty.jsonl"]);
    write(folder, "picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    refused(folder, &dpo("picture.png"), 4, &["picture.png", "expected JSON Lines"]);
    write(folder, "table.csv", "name,age\na,3\n");
    refused(folder, &dpo("table.csv"), 4, &["table.csv"]);
    write(folder, "torn.jsonl.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab");
    refused(folder, &dpo("torn.jsonl.gz"), 4, &["torn.jsonl.gz"]);
    refused(folder, &dpo("absent.jsonl"), 4, &["cannot read", "absent.jsonl"]);
    fs::create_dir(folder.join("directory")).unwrap();
    refused(folder, &dpo("directory"), 4, &["directory", "this is a folder"]);
    // Rows of another kind than the command trains on.
    write_pairs(folder, "pairs.jsonl", 2);
    write(folder, "text.jsonl", "{\"text\":\"some words\"}\n");
    refused(folder, &sft("pairs.jsonl"), 4, &["pairs.jsonl:1:", "preference", "hint: ", "--sft-on-chosen"]);
    refused(
        folder,
        &dpo("text.jsonl"),
        4,
        &["text.jsonl:1:", "language modelling", "hint: expected preference"],
    );
    write(folder, "question.jsonl", "{\"question\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}\n");
    refused(folder, &dpo("question.jsonl"), 4, &["question.jsonl:1:", "hint: ", "prompt=question"]);
    // Held-out rows are read before anything is written as well.
    refused(folder, &format!("{} --eval-data {{absent}}", dpo("pairs.jsonl")), 4, &["absent"]);
    // A prompt that leaves no room, and a limit under which nothing may be cut.
    refused(
        folder,
        &format!("{} --max-length 5", dpo("pairs.jsonl")),
        4,
        &["nothing is left of 2 rows", "hint: "],
    );
    let line = format!("{} --max-length 20 --truncation error", dpo("pairs.jsonl"));
    refused(folder, &line, 4, &["pairs.jsonl:1:", "the limit is 20", "hint: raise --max-length"]);
}

#[test]
fn model_folders_that_cannot_be_used() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 2);
    let line = "dpo --model {model} --data {pairs.jsonl} --output-dir {run}";
    let check = |damage: &dyn Fn(&Path), texts: &[&str]| {
        let model = copy_of_tiny_llama(folder, "model");
        damage(&model);
        refused(folder, line, 4, texts);
        fs::remove_dir_all(model).unwrap();
    };
    refused(folder, line, 4, &["there is no such model folder", "hint: a model folder holds config.json"]);
    check(&|model| fs::remove_file(model.join("config.json")).unwrap(), &["config.json", "hint: "]);
    check(
        &|model| fs::write(model.join("config.json"), "{\"model_type\":").unwrap(),
        &["config.json", "not valid JSON"],
    );
    check(
        &|model| edit_json(&model.join("config.json"), &[("model_type", json!("mamba"))]),
        &["mamba", "not supported", "llama"],
    );
    check(
        &|model| edit_json(&model.join("config.json"), &[("num_attention_heads", json!(3))]),
        &["config.json: num_attention_heads = 3", "divisor of hidden_size"],
    );
    check(
        &|model| edit_json(&model.join("config.json"), &[("intermediate_size", json!(65))]),
        &[
            "the weights do not fit config.json",
            "hint: config.json and the weights come from different models",
        ],
    );
    check(&|model| fs::remove_file(model.join("model.safetensors")).unwrap(), &["model.safetensors"]);
    let truncated = |model: &Path| {
        let path = model.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    check(&truncated, &["model.safetensors", "hint: fetch or copy the weights again"]);
    check(
        &|model| fs::write(model.join("model.safetensors"), b"").unwrap(),
        &["model.safetensors", "hint: "],
    );
    // A header that claims to be larger than any file.
    check(
        &|model| fs::write(model.join("model.safetensors"), [0xff; 64]).unwrap(),
        &["model.safetensors", "hint: fetch or copy the weights again"],
    );
    // A header whose tensor lies outside the file.
    let outside = |model: &Path| {
        let header = br#"{"model.norm.weight":{"dtype":"F32","shape":[32],"data_offsets":[18446744073709551000,18446744073709551128]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        fs::write(model.join("model.safetensors"), bytes).unwrap();
    };
    check(&outside, &["model.safetensors"]);
    check(
        &|model| fs::remove_file(model.join("tokenizer.json")).unwrap(),
        &["no tokenizer", "tokenizer.json"],
    );
    check(&|model| fs::write(model.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json"]);
    check(
        &|model| edit_json(&model.join("config.json"), &[("vocab_size", json!(300))]),
        &["the tokenizer has 320 tokens, the model 300", "hint: take the tokenizer"],
    );
    check(&|model| fs::write(model.join("chat_template.jinja"), "{% for %}").unwrap(), &["chat template"]);
}

#[test]
fn references_that_do_not_fit() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 2);
    let line = format!("{} --ref-model {{other}}", dpo("pairs.jsonl"));
    refused(folder, &line, 4, &["other", "config.json"]);
    let other = copy_of_tiny_llama(folder, "other");
    edit_json(&other.join("config.json"), &[("vocab_size", json!(512))]);
    refused(
        folder,
        &line,
        4,
        &["its vocabulary has 512 tokens, that of --model 320", "hint: policy and reference"],
    );
}

#[test]
fn folders_that_are_not_for_us() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 2);
    fs::create_dir(folder.join("run")).unwrap();
    write(folder, "run/thesis.txt", "years of work");
    let line = dpo("pairs.jsonl");
    refused(folder, &line, 2, &["the folder is not empty", "hint: continue the run in it with --resume"]);
    refused(folder, &format!("{line} --resume"), 2, &["not a run folder"]);
    refused(folder, &format!("{line} --overwrite"), 2, &["not a run folder"]);
    assert_eq!(fs::read_to_string(folder.join("run/thesis.txt")).unwrap(), "years of work");
    for mode in ["", " --resume", " --overwrite", " --dry-run"] {
        for place in ["pairs.jsonl", "pairs.jsonl/run"] {
            let model = tiny_llama();
            let line = format!(
                "dpo --model {} --data {{pairs.jsonl}} --output-dir {{{place}}}{mode}",
                model.display()
            );
            refused(folder, &line, 2, &["--output-dir", "pairs.jsonl is not a folder", "hint: "]);
        }
    }
}

#[test]
fn a_metric_that_the_method_lacks_is_refused_before_anything_is_made() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 2);
    write(folder, "text.jsonl", "{\"text\":\"some words\"}\n");
    for (line, metrics) in
        [(sft("text.jsonl"), "choices: loss"), (dpo("pairs.jsonl"), "choices: loss, rewards/chosen")]
    {
        for metric in ["rewards/margin", "pairs_per_second", "step", "eval/"] {
            let line = format!("{line} --eval-data {{pairs.jsonl}} --keep-best {metric}");
            refused(folder, &line, 2, &["--keep-best", "there is no such metric", metrics]);
        }
    }
    let dft = format!("{} --loss-type dft --eval-data {{text.jsonl}} --keep-best", sft("text.jsonl"));
    refused(folder, &format!("{dft} eval/loss"), 2, &["a worse model may be lower", "logps/completion"]);
    align(folder, &format!("{dft} logps/completion --samples 0")).ok();
    fs::remove_dir_all(folder.join("run")).unwrap();
    // What is offered is there, with a reference and without.
    for (more, other) in [("", "reference_free/margins"), ("--reference-free", "rewards/margins")] {
        let line = format!("{} --eval-data {{pairs.jsonl}} {more} --keep-best", dpo("pairs.jsonl"));
        let answer = align(folder, &format!("{line} {other}")).refused(2, &["there is no such metric"]);
        assert!(!folder.join("run").exists());
        let choices =
            answer.hints().into_iter().find_map(|hint| Some(hint.strip_prefix("choices: ")?.to_owned()));
        for metric in choices.unwrap().split(", ") {
            align(folder, &format!("{line} {metric} --samples 0")).ok();
            fs::remove_dir_all(folder.join("run")).unwrap();
        }
    }
}

#[test]
fn skipped_rows_are_told_by_file() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let row = |name: &str, chosen: &str| {
        format!("{{\"{name}\":\"a\",\"chosen\":\"{chosen}\",\"rejected\":\"c\"}}\n")
    };
    write(folder, "one.jsonl", row("question", "b") + &row("question", ""));
    write(folder, "two.jsonl", row("prompt", "b") + &row("question", "b") + &row("prompt", "b"));
    write(folder, "other.jsonl", row("prompt", "b"));
    let model = tiny_llama();
    let line = |second: &str| {
        format!(
            "dpo --model {} --data {{one.jsonl}} --data {{{second}}} --columns prompt=question --bad-rows skip \
             --output-dir {{run}} --samples 0",
            model.display()
        )
    };
    refused(
        folder,
        &line("other.jsonl"),
        4,
        &[
            "other.jsonl: none of the 1 rows can be used",
            "no column `question`",
            "hint: --columns names the columns of all files",
        ],
    );
    let answer = align(folder, &line("two.jsonl")).ok();
    for text in [
        "one.jsonl: 1 of 2 rows are bad and were skipped, the first: ",
        "one.jsonl:2: `chosen` is empty",
        "two.jsonl: 2 of 3 rows are bad and were skipped, the first: ",
        "two.jsonl:1: no column `question`",
    ] {
        assert!(answer.stderr.contains(text), "{text}: {}", answer.stderr);
    }
}

#[test]
fn a_finished_run_is_kept_when_its_successor_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    write(folder, "bad.jsonl", "{\n");
    align(folder, &format!("{} --samples 0", dpo("pairs.jsonl"))).ok();
    refused(folder, &format!("{} --overwrite", dpo("bad.jsonl")), 4, &["bad.jsonl:1"]);
    refused(
        folder,
        &format!("{} --resume --beta 0.5", dpo("pairs.jsonl")),
        2,
        &["beta (0.1", "0.5 now", "hint: "],
    );
    let answer = align(folder, &format!("{} --resume --samples 0", dpo("pairs.jsonl"))).ok();
    assert!(answer.stderr.contains("the run is finished"), "{}", answer.stderr);
    // References are looked at before the old run goes.
    let other = copy_of_tiny_llama(folder, "other");
    let line = format!("{} --overwrite --ref-model {{other}}", dpo("pairs.jsonl"));
    edit_json(&other.join("config.json"), &[("max_position_embeddings", json!(20))]);
    refused(folder, &line, 4, &["pairs.jsonl:1", "do not fit", "20 tokens", "hint: cut rows"]);
    copy_of_tiny_llama(folder, "other");
    let weights = other.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    refused(folder, &line, 4, &["model.safetensors", "hint: fetch or copy the weights again"]);
    align(folder, &format!("{} --overwrite --samples 0", dpo("pairs.jsonl"))).ok();
}

#[test]
fn what_a_run_reads_is_not_overwritten() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    align(folder, &format!("{} --samples 1", dpo("pairs.jsonl"))).ok();
    let run = "--output-dir {run} --overwrite";
    let model = format!("--model {}", tiny_llama().display());
    for (line, flag) in [
        (format!("dpo --model {{run/model}} --data {{pairs.jsonl}} {run}"), "--model"),
        (
            format!("sft --model {{run/../run/checkpoints/step-1/model}} --data {{pairs.jsonl}} {run}"),
            "--model",
        ),
        (format!("dpo {model} --data {{pairs.jsonl}} --ref-model {{run/model}} {run}"), "--ref-model"),
        (format!("sft {model} --data {{run/completions.jsonl}} {run}"), "--data"),
        (
            format!("sft {model} --data {{pairs.jsonl}} --eval-data {{run/completions.jsonl}} {run}"),
            "--eval-data",
        ),
    ] {
        refused(folder, &line, 2, &[flag, "--overwrite would delete it", "hint: name another"]);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink(folder.join("run/model"), folder.join("link")).unwrap();
        copy_of_tiny_llama(folder, "linked");
        fs::remove_file(folder.join("linked/model.safetensors")).unwrap();
        symlink(folder.join("run/model/model.safetensors"), folder.join("linked/model.safetensors")).unwrap();
        for model in ["link", "linked"] {
            let line = format!("dpo --model {{{model}}} --data {{pairs.jsonl}} {run}");
            refused(folder, &line, 2, &["--model", "--overwrite would delete it"]);
        }
    }
    assert!(folder.join("run/model/model.safetensors").exists());
}

#[test]
fn an_output_replaces_no_input() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    copy_of_tiny_llama(folder, "model");
    write_pairs(folder, "pairs.jsonl", 2);
    write_pairs(folder, "out.partial", 2);
    fs::create_dir(folder.join("directory")).unwrap();
    for (data, output, texts) in [
        ("pairs.jsonl", "directory", &["--output", "directory: this is a folder", "hint: "][..]),
        ("pairs.jsonl", "pairs.jsonl", &["--output would replace", "pairs.jsonl", "hint: name another"]),
        ("out.partial", "out", &["--output would replace", "out.partial"]),
        ("pairs.jsonl", "model/config.json", &["--output would replace", "model/config.json"]),
    ] {
        for command in ["logprobs --model {model} --data", "generate --model {model} --prompts"] {
            let before = fs::read(folder.join(data)).unwrap();
            refused(folder, &format!("{command} {{{data}}} --output {{{output}}}"), 2, texts);
            refused(folder, &format!("{command} {{{data}}} --output {{{output}}} --resume"), 2, texts);
            assert_eq!(fs::read(folder.join(data)).unwrap(), before);
        }
    }
}

#[test]
fn weights_that_are_not_finite_name_the_rows() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 2);
    let model = copy_of_tiny_llama(folder, "model");
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].as_chunks_mut::<4>().0.iter_mut().for_each(|number| *number = f32::NAN.to_le_bytes());
    fs::write(path, bytes).unwrap();
    let line = "dpo --model {model} --data {pairs.jsonl} --output-dir {run} --samples 0 --threads 1";
    align(folder, line).refused(4, &["step 1", "is not finite", "pairs.jsonl:1", "hint: "]);
    assert!(!folder.join("run/model").exists());
    let line = "logprobs --model {model} --data {pairs.jsonl} --output {out}";
    align(folder, line).refused(4, &["pairs.jsonl:1: a log-probability is not finite", "hint: "]);
    assert!(!folder.join("out").exists());
}

#[test]
fn scoring_and_sampling_refuse_as_training_does() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let model = tiny_llama().display().to_string();
    write(folder, "prompts.jsonl", "{\"prompt\":\"a\"}\n");
    write(
        folder,
        "long.jsonl",
        format!("{{\"prompt\":\"a\"}}\n{{\"prompt\":\"{}\"}}\n", "a b ".repeat(2000)),
    );
    let pair = format!("{{\"prompt\":\"{}\",\"chosen\":\"b\",\"rejected\":\"c\"}}\n", "a b ".repeat(2000));
    write(folder, "pairs.jsonl", format!("{{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}}\n{pair}"));
    refused(
        folder,
        &format!("logprobs --model {model} --data {{prompts.jsonl}} --output {{out}}"),
        4,
        &["prompts.jsonl:1:", "prompt only"],
    );
    refused(
        folder,
        &format!("logprobs --model {model} --data {{pairs.jsonl}} --output {{out}}"),
        4,
        &["pairs.jsonl:2:", "the limit is 2048", "hint: --max-length 2048 cuts rows"],
    );
    refused(
        folder,
        &format!("generate --model {model} --prompts {{long.jsonl}} --output {{out}}"),
        4,
        &["long.jsonl:2:", "the model's context 2048", "hint: shorten the prompt"],
    );
    write(folder, "broken.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\n");
    write(folder, "other.jsonl", "{\"question\":\"a\",\"answer\":\"b\"}\n");
    for command in [format!("logprobs --model {model} --data"), format!("generate --model {model} --prompts")]
    {
        let texts = &["1 of 2 rows", "broken.jsonl:2:", "hint: correct these rows"];
        refused(folder, &format!("{command} {{broken.jsonl}} --output {{out}}"), 4, texts);
        let texts = &["other.jsonl:1", "hint: ", "--columns prompt=question"];
        refused(folder, &format!("{command} {{other.jsonl}} --output {{out}}"), 4, texts);
    }
    refused(
        folder,
        &format!("generate --model {model} --prompts {{prompts.jsonl}} --output {{nowhere/out}}"),
        3,
        &["cannot write", "nowhere/out"],
    );
    refused(
        folder,
        &format!("generate --model {model} --prompts {{prompts.jsonl}} --output {{out}} --device cuda:99"),
        3,
        &["--device cuda", "hint: --device cpu works everywhere"],
    );
}

/// Runs a shell script in which `$ALIGN`, `$MODEL` and `$DIR` are set.
fn shell(program: &[&str], script: &str, folder: &Path) -> Answer {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).arg(script).env("NO_COLOR", "1");
    command.env("ALIGN", env!("CARGO_BIN_EXE_align")).env("MODEL", tiny_llama()).env("DIR", folder);
    Answer::of(&command.output().unwrap())
}

#[test]
fn a_file_that_cannot_grow_leaves_no_half_written_model() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    // A limit of 64 kB per file: configuration and metrics fit, the weights do not.
    let script = "trap '' XFSZ; ulimit -f 64; \
        exec $ALIGN dpo --model $MODEL --data $DIR/pairs.jsonl --output-dir $DIR/run --samples 0";
    shell(&["bash", "-c"], script, folder).refused(3, &["cannot", "run"]);
    let left = tree(&folder.join("run"));
    assert!(!left.iter().any(|name| name.starts_with("model") || name.contains("summary")), "{left:?}");
    assert!(!left.iter().any(|name| name.ends_with("safetensors")), "{left:?}");
    // With room again the run goes on.
    let line = format!("{} --resume --samples 0", dpo("pairs.jsonl"));
    align(folder, &line).ok();
    assert!(folder.join("run/model/model.safetensors").exists());
}

#[test]
fn a_full_disk_is_said_and_can_be_resumed_from() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 4);
    fs::create_dir(folder.join("small")).unwrap();
    let mount = "mount -t tmpfs -o size=400k tmpfs $DIR/small 2>/dev/null || exit 77; ";
    let script = format!(
        "{mount} $ALIGN dpo --model $MODEL --data $DIR/pairs.jsonl --output-dir $DIR/small/run --samples 0; \
         code=$?; find $DIR/small; exit $code"
    );
    let program = ["unshare", "--map-root-user", "--mount", "sh", "-c"];
    if Command::new("unshare")
        .args(["--map-root-user", "--mount", "true"])
        .output()
        .is_ok_and(|o| o.status.success())
    {
        let answer = shell(&program, &script, folder);
        if answer.code != 77 {
            let answer = answer.refused(3, &["the disk is full", "hint: ", "--resume"]);
            assert!(answer.stdout.contains("config.toml"), "{}", answer.stdout);
            assert!(!answer.stdout.contains("safetensors"), "{}", answer.stdout);
            return;
        }
    }
    eprintln!("note: skipped, this system does not let a test mount a small disk");
}

#[test]
fn a_full_stdout_is_an_error() {
    if Path::new("/dev/full").exists() {
        let temporary = tempfile::tempdir().unwrap();
        shell(&["bash", "-c"], "$ALIGN completions bash > /dev/full", temporary.path())
            .refused(3, &["cannot write stdout", "hint: free some space"]);
    }
}
