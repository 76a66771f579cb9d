//! `align logprobs`, `align generate` and `align doctor`: the files and reports they write.

use crate::support;

use std::fs;

use serde_json::Value;
use support::{align, copy_of_tiny_llama, json_lines, tiny_llama, tree, write, write_pairs};

#[test]
fn logprobs_of_every_kind_of_row() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let model = tiny_llama().display().to_string();
    for (name, rows, names) in [
        ("pairs", "{\"prompt\":\"a\",\"rejected\":\"c\",\"chosen\":\"b d\"}\n", &["chosen", "rejected"][..]),
        ("plain", "\n{\"prompt\":\"a\",\"completion\":\"b d\"}\n", &["completion"]),
        ("text", "{\"text\":\"some words\"}\n", &["completion"]),
        ("thumbs", "{\"prompt\":\"a\",\"completion\":\"b d\",\"label\":true}\n", &["completion"]),
    ] {
        let file = format!("{name}.jsonl");
        write(folder, &file, rows);
        align(folder, &format!("logprobs --model {model} --data {{{file}}} --output {{out.jsonl}}")).ok();
        let lines = json_lines(&folder.join("out.jsonl"));
        assert_eq!(lines.len(), 1);
        // Rows are numbered by their line; the file of plain rows begins with an empty one.
        assert_eq!(lines[0]["row"], if name == "plain" { 2 } else { 1 });
        assert!(!lines[0]["prompt_tokens"].as_array().unwrap().is_empty());
        let completions = lines[0]["completions"].as_array().unwrap();
        assert_eq!(completions.iter().map(|c| c["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
        for completion in completions {
            let logprobs: Vec<f64> =
                completion["logprobs"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            assert_eq!(logprobs.len(), completion["token_ids"].as_array().unwrap().len());
            let sum: f64 = logprobs.iter().sum();
            assert!((sum - completion["sum"].as_f64().unwrap()).abs() < 1e-6 && sum < 0.0);
        }
    }
}

#[test]
fn logprobs_do_not_depend_on_threads_and_batches() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 11);
    let model = tiny_llama().display().to_string();
    let score = |threads: usize, tokens: usize| {
        let name = format!("{threads}-{tokens}.jsonl");
        let line = format!(
            "logprobs --model {model} --data {{pairs.jsonl}} --output {{{name}}} --threads {threads} \
             --micro-batch-tokens {tokens}"
        );
        align(folder, &line).ok();
        json_lines(&folder.join(name))
    };
    let alone = score(1, 1);
    for other in [score(1, 100_000), score(2, 100)] {
        for (a, b) in alone.iter().zip(&other) {
            for (a, b) in
                a["completions"].as_array().unwrap().iter().zip(b["completions"].as_array().unwrap())
            {
                assert_eq!(a["token_ids"], b["token_ids"]);
                assert!((a["sum"].as_f64().unwrap() - b["sum"].as_f64().unwrap()).abs() < 1e-4);
            }
        }
    }
}

#[test]
fn an_output_is_continued_where_it_ends() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 40);
    let model = copy_of_tiny_llama(folder, "model");
    for command in [
        "logprobs --model {model} --data {pairs.jsonl} --micro-batch-tokens 200",
        "generate --model {model} --prompts {pairs.jsonl} --max-new-tokens 4",
    ] {
        let line = format!("{command} --output {{out.jsonl}} --threads 1");
        align(folder, &line).ok();
        let whole = fs::read_to_string(folder.join("out.jsonl")).unwrap();
        assert_eq!(whole.lines().count(), 40);
        // As a kill leaves it: some whole rows and a torn one in the file beside.
        let torn: usize = whole.split_inclusive('\n').take(17).map(str::len).sum();
        fs::rename(folder.join("out.jsonl.origin.json"), folder.join("out.jsonl.partial.origin.json"))
            .unwrap();
        fs::remove_file(folder.join("out.jsonl")).unwrap();
        write(folder, "out.jsonl.partial", &whole[..torn + 9]);
        let answer = align(folder, &format!("{line} --resume --json")).ok();
        assert_eq!(serde_json::from_str::<Value>(&answer.stdout).unwrap()["kept"], 17);
        let continued = fs::read_to_string(folder.join("out.jsonl")).unwrap();
        if command.starts_with("logprobs") {
            assert_eq!(continued, whole);
        } else {
            let ids = |text: &str| -> Vec<Value> {
                text.lines()
                    .map(|l| serde_json::from_str::<Value>(l).unwrap()["completions"][0]["token_ids"].clone())
                    .collect()
            };
            assert_eq!(ids(&continued), ids(&whole));
        }
        // Finished: all rows are kept, and the file is as it was.
        align(folder, &format!("{line} --resume")).ok();
        assert_eq!(fs::read_to_string(folder.join("out.jsonl")).unwrap(), continued);
        assert!(!tree(folder).iter().any(|name| name.contains("partial")));
    }
    let line =
        "generate --model {model} --prompts {pairs.jsonl} --output {out.jsonl} --resume --max-new-tokens";
    align(folder, &format!("{line} 5")).refused(2, &["max_new_tokens (4 there, 5 now)", "hint: "]);
    // Other weights in the same folder are another model.
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    align(folder, &format!("{line} 4")).refused(2, &["model_sha256", "hint: "]);
    write(folder, "foreign.jsonl", "{\"row\":1}\n");
    let foreign = "generate --model {model} --prompts {pairs.jsonl} --output {foreign.jsonl} --resume";
    align(folder, foreign).refused(2, &["foreign.jsonl cannot be continued", "hint: "]);
    assert_eq!(fs::read_to_string(folder.join("foreign.jsonl")).unwrap(), "{\"row\":1}\n");
}

