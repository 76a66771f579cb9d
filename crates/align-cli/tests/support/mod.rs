//! Runs the programs as a user does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What a program answered.
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Asserts exit code 0.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// Asserts an exit code and that stderr, which has an `error:` line and no panic, contains every text.
    pub fn refused(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.stderr.contains("error: "), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is not in:\n{}", self.stderr);
        }
        self
    }
}

/// Makes the command `align ARGUMENTS`, in which a word `{name}` stands for a path of the folder.
pub fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_align"));
    for word in arguments.split_whitespace() {
        match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
            Some(name) => command.arg(folder.join(name)),
            None => command.arg(word),
        };
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs `align ARGUMENTS`, as [`command`] has it.
pub fn align(folder: &Path, arguments: &str) -> Answer {
    Answer::of(&command(folder, arguments).output().unwrap())
}

/// Writes a file into a folder and returns its path.
pub fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}
