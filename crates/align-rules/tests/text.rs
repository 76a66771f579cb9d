//! Rules of text: what they give, and that no text brings them down.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use align_rules::{RULES, rule};
use align_types::{Columns, RewardItem, score};
use proptest::prelude::*;
use serde_json::json;

/// Asks a rule for one completion of a prompt whose row has the column `answer`.
fn ask(name: &str, prompt: &str, completion: &str, answer: serde_json::Value) -> Result<Option<f64>, String> {
    let columns = Columns::from_iter([("answer".to_owned(), answer)]);
    let item = RewardItem { prompt, messages: None, completion, columns: &columns, source: None };
    let scores = score(&mut rule(name).unwrap(), &[item]).map_err(|error| error.to_string())?;
    Ok(scores.values()[0])
}

fn of(name: &str, completion: &str) -> f64 {
    ask(name, "p", completion, json!("x")).unwrap().unwrap()
}

/// Checks the scores of several completions under one rule.
fn all(name: &str, cases: &[(&str, f64)]) {
    for (completion, expected) in cases {
        assert_eq!(of(name, completion), *expected, "{name}: {completion:?}");
    }
}

#[test]
fn length_counts_characters_and_words_count_words() {
    all("rule:length", &[("größer", 6.0), ("", 0.0)]);
    all("rule:length=4", &[("größer", -2.0), ("ab", -2.0), ("abcd", 0.0)]);
    all("rule:words", &[("", 0.0), (" one  two\nthree ", 3.0), ("größer\u{3000}als", 2.0)]);
    all("rule:words=2", &[("one", -1.0), ("one two", 0.0), ("a b c d", -2.0)]);
}

#[test]
fn contains_looks_for_the_text_as_it_is() {
    all("rule:contains=a.c", &[("xa.cx", 1.0), ("abc", 0.0)]);
    all("rule:contains=x=y", &[("x=y", 1.0)]);
    all("rule:starts-with=Yes", &[(" \nYes, so", 1.0), ("yes", 0.0), ("So: Yes", 0.0)]);
    all("rule:ends-with=.", &[("It is.\n", 1.0), ("It is", 0.0), ("", 0.0)]);
}

#[test]
fn regex_matches_anywhere_and_in_linear_time() {
    all("rule:regex=[0-9]{2}", &[("in 42 days", 1.0)]);
    all("rule:regex=^[0-9]+$", &[("in 42 days", 0.0)]);
    // With backtracking this expression takes 2^n steps on n letters.
    let long = format!("{}b", "a".repeat(5_000));
    assert_eq!(of("rule:regex=^(a|a|aa)+$", &long), 0.0);
}

/// The three pieces of the formula, and their ends: 60 characters are free, 100 are too many.
#[test]
fn overlong_falls_from_zero_to_minus_one() {
    for (length, expected) in
        [(0, 0.0), (60, 0.0), (61, -0.025), (80, -0.5), (100, -1.0), (101, -1.0), (9999, -1.0)]
    {
        assert_eq!(of("rule:overlong=100,40", &"é".repeat(length)), expected, "{length}");
    }
}

#[test]
fn finished_sees_the_end_of_a_sentence() {
    let ends = [
        "It is.",
        "Is it?\n",
        "\"Yes!\"",
        "(so it is.)",
        "そうです。",
        "well…",
        "**Done.**",
        "```\nx = 1\n```",
    ];
    let cut = ["", "It is", "and so,", "1. one\n2. two", "a.b", "```\nx = 1", "so:"];
    ends.iter().for_each(|text| assert_eq!(of("rule:finished", text), 1.0, "{text}"));
    cut.iter().for_each(|text| assert_eq!(of("rule:finished", text), 0.0, "{text}"));
}

#[test]
fn texts_are_compared_whole() {
    all("rule:one-of=yes, no", &[(" yes\n", 1.0), ("no", 1.0), ("Yes", 0.0), ("yes, no", 0.0), ("", 0.0)]);
    let exact = |completion: &str, answer| ask("rule:exact-match", "p", completion, answer).unwrap().unwrap();
    assert_eq!(exact(" Paris\n", json!("Paris ")), 1.0);
    assert_eq!(exact("Paris.", json!("Paris")), 0.0);
    assert_eq!((exact("7", json!(7)), exact("true", json!(true))), (1.0, 1.0));
    assert_eq!((exact("b", json!(["a", "b"])), exact("c", json!(["a", "b"]))), (1.0, 0.0));
    for answer in [json!(null), json!(""), json!([]), json!(["a", ""]), json!({"a": 1}), json!([["a"]])] {
        let error = ask("rule:exact-match", "p", "a", answer).unwrap_err();
        assert!(
            error.contains("completion 0: rule:exact-match: the") && error.contains("`answer`"),
            "{error}"
        );
    }
    let error = ask("rule:exact-match=target", "p", "a", json!("a")).unwrap_err();
    assert!(error.contains("no column `target`") && error.contains("it has answer"), "{error}");
}