#[test]
fn samples_follow_the_seed_and_not_the_threads() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "prompts.jsonl", 20);
    let sample = |name: &str, more: &str| {
        let line = format!(
            "generate --model {} --prompts {{prompts.jsonl}} --output {{{name}}} --max-new-tokens 24 {more}",
            tiny_llama().display()
        );
        align(folder, &line).ok();
        let lines = json_lines(&folder.join(name));
        assert_eq!(lines.len(), 20);
        let ids = |line: &Value| {
            line["completions"].as_array().unwrap().iter().map(|c| c["token_ids"].clone()).collect()
        };
        lines.iter().map(ids).collect::<Vec<Vec<Value>>>()
    };
    let one = sample("one", "--num-completions 2 --threads 1");
    assert_eq!(one, sample("two", "--num-completions 2 --threads 2"));
    assert_ne!(one, sample("other", "--num-completions 2 --threads 1 --seed 1"));
    let greedy = sample("greedy", "--greedy");
    assert_eq!(greedy, sample("greedy-again", "--greedy --seed 1"));
    // Only the most likely token has the whole of its own probability.
    assert_eq!(greedy, sample("near-greedy", "--min-p 1"));
    let repeats = |samples: &[Vec<Value>]| {
        let lost = |ids: &Value| {
            let ids: Vec<&Value> = ids.as_array().unwrap().iter().collect();
            ids.len() - ids.iter().map(|id| id.as_u64()).collect::<std::collections::BTreeSet<_>>().len()
        };
        samples.iter().flatten().map(lost).sum::<usize>()
    };
    assert!(repeats(&greedy) > 0, "the test needs answers that repeat tokens");
    assert_eq!(repeats(&sample("new", "--greedy --repetition-penalty 100")), 0);

    let line = &json_lines(&folder.join("one"))[0];
    assert_eq!(line["prompt"], "Say something about the river, number 0.");
    for completion in line["completions"].as_array().unwrap() {
        let tokens = completion["token_ids"].as_array().unwrap().len();
        assert_eq!(completion["logprobs"].as_array().unwrap().len(), tokens);
        assert!(!completion["text"].as_str().unwrap().contains("<|"), "{completion}");
        let reason = completion["finish_reason"].as_str().unwrap();
        assert!(reason == "stop" || (reason == "length" && tokens == 24), "{completion}");
    }
    // Any character ends a sample that has it; the text stops before it.
    let line = format!(
        "generate --model {} --prompts {{prompts.jsonl}} --output {{stop}} --max-new-tokens 40 --stop e --stop a",
        tiny_llama().display()
    );
    align(folder, &line).ok();
    let lines = json_lines(&folder.join("stop"));
    assert!(lines.iter().any(|line| line["completions"][0]["finish_reason"] == "stop"));
    assert!(lines.iter().all(|line| !line["completions"][0]["text"].as_str().unwrap().contains(['a', 'e'])));
}

