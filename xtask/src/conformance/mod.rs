//! `cargo xtask test conformance`: the known hazards of the field and the tests that keep them out.
//!
//! One table ([`HAZARDS`]) is the source of the page `docs/conformance.md` and of what this command runs; a tidy test
//! checks that the page is fresh and that every test of the table exists.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{ALL_CRATES, Error, Metadata, Result, Workspace, process};

pub use table::HAZARDS;

/// A way to be wrong without anybody noticing, and what of ours notices it.
#[derive(Debug, Clone, Copy)]
pub struct Hazard {
    /// What holds here.
    pub title: &'static str,
    /// What goes wrong for a user where it does not hold.
    pub harm: &'static str,
    /// Where it went wrong: threads of other projects; empty when it is known from no single one.
    pub peers: &'static str,
    /// The tests that fail when it comes back, each as `CRATE FILE NAME`.
    pub tests: &'static [&'static str],
    /// The subject of later work that will bring (more of) its tests; empty when nothing is missing.
    pub later: &'static str,
}

impl Hazard {
    /// Reads the tests of the table.
    ///
    /// # Errors
    /// [`Error::Usage`] for an entry that is not made of three words.
    pub fn proofs(&self) -> Result<Vec<Proof>> {
        let wrong = |entry: &str| Error::usage(format!("{entry:?} is not CRATE FILE NAME"), []);
        self.tests.iter().map(|entry| Proof::parse(entry).ok_or_else(|| wrong(entry))).collect()
    }
}

/// One test function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proof {
    /// Its crate.
    pub package: String,
    /// Its file, from the folder of the crate.
    pub file: String,
    /// Its name.
    pub name: String,
}

impl Proof {
    fn parse(entry: &str) -> Option<Self> {
        let words: Vec<&str> = entry.split(' ').collect();
        let [package, file, name] = words[..] else { return None };
        Some(Self { package: package.into(), file: file.into(), name: name.into() })
    }

    /// The kind and name of the cargo target that holds the test.
    fn target(&self) -> (&'static str, String) {
        let stem = self.file.trim_end_matches(".rs");
        if let Some(test) = stem.strip_prefix("tests/") {
            return ("test", test.split('/').next().unwrap_or(test).to_owned());
        }
        match stem.strip_prefix("src/bin/") {
            Some(program) => ("bin", program.split('/').next().unwrap_or(program).to_owned()),
            None => ("lib", self.package.replace('-', "_")),
        }
    }

    /// The names under which libtest may know the test: in a module `tests` of its file, or in the file itself.
    fn paths(&self) -> [String; 2] {
        let stem = self.file.trim_end_matches(".rs");
        let modules: Vec<&str> = match stem.strip_prefix("src/bin/").or(stem.strip_prefix("tests/")) {
            // The first folder, or the file, is the target itself.
            Some(inside) => inside.split('/').skip(1).collect(),
            None => stem.trim_start_matches("src/").split('/').collect(),
        };
        let modules = modules.into_iter().filter(|part| !["mod", "lib", "main"].contains(part));
        let path: String = modules.map(|part| format!("{part}::")).collect();
        [format!("{path}tests::{}", self.name), format!("{path}{}", self.name)]
    }
}

/// Columns of the page's text.
const WIDTH: usize = 120;

const INTRODUCTION: &str = "\
Ways in which training programs of this kind were silently wrong, and the tests here that fail when one of them comes \
back. `cargo xtask test conformance` builds the tests once, runs exactly these and prints a line per hazard. They are \
part of `cargo xtask test` too, which runs every test and needs no second pass.";

const SOURCE: &str = "\
Made from `xtask/src/conformance/table.rs`. A test keeps the page fresh (`ALIGN_BLESS=1 cargo test --release -p xtask \
--test tidy` writes it anew) and checks that every test it names exists.";

const BESIDE: &str = "\
Two tests beside the hazards look at whole runs. `crates/align-cli/tests/all/trl.rs` follows TRL 1.16 through three \
full-batch steps of every loss of rows that it has, and names what is not compared with the reason; what is left out \
stands in the README of `align-losses`; `fixtures/trl/three_steps.py` makes the numbers. \
`crates/align-cli/tests/all/learning` shows that every loss learns a rule, on words under prompts that it has not seen, and \
does not learn it from shuffled feedback; it names the one that learns too little of it to be told from chance, `dft` of SFT.";

