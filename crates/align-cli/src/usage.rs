//! Wrong command lines in plain words, with what to do.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::{Error, args, talk};

/// Turns what clap says into an error of this program; help and version are written to stdout.
pub(crate) fn explain(error: &clap::Error, argv: &[OsString]) -> Error {
    let command = command_path(argv);
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => return answer(error),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            talk::say(error.render().to_string().trim_end());
            return Error::usage("no command was given", []);
        }
        _ => {}
    }
    let (message, mut hints) = plain_words(error, &command);
    hints.push(format!("`{command} --help` lists what there is"));
    Error::usage(message, hints)
}

/// Says in plain words what clap refused, without the command line around it.
pub(crate) fn plain_words(error: &clap::Error, command: &str) -> (String, Vec<String>) {
    let arg = flag_only(&text(error, ContextKind::InvalidArg));
    let value = text(error, ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument => unknown_flag(error, &arg, command),
        ErrorKind::InvalidSubcommand => unknown_command(error),
        ErrorKind::InvalidValue if value.is_empty() => (format!("{arg} needs a value"), possible(error)),
        ErrorKind::InvalidValue => (format!("{arg} {value}: there is no such choice"), possible(error)),
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            (format!("{arg} {value}: {why}"), Vec::new())
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = text(error, ContextKind::InvalidArg);
            (format!("{missing} is missing"), Vec::new())
        }
        ErrorKind::ArgumentConflict => {
            let prior = flag_only(&text(error, ContextKind::PriorArg));
            let message = if prior == arg {
                format!("{arg} was given more than once")
            } else {
                format!("{arg} and {prior} exclude each other")
            };
            (message, Vec::new())
        }
        _ => {
            let rendered = error.render().to_string();
            let first = rendered.lines().next().unwrap_or("the command line is wrong");
            (first.trim_start_matches("error: ").to_owned(), Vec::new())
        }
    }
}

/// Names the command of a command line for hints: `align dpo`, `align data check`.
pub(crate) fn command_path(argv: &[OsString]) -> String {
    command_at(argv).get_bin_name().unwrap_or("align").to_owned()
}

/// Finds the command of a command line; the program itself where it names none.
fn command_at(argv: &[OsString]) -> clap::Command {
    let mut level = args::command();
    level.build();
    for word in argv.iter().skip(1).filter_map(|word| word.to_str()) {
        match level.find_subcommand(word).cloned() {
            Some(next) => level = next,
            None => break,
        }
    }
    level
}

/// Says whether a flag, named without its dashes, is promised and not written yet.
pub(crate) fn is_not_yet(flag: &str) -> bool {
    args::FLAGS_NOT_YET.contains(&flag)
}

/// Lists the commands that know a flag.
pub(crate) fn commands_with(flag: &str) -> Vec<String> {
    let name = flag.trim_start_matches('-');
    args::command()
        .get_subcommands()
        .filter(|command| command.get_arguments().any(|arg| arg.get_long() == Some(name)))
        .map(|command| format!("align {}", command.get_name()))
        .collect()
}

fn answer(error: &clap::Error) -> Error {
    use std::io::IsTerminal;
    let rendered = error.render();
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let text = if colour { rendered.ansi().to_string() } else { rendered.to_string() };
    talk::data(&text).err().unwrap_or(Error::Answered)
}

fn unknown_flag(error: &clap::Error, arg: &str, command: &str) -> (String, Vec<String>) {
    if is_not_yet(arg.trim_start_matches("--")) {
        return (format!("{arg} is not in this version yet"), Vec::new());
    }
    let mut hints = Vec::new();
    if let Some(ContextValue::String(near)) = error.get(ContextKind::SuggestedArg) {
        hints.push(format!("did you mean {near}?"));
    }
    let others = commands_with(arg);
    if hints.is_empty() && !others.is_empty() {
        hints.push(format!("`{arg}` is a flag of {}", others.join(", ")));
    }
    let what = if arg.starts_with('-') { "unknown flag" } else { "unexpected argument" };
    (format!("{what} {arg} of {command}"), hints)
}

fn unknown_command(error: &clap::Error) -> (String, Vec<String>) {
    let name = text(error, ContextKind::InvalidSubcommand);
    if args::NOT_YET.contains(&name.as_str()) {
        return (format!("align {name} is not in this version yet"), Vec::new());
    }
    let root = args::command();
    let names = root.get_subcommands().map(clap::Command::get_name);
    let hints = align_data::nearest(&name, names).map(|near| format!("did you mean {near}?"));
    (format!("unknown command {name}"), hints.into_iter().collect())
}

