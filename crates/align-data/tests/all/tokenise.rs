//! Token ids against TRL's own preprocessing (fixtures/text/make_tokenise.py).

use crate::common;

use std::collections::BTreeMap;

use align_data::{DataConfig, Error, Kind, Tokenizer, Truncation, load_rows};
use align_types::{PromptGroup, TokenId};
use serde_json::Value;

fn load(case: &Value) -> Result<PromptGroup, Error> {
    let dir = tempfile::tempdir().unwrap();
    let file = common::write(dir.path(), "row.jsonl", case["row"].to_string());
    let (tokenizer, template) = common::tokenizer(case["tokenizer"].as_str().unwrap());
    let keep_end = case["kind"] == "keep_end";
    let config = DataConfig {
        max_length: case["max_length"].as_u64().map(|n| n as usize),
        truncation: if keep_end { Truncation::KeepEnd } else { Truncation::KeepStart },
        ..Default::default()
    };
    let (mut groups, _) = load_rows(&[file], Kind::ALL, &tokenizer, Some(&template), &config)?;
    Ok(groups.remove(0))
}

fn ids(value: &Value) -> Vec<TokenId> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The prompt followed by one of its answers.
fn joined(group: &PromptGroup, index: usize) -> Vec<TokenId> {
    [group.prompt.as_slice(), &group.completions[index].token_ids].concat()
}

#[test]
fn tokens_are_those_of_trl() {
    let fixture = common::read_json("tokenise.json");
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for case in fixture["cases"].as_array().unwrap() {
        let kind = case["kind"].as_str().unwrap();
        *seen.entry(kind).or_default() += 1;
        let expected = &case["expected"];
        let group = match load(case) {
            Ok(group) => group,
            Err(Error::NothingLeft { no_room: 1, .. }) if expected.is_null() => continue,
            Err(error) => panic!("{case}: {error}"),
        };
        match kind {
            "preference" => {
                assert_eq!(group.prompt, ids(&expected["prompt_ids"]), "{case}");
                assert_eq!(group.completions[0].token_ids, ids(&expected["chosen_ids"]), "{case}");
                assert_eq!(group.completions[1].token_ids, ids(&expected["rejected_ids"]), "{case}");
            }
            // The prompt ends earlier than TRL's, the text is the same.
            "transcript" => {
                let prompt = ids(&expected["prompt_ids"]);
                assert!(group.prompt.len() < prompt.len() && prompt.starts_with(&group.prompt), "{case}");
                assert_eq!(
                    joined(&group, 0),
                    [prompt.clone(), ids(&expected["chosen_ids"])].concat(),
                    "{case}"
                );
                assert_eq!(joined(&group, 1), [prompt, ids(&expected["rejected_ids"])].concat(), "{case}");
            }
            "cut" => {
                assert_eq!(joined(&group, 0), ids(&expected["chosen"]), "{case}");
                assert_eq!(joined(&group, 1), ids(&expected["rejected"]), "{case}");
            }
            _ => {
                assert_eq!(joined(&group, 0), ids(&expected["input_ids"]), "{case}");
                let trained: Vec<bool> = serde_json::from_value(expected["trained"].clone()).unwrap();
                // A text's first token is never predicted, whatever its label says.
                let prompt = trained.iter().take_while(|t| !**t).count().max(1);
                assert_eq!(group.prompt.len(), prompt, "{case}");
                assert!(trained[prompt..].iter().all(|t| *t), "{case}");
            }
        }
    }
    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        ["cut", "keep_end", "preference", "sft", "transcript"]
    );
}

#[test]
fn special_tokens_are_there_once() {
    let (tokenizer, template) = common::tokenizer("bos");
    let (bos, eos) = (tokenizer.bos_id().unwrap(), tokenizer.eos_id().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let rows = "{\"text\": \"The sky\"}\n{\"text\": \"<s>The sky</s>\"}\n";
    let file = common::write(dir.path(), "rows.jsonl", rows);
    let load = |tokenizer: &Tokenizer| {
        load_rows(std::slice::from_ref(&file), Kind::ALL, tokenizer, Some(&template), &DataConfig::default())
            .unwrap()
            .0
    };
    let groups = load(&tokenizer);
    assert_eq!(joined(&groups[0], 0), joined(&groups[1], 0));
    let ids = joined(&groups[0], 0);
    assert_eq!((ids.iter().filter(|id| **id == bos).count(), ids.first()), (1, Some(&bos)));
    assert_eq!((ids.iter().filter(|id| **id == eos).count(), ids.last()), (1, Some(&eos)));

    // A tokenizer that ends texts itself gives the same: its post-processor is changed to do so.
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let processor = &mut json["post_processor"];
    processor["single"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({"SpecialToken": {"id": "</s>", "type_id": 0}}));
    processor["special_tokens"]["</s>"] = serde_json::json!({"id": "</s>", "ids": [eos], "tokens": ["</s>"]});
    std::fs::write(&path, json.to_string()).unwrap();
    let ending = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(ending.encode("The", true).unwrap().last(), Some(&eos));
    assert_eq!(load(&ending), groups);
    // And its prompts stay open at their end.
    let file = common::write(dir.path(), "prompt.jsonl", r#"{"prompt": "The sky"}"#);
    let prompts = align_data::load_prompts(&[file], &ending, None, &DataConfig::default()).unwrap().0;
    assert_ne!(prompts[0].prompt.last(), Some(&eos));
}
