//! Rows of every format on their way to token ids, and what is reported of them.

use crate::common;

use std::{collections::BTreeMap, path::PathBuf};

use align_data::{
    BadRows, DataConfig, DataReport, Error, Format, Kind, PromptGroup, Tokenizer, Truncation, load_language,
    load_pairs, load_prompts, load_rows,
};
use proptest::prelude::*;

type Loaded = Result<(Vec<PromptGroup>, DataReport), Error>;

struct Files {
    paths: Vec<PathBuf>,
    /// Removes the files when it goes.
    _dir: tempfile::TempDir,
}

fn files(contents: &[&str]) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let paths = contents
        .iter()
        .enumerate()
        .map(|(i, c)| common::write(dir.path(), &format!("{i}.jsonl"), c))
        .collect();
    Files { paths, _dir: dir }
}

fn pairs(text: &str, config: &DataConfig) -> Loaded {
    let (tokenizer, template) = common::tokenizer("plain");
    load_pairs(&files(&[text]).paths, &tokenizer, Some(&template), config)
}

fn skip() -> DataConfig {
    DataConfig { bad_rows: BadRows::Skip, ..Default::default() }
}

fn text(tokenizer: &Tokenizer, group: &PromptGroup, answer: usize) -> (String, String) {
    let decode = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
    (decode(&group.prompt), decode(&group.completions[answer].token_ids))
}

#[test]
fn bad_rows_are_shown_and_counted_or_skipped() {
    let mut rows = String::new();
    for problem in [
        r#"{"prompt": "The sky is", "chosen": " blue", "rejected": "  \n"}"#,
        r#"{"prompt": "The sky is", "chosen": " blue"}"#,
        r#"{"prompt": "The sky is", "chosen": null, "rejected": " red"}"#,
        r#"{"prompt": "", "chosen": " blue", "rejected": " red"}"#,
        r#"{"prompt": "The sky is", "chosen": 3, "rejected": " red"}"#,
        r#"{"prompt": [], "chosen": "blue", "rejected": " red"}"#,
        r#"{"prompt": "The sky is", "chosen": [{"role": "assistant"}], "rejected": " red"}"#,
        r#"{"prompt": "The sky is", "chosen": " blue", "rejected": " red""#,
        r#"{"text": "The sky is blue"}"#,
        r#"["The sky is blue"]"#,
        r#"{"prompt": [{"role": "user", "content": "sky"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
    ] {
        rows += r#"{"prompt": "The sky is", "chosen": " blue", "rejected": " green"}"#;
        rows += &format!("\n{problem}\n");
    }
    let Err(Error::BadRows { shown, count, rows: read }) = pairs(&rows, &DataConfig::default()) else {
        panic!("bad rows were not refused")
    };
    assert_eq!((shown.len(), count, read), (10, 11, 22));
    let lines: Vec<_> = shown.iter().map(|bad| bad.source.row).collect();
    assert_eq!(lines, (1..=10).map(|i| 2 * i).collect::<Vec<_>>());
    let expected = [
        "`rejected` is empty",
        "`rejected` is missing",
        "`chosen` is null",
        "`prompt` is empty",
        "`chosen` is a number",
        "`prompt` is an empty list",
        "no `content`",
        "broken JSON",
        "row 1 is preference",
        "a list where an object",
    ];
    for (bad, expected) in shown.iter().zip(expected) {
        assert!(bad.problem.contains(expected), "{bad} / {expected}");
    }

    let (groups, report) = pairs(&rows, &skip()).unwrap();
    assert_eq!((groups.len(), report.kept, report.bad_count, report.rows), (11, 11, 11, 22));
    assert!(groups.iter().all(|g| g.source.as_ref().unwrap().row % 2 == 1));
    // When nothing is left, the first row says why.
    let error = pairs(r#"{"prompt": "a", "chosen": " b", "rejected": ""}"#, &skip()).unwrap_err().to_string();
    assert!(
        error.contains("none of the 1 rows can be used") && error.contains("`rejected` is empty"),
        "{error}"
    );
    // The report goes into summaries as JSON.
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<DataReport>(&json).unwrap(), report);
}

