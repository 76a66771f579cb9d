//! Rust source reduced to the code that ships: comments, literals and test items are blanked out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::rust_files;

/// A source file; `code` has the same length and lines as `text`, with spaces where something was blanked.
pub struct Source {
    pub path: PathBuf,
    text: String,
    pub code: String,
}

impl Source {
    pub fn new(path: &Path, text: &str) -> Self {
        let (code, _) = without_tests(&blank(text));
        Self { path: path.to_path_buf(), text: text.to_owned(), code }
    }

    /// Reads all sources of a crate that are not compiled for tests only.
    pub fn of_crate(dir: &Path) -> Vec<Self> {
        let mut test_files = BTreeSet::new();
        let mut sources = Vec::new();
        for path in rust_files(&dir.join("src")) {
            let text = std::fs::read_to_string(&path).unwrap();
            let (_, modules) = without_tests(&blank(&text));
            test_files.extend(modules.iter().flat_map(|module| module_files(&path, module)));
            sources.push(Self::new(&path, &text));
        }
        // A folder module takes the files below it along.
        sources.retain(|source| !test_files.iter().any(|test| source.path.starts_with(test)));
        sources
    }

    pub fn line(&self, offset: usize) -> usize {
        self.code[..offset].matches('\n').count() + 1
    }

    /// True when the line, or the one above it, names the rule and a reason.
    fn allows(&self, line: usize, rule: &str) -> bool {
        let marker = format!("tidy: allow({rule}):");
        let has_reason =
            |text: &str| text.split_once(&marker).is_some_and(|(_, reason)| reason.trim().len() > 5);
        self.text.lines().skip(line.saturating_sub(2)).take(line.min(2)).any(has_reason)
    }

    /// Adds a problem unless it is allowed there.
    pub fn report(&self, problems: &mut Vec<String>, offset: usize, rule: &str, message: &str) {
        let line = self.line(offset);
        if !self.allows(line, rule) {
            problems.push(format!("{}:{line}: {message} [{rule}]", self.path.display()));
        }
    }

    /// What follows the bracketed group that opens at `open`, without leading white space.
    pub fn after_group(&self, open: usize) -> &str {
        let end = group_end(self.code.as_bytes(), open);
        self.code[end..].trim_start()
    }

    /// True when the result of the call whose arguments open at `open` is handled as a `Result`, which what
    /// panics does not return: it must be a method of ours with the same name.
    pub fn is_fallible(&self, open: usize) -> bool {
        let after = self.after_group(open);
        after.starts_with('?')
            || [".map_err(", ".and_then(", ".is_err()", ".ok()"].iter().any(|m| after.starts_with(m))
    }
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Offsets at which `word` stands as a whole word.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).is_none_or(|i| !is_word(bytes[i]));
        before && bytes.get(at + word.len()).is_none_or(|&b| !is_word(b))
    })
}

/// Where the files of `mod module;` in `parent` may be.
fn module_files(parent: &Path, module: &str) -> [PathBuf; 2] {
    let stem = parent.file_stem().unwrap_or_default().to_string_lossy();
    let dir = parent.parent().unwrap_or(Path::new(""));
    let dir = if matches!(&*stem, "lib" | "main" | "mod") { dir.to_path_buf() } else { dir.join(&*stem) };
    [dir.join(format!("{module}.rs")), dir.join(module)]
}

/// Replaces comments and the contents of literals by spaces.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(bytes, at);
        if let Some(end) = end {
            for byte in &mut out[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            at = end;
        } else {
            at += 1;
        }
    }
    String::from_utf8(out).unwrap()
}

/// The end of the comment or literal that starts here, if one does.
fn token_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return Some(find(bytes, at, b"\n").unwrap_or(bytes.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(block_comment_end(bytes, at));
    }
    match rest.first()? {
        b'"' => Some(string_end(bytes, at + 1)),
        b'r' | b'b' | b'c' if at == 0 || !is_word(bytes[at - 1]) => raw_string_end(bytes, at),
        b'\'' => char_end(bytes, at),
        _ => None,
    }
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|window| window == what).map(|i| from + i)
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i < bytes.len() {
        if bytes[i..].starts_with(b"/*") {
            depth += 1;
            i += 2;
        } else if bytes[i..].starts_with(b"*/") {
            depth -= 1;
            i += 2;
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut i: usize) -> usize {
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'"' => return i + 1,
            _ => i += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut i = at;
    if matches!(bytes[i], b'b' | b'c') {
        i += 1;
    }
    if bytes.get(i) != Some(&b'r') {
        return None;
    }
    i += 1;
    let hashes = bytes[i..].iter().take_while(|&&b| b == b'#').count();
    i += hashes;
    if bytes.get(i) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &vec![b'#'; hashes]].concat();
    Some(find(bytes, i + 1, &close).map_or(bytes.len(), |end| end + close.len()))
}

