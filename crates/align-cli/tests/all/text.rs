//! Rows of every layout through the command line: formats, masks, mixtures, rows on disk.

use crate::support;

use std::fs;
use std::io::Write;
use std::path::Path;

use align_testkit::fixture;
use serde_json::{Value, json};
use support::{
    align, copy_of_tiny_llama, edit_json, json_lines, tiny_llama, tree, write, write_demonstrations,
    write_pairs,
};

/// The words that every run here has.
fn line(command: &str, more: &str) -> String {
    format!(
        "{command} --model {} --output-dir {{run}} --overwrite --max-length 256 --samples 0 --log-every 1 \
         --learning-rate 1e-3 --threads 1 {more}",
        tiny_llama().display()
    )
}

fn summary(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("run/summary.json")).unwrap()).unwrap()
}

fn weights(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("run/model/model.safetensors")).unwrap()
}

fn gzipped(text: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

/// Rows as JSON Lines.
fn lines_of(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// Rows of text columns as CSV.
fn csv_of(rows: &[Value]) -> String {
    let names: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    let cell = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut text = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(",") + "\n";
    for row in rows {
        let cells = names.iter().map(|name| match &row[name.as_str()] {
            Value::String(content) => cell(content),
            other => cell(&other.to_string()),
        });
        text += &(cells.collect::<Vec<_>>().join(",") + "\n");
    }
    text
}

#[test]
fn a_layout_trains_to_the_same_bits_from_every_file_format() {
    let user = |i: usize| json!({"role": "user", "content": format!("Say \"{i}\",\nplease.")});
    let assistant = |i: usize| json!({"role": "assistant", "content": format!("It is {i}.")});
    let layouts: [(&str, &dyn Fn(usize) -> Value); 8] = [
        ("sft", &|i| json!({"text": format!("The kettle, \"{i}\",\nis on.")})),
        ("sft", &|i| json!({"messages": [user(i), assistant(i)]})),
        ("sft", &|i| json!({"prompt": format!("What is {i}?"), "completion": format!(" It is {i}.")})),
        ("sft", &|i| json!({"instruction": format!("Say {i}"), "input": "now", "output": format!("{i}")})),
        (
            "sft",
            &|i| json!({"conversations": [{"from": "human", "value": format!("Hi {i}")}, {"from": "gpt", "value": "Hello!"}]}),
        ),
        ("dpo", &|i| json!({"prompt": [user(i)], "chosen": [assistant(i)], "rejected": [assistant(i + 1)]})),
        ("dpo", &|i| json!({"chosen": [user(i), assistant(i)], "rejected": [user(i), assistant(i + 1)]})),
        (
            "dpo",
            &|i| json!({"conversations": [{"from": "human", "value": format!("Hi {i}")}], "chosen": {"from": "gpt", "value": "Hello!"}, "rejected": {"from": "gpt", "value": "No."}}),
        ),
    ];
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    for (index, (command, row)) in layouts.into_iter().enumerate() {
        let rows: Vec<Value> = (0..5).map(row).collect();
        write(folder, "rows.jsonl", lines_of(&rows));
        write(folder, "rows.json", Value::Array(rows.clone()).to_string());
        write(folder, "rows.csv", csv_of(&rows));
        write(folder, "rows.jsonl.gz", gzipped(&lines_of(&rows)));
        let train = |data: &str| {
            align(folder, &line(command, &format!("--data {{{data}}} --max-steps 2 --batch-size 3"))).ok();
            assert_eq!(summary(folder)["data"]["kept"], 5, "{rows:?}");
            weights(folder)
        };
        let expected = train("rows.jsonl");
        // A second format each, so that the test stays short; all formats are read by one reader.
        let other = ["rows.csv", "rows.json", "rows.jsonl.gz"][index % 3];
        assert!(train(other) == expected, "{other} of {command} {rows:?}");
    }
}

#[test]
fn parquet_trains_and_one_with_other_columns_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let chats = fixture("text/chats.parquet");
    align(folder, &line("sft", &format!("--data {} --max-steps 1", chats.display()))).ok();
    assert_eq!(summary(folder)["data"]["kept"], 12);
    let dpo = align(folder, &line("dpo", &format!("--data {} --max-steps 1", chats.display())));
    dpo.refused(4, &["chats.parquet:1: ", "the rows are language modelling", "hint: expected preference"]);
}

#[test]
fn columns_are_mapped_by_every_command_that_reads_rows() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write(folder, "rows.jsonl", lines_of(&[json!({"q": "What?", "a": " That.", "b": " This."})]));
    let model = tiny_llama();
    let model = model.display();
    let output = "--output {out.jsonl}";
    for command in [
        line("sft", "--data {rows.jsonl} --max-steps 1 --columns prompt=q,completion=a"),
        line("dpo", "--data {rows.jsonl} --max-steps 1 --columns prompt=q,chosen=a --columns rejected=b"),
        format!("logprobs --model {model} --data {{rows.jsonl}} {output} --columns prompt=q,completion=a"),
        format!(
            "generate --model {model} --prompts {{rows.jsonl}} {output} --max-new-tokens 2 --columns prompt=q"
        ),
        "data check {rows.jsonl} --columns prompt=q,completion=a".to_owned(),
    ] {
        align(folder, &command).ok();
    }
}

