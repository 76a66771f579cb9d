use std::{sync::mpsc::RecvTimeoutError, time::Duration};

use align_types::{Reward, RewardItem};
use serde_json::{Map, Value, json};

use crate::{
    Error, Result,
    process::{End, LONGEST_LINE, Process},
    words::words,
};

/// How long a program may take for one answer unless told otherwise.
pub const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Receives what a person should know while a program is asked: that it was started again.
pub type Notice = Box<dyn FnMut(&str) + Send>;

/// A reward that asks a child process.
///
/// For each completion one line of JSON goes to its standard input, `{"id", "prompt", "completion", "row"}`, and one
/// line comes back on its standard output, in the same order: `{"id", "reward"}` with a finite number, or `null` where
/// it abstains. `row` holds the other columns of the prompt's row; `id` is a number that no other line has. All lines
/// of a batch may be read before the first answer is written, or one by one; a program must not keep answers back in a
/// buffer. Its standard error is shown on ours, and its last lines stand in the error where it ends.
///
/// The program is started once and serves all batches. One that ends is started again, once for each batch, and asked
/// for the completions that have no answer yet; that is counted ([`Program::restarts`]) and told to
/// [`Program::with_notice`]. One that ends twice in a batch, answers something else, takes longer than the time limit for
/// an answer, or lives on without reading its input is an error that names the row, after which it is not asked again. When
/// the reward is dropped its input is closed, and it has 2 seconds to end before it is killed.
///
/// A line behind the last answer of a batch is found when the next batch is asked; behind the very last one
/// [`Reward::finish`] looks: it closes the input, waits at most the time limit of an answer for the program to end, and a
/// line that comes meanwhile is an error. All rewards are there then, so that a program that does not end in time, or not
/// with success, is only told to [`Program::with_notice`].
pub struct Program {
    name: String,
    command: String,
    words: Vec<String>,
    limit: Duration,
    /// `None` after an error.
    process: Option<Process>,
    restarts: u64,
    notice: Option<Notice>,
    next: u64,
    /// The last row that was asked for.
    last: Option<String>,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("command", &self.command).finish_non_exhaustive()
    }
}

impl Program {
    /// Starts a program. The command line is split at white space, with quotation marks around words that have some; no
    /// shell is asked.
    ///
    /// ```
    /// use align_rules::{Program, TIME_LIMIT};
    ///
    /// assert!(Program::start("no-such-program-anywhere", TIME_LIMIT).is_err());
    /// ```
    ///
    /// # Errors
    /// [`Error::Command`] for a command line that names no program, [`Error::Start`] for one that cannot be started.
    pub fn start(command: &str, limit: Duration) -> Result<Self> {
        let words = words(command)?;
        let name = format!("command:{}", words.first().map_or("", String::as_str));
        let process = Some(start(command, &words)?);
        let command = command.to_owned();
        Ok(Self { name, command, words, limit, process, restarts: 0, notice: None, next: 0, last: None })
    }

    /// Checks a command line without starting anything.
    ///
    /// # Errors
    /// [`Error::Command`].
    pub fn check(command: &str) -> Result<()> {
        words(command).map(drop)
    }

    /// Names who is told when the program is started again.
    #[must_use]
    pub fn with_notice(mut self, notice: Notice) -> Self {
        self.notice = Some(notice);
        self
    }

    /// Counts how often the program ended and was started again.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    fn ask(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>> {
        let first = self.next;
        self.next += items.len() as u64;
        if let Some((index, item)) = items.iter().enumerate().next_back() {
            self.last = Some(item.describe(index));
        }
        let mut scores = Vec::with_capacity(items.len());
        let mut outcome = self.ask_rest(items, first, &mut scores);
        if let Err(Error::Ended { row, status, .. }) = &outcome
            && self.process.is_some()
        {
            let told =
                format!("{row}: the reward command `{}` ended ({status}); it is started again", self.command);
            outcome = self.restart(&told).and_then(|()| self.ask_rest(items, first, &mut scores));
        }
        if outcome.is_err() {
            self.process = None;
        }
        outcome.map(|()| scores)
    }

    fn tell(&mut self, told: &str) {
        if let Some(notice) = &mut self.notice {
            notice(told);
        }
    }

    fn restart(&mut self, told: &str) -> Result<()> {
        self.tell(told);
        self.process = None;
        self.process = Some(start(&self.command, &self.words)?);
        self.restarts += 1;
        Ok(())
    }

    /// Lets the program go, and looks at what it does then.
    fn end(&mut self) -> Result<()> {
        // One that was asked nothing has nothing to answer, and one that failed has been complained about.
        let (Some(mut process), Some(row)) = (self.process.take(), self.last.take()) else { return Ok(()) };
        let (command, limit) = (self.command.clone(), self.limit);
        match process.close(limit) {
            End::Well => {}
            End::Surplus(line) => return Err(Error::Surplus { row, command, line: shown(&line) }),
            End::Unread => return Err(Error::Unread { row, command }),
            End::Failed(how) => {
                self.tell(&format!("the reward command `{command}` gave all its answers, but ended with {how}"));
            }
            End::Late => self.tell(&format!(
                "the reward command `{command}` gave all its answers, but did not end within {} s after its input was \
                 closed; it is stopped",
                limit.as_secs_f64()
            )),
        }
        Ok(())
    }

    /// Asks for the items that have no score yet.
    fn ask_rest(
        &mut self,
        items: &[RewardItem<'_>],
        first: u64,
        scores: &mut Vec<Option<f64>>,
    ) -> Result<()> {
        let mut rest = items.iter().enumerate().zip(first..).skip(scores.len()).peekable();
        let Some(((index, item), _)) = rest.peek() else { return Ok(()) };
        let row = item.describe(*index);
        let ended = |status: &str| Error::Ended {
            row: row.clone(),
            command: self.command.clone(),
            status: status.to_owned(),
        };
        let Some(process) = &mut self.process else { return Err(ended("stopped after its first error")) };
        if let Some(line) = process.unread() {
            let why = "it came before the row was asked for: one line too many";
            return Err(refuse(&self.command, &row, &line, why));
        }
        let text = rest.clone().map(|((_, item), id)| format!("{}\n", question(item, id))).collect();
        let written = match process.write(text) {
            Ok(Some(written)) => written,
            Ok(None) if process.is_alive() => {
                return Err(Error::Unread { row, command: self.command.clone() });
            }
            Ok(None) => return Err(ended(&process.farewell())),
            Err(source) => return Err(Error::Start { command: self.command.clone(), source }),
        };
        for ((index, item), id) in rest {
            scores.push(answer(process, &self.command, self.limit, &item.describe(index), id)?);
        }
        // All questions are answered; one that was not read to its end is waited for as an answer is.
        process.take_back(&written, self.limit);
        Ok(())
    }
}

