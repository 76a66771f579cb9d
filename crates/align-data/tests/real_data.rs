//! Public data sets as they are published; skipped with a note where they are absent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use align_data::{BadRows, DataConfig, Error, Format, Kind, load_pairs, load_rows};

fn no_limit(bad_rows: BadRows) -> DataConfig {
    DataConfig { max_length: None, bad_rows, ..Default::default() }
}

#[test]
fn ultrafeedback_has_two_rows_with_an_empty_answer() {
    let Some(file) = common::real_data("ultrafeedback/train_clean.jsonl") else { return };
    let (tokenizer, _) = common::tokenizer("bos");
    let error =
        load_pairs(std::slice::from_ref(&file), &tokenizer, None, &no_limit(BadRows::Refuse)).unwrap_err();
    let Error::BadRows { shown, count: 2, rows: 1000 } = error else { panic!("{error}") };
    assert_eq!(shown.iter().map(|bad| bad.source.row).collect::<Vec<_>>(), [479, 834]);
    let (groups, report) = load_pairs(&[file], &tokenizer, None, &no_limit(BadRows::Skip)).unwrap();
    assert_eq!((groups.len(), report.rows), (998, 1000));
    assert_eq!(report.files[0].format, Format::Preference);
    assert_eq!(report.ignored_columns, ["source_index", "metadata"]);
    let prompt = tokenizer.decode(&groups[0].prompt, true).unwrap();
    assert!(prompt.starts_with("how to cook t-bone"), "{prompt}");
}

#[test]
fn four_transcripts_of_harmless_base_have_an_empty_answer() {
    let Some(file) = common::real_data("hh-rlhf/harmless-base/test.jsonl.gz") else { return };
    let (tokenizer, _) = common::tokenizer("bos");
    let files = [file];
    let error = load_pairs(&files, &tokenizer, None, &no_limit(BadRows::Refuse)).unwrap_err();
    let Error::BadRows { shown, count: 4, rows: 1700 } = error else { panic!("{error}") };
    assert!(shown.iter().all(|bad| bad.problem.contains("is empty") && bad.source.row >= 1), "{shown:?}");
    let (groups, report) = load_pairs(&files, &tokenizer, None, &no_limit(BadRows::Skip)).unwrap();
    assert_eq!((groups.len(), report.kept, report.bad_count), (1696, 1696, 4));
    for group in &groups {
        let prompt = tokenizer.decode(&group.prompt, true).unwrap();
        assert!(prompt.starts_with("\n\nHuman:") && prompt.ends_with("\n\nAssistant:"), "{prompt:?}");
    }
}

#[test]
fn nested_rows_are_refused_with_what_they_lack() {
    let Some(file) = common::real_data("hh-rlhf-helpful-rewardbench/anthropic_helpful_0521.jsonl") else {
        return;
    };
    let (tokenizer, template) = common::tokenizer("plain");
    let error = load_pairs(&[file], &tokenizer, Some(&template), &no_limit(BadRows::Skip)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::WrongFormat { .. }), "{text}");
    for part in
        [":1: ", "evaluation_sample", "nearest is preference", "lacks `prompt` and `chosen` and `rejected`"]
    {
        assert!(text.contains(part), "{text}");
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

#[test]
fn every_file_gets_an_answer() {
    let Some(root) = common::real_data("") else { return };
    let (tokenizer, template) = common::tokenizer("plain");
    let mut files = vec![];
    collect(&root, &mut files);
    files.sort();
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for file in files {
        let short = file.strip_prefix(&root).unwrap().display().to_string();
        let loaded = load_rows(&[file], Kind::ALL, &tokenizer, Some(&template), &no_limit(BadRows::Skip));
        let says = match &loaded {
            Ok((groups, report)) => {
                assert_eq!(groups.len(), report.kept);
                assert!(report.kept + report.bad_count == report.rows, "{short}");
                format!("{:?}: {} of {} rows", report.files[0].format, report.kept, report.rows)
            }
            Err(error) => error.to_string().replace(&root.display().to_string(), ""),
        };
        println!("{short}: {says}");
        let kind = loaded.map(|(_, r)| format!("{:?}", r.files[0].format));
        *kinds.entry(kind.unwrap_or_else(|_| "refused".into())).or_default() += 1;
    }
    println!("{kinds:?}");
    for format in [
        "Preference",
        "ImplicitPreference",
        "Alpaca",
        "AlpacaPreference",
        "ShareGptPreference",
        "MessagesUnpaired",
        "Text",
    ] {
        assert!(kinds.contains_key(format), "no file was read as {format}: {kinds:?}");
    }
}
