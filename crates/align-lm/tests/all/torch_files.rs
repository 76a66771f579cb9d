//! Files of `torch.save`: the same numbers as the safetensors they were made of, and whatever else is in a pickle is
//! refused by name.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use align_core::tch::Kind;
use align_core::{
    CausalLm, PackedBatch,
    align_types::{Completion, PromptGroup},
};
use align_lm::{Error, LoadOptions, Model, SaveDtype};
use align_testkit::assert_close;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

/// A folder of `fixtures/bin` and the one of `fixtures/models` whose weights it has.
const TWINS: [(&str, &str); 5] = [
    ("single", "tiny-llama-bf16"),
    ("sharded", "tiny-llama-tied-sharded"),
    ("views", "tiny-gpt2"),
    ("baichuan", "tiny-baichuan-7b"),
    ("chatglm", "tiny-chatglm"),
];

const FILE: &str = "pytorch_model.bin";

fn bin(name: &str) -> PathBuf {
    align_testkit::fixture(&format!("bin/{name}"))
}

fn twin(name: &str) -> PathBuf {
    align_testkit::fixture(&format!("models/{name}"))
}

fn load(dir: &Path) -> Result<Model, Error> {
    align_core::threads::prepare_compute_thread();
    Model::load(dir, &LoadOptions::default())
}

fn message(dir: &Path) -> String {
    load(dir).unwrap_err().to_string()
}

/// A folder with the configuration of a small Llama and these bytes as its weights.
fn with_file(bytes: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(bin("single").join("config.json"), dir.path().join("config.json")).unwrap();
    fs::write(dir.path().join(FILE), bytes).unwrap();
    dir
}

fn refused(bytes: &[u8]) -> String {
    message(with_file(bytes).path())
}

#[test]
fn tensors_are_bit_equal_to_those_of_safetensors() {
    for (name, of) in TWINS {
        let (pickled, plain) = (load(&bin(name)).unwrap(), load(&twin(of)).unwrap());
        let (a, b) = (pickled.parameters(), plain.parameters());
        assert_eq!(a.len(), b.len(), "{name}");
        for (a, b) in a.iter().zip(&b) {
            assert!(a.name == b.name && a.tensor.equal(&b.tensor), "{name}: {}", a.name);
            assert!(a.tensor.is_contiguous(), "{name}: {}", a.name);
        }
        // Masks of attention, positions and frequencies are no weights; only positions are no usual extra.
        let unused: &[&str] = if name == "views" { &["position_ids"] } else { &[] };
        assert_eq!(pickled.unused_tensors(), unused, "{name}");
    }
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    for (name, of) in TWINS {
        let text = fs::read(twin(of).join("expected.json")).unwrap();
        let expected: Value = serde_json::from_slice(&text).unwrap();
        let model = load(&bin(name)).unwrap();
        for group in expected["groups"].as_array().unwrap() {
            let tokens = |v: &Value| -> Vec<u32> { serde_json::from_value(v.clone()).unwrap() };
            let completions =
                group["completions"].as_array().unwrap().iter().map(|c| Completion::new(tokens(c)));
            let group_tokens = PromptGroup::new(tokens(&group["prompt"]), completions.collect());
            let ours = model.token_log_probs(&PackedBatch::new(&[group_tokens]).unwrap(), 1.0).unwrap();
            let theirs: Vec<Vec<f64>> = serde_json::from_value(group["logprobs"].clone()).unwrap();
            let ours = Vec::<f64>::try_from(ours.values().to_kind(Kind::Double)).unwrap();
            assert_close(&ours, &theirs.concat(), 1e-4);
        }
    }
}

#[test]
fn float16_is_read_and_written() {
    let (half, wide) = (load(&bin("half")).unwrap(), load(&bin("single")).unwrap());
    for (half, wide) in half.parameters().iter().zip(wide.parameters()) {
        assert!(half.tensor.equal(&wide.tensor.to_kind(Kind::Half).to_kind(Kind::Float)), "{}", half.name);
    }
    let out = tempfile::tempdir().unwrap();
    half.save(out.path(), SaveDtype::Source).unwrap();
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(size(&out.path().join("model.safetensors")) < size(&bin("half").join(FILE)));
    let again = load(out.path()).unwrap();
    assert!(half.parameters().iter().zip(again.parameters()).all(|(a, b)| a.tensor.equal(&b.tensor)));
}