/// The end of a character literal; a lifetime is none.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        return find(bytes, at + 3, b"'").map(|end| end + 1);
    }
    let character = std::str::from_utf8(&bytes[at + 1..]).ok()?.chars().next()?;
    let end = at + 1 + character.len_utf8();
    (bytes.get(end) == Some(&b'\'')).then_some(end + 1)
}

/// The offset behind the group that opens at `open` with one of `( [ {`.
fn group_end(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0;
    for (i, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
    }
    bytes.len()
}

/// Blanks the items that only tests compile; also returns the names of their file modules.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let mut out = code.as_bytes().to_vec();
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("#[") {
        let attribute_end = group_end(code.as_bytes(), at + 1);
        let attribute: String = code[at..attribute_end].split_whitespace().collect();
        let only_tests = ["#[cfg(test)]", "#[test]"].contains(&attribute.as_str())
            || attribute.starts_with("#[cfg(all(test,");
        if !only_tests {
            continue;
        }
        let end = item_end(code, attribute_end);
        let item = code[attribute_end..end].trim();
        let name = item.strip_suffix(';').and_then(|item| item.split("mod ").nth(1));
        modules.extend(name.map(|name| name.trim().to_owned()));
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    (String::from_utf8(out).unwrap(), modules)
}

/// The end of the item that starts at `from`: its block, or its semicolon.
fn item_end(code: &str, from: usize) -> usize {
    let bytes = code.as_bytes();
    let mut i = from;
    while i < bytes.len() {
        match bytes[i] {
            b'{' => return group_end(bytes, i),
            b';' => return i + 1,
            // Further attributes and arguments.
            b'(' | b'[' => i = group_end(bytes, i),
            _ => i += 1,
        }
    }
    bytes.len()
}

#[test]
fn comments_and_literals_are_blanked() {
    for text in [
        "a // unwrap()",
        "a /* x /* unwrap() */ unwrap() */",
        "a \"unwrap() \\\" unwrap()\"",
        "a r#\"unwrap() \" unwrap()\"#",
        "a br\"unwrap()\"",
        "a /// unwrap()\n",
    ] {
        assert_eq!(blank(text).trim(), "a", "{text}");
        assert_eq!(blank(text).len(), text.len());
    }
    let code = "let c = '\"'; x.unwrap(); let d = '\\''; y::<'a>(); let e = 'é'; z";
    let blanked = blank(code);
    assert!(blanked.contains("x.unwrap();") && blanked.contains("y::<'a>();"), "{blanked}");
    assert!(!blanked.contains('é') && blanked.ends_with('z'), "{blanked}");
}

#[test]
fn test_items_are_blanked_and_their_files_named() {
    let code = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests { fn b() { c() } }\nfn d() {}\n#[cfg(test)]\nmod e;\n#[cfg(not(test))]\nfn f() {}\n#[cfg(test)]\nuse g;\nfn h() {}";
    let (out, modules) = without_tests(code);
    let left: String = out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(left, "fn a() {} fn d() {} #[cfg(not(test))] fn f() {} fn h() {}");
    assert_eq!(modules, ["e"]);
    assert_eq!(module_files(Path::new("src/lib.rs"), "e")[0], Path::new("src/e.rs"));
    assert_eq!(module_files(Path::new("src/b.rs"), "e")[1], Path::new("src/b/e"));
}

#[test]
fn an_allowance_needs_its_rule_and_a_reason() {
    let reported = |text: &str| {
        let source = Source::new(Path::new("f.rs"), text);
        let mut problems = Vec::new();
        source.report(&mut problems, source.code.find("bad").unwrap(), "rule", "message");
        problems.len()
    };
    assert_eq!(reported("bad"), 1);
    assert_eq!(reported("// tidy: allow(rule): the caller checked it\nbad"), 0);
    assert_eq!(reported("bad // tidy: allow(rule): the caller checked it"), 0);
    assert_eq!(reported("// tidy: allow(rule):\nbad"), 1);
    assert_eq!(reported("// tidy: allow(other): the caller checked it\nbad"), 1);
    assert_eq!(reported("// tidy: allow(rule): the caller checked it\n\nbad"), 1);
}
