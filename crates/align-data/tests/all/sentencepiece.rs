//! Folders without `tokenizer.json`: ids and texts as Python's tokenizers give them, and broken files.

use crate::common;

use std::{io::Read, path::PathBuf};

use align_data::{DataConfig, Error, Kind, Tokenizer, load_rows};
use proptest::prelude::*;
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    common::fixture("../sentencepiece").join(name)
}

fn read_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn model(name: &str) -> Vec<u8> {
    let path = fixture(name);
    if path.exists() {
        return std::fs::read(path).unwrap();
    }
    let mut bytes = vec![];
    let packed = std::fs::File::open(fixture(&format!("{name}.gz"))).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Makes a folder of a model file and other files.
fn folder(model: Option<&[u8]>, files: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    if let Some(model) = model {
        common::write(dir.path(), "tokenizer.model", model);
    }
    for (name, content) in files.as_object().unwrap() {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        common::write(dir.path(), name, text);
    }
    dir
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap_or_else(|_| panic!("{value} are no ids"))
}

/// The tokens that a mask marks are those of the assistant's words, so the offsets of tokens speak of the rendered text
/// behind special tokens, too.
#[test]
fn masks_mark_the_words_of_the_assistant() {
    let template = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}\
                    {{ eos_token }}{% else %}{{ m.content }}{% endif %} {% endfor %}";
    let said = ["the bread is warm", "it is on the table"];
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let row = json!({"messages": [
        turn("user", "the  kettle"), turn("assistant", said[0]), turn("user", " is  on"), turn("assistant", said[1]),
    ]});
    let mut compared = 0;
    for case in read_json("cases.json")["cases"].as_array().unwrap() {
        let dir = folder(case["model"].as_str().map(model).as_deref(), &case["files"]);
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let text = |ids: &[u32]| tokenizer.decode(ids, true).unwrap().trim().to_owned();
        let known = |words: &&str| text(&tokenizer.encode(words, false).unwrap()) == **words;
        if tokenizer.eos_token().is_none() || !said.iter().all(known) {
            continue;
        }
        let file = common::write(dir.path(), "rows.jsonl", format!("{row}\n"));
        let template = align_data::ChatTemplate::new(template, tokenizer.special_tokens()).unwrap();
        let config = DataConfig { train_on: align_data::TrainOn::Assistant, ..Default::default() };
        let (groups, _) = align_data::load_language(&[file], &tokenizer, Some(&template), &config).unwrap();
        let answer = &groups[0].completions[0];
        let marked: Vec<String> =
            answer.trained_ranges().map(|range| text(&answer.token_ids[range])).collect();
        assert_eq!(marked, said, "{}", case["files"]);
        compared += 1;
    }
    assert!(compared > 5, "{compared}");
}