#[test]
fn saving_writes_safetensors_which_win() {
    let dir = with_file(b"no weights at all");
    assert!(message(dir.path()).contains("it is no zip file"));
    let saved = tempfile::tempdir().unwrap();
    load(&bin("single")).unwrap().save(saved.path(), SaveDtype::Source).unwrap();
    assert!(!saved.path().join(FILE).exists());
    let name = "model.safetensors";
    let same =
        fs::read(saved.path().join(name)).unwrap() == fs::read(twin("tiny-llama-bf16").join(name)).unwrap();
    assert!(same);
    fs::copy(saved.path().join(name), dir.path().join(name)).unwrap();
    load(dir.path()).unwrap();
}

#[test]
fn programs_in_pickles_are_refused_by_name_and_not_run() {
    let system = message(&bin("os-system"));
    assert!(system.contains("pytorch_model.bin: data.pkl, byte "), "{system}");
    assert!(system.contains("the pickle wants to call posix.system: only tensors are read"), "{system}");
    assert!(message(&bin("eval")).contains("the pickle wants to call __builtin__.eval"));
    let legacy = message(&bin("legacy"));
    assert!(legacy.contains("the format of torch before 1.6 is not supported"), "{legacy}");
    assert!(legacy.contains("torch.save(torch.load(PATH, weights_only=True), PATH)"), "{legacy}");
}

/// Instructions of pickles, as `pickletools` documents them.
mod op {
    pub fn text(text: &str) -> Vec<u8> {
        [b"X", (text.len() as u32).to_le_bytes().as_slice(), text.as_bytes()].concat()
    }

    pub fn int(number: i32) -> Vec<u8> {
        [b"J".as_slice(), &number.to_le_bytes()].concat()
    }

    pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
        [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
    }

    pub fn global(module: &str, name: &str) -> Vec<u8> {
        format!("c{module}\n{name}\n").into_bytes()
    }

    pub fn storage(kind: &str, key: &str, count: i32) -> Vec<u8> {
        let id = [text("storage"), global("torch", kind), text(key), text("cpu"), int(count)];
        [tuple(&id), b"Q".to_vec()].concat()
    }

    pub fn tensor(storage: Vec<u8>, offset: i32, sizes: &[i32], strides: &[i32]) -> Vec<u8> {
        let ints = |numbers: &[i32]| tuple(&numbers.iter().map(|n| int(*n)).collect::<Vec<_>>());
        let hooks = [global("collections", "OrderedDict"), b")R".to_vec()].concat();
        let arguments = [storage, int(offset), ints(sizes), ints(strides), b"\x89".to_vec(), hooks];
        [global("torch._utils", "_rebuild_tensor_v2"), tuple(&arguments), b"R".to_vec()].concat()
    }

    /// A dictionary with one entry.
    pub fn program(name: &str, value: Vec<u8>) -> Vec<u8> {
        [b"\x80\x02}".to_vec(), text(name), value, b"s.".to_vec()].concat()
    }
}

struct Zipped<'a> {
    name: &'a str,
    bytes: &'a [u8],
    method: u16,
}

/// A zip file: local headers and entries, the directory, the end record.
fn zip(entries: &[Zipped<'_>]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let at = file.len() as u32;
        let size = (entry.bytes.len() as u32).to_le_bytes();
        let common = |record: &mut Vec<u8>| {
            record.extend([20, 0, 0, 0]);
            record.extend(entry.method.to_le_bytes());
            record.extend([0; 8]);
            record.extend([size, size].concat());
            record.extend((entry.name.len() as u16).to_le_bytes());
            record.extend([0, 0]);
        };
        file.extend(b"PK\x03\x04");
        common(&mut file);
        file.extend(entry.name.as_bytes());
        file.extend(entry.bytes);
        directory.extend(b"PK\x01\x02\x14\0");
        common(&mut directory);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(entry.name.as_bytes());
    }
    let (start, count) = (file.len() as u32, entries.len() as u16);
    let length = directory.len() as u32;
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    file.extend([length.to_le_bytes(), start.to_le_bytes()].concat());
    file.extend([0, 0]);
    file
}

fn entry<'a>(name: &'a str, bytes: &'a [u8]) -> Zipped<'a> {
    Zipped { name, bytes, method: 0 }
}

/// A file whose pickle is this program, with eight float32 numbers as storage `0`.
fn torch_file(program: &[u8]) -> Vec<u8> {
    let numbers: Vec<u8> = (0..8).flat_map(|n| (n as f32).to_le_bytes()).collect();
    zip(&[entry("x/data.pkl", program), entry("x/byteorder", b"little"), entry("x/data/0", &numbers)])
}

fn refused_program(program: &[u8]) -> String {
    refused(&torch_file(program))
}

