//! Labels, scores and ranks on their way to prompt groups.

use crate::common;

use align_data::{
    BadRows, DataConfig, DataReport, Error, PromptGroup, TrainOn, load_language, load_pairs, load_rankings,
    load_rows, load_scored, load_unpaired,
};

type Loaded = Result<(Vec<PromptGroup>, DataReport), Error>;

fn load(kind: &str, rows: &[&str], config: &DataConfig) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let files = [common::write(dir.path(), "rows.jsonl", rows.join("\n"))];
    let (tokenizer, template) = common::tokenizer("bos");
    match kind {
        "unpaired" => load_unpaired(&files, &tokenizer, Some(&template), config),
        "scored" => load_scored(&files, &tokenizer, Some(&template), config),
        "rankings" => load_rankings(&files, &tokenizer, Some(&template), config),
        "language" => load_language(&files, &tokenizer, Some(&template), config),
        "pairs" => load_pairs(&files, &tokenizer, Some(&template), config),
        _ => load_rows(&files, align_data::Kind::ALL, &tokenizer, Some(&template), config),
    }
}

fn plain(kind: &str, rows: &[&str]) -> Loaded {
    load(kind, rows, &DataConfig::default())
}

fn labels(loaded: Loaded) -> Vec<Vec<Option<bool>>> {
    loaded.unwrap().0.iter().map(|g| g.completions.iter().map(|c| c.label).collect()).collect()
}

