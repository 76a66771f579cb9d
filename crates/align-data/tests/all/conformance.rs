//! Hazards of the field that lie between text and tokens.

use crate::common;

use align_data::{ChatTemplate, DataConfig, Kind, Tokenizer, load_rows};

/// Loaders that recognise padding by its token hide the end of every answer where the two are one token; a model
/// trained on such rows never stops. Here the end is there once, it is the last token, and it is trained on.
#[test]
fn an_end_that_is_the_padding_too_is_there_once_and_trained_on() {
    for name in ["plain", "bos"] {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(common::fixture("tokenizer").join(name)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let path = folder.path().join("tokenizer_config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["pad_token"] = config["eos_token"].clone();
        std::fs::write(&path, config.to_string()).unwrap();
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        let template = ChatTemplate::from_folder(folder.path(), tokenizer.special_tokens()).unwrap();
        let eos = tokenizer.eos_id().unwrap();
        assert_eq!(tokenizer.pad_id(), Some(eos), "{name}");

        let end = tokenizer.decode(&[eos], false).unwrap();
        let rows = [
            r#"{"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}"#.to_owned(),
            // Rows that bring their own end get no second one.
            format!(r#"{{"prompt": "The sky is", "chosen": " blue.{end}", "rejected": " green.{end}"}}"#),
        ];
        let path = common::write(folder.path(), "rows.jsonl", rows.join("\n"));
        let (groups, _) =
            load_rows(&[path], Kind::ALL, &tokenizer, template.as_ref(), &DataConfig::default()).unwrap();
        assert_eq!(groups.len(), 2);
        for answer in groups.iter().flat_map(|group| &group.completions) {
            let ends = answer.token_ids.iter().filter(|id| **id == eos).count();
            assert_eq!((ends, answer.token_ids.last()), (1, Some(&eos)), "{name}: {:?}", answer.token_ids);
            let last = answer.token_ids.len() - 1;
            assert!(answer.trained_ranges().any(|range| range.contains(&last)), "{name}");
        }
    }
}