#[test]
fn format_wants_every_tag_once_in_order_and_nothing_outside() {
    let right = ["<think>a</think><answer>b</answer>", " <think>\n</think>\n\n<answer></answer>\n"];
    let wrong = [
        "",
        "<think>a</think>",
        "<answer>b</answer><think>a</think>",
        "So: <think>a</think><answer>b</answer>",
        "<think>a</think> so <answer>b</answer>",
        "<think>a</think><answer>b</answer> so",
        "<think>a</think><answer>b</answer><answer>b</answer>",
        "<think><think>a</think><answer>b</answer>",
        "<think>a<answer>b</answer></think>",
        "<think>a</think><answer>b",
        "<Think>a</Think><Answer>b</Answer>",
        "</think><think><answer></answer>",
    ];
    for name in
        ["rule:format", "rule:format=think,answer", "rule:format=<think>..</think> <answer>…</answer>"]
    {
        right.iter().for_each(|text| assert_eq!(of(name, text), 1.0, "{name}: {text}"));
        wrong.iter().for_each(|text| assert_eq!(of(name, text), 0.0, "{name}: {text}"));
    }
    all(
        "rule:format=think,*",
        &[("<think>a</think> so", 1.0), ("so <think>a</think>", 0.0), ("<think>a</think>", 1.0)],
    );
    // Where the prompt opens the first tag, the completion must not.
    let opened = |completion| ask("rule:format", "Q\n<think>\n", completion, json!("x")).unwrap().unwrap();
    assert_eq!(opened("a</think><answer>b</answer>"), 1.0);
    assert_eq!(opened("<think>a</think><answer>b</answer>"), 0.0);
    assert_eq!(ask("rule:tags", "<think>", "a</think>", json!("x")).unwrap(), Some(0.5));
    all(
        "rule:tags",
        &[("", 0.0), ("<think></answer>", 0.5), ("<think><think></think>", 0.25), (right[0], 1.0)],
    );
}

#[test]
fn json_is_what_a_reader_takes() {
    let good = ["{}", " [1, null]\n", "\"text\"", "3", "```json\n{\"a\": 1}\n```", "```\n[]\n```"];
    let bad =
        ["", "{", "{'a': 1}", "{\"a\": NaN}", "[1,]", "{} {}", "So: {}", "```json\n{}", "// x\n{}", "tru"];
    good.iter().for_each(|text| assert_eq!(of("rule:json", text), 1.0, "{text}"));
    bad.iter().for_each(|text| assert_eq!(of("rule:json", text), 0.0, "{text}"));
    let keys = [("{\"a\": 1, \"b c\": null}", 1.0), ("{\"a\": 1}", 0.0), ("[\"a\", \"b c\"]", 0.0)];
    all("rule:json=a, b c", &keys);
    assert_eq!(of("rule:json", &format!("{}{}", "[".repeat(120), "]".repeat(120))), 1.0);
    assert_eq!(of("rule:json", &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000))), 0.0);
}

/// Counted by hand: "a b a b a" has the pairs ab, ba, ab, ba, of which 2 of 4 are different.
#[test]
fn repetition_counts_different_n_grams() {
    all(
        "rule:repetition=2",
        &[("a b a b a", -0.5), ("A b a B a", -0.5), ("a b c", 0.0), ("a", 0.0), ("", 0.0)],
    );
    all("rule:distinct=2", &[("a b a b a", 0.5), ("a b c", 1.0)]);
    // Four triples aaa, one of them different.
    all("rule:repetition", &[("a a a a a a", -0.75)]);
    all("rule:repetition=2,characters", &[("ababa", -0.5), ("哈哈哈哈哈", -0.75)]);
    assert_eq!(ask("rule:distinct=2", "p", "a", json!("x")).unwrap(), None);
    let long = "word ".repeat(100_001);
    assert_eq!(of("rule:repetition=2", &long), 1.0 / 100_000.0 - 1.0);
}

/// A range for each rule: from the least to the largest score it states.
fn range(name: &str) -> (f64, f64) {
    match name.trim_start_matches("rule:") {
        "length" | "words" => (0.0, f64::MAX),
        "overlong" | "repetition" => (-1.0, 0.0),
        _ => (0.0, 1.0),
    }
}

proptest! {
    /// Any rule, any text: a score in the stated range or an abstention, and the same one again.
    #[test]
    fn no_text_is_too_strange(
        completion in prop_oneof![
            "\\PC{0,60}",
            any::<String>(),
            "(<think>|</think>|<answer>|</answer>|\\\\boxed\\{|\\}|####|[0-9]|[,./%$ -]|\\\\frac|```|\n|\\{\"a\": ){0,20}",
        ],
        prompt in "\\PC{0,10}(<think>)?",
    ) {
        for entry in RULES {
            let argument = match entry.name {
                "rule:overlong" => "=20,10",
                "rule:regex" | "rule:contains" | "rule:starts-with" | "rule:ends-with" | "rule:one-of" => "=a",
                _ => "",
            };
            let name = format!("{}{argument}", entry.name);
            let first = ask(&name, &prompt, &completion, json!("12")).unwrap();
            let (low, high) = range(entry.name);
            prop_assert!(first.is_none_or(|score| (low..=high).contains(&score)), "{} {:?}", name, first);
            prop_assert_eq!(ask(&name, &prompt, &completion, json!("12")).unwrap(), first);
        }
    }
}
