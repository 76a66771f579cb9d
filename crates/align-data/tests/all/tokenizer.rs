//! Tokenizers from folders, and trained ones.

use crate::common;

use align_data::{Error, SpecialTokens, Tokenizer};
use proptest::prelude::*;

const TEXTS: [&str; 3] =
    ["the cat sat on the mat", "the dog sat on the log", "über uns: 数学 is fun, the cat said"];

fn special() -> SpecialTokens {
    SpecialTokens {
        bos: Some("<s>".into()),
        eos: Some("</s>".into()),
        pad: Some("</s>".into()),
        extra: vec!["<|user|>".into()],
    }
}

#[test]
fn a_trained_tokenizer_survives_its_folder() {
    let tokenizer = Tokenizer::train_byte_level(&TEXTS, 280, &special()).unwrap();
    let again = Tokenizer::train_byte_level(&TEXTS, 280, &special()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    tokenizer.save(&first).unwrap();
    again.save(&second).unwrap();
    let bytes = |folder: &std::path::Path, name: &str| std::fs::read(folder.join(name)).unwrap();
    assert_eq!(
        bytes(&first, "tokenizer.json"),
        bytes(&second, "tokenizer.json"),
        "training is deterministic"
    );

    let loaded = Tokenizer::from_folder(&first).unwrap();
    assert!(tokenizer.vocab_size() <= 280 && loaded.vocab_size() == tokenizer.vocab_size());
    for text in ["the cat", "<|user|>the 😀", ""] {
        let ids = loaded.encode(text, true).unwrap();
        assert_eq!(ids, tokenizer.encode(text, true).unwrap());
        assert_eq!(ids.first().copied(), loaded.bos_id());
    }
    assert_eq!(loaded.eos_token(), Some("</s>"));
    assert_eq!(loaded.pad_id(), loaded.eos_id());
    assert_eq!(loaded.decode(&loaded.encode("<|user|>the cat</s>", true).unwrap(), true).unwrap(), "the cat");
    assert!(loaded.encode("the cat", false).unwrap().len() < "the cat".len());
}

#[test]
fn a_vocabulary_too_small_for_the_bytes_is_refused() {
    assert!(matches!(Tokenizer::train_byte_level(&TEXTS, 258, &special()), Err(Error::Config { .. })));
    assert!(Tokenizer::train_byte_level(&TEXTS, 259, &special()).is_ok());
}

#[test]
fn every_end_token_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::train_byte_level(&TEXTS, 280, &special()).unwrap();
    tokenizer.save(dir.path()).unwrap();
    let eos = tokenizer.eos_id().unwrap();
    let user = tokenizer.token_to_id("<|user|>").unwrap();
    common::write(dir.path(), "generation_config.json", format!(r#"{{"eos_token_id": [{user}, {eos}]}}"#));
    common::write(dir.path(), "config.json", r#"{"eos_token_id": 7}"#);
    assert_eq!(Tokenizer::from_folder(dir.path()).unwrap().eos_ids(), [eos, user, 7]);

    // Without a name in the tokenizer's files, the ids name it; older files name it in an object.
    common::write(dir.path(), "tokenizer_config.json", "{}");
    assert_eq!(Tokenizer::from_folder(dir.path()).unwrap().eos_token(), Some("<|user|>"));
    common::write(
        dir.path(),
        "special_tokens_map.json",
        r#"{"eos_token": {"content": "</s>", "lstrip": false}}"#,
    );
    assert_eq!(Tokenizer::from_folder(dir.path()).unwrap().eos_token(), Some("</s>"));
}

#[test]
fn folders_without_a_tokenizer_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let says = || Tokenizer::from_folder(dir.path()).unwrap_err().to_string();
    for name in ["tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"] {
        assert!(says().contains(name), "{}", says());
    }
    common::write(dir.path(), "tokenizer.model", b"\x0a\x0e");
    assert!(says().contains("tokenizer.model") && says().contains("SentencePiece"), "{}", says());
    common::write(dir.path(), "tokenizer.json", "{\"version\": ");
    assert!(says().contains("tokenizer.json"), "{}", says());
    common::write(dir.path(), "tokenizer.json", "[]");
    assert!(says().contains("tokenizer.json"), "{}", says());
    let missing = dir.path().join("nowhere");
    assert!(Tokenizer::from_folder(&missing).unwrap_err().to_string().contains("does not exist"));
    let good = Tokenizer::train_byte_level(&TEXTS, 280, &special()).unwrap();
    good.save(dir.path()).unwrap();
    common::write(dir.path(), "config.json", "{,}");
    assert!(says().contains("config.json"), "{}", says());
}

#[test]
fn limits_left_in_the_file_do_not_cut_texts() {
    let dir = tempfile::tempdir().unwrap();
    Tokenizer::train_byte_level(&TEXTS, 280, &special()).unwrap().save(dir.path()).unwrap();
    let path = dir.path().join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    std::fs::write(&path, json.to_string()).unwrap();
    let ids = Tokenizer::from_folder(dir.path()).unwrap().encode(&"cat ".repeat(50), true).unwrap();
    assert!(ids.len() > 50, "{}", ids.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_text_is_lost(text in "\\PC{0,80}") {
        let tokenizer = Tokenizer::train_byte_level(&TEXTS, 280, &SpecialTokens::default()).unwrap();
        let ids = tokenizer.encode(&text, true).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
}
