//! What `align` does by itself, without libtorch.

mod check;
mod doctor;
mod report;

use std::ffi::OsString;

use crate::{
    Result,
    args::{Command, DataCommand},
    launch, manual, settings, talk,
};

/// Runs a command line: answers it, or becomes `align-torch`.
///
/// # Errors
/// What stopped it; on success of a command that needs tensors it does not return.
pub fn run(argv: &[OsString]) -> Result<()> {
    let arguments = argv.get(1..).unwrap_or_default();
    match settings::parse(argv)?.command {
        Command::Completions(completions) => talk::data(&manual::completions(completions.shell)),
        Command::Data(DataCommand::Check(check)) => check::run(&check),
        Command::Report(report) => report::run(&report),
        Command::Doctor(doctor) => Err(doctor::run(doctor.json, arguments)),
        Command::Sft(_)
        | Command::Dpo(_)
        | Command::Reward(_)
        | Command::Logprobs(_)
        | Command::Score(_)
        | Command::Generate(_)
        | Command::Kto(_)
        | Command::Una(_)
        | Command::Ppo(_)
        | Command::Eval(_)
        | Command::Merge(_) => Err(launch::become_torch(arguments)),
    }
}
