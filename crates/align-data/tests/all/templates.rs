//! Chat templates against the rendering of transformers (fixtures/text/make_templates.py, which goes through what
//! Jinja can do, and fixtures/templates/make.py, which goes through the families of models).

use crate::common;

use std::collections::BTreeMap;

use align_data::{ChatTemplate, Error, RenderOptions, encode_item};
use align_types::RewardItem;
use serde_json::{Value, json};

fn special_tokens(fixture: &Value) -> Vec<(String, String)> {
    let map = fixture["special_tokens"].as_object().unwrap();
    map.iter().map(|(name, token)| (name.clone(), token.as_str().unwrap().to_owned())).collect()
}

/// The words of a template that gave up by itself; otherwise Python did, in the middle of an expression.
fn raised(error: &Value) -> Option<&str> {
    error.as_str().filter(|words| !words.contains("has no attribute") && !words.contains("is undefined"))
}

/// Renders every case of a fixture and compares text, or what the template raises itself, which must be told in its
/// own words and with the line.
fn compare(fixture: &Value, options_of: impl Fn(&Value) -> Value) {
    let templates: BTreeMap<_, _> = fixture["templates"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, source)| {
            (name.as_str(), ChatTemplate::new(source.as_str().unwrap(), special_tokens(fixture)).unwrap())
        })
        .collect();
    let mut wrong = vec![];
    let cases = fixture["cases"].as_array().unwrap();
    assert!(cases.len() >= 60);
    for case in cases {
        let name = (case["template"].as_str().unwrap(), case["conversation"].as_str().unwrap());
        let mut options = options_of(case).as_object().unwrap().clone();
        let messages = options.remove("messages").unwrap();
        let render = RenderOptions {
            add_generation_prompt: options.remove("add_generation_prompt") == Some(json!(true)),
            tools: options.remove("tools"),
            variables: options,
        };
        let ours = templates[name.0].render(messages.as_array().unwrap(), &render);
        match (&case["text"], ours) {
            (Value::String(theirs), Ok(ours)) if *theirs == ours.text => {}
            (Value::Null, Err(Error::Template { line, message }))
                if raised(&case["error"]).is_none_or(|raised| raised == message && line.is_some()) => {}
            (theirs, ours) => {
                let theirs = if theirs.is_null() { &case["error"] } else { theirs };
                wrong.push(format!("{name:?}\ntransformers: {theirs}\nhere:         {ours:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn rendering_is_equal_to_transformers() {
    let fixture = common::read_json("templates.json");
    compare(&fixture, |case| fixture["conversations"][case["conversation"].as_str().unwrap()].clone());
}

#[test]
fn the_templates_of_families_render_as_in_transformers() {
    let fixture = common::read_json("../templates/families.json");
    assert!(fixture["templates"].as_object().unwrap().len() >= 14);
    compare(&fixture, |case| case["options"].clone());
}

#[test]
fn marked_blocks_are_where_transformers_finds_them() {
    let fixture = common::read_json("templates.json");
    let source = fixture["templates"]["generation"].as_str().unwrap();
    let template = ChatTemplate::new(source, special_tokens(&fixture)).unwrap();
    let case = &fixture["generation"];
    let rendered = template.render(case["messages"].as_array().unwrap(), &RenderOptions::default()).unwrap();
    assert_eq!(rendered.text, case["text"].as_str().unwrap());
    // transformers counts characters, spans here count bytes.
    let characters = |byte: usize| rendered.text[..byte].chars().count();
    let spans: Vec<_> =
        rendered.generated.iter().map(|s| json!([characters(s.start), characters(s.end)])).collect();
    assert_eq!(json!(spans), case["spans"]);
    // A marker that is smuggled in does not move a block.
    let smuggled = json!({"role": "user", "content": "\u{fdd0}x\u{fdd1}"});
    assert!(template.render(&[smuggled], &RenderOptions::default()).is_err());
}

#[test]
fn templates_are_found_in_folders() {
    let dir = tempfile::tempdir().unwrap();
    let none: [(String, String); 0] = [];
    assert!(ChatTemplate::from_folder(dir.path(), none.clone()).unwrap().is_none());
    let hello = [json!({"role": "user", "content": "hello"})];
    let render = |options: &RenderOptions| {
        let template = ChatTemplate::from_folder(dir.path(), none.clone()).unwrap().unwrap();
        template.render(&hello, options).unwrap().text
    };
    let plain = RenderOptions::default();

    common::write(dir.path(), "tokenizer_config.json", r#"{"chat_template": "A{{ messages[0].content }}"}"#);
    assert_eq!(render(&plain), "Ahello");
    let named =
        r#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#;
    common::write(dir.path(), "tokenizer_config.json", named);
    assert_eq!(render(&plain), "D");
    assert_eq!(render(&RenderOptions { tools: Some(json!([])), ..plain.clone() }), "T");
    common::write(dir.path(), "chat_template.jinja", "J\n");
    assert_eq!(render(&plain), "J");
    common::write(dir.path(), "chat_template.jinja", "a\n{% if %}");
    let error = ChatTemplate::from_folder(dir.path(), none).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}

#[test]
fn templates_that_ask_for_the_date_get_one() {
    let none: [(String, String); 0] = [];
    let template = ChatTemplate::new("{{ strftime_now('%Y') }}", none).unwrap();
    let text = template.render(&[json!({"role": "user"})], &RenderOptions::default()).unwrap().text;
    assert!(text.parse::<u32>().unwrap() >= 2024, "{text}");
}

/// What a row says to its template is said where its answers are scored as well: 1 tool and a variable stand before the
/// message as if they had been written into it.
#[test]
fn a_scored_answer_has_the_tools_and_variables_of_its_row() {
    let source = "{% if tools %}T{{ tools | length }} {% endif %}{% if thinking %}thinks {% endif %}\
                  {% for message in messages %}{{ message.content }}{% endfor %}";
    let (tokenizer, _) = common::tokenizer("plain");
    let template = ChatTemplate::new(source, Vec::new()).unwrap();
    let tokens = |content: &str, columns: Value| {
        let messages = [json!({"role": "user", "content": content})];
        let columns = columns.as_object().unwrap();
        let item = RewardItem {
            prompt: content,
            messages: Some(&messages),
            completion: " yes",
            columns,
            source: None,
        };
        encode_item(&item, 0, &tokenizer, Some(&template)).map(|group| (group.prompt, group.completions))
    };
    let variables = json!({"thinking": true});
    let said = json!({"tools": [{"name": "add"}], "chat_template_kwargs": variables, "other": 1});
    assert_eq!(tokens("Is it?", said).unwrap(), tokens("T1 thinks Is it?", json!({})).unwrap());
    let error = tokens("Is it?", json!({"tools": 3})).unwrap_err().to_string();
    assert!(error.contains("`tools` is"), "{error}");
}
