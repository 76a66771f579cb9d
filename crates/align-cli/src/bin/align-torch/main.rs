//! `align-torch`: the commands that need tensors. `align` becomes it, with the same arguments.

mod command;
mod computer;
mod doctor;
mod dpo;
mod dry_run;
mod eval;
mod failure;
mod feedback;
mod generate;
mod inputs;
mod interrupt;
mod kto;
mod learner;
mod logprobs;
mod merge;
mod model;
mod notices;
mod origin;
mod output;
mod passes;
mod ppo;
mod precompute;
mod progress;
mod reference;
mod reward;
mod reward_model;
mod rewards;
mod rows;
mod samples;
mod scale;
mod score;
mod sft;
mod table;
mod train;
mod tuning;
mod una;

use std::{ffi::OsString, io::Write};

use align_cli::{Result, args::Command, settings, talk, usage};

fn main() {
    // Before anything else: threads started later inherit what is set here.
    align_core::threads::prepare_compute_thread();
    let argv: Vec<OsString> = std::env::args_os().collect();
    let code = match run(&argv) {
        Ok(()) => 0,
        Err(error) => {
            let error = usage::fit_hints(error, &argv);
            talk::report(&error);
            error.exit_code()
        }
    };
    leave(i32::from(code));
}

fn run(argv: &[OsString]) -> Result<()> {
    let settings = settings::parse(argv)?;
    match &settings.command {
        Command::Doctor(doctor) => doctor::run(doctor),
        Command::Logprobs(logprobs) => logprobs::run(logprobs, &settings.resolved),
        Command::Generate(generate) => generate::run(generate, &settings.resolved),
        Command::Score(score) => score::run(score, &settings.resolved),
        Command::Eval(eval) => eval::run(eval, &settings.resolved),
        Command::Merge(merge) => merge::run(merge),
        Command::Sft(sft) => train::run(&sft.train, &settings.resolved, &sft::Sft(sft)),
        Command::Reward(reward) => {
            train::run(&reward.train, &settings.resolved, &reward::RewardModel(reward))
        }
        Command::Dpo(dpo) => train::run(&dpo.train, &settings.resolved, &dpo::Dpo(dpo)),
        Command::Kto(kto) => train::run(&kto.train, &settings.resolved, &kto::Kto(kto)),
        Command::Ppo(flags) => ppo::run(flags, &settings.resolved),
        Command::Una(una) => train::run(&una.train, &settings.resolved, &una::Una(una)),
        Command::Data(_) | Command::Report(_) | Command::Completions(_) => align_cli::front::run(argv),
    }
}

/// Ends the process without running libtorch's static destructors, which take a third of a short command's time.
fn leave(code: i32) -> ! {
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    // SAFETY: ends the process; every file that matters was closed and synced by whoever wrote it.
    unsafe { libc::_exit(code) }
}
