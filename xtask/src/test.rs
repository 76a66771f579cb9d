//! `cargo xtask test`: everything that continuous integration runs, cheap first.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::process;
use crate::{ALL_CRATES, ALL_PROGRAMS, Error, Metadata, Result, Workspace, conformance, rustc, setup};

/// The flags of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only these parts: fmt, tidy, setup, clippy, unit, examples, benches, doc, the name of a crate, or conformance
    /// (the tests of unit and tidy that keep known hazards out, with a line for each hazard)
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// The part that is not among [`stages`], because `unit` and `tidy` hold its tests.
const CONFORMANCE: &str = "conformance";

type Run = dyn Fn(&Workspace, &Metadata) -> Result<()>;

/// One part of the tests.
struct Stage {
    name: String,
    needs_libtorch: bool,
    run: Box<Run>,
}

impl Stage {
    fn new(
        name: &str,
        needs_libtorch: bool,
        run: impl Fn(&Workspace, &Metadata) -> Result<()> + 'static,
    ) -> Self {
        Self { name: name.to_owned(), needs_libtorch, run: Box::new(run) }
    }
}

/// Every part, in the order of [`run`]. All of them use the release profile and the same packages, so that tch's C++
/// part, which takes minutes, and everything else is compiled once.
fn stages() -> Vec<Stage> {
    vec![
        Stage::new("fmt", false, |w, _| process::run(w.cargo("fmt").args(["--all", "--check"]))),
        Stage::new("tidy", false, tidy),
        Stage::new("setup", true, |_, _| Ok(())),
        Stage::new("clippy", true, |w, _| {
            let flags = ["--all-targets", "--", "--deny", "warnings"];
            process::run(w.cargo("clippy").arg("--release").args(ALL_CRATES).args(flags))
        }),
        Stage::new("unit", true, |w, _| {
            process::run(tests(w).args(["--release", "--no-fail-fast"]).args(ALL_CRATES))
        }),
        Stage::new("examples", true, examples),
        Stage::new("benches", true, benches),
        Stage::new("doc", true, |w, _| doc(w, &ALL_CRATES)),
    ]
}

/// Runs the stages that the options name, prints how long each took, and stops at the first that fails.
///
/// # Errors
/// [`Error::Usage`] for an unknown name, otherwise the error of the stage that failed.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let metadata = workspace.metadata()?;
    let stages = select(stages(), &metadata, &options.names)?;
    let mut report = Report::default();
    let mut ready = false;
    for stage in &stages {
        if stage.needs_libtorch && !ready {
            report.time("setup", || setup::ensure(workspace, &ALL_PROGRAMS))?;
            ready = true;
        }
        if stage.name != "setup" {
            report.time(&stage.name, || (stage.run)(workspace, &metadata))?;
        }
    }
    eprint!("{}", report.text());
    Ok(())
}

/// The rules of the workspace that need no libtorch, and all about this program itself.
fn tidy(workspace: &Workspace, _: &Metadata) -> Result<()> {
    let this = ["--release", "--package", "xtask"];
    process::run(tests(workspace).args(this).arg("--quiet"))?;
    process::run(workspace.cargo("clippy").args(this).args(["--all-targets", "--", "--deny", "warnings"]))?;
    doc(workspace, &["--package", "xtask"])
}

/// Picks stages by name; a crate's name becomes a stage of its own tests.
fn select(all: Vec<Stage>, metadata: &Metadata, names: &[String]) -> Result<Vec<Stage>> {
    if names.is_empty() {
        return Ok(all);
    }
    let crates: Vec<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    let mut chosen = Vec::new();
    for name in names {
        let package = crates.iter().find(|c| *c == name || c.strip_prefix("align-") == Some(name));
        if name == CONFORMANCE {
            chosen.push(Stage::new(name, true, conformance::run));
        } else if all.iter().any(|stage| stage.name == *name) {
            chosen.extend(stages().into_iter().filter(|stage| stage.name == *name));
        } else if let Some(package) = package {
            let package = (*package).to_owned();
            chosen.push(Stage::new(name, package != "xtask", move |w, _| {
                process::run(tests(w).args(["--release", "--package", &package]))
            }));
        } else {
            let mut parts: Vec<_> = all.iter().map(|stage| stage.name.as_str()).collect();
            parts.push(CONFORMANCE);
            let hints = [format!("parts: {}", parts.join(", ")), format!("crates: {}", crates.join(", "))];
            return Err(Error::usage(format!("there is no test named {name:?}"), hints));
        }
    }
    Ok(chosen)
}

/// `cargo test` of quickly compiled test programs, with as many test threads as help: each of them runs libtorch, which
/// has threads of its own.
pub(crate) fn tests(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo("test");
    rustc::quick_tests(&mut command);
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        command.env("RUST_TEST_THREADS", threads());
    }
    command
}

/// The number of test threads that help.
pub(crate) fn threads() -> String {
    std::thread::available_parallelism().map_or(1, usize::from).min(4).to_string()
}

/// Longest time an example may take. They are meant to end within seconds.
const EXAMPLE_LIMIT: Duration = Duration::from_secs(120);

/// Builds and runs every example; each must succeed and print something.
fn examples(workspace: &Workspace, metadata: &Metadata) -> Result<()> {
    process::run(workspace.cargo("build").arg("--release").args(ALL_PROGRAMS))?;
    let logs = metadata.target_directory.join("xtask/examples");
    std::fs::create_dir_all(&logs).map_err(Error::io("create", &logs))?;
    for (package, name) in metadata.targets("example") {
        let start = Instant::now();
        example(workspace, &metadata.release_program("examples", name), &logs.join(name))?;
        eprintln!("  {} {name}: {:.1} s", package.name, start.elapsed().as_secs_f64());
    }
    Ok(())
}

