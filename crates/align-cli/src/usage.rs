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
    let mut path = vec!["align".to_owned()];
    let mut level = args::command();
    for word in argv.iter().skip(1).filter_map(|word| word.to_str()) {
        match level.find_subcommand(word).cloned() {
            Some(next) => {
                path.push(word.to_owned());
                level = next;
            }
            None => break,
        }
    }
    path.join(" ")
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
    let mut hints = Vec::new();
    if let Some(ContextValue::String(near)) = error.get(ContextKind::SuggestedArg) {
        hints.push(format!("did you mean {near}?"));
    }
    let others = commands_with(arg);
    if hints.is_empty() && !others.is_empty() {
        hints.push(format!("{arg} is a flag of {}", others.join(", ")));
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
    let hints = nearest(&name, names).map(|near| format!("did you mean {near}?"));
    (format!("unknown command {name}"), hints.into_iter().collect())
}

/// Finds the word that is most like another, if any is like it.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(candidate, word), candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| candidate.to_owned())
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
            ("align sft --beta 1", "unknown flag --beta", "flag of align dpo"),
            ("align dpo --beta x", "--beta x: expected a number", "align dpo --help"),
            ("align dpo --batch-size -1", "--batch-size -1: expected a whole number", "align dpo --help"),
            ("align dpo --loss-type ipo", "--loss-type ipo: there is no such choice", "choices: sigmoid"),
            ("align dpo --dtype fp8", "--dtype fp8: there is no such choice", "choices: f32, bf16"),
            ("align reward", "align reward is not in this version yet", "align --help"),
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
}