#[test]
fn ids_and_texts_are_those_of_python() {
    let fixtures = read_json("cases.json");
    let texts: Vec<&str> =
        fixtures["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let (mut compared, mut wrong) = (0, vec![]);
    for case in fixtures["cases"].as_array().unwrap() {
        let dir = folder(case["model"].as_str().map(model).as_deref(), &case["files"]);
        let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
        let rows = case["rows"].as_array().unwrap();
        assert!(rows.len() > 60 && rows.len() <= texts.len());
        for (text, row) in texts.iter().zip(rows).filter(|(_, row)| !row.is_null()) {
            // A row is the ids, or the ids and what they decode to.
            let (expected, decoded) = match row.get(1).and_then(Value::as_str) {
                Some(decoded) => (ids(&row[0]), decoded),
                None => (ids(row), *text),
            };
            let found = tokenizer.encode(text, true).unwrap();
            let again = tokenizer.decode(&expected, true).unwrap();
            compared += 1;
            if found != expected || again != decoded {
                wrong.push(format!(
                    "{} {text:?}\n  ids {found:?}\n not {expected:?}\n  text {again:?}\n   not {decoded:?}",
                    case["name"]
                ));
            }
        }
    }
    assert!(compared > 2500, "{compared}");
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
}

/// A piece of a model file: text, score, and type as the format numbers them.
fn piece(text: &str, score: f32, kind: u8) -> Vec<u8> {
    let fields =
        [&[0x0a, text.len() as u8], text.as_bytes(), &[0x15], &score.to_le_bytes(), &[0x18, kind]].concat();
    [&[0x0a, fields.len() as u8], &fields[..]].concat()
}

/// A model file of some pieces, with a `trainer_spec` of the given bytes.
fn model_of(pieces: &[(&str, f32, u8)], trainer: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        pieces.iter().flat_map(|(text, score, kind)| piece(text, *score, *kind)).collect();
    bytes.extend([0x12, trainer.len() as u8]);
    bytes.extend(trainer);
    bytes
}

const UNIGRAM: &[u8] = &[0x18, 1];
const BPE: &[u8] = &[0x18, 2];
const NORMAL: u8 = 1;
const UNKNOWN: u8 = 2;
const CONTROL: u8 = 3;

#[test]
fn merges_follow_the_scores_not_the_ids() {
    // "abc": "bc" has the better score, so that "ab", which comes first in text and file, is never made.
    let pieces = [
        ("<unk>", 0.0, UNKNOWN),
        ("ab", -2.0, NORMAL),
        ("bc", -1.0, NORMAL),
        ("a", -3.0, NORMAL),
        ("b", -4.0, NORMAL),
        ("c", -5.0, NORMAL),
        ("\u{2581}", -6.0, NORMAL),
    ];
    let dir = folder(Some(&model_of(&pieces, BPE)), &json!({}));
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("abc", true).unwrap(), [6, 3, 2]);
    // Neighbours without a piece are one unknown token.
    assert_eq!(tokenizer.encode("xyab", true).unwrap(), [6, 0, 1]);
}

#[test]
fn unigrams_take_the_likeliest_pieces() {
    // "▁ab" = -1 - 2.5 as ▁ ab, -1 - 1 - 1 as ▁ a b.
    let pieces = [
        ("<unk>", 0.0, UNKNOWN),
        ("</s>", 0.0, CONTROL),
        ("\u{2581}", -1.0, NORMAL),
        ("a", -1.0, NORMAL),
        ("b", -1.0, NORMAL),
        ("ab", -2.5, NORMAL),
    ];
    let dir = folder(Some(&model_of(&pieces, UNIGRAM)), &json!({}));
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [2, 3, 4]);
    assert_eq!((tokenizer.eos_token(), tokenizer.bos_token()), (Some("</s>"), None));
}

#[test]
fn a_written_prefix_of_chatglm_is_there_once() {
    let files = json!({"config.json": {"model_type": "chatglm", "eos_token_id": 2}});
    let dir = folder(Some(&model("prefix.model")), &files);
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(tokenizer.eos_token(), Some("</s>"));
    let rows = "{\"text\": \"[gMASK]sop<|user|>\\n hi\"}\n{\"text\": \"<|user|>\\n hi\"}\n";
    let file = common::write(dir.path(), "rows.jsonl", rows);
    let groups = load_rows(&[file], Kind::ALL, &tokenizer, None, &DataConfig::default()).unwrap().0;
    let ids = |row: usize| [&groups[row].prompt[..], &groups[row].completions[0].token_ids].concat();
    assert_eq!(ids(0), ids(1));
    let first = ["[gMASK]", "sop", "<|user|>"].map(|token| tokenizer.token_to_id(token).unwrap());
    assert_eq!(ids(0)[..3], first);
}

#[test]
fn eos_is_found_after_a_letter_whatever_the_files_ask_for() {
    let token = |text: &str| json!({"content": text, "single_word": true, "normalized": true});
    let config = json!({"tokenizer_class": "BaichuanTokenizer", "eos_token": token("</s>"), "bos_token": ""});
    let files = json!({"tokenizer_config.json": config, "added_tokens.json": {"<x>": 420}});
    for name in ["prefix.model", "bare.model"] {
        let tokenizer = Tokenizer::from_folder(folder(Some(&model(name)), &files).path()).unwrap();
        assert_eq!(tokenizer.encode("a</s>", true).unwrap().last(), Some(&2));
        assert!(tokenizer.encode("a<x>b", true).unwrap().contains(&420), "{name}");
        // An empty name is none; the model file's is taken.
        assert_eq!(tokenizer.bos_token(), Some("<s>"));
    }
}

