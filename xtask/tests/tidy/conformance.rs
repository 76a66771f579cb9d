//! The table of hazards: every test it names exists, and the page is made from it.

use std::fs;

use xtask::conformance::{HAZARDS, page};

use crate::{expect_none, workspace};

#[test]
fn every_test_of_the_table_exists() {
    let (workspace, metadata) = workspace();
    let mut problems = Vec::new();
    for (index, hazard) in HAZARDS.iter().enumerate() {
        let number = index + 1;
        if hazard.tests.is_empty() && hazard.later.is_empty() {
            problems.push(format!("hazard {number} has neither a test nor the subject it comes with"));
        }
        for proof in hazard.proofs().unwrap() {
            let Some(package) = metadata.packages.iter().find(|p| p.name == proof.package) else {
                problems.push(format!("hazard {number}: there is no crate {}", proof.package));
                continue;
            };
            let path = package.dir.join(&proof.file);
            let shown = path.strip_prefix(workspace.root()).unwrap_or(&path).display().to_string();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if !is_test(&text, &proof.name) {
                problems.push(format!("hazard {number}: {shown} has no test `{}`", proof.name));
            }
        }
    }
    expect_none(&problems);
}

/// True when a function of that name has `#[test]` among its attributes.
fn is_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let signature = format!("fn {name}(");
    let place = lines.iter().position(|line| line.starts_with(&signature));
    place.is_some_and(|place| {
        let above = lines.iter().take(place).rev();
        let mut above = above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        above.any(|line| *line == "#[test]")
    })
}

#[test]
fn tests_are_told_from_other_functions() {
    let text =
        "fn helper() {}\n\n/// Words.\n#[cfg(unix)]\n#[test]\n/// More.\nfn one() {}\n\nfn oneself() {}\n";
    assert!(is_test(text, "one"));
    assert!(!is_test(text, "helper") && !is_test(text, "oneself") && !is_test(text, "on"));
}

#[test]
fn the_page_is_fresh() {
    let (workspace, _) = workspace();
    let path = workspace.root().join("docs/conformance.md");
    let made = page();
    if std::env::var_os("ALIGN_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "docs/conformance.md is old: ALIGN_BLESS=1 cargo test --release -p xtask --test tidy"
    );
}
