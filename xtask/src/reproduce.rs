//! `cargo xtask reproduce`: hands over to the `align-repro` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;
use crate::{ALL_PROGRAMS, Metadata, Result, Workspace, setup};

/// The flags of `cargo xtask reproduce`; `align-repro` has the same.
///
/// They are declared here too, so that a mistyped flag is refused at once and not after the set-up.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Which study, for example dpo-vs-ppo
    #[arg(value_name = "NAME", required_unless_present = "list", value_parser = study)]
    name: Option<String>,
    /// The size that ends within two minutes on two cores
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// The size of every figure that is quoted; runs without a flag where a study has no default size
    #[arg(long)]
    full: bool,
    /// How many seeds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seeds: Option<u32>,
    /// Only these arms, separated by commas
    #[arg(long, value_name = "A,B")]
    arms: Option<String>,
    /// Real rows instead of made ones
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Start from this Hugging Face folder
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Where result.json, report.md and report.html go (default: target/reproduce/NAME)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue an interrupted run
    #[arg(long)]
    resume: bool,
    /// List the studies, their sizes and their claims
    #[arg(long)]
    list: bool,
}

/// Runs the study; on success this does not return, the program takes the place of this one.
///
/// # Errors
/// Those of the set-up, and [`crate::Error::Start`]. The exit code is that of `align-repro`.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    setup::ensure(workspace, &ALL_PROGRAMS)?;
    // Built as a step of its own, so that Ctrl-C reaches the study and not cargo, and its exit code is ours.
    // Built like everything else, so that nothing is compiled again after a test run or before one.
    process::run_talking(workspace.cargo("build").args(["--release", "--quiet"]).args(ALL_PROGRAMS))?;
    let metadata = workspace.metadata()?;
    let mut command = Command::new(metadata.release_program("", "align-repro"));
    if std::env::var_os("OMP_WAIT_POLICY").is_none() {
        command.env("OMP_WAIT_POLICY", "PASSIVE");
    }
    process::become_program(command.args(arguments(options, &metadata)))
}

/// The name becomes a folder, so it must be a plain word.
fn study(name: &str) -> std::result::Result<String, String> {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if plain && name.starts_with(|c: char| c.is_ascii_lowercase()) {
        Ok(name.to_owned())
    } else {
        Err("a study has a name like dpo-vs-ppo; --list shows them".to_owned())
    }
}

fn arguments(options: &Options, metadata: &Metadata) -> Vec<std::ffi::OsString> {
    let mut arguments: Vec<std::ffi::OsString> = Vec::new();
    let flags = [
        (options.quick, "--quick"),
        (options.full, "--full"),
        (options.resume, "--resume"),
        (options.list, "--list"),
    ];
    let out = options.out.clone().or_else(|| options.name.as_ref().map(|name| default_out(metadata, name)));
    let values = [
        ("--seeds", options.seeds.map(|n| n.to_string().into())),
        ("--arms", options.arms.clone().map(Into::into)),
        ("--data", options.data.clone().map(PathBuf::into_os_string)),
        ("--model", options.model.clone().map(PathBuf::into_os_string)),
        ("--out", out.map(PathBuf::into_os_string)),
    ];
    arguments.extend(options.name.clone().map(Into::into));
    arguments.extend(flags.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag.into()));
    for (flag, value) in values {
        if let Some(value) = value {
            arguments.extend([flag.into(), value]);
        }
    }
    arguments
}

fn default_out(metadata: &Metadata, name: &str) -> PathBuf {
    let out = metadata.target_directory.join("reproduce").join(name);
    // The short form reads better in what the study prints.
    let here = std::env::current_dir().unwrap_or_default();
    out.strip_prefix(here).map(Path::to_path_buf).unwrap_or(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parse(line: &str) -> std::result::Result<Options, clap::Error> {
        Line::try_parse_from(std::iter::once("reproduce").chain(line.split_whitespace())).map(|l| l.options)
    }

    fn passed_on(line: &str) -> String {
        let metadata = Metadata { target_directory: "/w/target".into(), packages: Vec::new() };
        let words = arguments(&parse(line).unwrap(), &metadata);
        words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_flag_is_passed_on() {
        let line = "dpo-vs-ppo --quick --resume --seeds 3 --arms dpo,ppo --data f --model m --out o";
        assert_eq!(passed_on(line), line);
        assert_eq!(passed_on("una --full"), "una --full --out /w/target/reproduce/una");
        assert_eq!(passed_on("--list"), "--list");
    }

    #[test]
    fn wrong_lines_are_refused_before_the_set_up() {
        for line in
            ["", "x --quick --full", "x --seeds 0", "x --seeds many", "../x", "X", "x --frob", "--quick"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