#[test]
fn instructions_and_calls_that_tensors_do_not_need_are_refused() {
    let eight = || op::storage("FloatStorage", "0", 8);
    let of = |value: Vec<u8>| op::program("x", value);
    let called = |module: &str, name: &str| of([op::global(module, name), b")R".to_vec()].concat());
    let list = [b"\x80\x02".to_vec(), op::text("x"), b".".to_vec()].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            called("os", "system"),
            "byte 9: the pickle wants to call os.system: only tensors are read, nothing was executed",
        ),
        (called("torch._utils", "_rebuild_tensor_v3"), "wants to call torch._utils._rebuild_tensor_v3"),
        (called("torch", "load"), "wants to call torch.load"),
        (called("torch", "ComplexFloatStorage"), "wants to call torch.ComplexFloatStorage"),
        (called("torch", "FloatStorage"), "calls FloatStorage with other arguments than torch.save writes"),
        (called("torch._utils", "_rebuild_tensor_v2"), "_rebuild_tensor_v2 with other arguments"),
        (called("\u{1b}[2J", "x"), "no name of Python"),
        (of(b"\x93".to_vec()), "byte 9: instruction 0x93 (STACK_GLOBAL) has no place in a file of tensors"),
        (of(b"ios\nsystem\n".to_vec()), "(INST)"),
        (of(b"\x81".to_vec()), "(NEWOBJ)"),
        (of(b"2".to_vec()), "(DUP)"),
        (of(b"\xff".to_vec()), "instruction 0xff (no instruction of pickles)"),
        (b"\x80\x04.".to_vec(), "byte 0: pickle protocol 4; torch.save writes protocol 2"),
        (b"\x80\x02}".to_vec(), "byte 3: the pickle ends without STOP"),
        (b"\x80\x02X\xff\xff".to_vec(), "ends in the middle of an instruction"),
        (b"\x80\x02X\xff\xff\xff\xff".to_vec(), "a text of 4294967295 bytes; 4096 are the most"),
        (b"\x80\x02\x8a\xff".to_vec(), "truncated"),
        ([b"\x80\x02\x8a\x09".as_slice(), &[1; 9]].concat(), "a whole number of 9 bytes"),
        (b"\x80\x02h\x05.".to_vec(), "recalls value 5, which was never remembered"),
        (b"\x80\x02q\x05.".to_vec(), "remembers a value where there is none"),
        (b"\x80\x02.".to_vec(), "takes a value where there is none"),
        (b"\x80\x02t.".to_vec(), "closes what was not opened"),
        (b"\x80\x02N(R.".to_vec(), "takes a value where there is none"),
        (b"\x80\x02NNR.".to_vec(), "calls something that is no function"),
        (b"\x80\x02NNb.".to_vec(), "sets attributes (BUILD) of something that is no dictionary"),
        (b"\x80\x02NNNs.".to_vec(), "sets items of something that is no dictionary"),
        (b"\x80\x02}(Nu.".to_vec(), "a key has no value"),
        (b"\x80\x02}NNs.".to_vec(), "a tensor's name is no text"),
        (b"\x80\x02N.".to_vec(), "the file holds no dictionary of tensors"),
        (list, "the file holds no dictionary of tensors"),
        (of(b"}".to_vec()), "\"x\" is no tensor"),
        (of(op::int(3)), "\"x\" is no tensor"),
        (of(b"NQ".to_vec()), "refers to something outside the file that is no storage"),
        (of([op::tuple(&[op::text("module")]), b"Q".to_vec()].concat()), "that is no storage"),
        (of(op::tensor(b"N".to_vec(), 0, &[1], &[1])), "a tensor without a storage"),
        (
            of(op::tensor(eight(), 1, &[2, 4], &[4, 1])),
            "at offset 1 reaches beyond the 8 numbers of its storage",
        ),
        (of(op::tensor(eight(), 0, &[2, 4], &[5, 1])), "reaches beyond the 8 numbers"),
        (of(op::tensor(eight(), -1, &[2], &[1])), "a tensor at offset -1"),
        (of(op::tensor(eight(), 0, &[-2], &[1])), "sizes have -2 in them"),
        (of(op::tensor(eight(), 7, &[8], &[-1])), "strides have -1 in them"),
        (of(op::tensor(eight(), 0, &[2], &[1, 1])), "1 sizes and 2 strides"),
        (of(op::tensor(eight(), 0, &[i32::MAX; 16], &[0; 16])), "reaches beyond"),
        (of(op::tensor(eight(), 0, &[9, 9], &[0, 0])), "repeats the 8 numbers of its storage"),
        (of(op::tensor(eight(), 0, &[1; 17], &[1; 17])), "17 dimensions"),
        (
            of(op::tensor(op::storage("FloatStorage", "0", 9), 0, &[1], &[1])),
            "to hold 9 float32 and has 32 bytes",
        ),
        (
            of(op::tensor(op::storage("HalfStorage", "0", 8), 0, &[1], &[1])),
            "to hold 8 float16 and has 32 bytes",
        ),
        (of(op::tensor(op::storage("FloatStorage", "0", -8), 0, &[1], &[1])), "that is no storage"),
        (of(op::tensor(op::storage("FloatStorage", "../0", 8), 0, &[1], &[1])), "\"x/data/../0\" is missing"),
        ([b"\x80\x02".to_vec(), b"(".repeat(65)].concat(), "more than 64 things are nested"),
        ([b"\x80\x02".to_vec(), b"N".repeat((1 << 20) + 1)].concat(), "more than 1048576 values"),
        ([b"\x80\x02".to_vec(), b"}0".repeat(9)].concat(), "(POP)"),
        ([b"\x80\x02}".to_vec(), b")q\x00u".repeat(9)].concat(), "closes what was not opened"),
    ];
    for (program, expected) in cases {
        let message = refused_program(&program);
        assert!(message.contains(FILE) && message.contains(expected), "{message}\nexpected: {expected}");
    }
    // Twice the same name, and a good tensor that is not the model's.
    let one = op::tensor(eight(), 0, &[2, 4], &[4, 1]);
    let twice =
        [b"\x80\x02}(".to_vec(), op::text("x"), one.clone(), op::text("x"), one.clone(), b"u.".to_vec()];
    assert!(refused_program(&twice.concat()).contains("\"x\" comes twice"));
    let missing = refused_program(&of(one));
    assert!(missing.contains("missing model.embed_tokens.weight"), "{missing}");
}

