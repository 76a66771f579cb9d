//! `align`: the front of the command line, without libtorch.

use std::process::ExitCode;

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    match align_cli::front::run(&argv) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = align_cli::usage::fit_hints(error, &argv);
            align_cli::talk::report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