fn example(workspace: &Workspace, program: &Path, log: &Path) -> Result<()> {
    let file = std::fs::File::create(log).map_err(Error::io("create", log))?;
    let errors = file.try_clone().map_err(Error::io("open", log))?;
    let mut command = Command::new(program);
    command.current_dir(workspace.root()).env("OMP_WAIT_POLICY", "PASSIVE").stdout(file).stderr(errors);
    let shown = program.display().to_string();
    let start = |source| Error::Start { program: shown.clone(), source };
    let mut child = command.spawn().map_err(start)?;
    let status = wait(&mut child, EXAMPLE_LIMIT).map_err(start)?;
    let output = std::fs::read_to_string(log).unwrap_or_default();
    match status {
        Some(status) if status.success() && !output.trim().is_empty() => Ok(()),
        Some(status) if status.success() => {
            Err(Error::Child { program: format!("{shown}, which printed nothing,"), code: 1 })
        }
        Some(status) => {
            eprint!("{output}");
            process::check(shown, status)
        }
        None => {
            eprint!("{output}");
            let limit = EXAMPLE_LIMIT.as_secs();
            Err(Error::Child { program: format!("{shown}, stopped after {limit} s,"), code: 1 })
        }
    }
}

/// Waits for a child; `None` if it was still running after `limit` and had to be killed.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs every bench function once, without measuring.
fn benches(workspace: &Workspace, metadata: &Metadata) -> Result<()> {
    match crate::bench::command(workspace, metadata) {
        Some(mut command) => process::run(command.args(["--", "--test"])),
        None => Ok(()),
    }
}

/// Builds the documentation of some packages; a warning is an error.
fn doc(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    let mut flags = std::env::var("RUSTDOCFLAGS").unwrap_or_default();
    flags.push_str(" -D warnings");
    let mut command = workspace.cargo("doc");
    process::run(command.args(["--release", "--no-deps"]).args(packages).env("RUSTDOCFLAGS", flags))
}

/// How long each stage took.
#[derive(Default)]
struct Report {
    lines: Vec<(String, Duration, bool)>,
}

impl Report {
    /// Runs a stage; prints the report if it fails.
    fn time(&mut self, name: &str, stage: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("\n== {name}");
        let start = Instant::now();
        let result = stage();
        self.lines.push((name.to_owned(), start.elapsed(), result.is_ok()));
        if result.is_err() {
            eprint!("{}", self.text());
        }
        result
    }

    fn text(&self) -> String {
        let width = self.lines.iter().map(|(name, ..)| name.len()).max().unwrap_or(0).max("total".len());
        let mut text = String::from("\n");
        for (name, time, good) in &self.lines {
            let verdict = if *good { "ok" } else { "FAILED" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:width$} {:>8.1} s  {verdict}", time.as_secs_f64());
        }
        let total: Duration = self.lines.iter().map(|(_, time, _)| time).sum();
        let _ = writeln!(text, "{:width$} {:>8.1} s", "total", total.as_secs_f64());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Package;

    fn metadata() -> Metadata {
        let package = |name: &str| Package {
            name: name.to_owned(),
            dir: "/w".into(),
            published: true,
            dependencies: Vec::new(),
            targets: Vec::new(),
        };
        Metadata {
            target_directory: "/w/target".into(),
            packages: ["align-losses", "xtask"].map(package).into(),
        }
    }

    fn names(chosen: &[&str]) -> Result<Vec<String>> {
        let chosen: Vec<_> = chosen.iter().map(|&name| name.to_owned()).collect();
        Ok(select(stages(), &metadata(), &chosen)?.into_iter().map(|stage| stage.name).collect())
    }

    #[test]
    fn cheap_stages_come_first_and_need_no_libtorch() {
        let all = stages();
        let first_heavy = all.iter().position(|stage| stage.needs_libtorch).unwrap();
        assert_eq!(all[first_heavy].name, "setup");
        assert!(all[first_heavy..].iter().all(|stage| stage.needs_libtorch));
    }

    #[test]
    fn names_select_stages_and_crates() {
        assert_eq!(names(&[]).unwrap().len(), stages().len());
        assert_eq!(names(&["doc", "fmt"]).unwrap(), ["doc", "fmt"]);
        assert_eq!(names(&["losses"]).unwrap(), ["losses"]);
        assert_eq!(names(&["align-losses"]).unwrap(), ["align-losses"]);
        assert_eq!(names(&["conformance"]).unwrap(), ["conformance"]);
        let error = names(&["lint"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.hints().join(" ").contains("clippy"));
    }

    #[test]
    fn the_report_names_what_failed() {
        let mut report = Report::default();
        report.time("fmt", || Ok(())).unwrap();
        assert!(report.time("doc", || Err(Error::usage("x", []))).is_err());
        let text = report.text();
        assert!(text.contains("ok") && text.contains("FAILED") && text.contains("total"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_hangs_is_stopped() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(wait(&mut child, Duration::from_millis(50)).unwrap(), None);
        let mut child = Command::new("true").spawn().unwrap();
        assert!(wait(&mut child, Duration::from_secs(20)).unwrap().unwrap().success());
    }
}
