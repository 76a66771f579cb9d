//! The README says which test stands behind each practice; this one says whether it is there.

use std::{fs, path::Path};

/// The second column of the table of practices: names of tests in backquotes.
fn named(readme: &str) -> Vec<&str> {
    let rows = readme.lines().skip_while(|line| !line.starts_with("| practice |")).skip(2);
    let cells = rows.map_while(|row| row.strip_prefix("| ")?.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// All text of the programs and tests of a folder.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: std::path::PathBuf| match path.is_dir() {
        true => sources(&path),
        false if path.extension().is_some_and(|end| end == "rs") => fs::read_to_string(&path).unwrap(),
        false => String::new(),
    };
    entries.map(text).collect()
}

#[test]
fn every_practice_has_the_test_that_the_readme_names() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let places =
        ["align-ppo/src", "align-ppo/tests", "align-data/tests", "align-train/tests", "align-cli/tests"];
    let all: String = places.iter().map(|place| sources(&crates.join(place))).collect();
    let names = named(include_str!("../../README.md"));
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(
            all.contains(&format!("#[test]\nfn {name}("))
                || all.contains(&format!("#[test]\n    fn {name}(")),
            "{name}"
        );
    }
}
