//! How the program talks: data on stdout, everything else on stderr.

use std::io::{IsTerminal, Write};

use crate::{Error, Result};

/// Writes text to stdout.
///
/// # Errors
/// [`Error::Closed`] when the reader went away, [`Error::Write`] when stdout is a file on a full disk.
pub fn data(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Error::Closed),
        Err(source) => Err(Error::Write { path: "stdout".into(), source }),
    }
}

/// Writes a line to stderr. A stderr that cannot be written is no reason to stop.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes a line that begins with a coloured word (`error`, `warning`, `hint`) to stderr.
pub fn tagged(tag: &str, text: &str) {
    let colour = match tag {
        "error" => "1;31",
        "warning" => "1;33",
        _ => "1;36",
    };
    if stderr_has_colour() {
        say(&format!("\x1b[{colour}m{tag}\x1b[0m: {text}"));
    } else {
        say(&format!("{tag}: {text}"));
    }
}

/// Writes a `warning:` line to stderr.
pub fn warn(text: &str) {
    tagged("warning", text);
}

/// Writes an error with its hints to stderr; what is no error to the user is not written.
pub fn report(error: &Error) {
    match error {
        Error::Answered | Error::Closed => return,
        Error::Interrupted { .. } => say(&error.to_string()),
        other => tagged("error", &other.to_string()),
    }
    error.hints().iter().for_each(|hint| tagged("hint", hint));
}

/// Says whether stderr is a terminal that wants colour (`NO_COLOR` unset or empty, `TERM` not `dumb`).
pub fn stderr_has_colour() -> bool {
    let unset = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    unset && std::env::var_os("TERM").is_none_or(|term| term != "dumb") && std::io::stderr().is_terminal()
}
