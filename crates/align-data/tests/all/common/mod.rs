//! What several tests share.

use std::path::{Path, PathBuf};

use align_data::{ChatTemplate, Tokenizer};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/text").join(name)
}

pub fn read_json(name: &str) -> serde_json::Value {
    let path = fixture(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The small tokenizers of the fixtures: `plain`, and `bos`, which puts a token before plain text.
pub fn tokenizer(name: &str) -> (Tokenizer, ChatTemplate) {
    let folder = fixture("tokenizer").join(name);
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let template = ChatTemplate::from_folder(&folder, tokenizer.special_tokens()).unwrap().unwrap();
    (tokenizer, template)
}

/// A file of real data, or a printed note that the test is skipped.
pub fn real_data(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("ALIGN_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there (set ALIGN_TEST_DATA)", path.display());
    None
}

/// Writes a file into a folder and returns its path.
pub fn write(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}