/// Leaves out the hints of an error that name flags which the command at hand does not have.
///
/// Errors of rows and models are made where nobody knows which command runs.
pub fn fit_hints(error: Error, argv: &[OsString]) -> Error {
    error.retain_hints(|hint| foreign_flags(hint, argv).is_empty())
}

/// Lists the flags in a text that other commands have and the one at hand has not.
///
/// What stands in backticks is a whole command line, with flags of its own.
pub fn foreign_flags<'a>(text: &'a str, argv: &[OsString]) -> Vec<&'a str> {
    let command = command_at(argv);
    let has = |flag: &str| command.get_arguments().any(|arg| arg.get_long() == Some(flag));
    flags_in(text).into_iter().filter(|flag| !has(flag) && !commands_with(flag).is_empty()).collect()
}

/// Lists the flags that a text names outside backticks, without their dashes.
fn flags_in(text: &str) -> Vec<&str> {
    let plain = text.split('`').step_by(2).flat_map(str::split_whitespace);
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    plain
        .filter_map(|word| word.trim_start_matches(['(', '"']).strip_prefix("--"))
        .filter_map(|word| word.split(|c| !in_name(c)).next())
        .filter(|flag| !flag.is_empty())
        .collect()
}

fn possible(error: &clap::Error) -> Vec<String> {
    let choices = text(error, ContextKind::ValidValue);
    if choices.is_empty() { Vec::new() } else { vec![format!("choices: {choices}")] }
}

fn text(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(one)) => one.clone(),
        Some(ContextValue::Strings(many)) => many.join(", "),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// `--beta <X>` -> `--beta`.
fn flag_only(arg: &str) -> String {
    arg.split([' ', '=']).next().unwrap_or(arg).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(line: &str) -> Error {
        let argv: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let error = args::command().try_get_matches_from(&argv).unwrap_err();
        explain(&error, &argv)
    }

    #[test]
    fn every_mistake_names_the_flag_and_what_to_do() {
        for (line, message, hint) in [
            ("align dpo --betta 1", "unknown flag --betta", "did you mean --beta?"),
            ("align sft --beta 1", "unknown flag --beta", "`--beta` is a flag of align"),
            ("align dpo --beta x", "--beta x: expected a number", "align dpo --help"),
            ("align dpo --batch-size -1", "--batch-size -1: expected a whole number", "align dpo --help"),
            ("align dpo --kl-coef 0.1", "unknown flag --kl-coef", "`--kl-coef` is a flag of align ppo"),
            ("align generate --reward-url r", "--reward-url is not in this version yet", "generate --help"),
            ("align dpo --loss-type ipoo", "--loss-type ipoo: there is no such choice", "choices: sigmoid"),
            ("align dpo --dtype fp8", "--dtype fp8: there is no such choice", "choices: f32, bf16"),
            ("align rest", "align rest is not in this version yet", "align --help"),
            ("align dop", "unknown command dop", "did you mean dpo?"),
            ("align dpo --resume --overwrite", "exclude each other", "align dpo --help"),
            ("align dpo --beta 1 --beta 2", "--beta was given more than once", "align dpo --help"),
            ("align logprobs --model m", "--data <FILE>", "align logprobs --help"),
            ("align dpo --columns prompt", "expected NAME=COLUMN", "align dpo --help"),
        ] {
            let error = explained(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(message), "{line}: {error}");
            assert!(error.hints().join("\n").contains(hint), "{line}: {:?}", error.hints());
        }
    }

    #[test]
    fn flags_that_are_there_are_not_called_missing() {
        for flag in args::FLAGS_NOT_YET {
            assert!(commands_with(flag).is_empty(), "--{flag} is there: take it off the list");
        }
    }

    #[test]
    fn hints_name_no_flag_that_the_command_lacks() {
        assert_eq!(flags_in("raise --max-length, or `align x --y` (--z=1)"), ["max-length", "z"]);
        let hints = ["drop them with --bad-rows skip", "raise --max-length", "`align dpo --bad-rows skip`"];
        let fitted = |command: &str| {
            let argv: Vec<OsString> = ["align", command].map(OsString::from).into();
            fit_hints(Error::data("x", hints.map(str::to_owned)), &argv).hints()
        };
        assert_eq!(fitted("dpo"), hints);
        assert_eq!(fitted("logprobs"), hints[1..]);
        assert_eq!(fitted("generate"), hints[2..]);
        assert_eq!(foreign_flags("cargo build --release", &["align".into()]), [""; 0]);
    }
}
