//! Files that every crate must have, and those that must be equal everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use xtask::{Metadata, Package};

use crate::{expect_none, workspace};

fn crates(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata.packages.iter().filter(|p| p.name != "xtask")
}

#[test]
fn every_crate_has_a_readme_an_example_and_the_common_lints() {
    let (_, metadata) = workspace();
    let mut problems = Vec::new();
    for package in crates(&metadata) {
        let name = &package.name;
        if package.dir.file_name().is_none_or(|folder| *folder != **name) {
            problems.push(format!("{name} is in {}, a folder of another name", package.dir.display()));
        }
        if fs::read_to_string(package.dir.join("README.md")).unwrap_or_default().lines().count() < 5 {
            problems.push(format!("{name} has no README.md of at least five lines"));
        }
        if !package.targets.iter().any(|t| t.kind == "example") {
            problems.push(format!("{name} has no example"));
        }
        let manifest = fs::read_to_string(package.dir.join("Cargo.toml")).unwrap();
        if !manifest.contains("[lints]\nworkspace = true") {
            problems.push(format!("{name} does not inherit the lints of the workspace"));
        }
    }
    expect_none(&problems);
}

/// Examples of all crates land in one folder, so two of one name would overwrite each other.
#[test]
fn examples_have_different_names_and_say_how_to_run_them() {
    let (_, metadata) = workspace();
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for (package, name) in metadata.targets("example") {
        if !seen.insert(name) {
            problems.push(format!("{}: another crate has an example named {name} too", package.name));
        }
        let file = package.dir.join("examples").join(format!("{name}.rs"));
        let text = fs::read_to_string(&file).unwrap_or_default();
        let comment: Vec<_> = text.lines().take_while(|line| line.starts_with("//")).collect();
        let command = format!("--example {name}");
        if !comment.iter().any(|line| line.contains("cargo run") && line.contains(&command)) {
            problems.push(format!("{}: the first comment lacks `cargo run ... {command}`", file.display()));
        }
    }
    expect_none(&problems);
}

#[test]
fn licences_are_everywhere() {
    let (workspace, metadata) = workspace();
    let licence = fs::read_to_string(workspace.root().join("LICENSE")).unwrap_or_default();
    let mut problems = Vec::new();
    if !licence.contains("Apache License") || !licence.contains("Version 2.0") {
        problems.push("LICENSE is not the Apache License 2.0".to_owned());
    }
    // Cargo packs the folder of a crate and nothing above it.
    for package in crates(&metadata).filter(|p| p.published) {
        if fs::read_to_string(package.dir.join("LICENSE")).unwrap_or_default() != licence {
            problems.push(format!("{} is published without a copy of LICENSE", package.name));
        }
    }
    expect_none(&problems);
}

/// The loader path of libtorch reaches a program only through the build script of the program's own crate, and
/// cargo tells that script where libtorch is only if the crate depends on torch-sys directly.
#[test]
fn build_scripts_are_equal_and_where_they_are_needed() {
    let (_, metadata) = workspace();
    let mut copies: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut problems = Vec::new();
    for package in crates(&metadata) {
        let name = package.name.as_str();
        let script = fs::read_to_string(package.dir.join("build.rs")).ok();
        let depends_on = |what: &str| package.dependencies.iter().any(|d| d.name == what);
        let links = ["tch", "align-core", "align-testkit"].iter().any(|what| depends_on(what));
        if links && script.is_none() {
            problems.push(format!("{name} links libtorch and has no build.rs"));
        }
        if script.is_some() && !depends_on("torch-sys") {
            problems.push(format!(
                "{name} has a build.rs, which learns nothing without a dependency on torch-sys"
            ));
        }
        if let Some(script) = script {
            copies.entry(script).or_default().push(name);
        }
    }
    if copies.len() > 1 {
        problems.push(format!("build.rs differs between these groups: {:?}", copies.values()));
    }
    expect_none(&problems);
}

#[test]
fn the_readme_names_both_commands() {
    let (workspace, _) = workspace();
    let readme = fs::read_to_string(workspace.root().join("README.md")).unwrap_or_default();
    let missing = |command: &&str| {
        !readme.lines().any(|line| line.trim().trim_start_matches("$ ").starts_with(*command))
    };
    let commands = ["cargo xtask test", "cargo xtask reproduce dpo-vs-ppo"];
    let problems: Vec<_> =
        commands.iter().filter(|c| missing(c)).map(|c| format!("README.md has no line with `{c}`")).collect();
    expect_none(&problems);
}

#[test]
fn continuous_integration_runs_the_command_of_the_readme() {
    let (workspace, _) = workspace();
    let script = fs::read_to_string(workspace.root().join(".ci/run")).unwrap_or_default();
    assert!(
        script.lines().any(|line| line.trim() == "cargo xtask test"),
        ".ci/run does not run `cargo xtask test`"
    );
}