/// Every tensor of the model over one block of numbers: the file is small, the model would not be.
#[test]
fn a_small_file_cannot_ask_for_a_large_model() {
    let dir = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(twin("tiny-qwen3").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["num_hidden_layers"] = 300.into();
    config["layer_types"] = Value::Null;
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let none = message(dir.path());
    assert!(none.contains("holds none of model.safetensors"), "{none}");
    let plain = load(&twin("tiny-qwen3")).unwrap();
    let storage = |key| op::storage("FloatStorage", key, 64 * 32);
    let mut items = Vec::new();
    for layer in 0..300 {
        for p in plain.parameters().iter().filter(|p| match p.name.contains(".layers.") {
            true => p.name.contains(".layers.0."),
            false => layer == 0,
        }) {
            let sizes: Vec<i32> = p.tensor.size().iter().map(|n| *n as i32).collect();
            let strides: &[i32] = if sizes.len() == 2 { &[sizes[1], 1] } else { &[1] };
            items.push(op::text(&p.name.replace(".layers.0.", &format!(".layers.{layer}."))));
            items.push(op::tensor(storage("0"), 0, &sizes, strides));
        }
    }
    let program = [b"\x80\x02}(".to_vec(), items.concat(), b"u.".to_vec()].concat();
    let file = zip(&[entry("x/data.pkl", &program), entry("x/data/0", &[0; 4 * 64 * 32])]);
    fs::write(dir.path().join(FILE), file).unwrap();
    let message = message(dir.path());
    assert!(message.contains("too many tensors share a place"), "{message}");
}

#[test]
fn archives_that_are_none_of_torch_are_refused() {
    let good = fs::read(bin("single").join(FILE)).unwrap();
    let program = op::program("x", b"N".to_vec());
    let pickle = || entry("x/data.pkl", &program);
    let order = |bytes| zip(&[pickle(), entry("x/byteorder", bytes)]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "it is no zip file"),
        (b"PK".to_vec(), "it is no zip file"),
        (b"PK\x03\x04".to_vec(), "has no zip directory at its end"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "Git LFS pointer"),
        (good[..good.len() - 1].to_vec(), "has no zip directory at its end"),
        (good[..good.len() / 2].to_vec(), "truncated or damaged"),
        (good[100..].to_vec(), "it is no zip file"),
        (zip(&[entry("x/other", b"")]), "has not one entry data.pkl"),
        (zip(&[pickle(), entry("y/data.pkl", b"")]), "has not one entry data.pkl"),
        (zip(&[pickle(), pickle()]), "has two zip entries \"x/data.pkl\""),
        (zip(&[pickle(), entry("x/constants.pkl", b"")]), "a program (TorchScript) is not supported"),
        (order(b"big"), "byte order \"big\" is not supported"),
        (order(b"little-endian, or so they say"), "byte order \"little-endian, o\""),
        (
            zip(&[Zipped { method: 8, ..pickle() }]),
            "zip entry \"x/data.pkl\" is compressed (method 8), which torch.save does not do",
        ),
    ];
    for (bytes, expected) in cases {
        let message = refused(&bytes);
        assert!(message.contains(FILE) && message.contains(expected), "{message}\nexpected: {expected}");
    }
    // Offsets and sizes beyond the file: of the directory, of an entry, in 32 and in 64 bits.
    let hostile = |at: Range<usize>, bytes: &[u8]| {
        let mut file = torch_file(&program);
        let length = file.len();
        file[length - at.end..length - at.start].copy_from_slice(bytes);
        refused(&file)
    };
    assert!(hostile(2..6, &[0xff; 4]).contains("its zip directory is said to lie at 4294967295+"));
    assert!(hostile(6..10, &[0xf0; 4]).contains("its zip directory is said to lie at "));
    assert!(hostile(2..6, &[0; 4]).contains("its zip directory is damaged"));
    let wide = |sizes: [u8; 16]| {
        let mut file = zip(&[pickle()]);
        let end = file.split_off(file.len() - 22);
        let start = file.len() as u64;
        file.extend(b"PK\x06\x06");
        file.extend([0; 36]);
        file.extend(sizes);
        file.extend(b"PK\x06\x07\0\0\0\0");
        file.extend(start.to_le_bytes());
        file.extend([1, 0, 0, 0]);
        refused(&[file, end].concat())
    };
    assert!(wide([0xff; 16]).contains("its zip directory is said to lie at 18446744073709551615+"));
    assert!(wide([0; 16]).contains("has not one entry data.pkl"));
}

