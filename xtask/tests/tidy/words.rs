//! What no file of the repository may contain.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{expect_none, workspace};

/// Written in two parts, so that this file does not contain them itself.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("crates", ".io"), "name the crate, not the registry"),
    (concat!("pypi", ".org"), "name the package, not the index"),
    (concat!("pythonhosted", ".org"), "name the package, not the index"),
    (concat!("npmjs", ".org"), "name the package, not the registry"),
    (concat!("npmjs", ".com"), "name the package, not the registry"),
    (concat!("rubygems", ".org"), "name the package, not the registry"),
    (concat!("anaconda", ".org"), "name the package, not the registry"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("shared/", "design"), "a path outside the repository"),
];

/// Extensions of files that people write and whose white space is checked.
const WRITTEN: [&str; 8] = ["rs", "toml", "md", "yml", "yaml", "py", "sh", "html"];

#[test]
fn no_file_names_a_registry_or_a_machine() {
    let (workspace, _) = workspace();
    let mut problems = Vec::new();
    for file in files(workspace.root()) {
        // Cargo writes the lock file, with the registry in it.
        if file.file_name().is_some_and(|name| name == "Cargo.lock") {
            continue;
        }
        if let Ok(text) = std::fs::read_to_string(workspace.root().join(&file)) {
            forbidden(&file, &text, &mut problems);
        }
    }
    expect_none(&problems);
}

#[test]
fn written_files_have_no_tabs_and_no_trailing_spaces() {
    let (workspace, _) = workspace();
    let mut problems = Vec::new();
    for file in files(workspace.root()) {
        let extension = file.extension().unwrap_or_default().to_string_lossy().into_owned();
        if !WRITTEN.contains(&extension.as_str()) && file != Path::new(".ci/run") {
            continue;
        }
        if let Ok(text) = std::fs::read_to_string(workspace.root().join(&file)) {
            white_space(&file, &text, &mut problems);
        }
    }
    expect_none(&problems);
}

/// The files that belong to the repository: those git knows or would add.
fn files(root: &Path) -> Vec<PathBuf> {
    let list = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    match list {
        Ok(list) if list.status.success() => {
            let names = String::from_utf8_lossy(&list.stdout);
            names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect()
        }
        // A source archive has no git; the folders that hold written files are known.
        _ => {
            println!("note: git lists no files here, so only crates, docs and xtask are checked");
            let mut found = Vec::new();
            ["crates", "docs", "xtask"].iter().for_each(|dir| walk(root, Path::new(dir), &mut found));
            found
        }
    }
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) {
    for child in std::fs::read_dir(root.join(dir)).into_iter().flatten().flatten() {
        let path = dir.join(child.file_name());
        if root.join(&path).is_dir() { walk(root, &path, found) } else { found.push(path) }
    }
}

fn forbidden(file: &Path, text: &str, problems: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate() {
        let lower = line.to_lowercase();
        for (word, why) in FORBIDDEN.iter().filter(|(word, _)| lower.contains(word)) {
            problems.push(format!("{}:{}: contains {word}: {why}", file.display(), number + 1));
        }
    }
}

fn white_space(file: &Path, text: &str, problems: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate() {
        if line.contains('\t') || line.ends_with(' ') {
            problems.push(format!("{}:{}: a tab or a trailing space", file.display(), number + 1));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        problems.push(format!("{}: the last line has no end", file.display()));
    }
}

#[test]
fn forbidden_words_and_white_space_are_caught() {
    let mut problems = Vec::new();
    for (word, _) in FORBIDDEN {
        forbidden(Path::new("f"), &format!("a\nsee https://{}x", word.to_uppercase()), &mut problems);
    }
    assert_eq!(problems.len(), FORBIDDEN.len(), "{problems:?}");
    assert!(problems.iter().all(|problem| problem.starts_with("f:2: ")));

    for (text, expected) in [("a\n", 0), ("", 0), ("a \n", 1), ("\ta\n", 1), ("a", 1), ("a\r\n", 0)] {
        let mut problems = Vec::new();
        white_space(Path::new("f"), text, &mut problems);
        assert_eq!(problems.len(), expected, "{text:?}");
    }
}

#[test]
fn the_list_of_files_holds_this_one() {
    let (workspace, _) = workspace();
    assert!(files(workspace.root()).contains(&PathBuf::from("xtask/tests/tidy/words.rs")));
}