#[test]
fn labels_are_booleans_numbers_or_words_under_three_names() {
    let row = |label: &str| format!(r#"{{"prompt": "The sky is", "completion": " blue", {label}}}"#);
    for name in ["label", "kto_tag", "tag"] {
        let rows =
            ["true", "false", "1", "0", "\"True\"", "\"false\""].map(|l| row(&format!("\"{name}\": {l}")));
        let rows: Vec<_> = rows.iter().map(String::as_str).collect();
        let expected = [true, false, true, false, true, false].map(|l| vec![Some(l)]);
        assert_eq!(labels(plain("unpaired", &rows)), expected, "{name}");
        // Whoever trains on all answers alike must not get the bad ones.
        let error = plain("language", &rows).unwrap_err().to_string();
        assert!(error.contains("the rows are unpaired preference"), "{error}");
    }
    let turns = r#""conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]"#;
    let messages = r#""messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#;
    for row in [
        format!(r#"{{{turns}, "kto_tag": false}}"#),
        format!(r#"{{{messages}, "label": 0}}"#),
        r#"{"instruction": "a", "input": "", "output": "b", "kto_tag": false}"#.to_owned(),
    ] {
        let (groups, _) = plain("unpaired", &[&row]).unwrap();
        assert_eq!(groups[0].completions[0].label, Some(false), "{row}");
        assert!(groups[0].prompt.len() > 1 && groups[0].columns.is_empty());
    }
}

#[test]
fn bad_labels_and_scores_are_named_from_the_first_row_on() {
    for (kind, value, expected) in [
        ("unpaired", r#""label": 2"#, "`label` is 2"),
        ("unpaired", r#""label": "spam""#, "`label` is \"spam\""),
        ("unpaired", r#""label": null"#, "`label` is null"),
        ("scored", r#""score": null"#, "`score` is null"),
        ("scored", r#""score": "high""#, "`score` is a string"),
    ] {
        let row = format!(r#"{{"prompt": "a", "completion": " b", {value}}}"#);
        let Err(Error::BadRows { shown, count: 1, .. }) = plain(kind, &[&row]) else { panic!("{row}") };
        assert!(shown[0].problem.contains(expected), "{}", shown[0]);
    }
    let error = plain("unpaired", &[r#"{"prompt": "a", "completion": " b"}"#]).unwrap_err().to_string();
    assert!(error.contains("prompt and completion") && error.contains("`label`"), "{error}");
    let Err(Error::BadRows { shown, .. }) =
        plain("scored", &[r#"{"prompt": "a", "completion": "b", "score": 1e999}"#])
    else {
        panic!("an infinite score was taken")
    };
    assert!(shown[0].problem.contains("number out of range"), "{}", shown[0]);
}

#[test]
fn pairs_are_unpaired_in_one_group_and_keep_their_columns() {
    let row = r#"{"prompt": "The sky is", "chosen": " blue", "rejected": " green", "id": 7}"#;
    let (groups, report) = plain("unpaired", &[row]).unwrap();
    let answers: Vec<_> = groups[0].completions.iter().map(|c| (c.name.as_str(), c.label)).collect();
    assert_eq!(answers, [("chosen", Some(true)), ("rejected", Some(false))]);
    assert_eq!(groups[0].columns["id"], 7);
    assert!(report.notices.iter().any(|n| n.contains("a good and a bad answer")), "{:?}", report.notices);
    assert_eq!(plain("pairs", &[row]).unwrap().0[0].completions[0].label, None);
}

#[test]
fn scores_are_rewards() {
    let rows = [
        r#"{"prompt": "The sky is", "completion": " blue", "score": 0.1}"#,
        r#"{"prompt": "The sky is", "completion": " green", "score": -3}"#,
    ];
    let (groups, _) = plain("scored", &rows).unwrap();
    let rewards: Vec<_> = groups.iter().map(|g| g.completions[0].reward).collect();
    assert_eq!(rewards, [Some(0.1), Some(-3.0)]);
}

#[test]
fn the_last_answer_alone_can_be_trained_on() {
    let turns = |last: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "a"}}, {{"role": "assistant", "content": "b"}}, {{"role": "user", "content": "c"}}{last}]}}"#
        )
    };
    let whole = turns(r#", {"role": "assistant", "content": "d"}"#);
    let config = DataConfig { train_on: TrainOn::LastAnswer, ..Default::default() };
    let (groups, _) = load("language", &[&whole], &config).unwrap();
    let (all, _) = plain("language", &[&whole]).unwrap();
    let (tokenizer, _) = common::tokenizer("bos");
    let answer = tokenizer.decode(&groups[0].completions[0].token_ids, false).unwrap();
    assert!(answer.starts_with('d') && !answer.contains("user"), "{answer}");
    // The tokens are the same; only what is trained on differs.
    let joined = |g: &PromptGroup| [g.prompt.as_slice(), &g.completions[0].token_ids].concat();
    assert_eq!(joined(&groups[0]), joined(&all[0]));
    assert!(groups[0].prompt.len() > 1 && all[0].prompt.len() == 1);
    let error = load("language", &[&turns("")], &config).unwrap_err().to_string();
    assert!(error.contains("the last turn is of the user"), "{error}");
}

#[test]
fn rankings_have_ties_and_are_refused_where_they_do_not_fit() {
    let rows = [
        r#"{"prompt": "The sky is", "completions": [" blue", " green", " grey"], "ranks": [1, 2, 2]}"#,
        r#"{"prompt": "The sky is", "completions": [" blue", " green"], "ranks": [3, 3]}"#,
    ];
    let (groups, report) = plain("rankings", &rows).unwrap();
    let ranks: Vec<Vec<_>> =
        groups.iter().map(|g| g.completions.iter().filter_map(|c| c.rank).collect()).collect();
    assert_eq!(ranks, [vec![1, 2, 2], vec![3, 3]]);
    assert_eq!(report.all_tied.count, 1);
    assert!(report.all_tied.example.unwrap().ends_with("rows.jsonl:2"));
    let (groups, _) = plain("rankings", &[r#"{"prompt": "a", "chosen": " b", "rejected": " c"}"#]).unwrap();
    assert_eq!(groups[0].completions.iter().map(|c| c.rank).collect::<Vec<_>>(), [Some(1), Some(2)]);

    let skip = DataConfig { bad_rows: BadRows::Skip, ..Default::default() };
    for (completions, ranks, expected) in [
        (r#"[" a", " b"]"#, "[1]", "2 `completions` and 1 `ranks`"),
        (r#"[" a"]"#, "[1]", "two or more"),
        (r#"[" a", " b"]"#, "[0, 1]", "`ranks[0]`"),
        (r#"[" a", " b"]"#, "[1, 1.5]", "`ranks[1]`"),
        (r#"[" a", " "]"#, "[1, 2]", "`completions[1]` is empty"),
        (r#"" a""#, "[1, 2]", "`completions` is a string"),
    ] {
        let bad = format!(r#"{{"prompt": "a", "completions": {completions}, "ranks": {ranks}}}"#);
        let (_, report) = load("rankings", &[rows[0], &bad], &skip).unwrap();
        assert!(report.bad[0].problem.contains(expected), "{}", report.bad[0]);
    }
}