#[test]
fn what_is_trained_on_is_chosen_and_marked() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let turns =
        [turn("user", "One?"), turn("assistant", "Two."), turn("user", "Three?"), turn("assistant", "Four.")];
    write(folder, "rows.jsonl", lines_of(&[json!({"messages": turns})]));
    // What » and « stand around are the trained tokens.
    let marked = |choice: &str| {
        let check = format!(
            "data check {{rows.jsonl}} --model {} --train-on {choice} --json",
            tiny_llama().display()
        );
        let found: Value = serde_json::from_str(&align(folder, &check).ok().stdout).unwrap();
        let spans = found["files"][0]["examples"][0]["answers"][0].as_array().unwrap().clone();
        spans
            .iter()
            .filter(|s| s["trained"] == true)
            .map(|s| s["text"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(marked("assistant"), ["Two.<|end|>\n", "Four.<|end|>\n"]);
    assert_eq!(marked("last-answer"), ["Four.<|end|>\n"]);
    assert_eq!(marked("all").len(), 1);
    assert!(marked("all")[0].contains("One?"));
    let shown = format!("data check {{rows.jsonl}} --model {} --train-on assistant", tiny_llama().display());
    assert!(align(folder, &shown).ok().stdout.contains("»Two.<|end|>\n«"));

    // The loss of the first step is the mean over the marked tokens, which logprobs gives one by one.
    let loss = |choice: &str| {
        align(folder, &line("sft", &format!("--data {{rows.jsonl}} --max-steps 1 --train-on {choice}"))).ok();
        json_lines(&folder.join("run/metrics.jsonl"))[0]["loss"].as_f64().unwrap()
    };
    let model = tiny_llama();
    align(
        folder,
        &format!("logprobs --model {} --data {{rows.jsonl}} --output {{out.jsonl}}", model.display()),
    )
    .ok();
    let scored = &json_lines(&folder.join("out.jsonl"))[0]["completions"][0];
    let numbers =
        |key: &str| scored[key].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
    let (ids, values) = (numbers("token_ids"), numbers("logprobs"));
    let tokenizer = align_data::Tokenizer::from_folder(&model).unwrap();
    let count = |text: &str| tokenizer.encode(text, false).unwrap().len();
    let (last, header) = (count("Four.<|end|>\n"), count("<|user|>\nThree?<|end|>\n<|assistant|>\n"));
    let first = count("Two.<|end|>\n");
    let end = ids.len();
    let mean = |parts: &[&[f64]]| {
        let all: Vec<f64> = parts.concat();
        -all.iter().sum::<f64>() / all.len() as f64
    };
    let (four, two) = (&values[end - last..], &values[end - last - header - first..end - last - header]);
    for (choice, expected) in
        [("all", mean(&[&values])), ("assistant", mean(&[two, four])), ("last-answer", mean(&[four]))]
    {
        let got = loss(choice);
        assert!((got - expected).abs() < 1e-4, "{choice}: {got}, {expected} expected");
    }
}

#[test]
fn templates_that_do_not_render_name_their_line_and_the_row() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    copy_of_tiny_llama(folder, "model");
    let turn = |role: &str| json!({"role": role, "content": "x"});
    write(
        folder,
        "rows.jsonl",
        lines_of(&[
            json!({"messages": [turn("user"), turn("assistant")]}),
            json!({"messages": [turn("critic"), turn("assistant")]}),
        ]),
    );
    let run = "sft --model {model} --data {rows.jsonl} --output-dir {run} --max-steps 1";
    let template = "{%- for message in messages %}\n{%- if message.role == 'critic' %}\n{{- raise_exception('no critics here') }}\n{%- endif %}\n{{- message.content }}\n{%- endfor %}";
    write(&folder.join("model"), "chat_template.jinja", template);
    align(folder, run).refused(4, &["rows.jsonl:2: ", "no critics here", "line 3"]);
    write(&folder.join("model"), "chat_template.jinja", "a\n{% for %}");
    align(folder, run).refused(4, &["chat template", "line 2"]);
    fs::remove_file(folder.join("model/chat_template.jinja")).unwrap();
    edit_json(&folder.join("model/tokenizer_config.json"), &[("chat_template", Value::Null)]);
    align(folder, run).refused(4, &["rows.jsonl:1: ", "no chat template", "hint: put a chat_template.jinja"]);
    assert!(!folder.join("run").exists());
}

#[test]
fn rows_that_overflow_the_context_are_named_where_nothing_may_be_cut() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let long = json!({"prompt": "What?", "completion": format!(" {}", "far too long ".repeat(2000))});
    write(folder, "rows.jsonl", lines_of(&[json!({"prompt": "What?", "completion": " That."}), long]));
    let run = format!(
        "sft --model {} --data {{rows.jsonl}} --output-dir {{run}} --max-steps 1 --max-length 100000 --truncation error",
        tiny_llama().display()
    );
    let answer = align(folder, &run).refused(4, &["rows.jsonl:2: ", "2048"]);
    assert!(answer.stderr.contains("--max-length is lowered to the model's context of 2048 tokens"));
}

