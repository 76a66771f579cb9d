//! The manual page of the command line and the completion scripts, made from the flags themselves.

use std::fmt::Write;

use clap_complete::Shell;

use crate::args;

/// Makes the completion script of a shell.
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "align", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

const HEAD: &str = "\
# The command line

Made from the program's own flags; a test keeps it fresh (`ALIGN_BLESS=1 cargo test --release -p align-cli` writes it
anew).

Data go to stdout, talk to stderr. Progress is a bar where stderr is a terminal and a line every few seconds elsewhere;
`--no-progress` silences it, and `NO_COLOR` is honoured. No telemetry.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | the run finished but failed its criterion |
| 2 | usage or configuration: an unknown flag, key or name, a value out of range, an output folder that is not empty |
| 3 | environment: libtorch, device, memory, disk |
| 4 | data and models: a missing or unreadable file, a bad row, a bad or contradictory model folder or checkpoint |
| 130 | interrupted, after a checkpoint was written |

101 only ever means a bug.

Flags of training commands are also keys of the TOML file given with `--config`, with `_` for `-`; repeatable flags are
lists, switches are `true` or `false`. A flag wins over the file, and unknown keys are refused. Paths in the file are
relative to the folder the program is started in. A run folder's `config.toml` is such a file.

A run folder holds `config.toml`, `environment.json`, `metrics.jsonl` ([definitions](metrics.md)), event files with the
same numbers (`tensorboard --logdir FOLDER`), `completions.jsonl` (samples before and after), `eval.jsonl` (the numbers of
each of the first 1000 held-out rows, with the final weights), `checkpoints/step-N/`, `model/` (a Hugging Face folder) and
`summary.json`. `align report` shows all of it on one page. Where a step fails in its middle, as one of `align ppo` may
between its updates, `checkpoints/torn-step-N/` has the model as it left it; nothing is resumed from it.

What `--precompute-ref-log-probs` computes is kept in `$XDG_CACHE_HOME/align/ref-log-probs`, or
`~/.cache/align/ref-log-probs`, for the next run with the same reference (its weights and adapter), chat template, limits
of length, `--dtype`, `--micro-batch-tokens` and rows; every run says how many rows it found and how many it computed.
Damaged files there are computed again with a warning, and all of it can be deleted at any time. Where nothing can be
written, nothing is kept.

`align` itself links no libtorch. For tensor work it becomes `align-torch`, which must lie beside it.
";

/// Writes the manual page of all commands as Markdown.
pub fn markdown() -> String {
    let mut root = args::command();
    root.build();
    let mut page = HEAD.to_owned();
    for command in root.get_subcommands() {
        match command.get_subcommands().find(|inner| inner.get_name() != "help") {
            Some(_) => {
                command.get_subcommands().for_each(|inner| section(&mut page, command.get_name(), inner))
            }
            None => section(&mut page, "", command),
        }
    }
    page
}

fn section(page: &mut String, group: &str, command: &clap::Command) {
    let name = [group, command.get_name()].join(" ");
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    // Writing to a string cannot fail.
    let _ = write!(page, "\n## align {}\n\n{about}.\n", name.trim());
    for position in command.get_positionals() {
        let value = position.get_id().as_str().to_uppercase();
        let _ = write!(page, "\n`{value}`: {}", help_of(position));
        let _ = writeln!(page, "{}.", choices(position));
    }
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in flags(command) {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        let _ = write!(page, "\n| {} | | default |\n| --- | --- | --- |\n", heading.unwrap_or("flag"));
        flags(command).filter(|arg| arg.get_help_heading() == heading).for_each(|arg| row(page, arg));
    }
    if let Some(after) = command.get_after_help() {
        let _ = write!(page, "\n```text\n{after}\n```\n");
    }
}

fn flags(command: &clap::Command) -> impl Iterator<Item = &clap::Arg> {
    command.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| long != "help"))
}

fn row(page: &mut String, arg: &clap::Arg) {
    let long = arg.get_long().unwrap_or_default();
    let value = match arg.get_value_names() {
        Some(names) if arg.get_action().takes_values() => format!(" {}", names.join(" ")),
        _ => String::new(),
    };
    let help = help_of(arg);
    // A default that depends on the machine or on other flags stands in the help text.
    let (help, told) = match help.split_once(" [default: ") {
        Some((help, told)) => (help.to_owned(), told.trim_end_matches(']').to_owned()),
        None => (help, String::new()),
    };
    let given: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    let default = match (arg.get_action().takes_values(), arg.is_required_set()) {
        (true, true) => "required".to_owned(),
        (true, false) if !given.is_empty() => format!("`{}`", given.join(", ")),
        _ => told,
    };
    let _ = writeln!(page, "| `--{long}{value}` | {help}{} | {default} |", choices(arg));
}

fn help_of(arg: &clap::Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

fn choices(arg: &clap::Arg) -> String {
    let values: Vec<_> = if arg.get_action().takes_values() {
        arg.get_possible_values()
            .iter()
            .map(|value| match value.get_help() {
                Some(help) => format!("`{}` ({help})", value.get_name()),
                None => format!("`{}`", value.get_name()),
            })
            .collect()
    } else {
        Vec::new()
    };
    if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) }
}