#[test]
fn an_index_of_torch_files_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(bin("sharded")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    load(dir.path()).unwrap();
    let second = dir.path().join("pytorch_model-00002-of-00002.bin");
    fs::remove_file(&second).unwrap();
    let missing = message(dir.path());
    assert!(missing.contains("00002.bin: is missing; pytorch_model.bin.index.json has"), "{missing}");
    fs::copy(bin("single").join(FILE), &second).unwrap();
    let other = fs::read_to_string(dir.path().join("pytorch_model.bin.index.json")).unwrap();
    fs::write(dir.path().join("pytorch_model.bin.index.json"), other.replace("norm.weight", "norm.wait"))
        .unwrap();
    assert!(message(dir.path()).contains("has no tensor"));
}

/// The parts of a file that decide anything: the pickle at its start and the directory at its end.
fn deciding(file: &[u8]) -> (usize, usize) {
    let storage = file.windows(7).position(|window| window == b"/data/0").unwrap();
    let directory = file.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    (storage, file.len() - directory)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens to pickle or directory, the answer is a model or an error that names the file.
    #[test]
    fn damaged_files_never_panic(
        folder in prop::sample::select(vec!["single", "views"]),
        place in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut file = fs::read(bin(folder).join(FILE)).unwrap();
        let (pickle, directory) = deciding(&file);
        let at = place.index(pickle + directory - bytes.len());
        let at = if at < pickle { at } else { file.len() - directory + (at - pickle) };
        let end = (at + bytes.len()).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        let dir = tempfile::tempdir().unwrap();
        fs::copy(bin(folder).join("config.json"), dir.path().join("config.json")).unwrap();
        fs::write(dir.path().join(FILE), file).unwrap();
        if let Err(error) = load(dir.path()) {
            prop_assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
        }
    }

    /// Any program of the known instructions ends in an answer.
    #[test]
    fn random_programs_never_panic(
        words in prop::collection::vec(prop::sample::select(words()), 0..40),
    ) {
        let program = [b"\x80\x02".to_vec(), words.concat(), b".".to_vec()].concat();
        let dir = with_file(&torch_file(&program));
        let message = message(dir.path());
        prop_assert!(message.contains(dir.path().to_str().unwrap()), "{message}");
    }
}

/// Instructions with their operands, good ones mostly.
fn words() -> Vec<Vec<u8>> {
    let one = op::tensor(op::storage("FloatStorage", "0", 8), 0, &[2, 2], &[2, 1]);
    let mut words =
        vec![op::text("storage"), op::text("0"), op::int(8), one, op::storage("FloatStorage", "0", 8)];
    words.extend([op::global("torch", "FloatStorage"), op::global("collections", "OrderedDict")]);
    words.extend([op::global("torch._utils", "_rebuild_parameter"), b"q\x01".to_vec(), b"h\x01".to_vec()]);
    words.extend(b"()}tusRQbN\x85\x86\x87\x88".iter().map(|code| vec![*code]));
    words
}
