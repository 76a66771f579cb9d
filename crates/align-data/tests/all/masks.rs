//! Which tokens of a conversation are trained on, against TRL (fixtures/text/make_masks.py).

use crate::common;

use align_data::{
    BadRows, ChatTemplate, DataConfig, DataReport, Inspection, Result, TrainOn, inspect, load_language,
};
use align_types::{PromptGroup, TokenId};
use serde_json::{Value, json};

fn assistant() -> DataConfig {
    DataConfig { train_on: TrainOn::Assistant, max_length: None, ..Default::default() }
}

/// Reads rows with one of the tokenizers of the fixtures and a template of its own.
fn load(
    rows: &[Value],
    tokenizer: &str,
    template: &str,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let file = common::write(dir.path(), "rows.jsonl", lines);
    let (tokenizer, _) = common::tokenizer(tokenizer);
    let template = ChatTemplate::new(template, tokenizer.special_tokens())?;
    load_language(&[file], &tokenizer, Some(&template), config)
}

/// The flags of all tokens of a row, prompt included.
fn flags(group: &PromptGroup) -> Vec<bool> {
    let answer = &group.completions[0];
    let mut flags = vec![false; group.flat_tokens()];
    answer.trained_ranges().flatten().for_each(|place| flags[group.prompt.len() + place] = true);
    flags
}

fn turns(roles: &[&str]) -> Vec<Value> {
    let turn = |(i, role): (usize, &&str)| json!({"role": role, "content": format!("word {i}")});
    roles.iter().enumerate().map(turn).collect()
}

#[test]
fn the_assistants_tokens_are_those_of_trl() {
    let fixture = common::read_json("masks.json");
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let ids: Vec<TokenId> = serde_json::from_value(case["expected"]["input_ids"].clone()).unwrap();
        let trained: Vec<bool> = serde_json::from_value(case["expected"]["trained"].clone()).unwrap();
        assert!(trained.iter().any(|t| *t) && !trained.iter().all(|t| *t));
        for template in ["marked", "unmarked"] {
            let source = fixture["templates"][template].as_str().unwrap();
            let tokenizer = case["tokenizer"].as_str().unwrap();
            let (groups, report) = load(&[case["row"].clone()], tokenizer, source, &assistant()).unwrap();
            assert_eq!(report.kept, 1);
            let joined = [groups[0].prompt.as_slice(), &groups[0].completions[0].token_ids].concat();
            assert_eq!(joined, ids, "{template}: {case}");
            assert_eq!(flags(&groups[0]), trained, "{template}: {case}");
        }
    }
}

#[test]
fn rows_of_which_nothing_can_be_told_are_named() {
    let fixture = common::read_json("masks.json");
    let unmarked = fixture["templates"]["unmarked"].as_str().unwrap();
    // Thoughts of earlier turns are left out, so that a prefix is not what stands in the whole.
    let forgetful = "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
    let raising = "{% if messages[-1].role == 'assistant' and messages | length < 4 %}\n{{ raise_exception('not yet') }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}";
    let marked_nothing =
        "{% for m in messages %}{{ m.content }}{% endfor %}{% generation %}{% endgeneration %}";
    let four = ["user", "assistant", "user", "assistant"];
    for (template, roles, texts) in [
        (forgetful, &four[..], &["turn 2 differently", "{% generation %}", "last-answer"][..]),
        (raising, &four, &["turn 2 cannot be told", "not yet", "line 2"]),
        (unmarked, &["assistant", "user"], &["the first turn is the assistant's"]),
        (unmarked, &["user", "system"], &["no token is trained on"]),
        (marked_nothing, &four, &["no token is trained on"]),
    ] {
        let error = load(&[json!({"messages": turns(roles)})], "plain", template, &assistant()).unwrap_err();
        let error = error.to_string();
        for text in texts.iter().chain(&["rows.jsonl:1: "]) {
            assert!(error.contains(text), "`{text}` is not in {error}");
        }
    }
    // The last answer of such a conversation can still be trained on.
    let last = DataConfig { train_on: TrainOn::LastAnswer, ..assistant() };
    let (groups, _) = load(&[json!({"messages": turns(&four)})], "plain", forgetful, &last).unwrap();
    assert!(groups[0].completions[0].trained.is_none());
    for config in [assistant(), last] {
        let error = load(&[json!({"text": "a b"})], "plain", unmarked, &config).unwrap_err().to_string();
        assert!(error.contains("one text without turns"), "{error}");
        // An answer to a plain prompt is the assistant's as it is.
        let plain = json!({"prompt": "The sky is", "completion": " blue."});
        let (groups, _) = load(&[plain], "plain", unmarked, &config).unwrap();
        assert!(groups[0].completions[0].trained.is_none());
    }
}

#[test]
fn the_last_of_several_answers_to_a_prompt_is_its_last_turn() {
    let fixture = common::read_json("masks.json");
    let unmarked = fixture["templates"]["unmarked"].as_str().unwrap();
    let row = &fixture["cases"][3]["row"];
    let config = DataConfig { train_on: TrainOn::LastAnswer, ..assistant() };
    let (groups, _) = load(std::slice::from_ref(row), "plain", unmarked, &config).unwrap();
    let (tokenizer, _) = common::tokenizer("plain");
    let answer = tokenizer.decode(&groups[0].completions[0].token_ids, false).unwrap();
    assert_eq!(answer, "The sky is blue.<|im_end|>\n");
}

#[test]
fn rows_cut_before_the_assistant_speaks_are_dropped() {
    let fixture = common::read_json("masks.json");
    let unmarked = fixture["templates"]["unmarked"].as_str().unwrap();
    let rows = [json!({"messages": turns(&["user", "assistant"])}), json!({"messages": turns(&["user"; 8])})];
    let skip = |max_length| DataConfig { max_length, bad_rows: BadRows::Skip, ..assistant() };
    let (whole, report) = load(&rows, "plain", unmarked, &skip(None)).unwrap();
    assert_eq!((report.kept, report.bad_count, report.dropped_no_room), (1, 1, 0));
    let first = flags(&whole[0]).iter().position(|trained| *trained).unwrap();
    let (cut, report) = load(&rows, "plain", unmarked, &skip(Some(first + 1))).unwrap();
    assert_eq!((report.kept, report.cut), (1, 1));
    assert_eq!(cut[0].completions[0].trained_tokens(), 1);
    assert!(load(&rows, "plain", unmarked, &skip(Some(first))).is_err());
}

#[test]
fn the_doctor_shows_what_is_trained_on() {
    let (tokenizer, template) = common::tokenizer("plain");
    let dir = tempfile::tempdir().unwrap();
    let row = json!({"messages": turns(&["user", "assistant", "user", "assistant"])});
    let files = [common::write(dir.path(), "rows.jsonl", row.to_string())];
    let config = assistant();
    let report = inspect(&Inspection {
        files: &files,
        eval_files: &[],
        model: Some((&tokenizer, Some(&template))),
        config: &config,
        shown: 3,
    })
    .unwrap();
    let spans = &report.files[0].examples[0].answers[0];
    let trained: Vec<_> = spans.iter().filter(|s| s.trained).map(|s| s.text.as_str()).collect();
    assert_eq!(trained, ["word 1<|im_end|>\n", "word 3<|im_end|>\n"]);
    let text: String = spans.iter().map(|span| span.text.as_str()).collect();
    assert!(text.starts_with("user\nword 0<|im_end|>\n<|im_start|>assistant\nword 1"), "{text}");
}