#[test]
fn rows_on_disk_give_the_bits_of_rows_in_memory() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 23);
    let turn = |role: &str, content: String| json!({"role": role, "content": content});
    let chat = |i: usize| {
        let turns = [
            turn("user", format!("Is it {i}?")),
            turn("assistant", format!("Yes, {i}.")),
            turn("user", "Sure?".into()),
            turn("assistant", "Yes.".into()),
        ];
        json!({"messages": turns})
    };
    write(folder, "chats.jsonl", lines_of(&(0..17).map(chat).collect::<Vec<_>>()));
    for (command, more) in [
        ("dpo", "--data {pairs.jsonl} --precompute-ref-log-probs --eval-data {pairs.jsonl}"),
        ("sft", "--data {chats.jsonl} --train-on assistant"),
    ] {
        let run = |store: &str| {
            let more = format!("{more} --row-store {store} --max-steps 5 --batch-size 6");
            let answer = align(folder, &line(command, &more)).ok();
            assert_eq!(answer.stderr.contains("token ids: "), store == "disk", "{}", answer.stderr);
            let losses = json_lines(&folder.join("run/metrics.jsonl"))
                .iter()
                .map(|l| l["loss"].to_string())
                .collect::<Vec<_>>();
            (losses, weights(folder))
        };
        assert!(run("memory") == run("disk"), "{command}");
    }
    // Nothing is left beside the run.
    assert!(
        tree(folder).iter().all(
            |name| ["run", "cache"].iter().any(|ours| name.starts_with(ours)) || name.ends_with(".jsonl")
        ),
        "{:?}",
        tree(folder)
    );
    // The threshold of `auto` counts bytes of files, and these are far below.
    assert!(
        !align(folder, &line("dpo", "--data {pairs.jsonl} --max-steps 1"))
            .ok()
            .stderr
            .contains("token ids: ")
    );
}

#[test]
fn files_are_mixed_by_their_weights() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_demonstrations(folder, "many.jsonl", 30);
    write_demonstrations(folder, "few.jsonl", 10);
    let files = "--data {many.jsonl} --data {few.jsonl} --batch-size 4";
    align(folder, &line("sft", &format!("{files} --data-weights 1,3"))).ok();
    // 40 rows an epoch, in shares of a quarter and three quarters.
    let done = summary(folder);
    assert_eq!(done["steps"], 10);
    let shares = |done: &Value, key: &str| {
        done["data_shares"].as_array().unwrap().iter().map(|share| share[key].clone()).collect::<Vec<_>>()
    };
    assert_eq!(shares(&done, "rows"), [json!(30), json!(10)]);
    assert_eq!(shares(&done, "rows_per_epoch"), [json!(10), json!(30)]);
    assert_eq!(shares(&done, "weight"), [json!(1.0), json!(3.0)]);
    let mixed = weights(folder);
    let config = fs::read_to_string(folder.join("run/config.toml")).unwrap();
    assert!(config.contains("data_weights = "), "{config}");
    let again = "sft --config {run/config.toml} --output-dir {again} --samples 0";
    align(folder, again).ok();
    assert!(fs::read(folder.join("again/model/model.safetensors")).unwrap() == mixed);
    align(folder, &line("sft", files)).ok();
    assert!(weights(folder) != mixed);
    assert_eq!(shares(&summary(folder), "rows_per_epoch"), [json!(30), json!(10)]);
    let dry = align(folder, &line("sft", &format!("{files} --data-weights 1,3 --dry-run --json"))).ok();
    let dry: Value = serde_json::from_str(&dry.stdout).unwrap();
    assert_eq!(shares(&dry, "rows_per_epoch"), [json!(10), json!(30)]);

    for (weights, code, texts) in [
        ("1", 2, &["--data-weights has 1 weights, and --data 2 files"][..]),
        ("1,2,3", 2, &["--data-weights has 3 weights"]),
        ("1,0", 2, &["--data-weights 0: expected a finite number above 0", "hint: leave a file out"]),
        ("1,nan", 2, &["--data-weights NaN"]),
        ("1,-1", 2, &["--data-weights -1"]),
        ("1,x", 2, &["expected a number"]),
        ("1,1e-9", 2, &["data-weights", "none would be of this file"]),
    ] {
        align(folder, &line("sft", &format!("{files} --data-weights {weights}"))).refused(code, texts);
    }
    write(folder, "few.jsonl", "{\"prompt\": \"a\", \"completion\": \"\"}\n");
    let skip = line("sft", &format!("{files} --data-weights 1,3 --bad-rows skip"));
    align(folder, &skip).refused(4, &["few.jsonl: none of the 1 rows can be used"]);
    // A run that is refused leaves the run that is there as it was.
    assert!(folder.join("run/summary.json").exists());
}
