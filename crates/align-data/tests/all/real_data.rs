//! Public data sets as they are published; skipped with a note where they are absent.

use crate::common;

use align_data::{BadRows, DataConfig, Error, Format, load_pairs};

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