#[test]
fn prompts_are_read_without_their_answers() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let rows = "{\"prompt\":\"a\",\"chosen\":\"\",\"rejected\":\"c\"}\n{\"prompt\":\"a\",\"chosen\":4}\n";
    write(folder, "pairs.jsonl", rows);
    let line = "generate --prompts {pairs.jsonl} --output {out} --greedy --max-new-tokens 3 --model";
    align(folder, &format!("{line} {}", tiny_llama().display())).ok();
    let lines = json_lines(&folder.join("out"));
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["completions"][0]["token_ids"], lines[1]["completions"][0]["token_ids"]);
}

#[test]
fn the_doctor_computes_something() {
    let temporary = tempfile::tempdir().unwrap();
    let answer = align(temporary.path(), "doctor").ok();
    for text in ["libtorch", "matrix product", "OMP_WAIT_POLICY=PASSIVE", "flush to zero"] {
        assert!(answer.stdout.contains(text), "{}", answer.stdout);
    }
    assert!(!answer.stdout.contains("MISSING"), "{}", answer.stdout);
    let report = align(temporary.path(), "doctor --json").ok().stdout;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["ok"], true);
    assert!(report["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true));
}

#[cfg(unix)]
#[test]
fn an_output_that_is_no_plain_file_is_left_as_it_is() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write(folder, "rows.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n");
    let target = write(folder, "target.jsonl", "mine\n");
    std::os::unix::fs::symlink(&target, folder.join("link.jsonl")).unwrap();
    let line =
        format!("logprobs --model {} --data {{rows.jsonl}} --output {{link.jsonl}}", tiny_llama().display());
    align(folder, &line).refused(2, &["link.jsonl", "a link or a device"]);
    assert_eq!(fs::read_to_string(target).unwrap(), "mine\n");
    assert!(fs::symlink_metadata(folder.join("link.jsonl")).unwrap().is_symlink());
}

#[cfg(unix)]
#[test]
fn a_name_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let temporary = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"bad\xff.jsonl");
    let mut command = support::command(temporary.path(), "data check");
    let answer = support::Answer::of(&command.arg(name).output().unwrap());
    answer.refused(2, &["not valid UTF-8"]);
}

#[test]
fn logprobs_of_texts_that_a_sentencepiece_model_tokenises() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path();
    let fixtures = tiny_llama().join("../..");
    let cases = fs::read(fixtures.join("sentencepiece/folders.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
    for case in &cases {
        let name = case["folder"].as_str().unwrap();
        let model = root.join(name);
        fs::create_dir(&model).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(fixtures.join("models").join(name).join(file), model.join(file)).unwrap();
        }
        let pieces = fixtures.join("sentencepiece").join(case["model"].as_str().unwrap());
        fs::copy(pieces, model.join("tokenizer.model")).unwrap();
        write(&model, "tokenizer_config.json", case["tokenizer_config"].to_string());
        let expected = case["rows"].as_array().unwrap();
        let rows: Vec<String> =
            expected.iter().map(|row| serde_json::json!({"text": row["text"]}).to_string()).collect();
        write(root, "texts.jsonl", rows.join("\n"));
        align(root, &format!("logprobs --model {{{name}}} --data {{texts.jsonl}} --output {{out.jsonl}}"))
            .ok();
        for (line, expected) in json_lines(&root.join("out.jsonl")).iter().zip(expected) {
            let completion = &line["completions"][0];
            let tokens = |value: &Value| value.as_array().unwrap().clone();
            let mut ids = [tokens(&line["prompt_tokens"]), tokens(&completion["token_ids"])].concat();
            // A row of text ends with EOS.
            ids.pop();
            assert_eq!(ids, tokens(&expected["ids"]), "{name}");
            let (ours, theirs) = (tokens(&completion["logprobs"]), tokens(&expected["logprobs"]));
            assert_eq!(ours.len(), theirs.len() + 1);
            for (ours, theirs) in ours.iter().zip(&theirs) {
                let difference = ours.as_f64().unwrap() - theirs.as_f64().unwrap();
                assert!(difference.abs() < 1e-4, "{name}: {ours} is not {theirs}");
            }
        }
    }
    assert_eq!(cases.len(), 3);
}