fn refusal(model: Option<&[u8]>, files: &Value) -> String {
    let dir = folder(model, files);
    match Tokenizer::from_folder(dir.path()) {
        Err(error @ Error::Tokenizer { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn broken_model_files_are_named() {
    let unknown = ("<unk>", 0.0, UNKNOWN);
    let a = ("a", -1.0, NORMAL);
    for (bytes, why) in [
        (vec![], "no pieces"),
        (b"hello".to_vec(), "malformed"),
        (b"IQ== 0\nIg== 1\n".to_vec(), "tiktoken"),
        // A length of almost 2^64.
        ([&[0x0a][..], &[0xff; 9], &[1]].concat(), "cut off"),
        (model_of(&[a], BPE), "exactly one"),
        (model_of(&[unknown, ("<u>", 0.0, UNKNOWN)], BPE), "exactly one"),
        (model_of(&[unknown, a, a], BPE), "twice"),
        (model_of(&[unknown, ("", 0.0, NORMAL)], BPE), "empty"),
        (model_of(&[unknown, ("a", f32::NAN, NORMAL)], UNIGRAM), "not a number"),
        (model_of(&[unknown, ("a", 0.0, 9)], BPE), "type 9"),
        (model_of(&[unknown, a], &[0x18, 3]), "model_type 3"),
        (model_of(&[unknown, a], &[0x18, 2, 0x98, 2, 1]), "of the 256 bytes"),
        (model_of(&[unknown, a], &[0x18, 2, 0xc0, 1, 1]), "suffix"),
    ] {
        let message = refusal(Some(&bytes), &json!({}));
        assert!(message.contains("tokenizer.model") && message.contains(why), "{why}: {message}");
    }
}

#[test]
fn broken_files_beside_it_are_named() {
    let bpe = model("prefix.model");
    let unigram = model("unigram-bytes.model");
    let vocab = json!({"a": 0, "b": 1});
    for (model, files, texts) in [
        (Some(&bpe), json!({"added_tokens.json": {"<x>": "y"}}), ["added_tokens.json", "<x>"]),
        (
            Some(&bpe),
            json!({"tokenizer_config.json": {"added_tokens_decoder": {"x": "y"}}}),
            ["tokenizer_config.json", "added_tokens_decoder"],
        ),
        (
            Some(&unigram),
            json!({"added_tokens.json": {"<x>": 4_000_000_000u32}}),
            ["tokenizer.model", "4000000000"],
        ),
        (None, json!({"vocab.json": {"a": -1}, "merges.txt": ""}), ["vocab.json", "\"a\""]),
        (None, json!({"vocab.json": [], "merges.txt": ""}), ["vocab.json", "object"]),
        (None, json!({"vocab.json": vocab, "merges.txt": "#version: 0.2\na b\n"}), ["merges.txt", "line 2"]),
        (None, json!({"vocab.json": vocab, "merges.txt": "ab"}), ["merges.txt", "line 1"]),
    ] {
        let message = refusal(model.map(Vec::as_slice), &files);
        assert!(texts.iter().all(|text| message.contains(text)), "{texts:?}: {message}");
    }
}

#[test]
fn ids_that_are_left_out_count() {
    let dir = folder(Some(&model("prefix.model")), &json!({"added_tokens.json": {"<x>": 500}}));
    let tokenizer = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.token_to_id("<x>")), (501, Some(500)));
}

/// Loads a file that may be broken; what loads must also encode and decode.
fn survives(name: &str, bytes: &[u8]) {
    let dir = folder(Some(bytes), &json!({}));
    match Tokenizer::from_folder(dir.path()) {
        Ok(tokenizer) => {
            let ids = tokenizer.encode("The kettle,  <ud> e\u{301} 水😀\n", true).unwrap();
            tokenizer.decode(&ids, true).unwrap();
        }
        Err(error) => assert!(error.to_string().contains("tokenizer.model"), "{name}: {error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_files_never_panic(
        which in 0usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let name = ["prefix.model", "mapped.model", "unigram-bytes.model"][which];
        let mut bytes = model(name);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survives(name, &bytes);
    }

    #[test]
    fn random_files_never_panic(bytes: Vec<u8>) {
        survives("random", &bytes);
    }
}