impl Reward for Program {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
        Ok(self.ask(items)?)
    }

    fn finish(&mut self) -> align_types::Result<()> {
        Ok(self.end()?)
    }
}

fn start(command: &str, words: &[String]) -> Result<Process> {
    Process::start(words).map_err(|source| Error::Start { command: command.to_owned(), source })
}

/// Waits for the answer to one item.
fn answer(process: &mut Process, command: &str, limit: Duration, row: &str, id: u64) -> Result<Option<f64>> {
    let (row, command) = (row.to_owned(), command.to_owned());
    match process.line(limit) {
        Ok(Ok(line)) => reward(&line, id).map_err(|why| refuse(&command, &row, &line, &why)),
        Ok(Err(error)) => Err(refuse(&command, &row, b"", &error.to_string())),
        Err(RecvTimeoutError::Timeout) => Err(Error::Late { row, command, limit }),
        Err(RecvTimeoutError::Disconnected) => Err(Error::Ended { row, command, status: process.farewell() }),
    }
}

fn refuse(command: &str, row: &str, line: &[u8], why: &str) -> Error {
    Error::Answer {
        row: row.to_owned(),
        command: command.to_owned(),
        answer: shown(line),
        why: why.to_owned(),
    }
}

/// Quotes a line, shortened; what a terminal would obey is shown as what it is not.
fn shown(line: &[u8]) -> String {
    let harmless = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let text: String = String::from_utf8_lossy(line).trim_end().chars().take(120).map(harmless).collect();
    format!("`{text}`")
}

fn question(item: &RewardItem<'_>, id: u64) -> Value {
    json!({"id": id, "prompt": item.prompt, "completion": item.completion, "row": item.columns})
}

/// Reads an answer, or says what is wrong with it.
fn reward(line: &[u8], id: u64) -> Result<Option<f64>, String> {
    if line.len() as u64 >= LONGEST_LINE {
        return Err(format!("an answer has less than {LONGEST_LINE} bytes and ends with a line end"));
    }
    let expected = format!("expected {{\"id\": {id}, \"reward\": NUMBER}}, or null for no reward");
    let answer: Map<String, Value> = match serde_json::from_slice(line) {
        Ok(Value::Object(map)) => map,
        _ => return Err(format!("{expected}, in one line of JSON (which has no NaN)")),
    };
    if let Some(key) = answer.keys().find(|key| *key != "id" && *key != "reward") {
        return Err(format!("{expected}, without `{key}`"));
    }
    match answer.get("id") {
        Some(given) if given.as_u64() == Some(id) => {}
        Some(given) if given.as_u64().is_some_and(|given| given < id) => {
            return Err(format!("{expected}: that id had its turn before"));
        }
        Some(_) => return Err(format!("{expected}: answers come in the order of the questions")),
        None => return Err(expected),
    }
    match answer.get("reward") {
        Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => {
            number.as_f64().filter(|value| value.is_finite()).map(Some).ok_or(expected)
        }
        _ => Err(expected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_the_letter() {
        let read = |line: &str| reward(line.as_bytes(), 7);
        assert_eq!(read("{\"id\": 7, \"reward\": -0.5}\n"), Ok(Some(-0.5)));
        assert_eq!(read("{\"reward\": 3, \"id\": 7}\r\n"), Ok(Some(3.0)));
        assert_eq!(read("{\"id\":7,\"reward\":null}"), Ok(None));
        for wrong in [
            "",
            "0.5",
            "{\"id\": 7}",
            "{\"reward\": 1}",
            "{\"id\": 6, \"reward\": 1}",
            "{\"id\": \"7\", \"reward\": 1}",
            "{\"id\": 7, \"reward\": \"1\"}",
            "{\"id\": 7, \"reward\": NaN}",
            "{\"id\": 7, \"reward\": 1e999}",
            "{\"id\": 7, \"reward\": true}",
            "{\"id\": 7, \"reward\": 1, \"why\": \"x\"}",
            "{\"id\": 7, \"reward\": 1} {\"id\": 8, \"reward\": 1}",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