#[test]
fn another_kind_of_rows_is_refused_with_the_nearest_format() {
    let cases = [
        (r#"{"text": "a cat"}"#, vec!["language modelling (`text`)", "expected preference"]),
        (r#"{"prompt": "a", "chosen": "b"}"#, vec!["preference", "lacks `rejected`"]),
        (r#"{"question": "a", "chosen": "b", "rejected": "c"}"#, vec!["prompt=question"]),
        (
            r#"{"id": 1, "sample": {"input": [], "outputs": []}}"#,
            vec!["`id`", "`sample`", "preference", "lacks `prompt` and `chosen` and `rejected`", "top level"],
        ),
        (r#"{"prompt": "a", "completion": "b", "label": true}"#, vec!["unpaired preference"]),
        (r#"{"instruction": "a", "output": "b"}"#, vec!["Alpaca"]),
    ];
    for (row, expected) in cases {
        // Skipping bad rows does not turn another kind of file into a good one.
        for config in [DataConfig::default(), skip()] {
            let error = pairs(row, &config).unwrap_err();
            assert!(matches!(error, Error::WrongFormat { .. }), "{error}");
            let error = error.to_string();
            assert!(error.contains("0.jsonl:1: ") && expected.iter().all(|e| error.contains(e)), "{error}");
        }
    }
    let error = pairs("3\n4\n", &DataConfig::default()).unwrap_err().to_string();
    assert!(error.contains("the first line is a number"), "{error}");
}

#[test]
fn columns_are_mapped() {
    let row = r#"{"question": "The sky is", "good": " blue", "bad": " green", "prompt": "unused", "id": 7}"#;
    let columns = [("prompt", "question"), ("chosen", "good"), ("rejected", "bad")];
    let columns: BTreeMap<_, _> = columns.map(|(name, column)| (name.to_owned(), column.to_owned())).into();
    let config = DataConfig { columns, ..Default::default() };
    let (groups, report) = pairs(row, &config).unwrap();
    let (tokenizer, _) = common::tokenizer("plain");
    assert_eq!(text(&tokenizer, &groups[0], 1), ("The sky is".into(), " green</s>".into()));
    assert_eq!(report.ignored_columns, ["id"]);
    // Two columns can change places.
    let columns =
        BTreeMap::from([("chosen".into(), "rejected".into()), ("rejected".into(), "chosen".into())]);
    let swapped = DataConfig { columns, ..Default::default() };
    let row = r#"{"prompt": "The sky is", "chosen": " blue", "rejected": " green"}"#;
    let (groups, _) = pairs(row, &swapped).unwrap();
    assert_eq!(text(&tokenizer, &groups[0], 0).1, " green</s>");
    let error = pairs(r#"{"question": "a", "good": "b"}"#, &config).unwrap_err().to_string();
    assert!(error.contains("no column `bad`") && error.contains("question"), "{error}");
}

#[test]
fn sft_reads_texts_conversations_and_prompts_with_answers() {
    let contents = [
        r#"{"text": "The sky is blue.", "id": 3}"#,
        r#"{"messages": [{"role": "user", "content": "sky?"}, {"role": "assistant", "content": "blue"}]}"#,
        r#"{"prompt": "The sky is", "completion": " blue."}"#,
        r#"{"instruction": "Colour?", "input": "sky", "output": "blue"}"#,
        r#"{"conversations": [{"from": "human", "value": "sky?"}, {"from": "gpt", "value": "blue"}]}"#,
        r#"{"prompt": "The sky is", "completion": " blue.", "score": 2.5}"#,
    ];
    let (tokenizer, template) = common::tokenizer("plain");
    let files = files(&contents);
    let (groups, report) =
        load_language(&files.paths, &tokenizer, Some(&template), &DataConfig::default()).unwrap();
    let formats: Vec<_> = report.files.iter().map(|f| f.format).collect();
    use Format::*;
    assert_eq!(formats, [Text, Messages, PromptCompletion, Alpaca, ShareGpt, Scored]);
    let chat = "<|im_start|>user\nsky?<|im_end|>\n<|im_start|>assistant\nblue<|im_end|>\n";
    let (prompt, answer) = text(&tokenizer, &groups[0], 0);
    assert_eq!(prompt + &answer, "The sky is blue.</s>");
    assert_eq!(groups[0].prompt.len(), 1);
    for i in [1, 4] {
        let (prompt, answer) = text(&tokenizer, &groups[i], 0);
        assert_eq!(prompt + &answer, chat);
    }
    assert_eq!(text(&tokenizer, &groups[2], 0), ("The sky is".into(), " blue.</s>".into()));
    let alpaca = "<|im_start|>user\nColour?\nsky<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(text(&tokenizer, &groups[3], 0), (alpaca.into(), "blue<|im_end|>\n".into()));
    assert_eq!(groups[5].completions[0].reward, None);
    assert_eq!(report.ignored_columns, ["id", "score"]);
    assert_eq!(report.notices.len(), 3, "{:?}", report.notices);
    // The template's turns end with another token than the tokenizer's end: that is told.
    assert_eq!(report.without_eos.count, 3);

    // Without a template Alpaca rows are plain text, and turns cannot be written.
    let (groups, _) = load_language(&files.paths[3..4], &tokenizer, None, &DataConfig::default()).unwrap();
    assert_eq!(text(&tokenizer, &groups[0], 0), ("Colour?\nsky\n\n".into(), "blue</s>".into()));
    let error = load_language(&files.paths[1..2], &tokenizer, None, &skip()).unwrap_err().to_string();
    assert!(error.contains("no chat template") && error.contains("1.jsonl:1"), "{error}");
}

#[test]
fn sft_on_the_chosen_answer_is_asked_for() {
    let (tokenizer, _) = common::tokenizer("plain");
    // The rejected answer would move the boundary into the prompt; it is not read.
    let files = files(&[r#"{"prompt": "The c", "chosen": "olor.", "rejected": "at."}"#]);
    let error =
        load_language(&files.paths, &tokenizer, None, &DataConfig::default()).unwrap_err().to_string();
    assert!(error.contains("sft-on-chosen"), "{error}");
    let config = DataConfig { sft_on_chosen: true, ..Default::default() };
    let (groups, report) = load_language(&files.paths, &tokenizer, None, &config).unwrap();
    let (prompt, answer) = text(&tokenizer, &groups[0], 0);
    assert_eq!(prompt + &answer, "The color.</s>");
    assert_eq!((groups[0].completions.len(), groups[0].completions[0].name.as_str()), (1, "completion"));
    assert!(report.notices[0].contains("read as prompt and completion"));
}

#[test]
fn prompts_are_taken_from_every_format_that_has_them() {
    let (tokenizer, template) = common::tokenizer("plain");
    let contents = [
        r#"{"prompt": "The sky is", "answer": 42}"#,
        r#"{"prompt": [{"role": "user", "content": "sky?"}]}"#,
        r#"{"prompt": "The sky is", "chosen": " blue", "rejected": " green"}"#,
        r#"{"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"}"#,
        r#"{"instruction": "Say hello", "output": "hello"}"#,
    ];
    let files = files(&contents);
    let (groups, _) =
        load_prompts(&files.paths, &tokenizer, Some(&template), &DataConfig::default()).unwrap();
    let prompts: Vec<_> = groups.iter().map(|g| tokenizer.decode(&g.prompt, false).unwrap()).collect();
    let turn = |text: &str| format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n");
    let expected =
        ["The sky is", &turn("sky?"), "The sky is", "\n\nHuman: hi\n\nAssistant:", &turn("Say hello")];
    assert_eq!(prompts, expected);
    assert!(groups.iter().all(|g| g.completions.is_empty()));
    assert_eq!(groups[0].columns["answer"], 42);
    assert_eq!(groups[2].columns["chosen"], " blue");
    let error =
        load_prompts(&files.paths[..1], &tokenizer, None, &DataConfig { max_length: Some(2), ..skip() });
    assert!(matches!(error, Err(Error::NothingLeft { no_room: 1, .. })));
}

#[test]
fn prompts_need_no_answers() {
    let (tokenizer, _) = common::tokenizer("plain");
    let rows = [
        r#"{"prompt": "The sky is", "chosen": "", "rejected": " green"}"#,
        r#"{"prompt": "The sky is", "chosen": null, "rejected": 3}"#,
        r#"{"prompt": "The sky is", "chosen": " blue"}"#,
        r#"{"prompt": "The sky is", "completion": " ", "label": "perhaps"}"#,
        r#"{"prompt": "The sky is", "completions": [" blue"]}"#,
    ];
    let whole = files(&[&rows.join("\n")]);
    let (groups, report) = load_prompts(&whole.paths, &tokenizer, None, &DataConfig::default()).unwrap();
    assert_eq!((groups.len(), report.bad_count), (rows.len(), 0));
    assert!(groups.iter().all(|g| g.prompt == groups[0].prompt && g.completions.is_empty()));
    assert_eq!(groups[0].columns["chosen"], "");
    // Where the prompt is the common beginning of two answers, or has a column of another name.
    let others = files(&[
        r#"{"chosen": "\n\nHuman: hi\n\nAssistant:", "rejected": "\n\nHuman: hi\n\nAssistant: b"}"#,
        r#"{"instruction": "Say hello"}"#,
        r#"{"instruction": "Say hello", "output": ""}"#,
    ]);
    let (groups, _) = load_prompts(&others.paths, &tokenizer, None, &DataConfig::default()).unwrap();
    let prompts: Vec<_> = groups.iter().map(|g| tokenizer.decode(&g.prompt, false).unwrap()).collect();
    assert_eq!(prompts, ["\n\nHuman: hi\n\nAssistant:", "Say hello\n\n", "Say hello\n\n"]);
    // A row without a prompt still is none.
    let none = files(&[r#"{"prompt": "The sky is"}
{"prompt": ""}"#]);
    let error = load_prompts(&none.paths, &tokenizer, None, &DataConfig::default()).unwrap_err();
    assert!(error.to_string().contains("`prompt` is empty"), "{error}");
}

#[test]
fn skipping_counts_by_file_and_leaves_out_none() {
    let (tokenizer, _) = common::tokenizer("plain");
    let columns = [("prompt".to_owned(), "question".to_owned())].into();
    let config = DataConfig { columns, ..skip() };
    let good = r#"{"question": "The sky is", "chosen": " blue", "rejected": " green"}"#;
    let other = r#"{"prompt": "The sky is", "chosen": " blue", "rejected": " green"}"#;
    let load = |contents: &[&str]| load_pairs(&files(contents).paths, &tokenizer, None, &config);
    let (groups, report) = load(&[&format!("{good}\n{{"), &format!("{other}\n{good}\n{other}")]).unwrap();
    assert_eq!((groups.len(), report.bad_count), (2, 3));
    assert_eq!(report.files.iter().map(|f| (f.rows, f.bad)).collect::<Vec<_>>(), [(2, 1), (3, 2)]);
    let first = |i: usize| report.files[i].first_bad.as_ref().unwrap();
    assert_eq!((first(0).source.row, first(1).source.row), (2, 1));
    assert!(first(1).problem.contains("no column `question`"), "{}", first(1).problem);
    match load(&[good, &format!("{other}\n{other}")]).unwrap_err() {
        Error::NoGoodRow { rows: 2, first, .. } => assert!(first.problem.contains("no column `question`")),
        error => panic!("{error}"),
    }
}

#[test]
fn what_rows_say_of_answers_is_kept() {
    let (tokenizer, _) = common::tokenizer("plain");
    let contents = [
        r#"{"prompt": "The sky is", "completion": " blue", "label": 1}"#,
        r#"{"prompt": "The sky is", "completion": " blue", "score": -1.5}"#,
        r#"{"prompt": "The sky is", "completions": [" blue", " green", " red"], "ranks": [1, 2, 2]}"#,
    ];
    let (groups, report) =
        load_rows(&files(&contents).paths, Kind::ALL, &tokenizer, None, &DataConfig::default()).unwrap();
    assert_eq!(groups[0].completions[0].label, Some(true));
    assert_eq!(groups[1].completions[0].reward, Some(-1.5));
    assert_eq!(groups[2].completions.iter().map(|c| c.rank).collect::<Vec<_>>(), [Some(1), Some(2), Some(2)]);
    assert_eq!(report.lengths.completion.count, 5);
    let wrong = r#"{"prompt": "a", "completions": ["b", "c"], "ranks": [0, 1]}"#;
    let error =
        load_rows(&files(&[wrong]).paths, Kind::ALL, &tokenizer, None, &DataConfig::default()).unwrap_err();
    assert!(error.to_string().contains("`ranks[0]`"), "{error}");
}

#[test]
fn cutting_and_merging_are_reported() {
    let rows = r#"{"prompt": "The sky is", "chosen": " blue and so on and on", "rejected": " green"}
{"prompt": "The c", "chosen": "at sat.", "rejected": "olor."}
{"prompt": "What is the color of the sky? What is the color of the grass?", "chosen": " a", "rejected": " b"}
{"prompt": "The sky is", "chosen": " blue", "rejected": " blue"}"#;
    let limit = |truncation| DataConfig { max_length: Some(9), truncation, ..Default::default() };
    let (groups, report) = pairs(rows, &limit(Truncation::KeepStart)).unwrap();
    assert_eq!((groups.len(), report.cut, report.dropped_no_room), (3, 1, 1));
    assert!(groups.iter().all(|g| g.completions.iter().all(|c| !c.token_ids.is_empty())));
    assert_eq!(report.merged_boundary.count, 1);
    let example = report.merged_boundary.example.unwrap();
    assert!(example.contains("0.jsonl:2") && example.contains("\" c\""), "{example}");
    assert_eq!(report.identical_answers.count, 1);
    assert_eq!(report.lengths.total.max, 9);

    let (groups, report) = pairs(rows, &limit(Truncation::KeepEnd)).unwrap();
    assert_eq!((groups.len(), report.cut, report.dropped_no_room), (4, 2, 0));
    assert_eq!(report.lengths.total.max, 9);

    let error = pairs(rows, &limit(Truncation::Error)).unwrap_err();
    assert!(matches!(error, Error::TooLong { count: 2, limit: 9, .. }), "{error}");
    assert!(error.to_string().contains("0.jsonl:1"), "{error}");

    let (_, report) = pairs(rows, &DataConfig { max_length: Some(2), ..Default::default() }).unwrap();
    assert_eq!((report.kept, report.dropped_no_room), (1, 3));
    let (_, report) = pairs(rows, &DataConfig { max_length: None, ..Default::default() }).unwrap();
    assert_eq!((report.cut, report.kept), (0, 4));
}

#[test]
fn rows_without_a_common_first_token_are_refused() {
    let row = r#"{"prompt": "a", "chosen": "nswer", "rejected": "two"}"#;
    let (tokenizer, _) = common::tokenizer("plain");
    assert_eq!(
        tokenizer.encode("answer", true).unwrap().first(),
        tokenizer.encode("an", true).unwrap().first()
    );
    let error = pairs(row, &DataConfig::default()).unwrap_err().to_string();
    assert!(error.contains("share no token"), "{error}");
    let (with_bos, _) = common::tokenizer("bos");
    let (groups, report) = load_pairs(&files(&[row]).paths, &with_bos, None, &DataConfig::default()).unwrap();
    assert_eq!((groups[0].prompt.len(), report.merged_boundary.count), (1, 1));
}

#[test]
fn templates_that_refuse_a_row_make_it_a_bad_row() {
    let (tokenizer, _) = common::tokenizer("plain");
    let source = "{% for m in messages %}\n{% if m.role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}{{ m.content }}{% endfor %}";
    let template = align_data::ChatTemplate::new(source, tokenizer.special_tokens()).unwrap();
    let row = r#"{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}"#;
    let error =
        load_language(&files(&[row]).paths, &tokenizer, Some(&template), &DataConfig::default()).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("0.jsonl:1: chat template, line 2: no system, please"), "{error}");
}

#[test]
fn order_is_that_of_the_files() {
    let rows: String =
        (0..1500).map(|i| format!("{{\"text\": \"The cat number {i}\", \"i\": {i}}}\n")).collect();
    let (tokenizer, _) = common::tokenizer("plain");
    let files = files(&[&rows, &rows]);
    let (groups, _) = load_language(&files.paths, &tokenizer, None, &DataConfig::default()).unwrap();
    assert!(
        groups
            .iter()
            .enumerate()
            .all(|(i, g)| g.columns["i"] == i % 1500 && g.source.as_ref().unwrap().row == i % 1500 + 1)
    );
    assert_eq!(groups.len(), 3000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    // Whatever merges at the boundary: prompt and answer together are the tokens of the whole text.
    #[test]
    fn joined_tokens_are_those_of_the_whole_text(prompt in "[a-z .]{1,20}", chosen in "[a-zé .]{0,20}x", rejected in "[a-z .]{0,20}y") {
        let (tokenizer, _) = common::tokenizer("bos");
        let row = serde_json::json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
        let (groups, _) = load_pairs(&files(&[&row.to_string()]).paths, &tokenizer, None, &DataConfig::default()).unwrap();
        let PromptGroup { prompt: ids, completions, .. } = &groups[0];
        for (answer, completion) in [(&chosen, &completions[0]), (&rejected, &completions[1])] {
            let joined = [ids.as_slice(), &completion.token_ids].concat();
            prop_assert_eq!(joined, tokenizer.encode(&format!("{prompt}{answer}</s>"), true).unwrap());
        }
        // The prompt is as long as it can be.
        let alone = tokenizer.encode(&prompt, true).unwrap();
        prop_assert!(alone.starts_with(ids));
        let same = |i: usize| completions[i].token_ids.first() == alone.get(ids.len());
        prop_assert!(ids.len() == alone.len() || !same(0) || !same(1));
    }

    #[test]
    fn limits_hold_and_no_answer_is_emptied(limit in 2_usize..30, prompt_limit in 1_usize..20, end: bool, n in 1_usize..30) {
        let row = serde_json::json!({"prompt": "The sky is ".repeat(n), "chosen": "blue ".repeat(31 - n), "rejected": "no"});
        let truncation = if end { Truncation::KeepEnd } else { Truncation::KeepStart };
        let config = DataConfig { max_length: Some(limit), max_prompt_length: Some(prompt_limit), truncation, ..Default::default() };
        match pairs(&row.to_string(), &config) {
            Ok((groups, _)) => {
                prop_assert!(groups[0].prompt.len() <= prompt_limit && !groups[0].prompt.is_empty());
                for c in &groups[0].completions {
                    prop_assert!(!c.token_ids.is_empty() && groups[0].prompt.len() + c.token_ids.len() <= limit);
                }
            }
            Err(Error::NothingLeft { no_room, .. }) => prop_assert!(!end && no_room == 1 && prompt_limit >= limit),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}
