//! The TOML file of `--config`, turned into flags.

use std::{collections::BTreeMap, ffi::OsString, ops::Range, path::Path};

use clap::Command;

use crate::{Error, Result, usage};

/// A key of the file, as the flags it stands for.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The name of the flag without dashes.
    pub flag: String,
    /// The line of the key, from 1.
    pub line: usize,
    /// The words that stand for it on a command line.
    pub words: Vec<OsString>,
}

/// Reads the file and checks each key by itself, so that a mistake is named by its place in the file.
///
/// `command` is the command whose flags the keys are.
///
/// # Errors
/// [`Error::Usage`] with file, line and key.
pub(crate) fn read(path: &Path, command: &Command) -> Result<Vec<Entry>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::usage(format!("cannot read --config {}: {error}", path.display()), []))?;
    let table: toml::Table = text.parse().map_err(|error| syntax(path, &text, &error))?;
    let lines = key_lines(&text).map_err(|error| syntax(path, &text, &error))?;
    table
        .iter()
        .map(|(key, value)| {
            let line = lines.get(key).copied().unwrap_or(1);
            let place = format!("{}:{line}", path.display());
            entry(key, value, line, &place, command)
        })
        .collect()
}

fn entry(key: &str, value: &toml::Value, line: usize, place: &str, command: &Command) -> Result<Entry> {
    let flag = key.replace('_', "-");
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(&flag));
    let Some(arg) = arg.filter(|_| !key.contains('-') && !is_outside_files(&flag)) else {
        return Err(unknown_key(key, place, command));
    };
    let is_switch = !arg.get_action().takes_values();
    let words = words(&flag, value, is_switch)
        .map_err(|expected| Error::usage(format!("{place}: {key} = {value}: expected {expected}"), []))?;
    let alone = std::iter::once(OsString::from(command.get_name())).chain(words.iter().cloned());
    // Flags that need another flag are judged on the whole command line later.
    if let Err(error) = command.clone().try_get_matches_from(alone) {
        let (message, hints) = usage::plain_words(&error, command.get_name());
        let why = message.strip_prefix(&format!("--{flag} ")).unwrap_or(&message);
        return Err(Error::usage(format!("{place}: {key} = {why}"), hints));
    }
    Ok(Entry { flag, line, words })
}

/// Says whether a flag cannot be a key: the file cannot name another file of keys or ask for help.
pub(crate) fn is_outside_files(flag: &str) -> bool {
    matches!(flag, "config" | "help")
}

fn words(flag: &str, value: &toml::Value, is_switch: bool) -> Result<Vec<OsString>, &'static str> {
    use toml::Value;
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        _ => Err("a number or a string"),
    };
    // `--flag=value` in one word, so that a value may begin with a dash.
    let word = |text: String| OsString::from(format!("--{flag}={text}"));
    match value {
        Value::Boolean(true) if is_switch => Ok(vec![OsString::from(format!("--{flag}"))]),
        Value::Boolean(false) if is_switch => Ok(Vec::new()),
        _ if is_switch => Err("true or false"),
        Value::Array(items) => items.iter().map(|item| Ok(word(one(item)?))).collect(),
        Value::Table(columns) if flag == "columns" => {
            columns.iter().map(|(name, column)| Ok(word(format!("{name}={}", one(column)?)))).collect()
        }
        _ => Ok(vec![word(one(value)?)]),
    }
}

fn unknown_key(key: &str, place: &str, command: &Command) -> Error {
    let flag = key.replace('_', "-");
    if usage::is_not_yet(&flag) {
        return Error::usage(format!("{place}: {key} is not in this version yet"), []);
    }
    if is_outside_files(&flag) {
        let message = format!("{place}: {key} cannot be a key: it is given on the command line only");
        return Error::usage(message, ["leave this line out".to_owned()]);
    }
    let mut hints = Vec::new();
    let flags =
        command.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| !is_outside_files(flag));
    let near = align_data::nearest(&flag, flags);
    let others = usage::commands_with(&flag);
    if let Some(flag) = near {
        hints.push(format!("did you mean {}?", flag.replace('-', "_")));
    } else if !others.is_empty() {
        hints.push(format!("{key} is a key of {}", others.join(", ")));
    }
    hints.push(format!("`align {} --help` lists the flags; each is a key with _ for -", command.get_name()));
    Error::usage(format!("{place}: unknown key {key} of align {}", command.get_name()), hints)
}

fn key_lines(text: &str) -> Result<BTreeMap<String, usize>, toml::de::Error> {
    let table = toml::de::DeTable::parse(text)?;
    let keys = table.get_ref().iter();
    Ok(keys.map(|(key, _)| (key.get_ref().to_string(), line_of(text, key.span()))).collect())
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1)
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let line = error.span().map_or(1, |span| line_of(text, span));
    let message = error.message().lines().next().unwrap_or("not TOML").to_owned();
    Error::usage(
        format!("{}:{line}: {message}", path.display()),
        ["the file is TOML: `key = value` lines".to_owned()],
    )
}