/// Writes the page of the documentation.
pub fn page() -> String {
    let mut page = String::from("# Conformance\n");
    for paragraph in [INTRODUCTION, SOURCE, BESIDE] {
        page += &paragraph_of(paragraph);
    }
    for (index, hazard) in HAZARDS.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(page, "\n## {}. {}", index + 1, capital(hazard.title));
        let seen =
            if hazard.peers.is_empty() { String::new() } else { format!(" Seen in {}.", hazard.peers) };
        page += &paragraph_of(&format!("{}{seen}", hazard.harm));
        page.push('\n');
        for entry in hazard.tests {
            if let Some(Proof { package, file, name }) = Proof::parse(entry) {
                let _ = writeln!(page, "* `{package}`, `{file}`: `{name}`");
            }
        }
        if !hazard.later.is_empty() {
            let not_yet = if hazard.tests.is_empty() { "not yet: comes with" } else { "not yet, for" };
            let _ = writeln!(page, "* {not_yet} {}", hazard.later);
        }
    }
    page
}

/// An empty line and the text, broken at [`WIDTH`] columns.
fn paragraph_of(text: &str) -> String {
    let (mut paragraph, mut column) = (String::from("\n"), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        let separator = match column {
            0 => "",
            _ if column + 1 + length > WIDTH => "\n",
            _ => " ",
        };
        column = if separator == " " { column + 1 + length } else { length };
        paragraph.push_str(separator);
        paragraph.push_str(word);
    }
    paragraph + "\n"
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Builds all tests, runs those of the table and prints a line per hazard.
///
/// # Errors
/// Those of the build; [`Error::Child`] when a test fails or was not found.
pub fn run(workspace: &Workspace, metadata: &Metadata) -> Result<()> {
    let mut wanted: BTreeMap<(String, &'static str, String), BTreeSet<Proof>> = BTreeMap::new();
    for hazard in &HAZARDS {
        for proof in hazard.proofs()? {
            let (kind, name) = proof.target();
            wanted.entry((proof.package.clone(), kind, name)).or_default().insert(proof);
        }
    }
    let programs = build(workspace)?;
    let mut passed = BTreeSet::new();
    for ((package, kind, name), proofs) in &wanted {
        let program = programs.iter().find(|p| p.package == *package && p.kind == *kind && p.name == *name);
        let folder = metadata.packages.iter().find(|p| p.name == *package).map(|p| p.dir.as_path());
        if let (Some(program), Some(folder)) = (program, folder) {
            passed.extend(run_program(&program.file, folder, proofs)?);
        }
    }
    let mut missing = 0;
    for (index, hazard) in HAZARDS.iter().enumerate() {
        let proofs = hazard.proofs()?;
        let failed: Vec<_> = proofs.iter().filter(|proof| !passed.contains(*proof)).collect();
        missing += failed.len();
        println!("{}", line(index + 1, hazard, &proofs, &failed));
    }
    let program = "conformance".to_owned();
    if missing == 0 { Ok(()) } else { Err(Error::Child { program, code: 1 }) }
}

/// One line of the answer: number, verdict, title, tests.
fn line(number: usize, hazard: &Hazard, proofs: &[Proof], failed: &[&Proof]) -> String {
    let verdict = match (proofs.is_empty(), failed.is_empty()) {
        (_, false) => "FAILED",
        (true, true) => "not yet",
        (false, true) => "ok",
    };
    let names: Vec<&str> = match failed.is_empty() {
        true => proofs.iter().map(|proof| proof.name.as_str()).collect(),
        false => failed.iter().map(|proof| proof.name.as_str()).collect(),
    };
    let mut tests = names.join(", ");
    if !hazard.later.is_empty() {
        let separator = if tests.is_empty() { "" } else { "; " };
        tests = format!("{tests}{separator}comes with {}", hazard.later);
    }
    format!("{number:2} {verdict:7} {}: {tests}", hazard.title)
}

/// A built program of tests.
struct Program {
    package: String,
    kind: String,
    name: String,
    file: PathBuf,
}

/// Builds every test of the workspace as `cargo xtask test` does, so that nothing is compiled twice, and asks cargo
/// where they are. The tests of this program itself have no libtorch and are built apart.
fn build(workspace: &Workspace) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for packages in [ALL_CRATES.as_slice(), &["--package", "xtask"]] {
        let mut command = crate::test::tests(workspace);
        command.args(["--release", "--no-run", "--tests", "--message-format", "json-render-diagnostics"]);
        command.args(packages).stderr(Stdio::inherit());
        let shown = process::shown(&command);
        eprintln!("$ {shown}");
        let output = command.output().map_err(|source| Error::Start { program: shown.clone(), source })?;
        process::check(shown, output.status)?;
        programs.extend(String::from_utf8_lossy(&output.stdout).lines().filter_map(program));
    }
    Ok(programs)
}

/// Reads a line of cargo's JSON; `None` for what is no program of tests.
fn program(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    let file = message.get("executable")?.as_str()?;
    if !message.get("profile")?.get("test")?.as_bool()? {
        return None;
    }
    let target = message.get("target")?;
    let manifest = Path::new(message.get("manifest_path")?.as_str()?);
    Some(Program {
        package: manifest.parent()?.file_name()?.to_str()?.to_owned(),
        kind: target.get("kind")?.as_array()?.first()?.as_str()?.to_owned(),
        name: target.get("name")?.as_str()?.to_owned(),
        file: file.into(),
    })
}

/// Runs some tests of a program in the folder of its crate, as cargo does, and returns those that passed.
fn run_program(file: &Path, folder: &Path, proofs: &BTreeSet<Proof>) -> Result<Vec<Proof>> {
    let mut command = Command::new(file);
    command.current_dir(folder).env("CARGO_MANIFEST_DIR", folder).env("OMP_WAIT_POLICY", "PASSIVE");
    command.arg("--exact").args(proofs.iter().flat_map(Proof::paths));
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        command.env("RUST_TEST_THREADS", crate::test::threads());
    }
    let program = process::shown(&command);
    let output = command.output().map_err(|source| Error::Start { program, source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        eprint!("{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(proofs.iter().filter(|proof| has_passed(&text, proof)).cloned().collect())
}

/// True when libtest's output says that a test passed.
fn has_passed(output: &str, proof: &Proof) -> bool {
    let lines = proof.paths().map(|path| format!("test {path} ... ok"));
    output.lines().any(|line| lines.iter().any(|expected| line == expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(entry: &str) -> Proof {
        Proof::parse(entry).unwrap()
    }

    #[test]
    fn targets_and_paths_follow_from_the_file() {
        for (entry, kind, target, paths) in [
            ("align-x tests/cut.rs one", "test", "cut", ["tests::one", "one"]),
            ("align-x src/kl.rs one", "lib", "align_x", ["kl::tests::one", "kl::one"]),
            (
                "align-x src/a/tests/b.rs one",
                "lib",
                "align_x",
                ["a::tests::b::tests::one", "a::tests::b::one"],
            ),
            ("align-x src/a/mod.rs one", "lib", "align_x", ["a::tests::one", "a::one"]),
            ("align-x src/lib.rs one", "lib", "align_x", ["tests::one", "one"]),
            ("align-x src/bin/tool/io.rs one", "bin", "tool", ["io::tests::one", "io::one"]),
            ("xtask tests/tidy/words.rs one", "test", "tidy", ["words::tests::one", "words::one"]),
        ] {
            let proof = proof(entry);
            assert_eq!(proof.target(), (kind, target.to_owned()), "{entry}");
            assert_eq!(proof.paths(), paths, "{entry}");
        }
        assert_eq!(Proof::parse("align-x tests/cut.rs"), None);
    }

    #[test]
    fn paragraphs_are_broken_between_words() {
        let text = "word ".repeat(60);
        let paragraph = paragraph_of(&text);
        assert!(paragraph.lines().all(|line| line.chars().count() <= WIDTH && !line.ends_with(' ')));
        assert_eq!(paragraph.split_whitespace().count(), 60);
        assert_eq!(paragraph_of("one two"), "\none two\n");
    }

    #[test]
    fn only_a_test_that_passed_counts() {
        let output = "\nrunning 2 tests\ntest kl::tests::one ... ok\ntest kl::tests::two ... FAILED\n";
        assert!(has_passed(output, &proof("align-x src/kl.rs one")));
        assert!(!has_passed(output, &proof("align-x src/kl.rs two")));
        // One of another file, and one that was never run.
        assert!(!has_passed(output, &proof("align-x src/ld.rs one")));
        assert!(!has_passed(output, &proof("align-x src/kl.rs on")));
    }

    #[test]
    fn programs_are_read_from_cargos_messages() {
        let message = |test: bool| {
            serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": "/w/crates/align-x/Cargo.toml",
                "target": {"kind": ["test"], "name": "cut"}, "profile": {"test": test}, "executable": "/w/cut-1",
            })
            .to_string()
        };
        let found = program(&message(true)).unwrap();
        assert_eq!(
            (found.package.as_str(), found.kind.as_str(), found.name.as_str()),
            ("align-x", "test", "cut")
        );
        assert!(program(&message(false)).is_none());
        assert!(program(r#"{"reason": "build-finished", "success": true}"#).is_none());
    }

    #[test]
    fn a_line_names_what_failed_and_what_is_missing() {
        let hazard = |tests, later| Hazard { title: "a title", harm: "", peers: "", tests, later };
        let (one, two) = (proof("a tests/b.rs one"), proof("a tests/b.rs two"));
        let both = [one.clone(), two.clone()];
        let said = |hazard: &Hazard, proofs: &[Proof], failed: &[&Proof]| line(7, hazard, proofs, failed);
        assert_eq!(said(&hazard(&[], ""), &both, &[]), " 7 ok      a title: one, two");
        assert_eq!(said(&hazard(&[], "PPO"), &both, &[&two]), " 7 FAILED  a title: two; comes with PPO");
        assert_eq!(said(&hazard(&[], "PPO"), &[], &[]), " 7 not yet a title: comes with PPO");
    }
}
