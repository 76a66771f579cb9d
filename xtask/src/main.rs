//! `cargo xtask`: set-up, tests, reproductions and benches of the workspace.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{Result, Workspace, bench, reproduce, rustc, setup, test};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 2 wrong usage, 3 something is missing on this machine; \
                        otherwise the code of the program that was run.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put libtorch into the per-user cache, hash-checked, and prove that it works
    ///
    /// `test`, `reproduce` and `bench` do this by themselves when it is missing.
    Setup(setup::Options),
    /// Run everything that continuous integration runs, or the named parts
    Test(test::Options),
    /// Repeat the study of a paper and judge its claims
    Reproduce(reproduce::Options),
    /// Run the benches and print their medians
    Bench(bench::Options),
}

fn main() -> ExitCode {
    if let Some(code) = rustc::wrapped() {
        return code;
    }
    let cli = Cli::parse();
    match run(&cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for hint in error.hints() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: &Command) -> Result<()> {
    let workspace = Workspace::locate()?;
    match command {
        Command::Setup(options) => setup::run(&workspace, options),
        Command::Test(options) => test::run(&workspace, options),
        Command::Reproduce(options) => reproduce::run(&workspace, options),
        Command::Bench(options) => bench::run(&workspace, options),
    }
}
