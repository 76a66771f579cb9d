use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel},
    time::{Duration, Instant},
};

use align_types::{Reward, RewardItem};
use serde_json::{Map, Value, json};

use crate::{Error, Result, words::words};

/// How long a program may take for one answer unless told otherwise.
pub const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Most bytes of one answer; a program that writes without line ends must not fill the memory.
const LONGEST_ANSWER: u64 = 1 << 20;

/// Answers that may wait to be read; a program that writes on and on then waits, too.
const UNREAD: usize = 64;

/// How long a program may take to end by itself once nothing more is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// A reward that asks a child process.
///
/// For each completion one line of JSON goes to its standard input, `{"id", "prompt", "completion", "row"}`, and one
/// line comes back on its standard output, in the same order: `{"id", "reward"}` with a finite number, or `null` where
/// it abstains. `row` holds the other columns of the prompt's row; `id` is a number that no other line has. All lines
/// of a batch may be read before the first answer is written, or one by one; a program must not keep answers back in a
/// buffer. Its standard error goes where ours goes.
///
/// The program is started once and serves all batches. It is never started again: one that ends, answers something
/// else, or takes longer than the time limit for an answer is an error that names the row. When the reward is dropped
/// its input is closed, and it has 2 seconds to end before it is killed.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: String,
    limit: Duration,
    child: Child,
    /// Taken while a batch is written; `None` after an error.
    input: Option<ChildStdin>,
    answers: Receiver<Line>,
    next: u64,
}

/// A line of the program, or why there is none.
type Line = std::io::Result<Vec<u8>>;

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
        let start = |source| Error::Start { command: command.to_owned(), source };
        let (program, arguments) =
            words.split_first().ok_or_else(|| start(std::io::ErrorKind::NotFound.into()))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(start)?;
        let input = child.stdin.take();
        let (send, answers) = sync_channel(UNREAD);
        if let Some(output) = child.stdout.take() {
            // A thread of its own, because reading a pipe knows no time limit.
            std::thread::Builder::new()
                .spawn(move || read_lines(output, |line| send.send(line).is_ok()))
                .map_err(start)?;
        }
        let name = format!("command:{program}");
        Ok(Self { name, command: command.to_owned(), limit, child, input, answers, next: 0 })
    }

    /// Checks a command line without starting anything.
    ///
    /// # Errors
    /// [`Error::Command`].
    pub fn check(command: &str) -> Result<()> {
        words(command).map(drop)
    }

    fn ask(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>> {
        let first = self.next;
        self.next += items.len() as u64;
        let text: String =
            items.iter().zip(first..).map(|(item, id)| format!("{}\n", question(item, id))).collect();
        if let Some(item) = items.first() {
            self.nothing_is_left(&item.describe(0))?;
        }
        let Some(mut input) = self.input.take() else { return Err(self.ended(items)) };
        let (give_back, taken_back) = sync_channel(1);
        // A program that answers while it is still being asked would otherwise wait for us, and we for it. Nobody waits
        // for this thread after an error: a process that the program started may hold the pipe and never read it.
        let writer = std::thread::Builder::new().spawn(move || {
            // Where the program has ended, its missing answer says so.
            let _ = input.write_all(text.as_bytes()).and_then(|()| input.flush());
            let _ = give_back.send(input);
        });
        writer.map_err(|source| Error::Start { command: self.command.clone(), source })?;
        let scores: Result<Vec<_>> =
            items.iter().enumerate().map(|(index, item)| self.answer(item, index, first)).collect();
        if scores.is_err() {
            let _ = self.child.kill();
        }
        let scores = scores?;
        // All questions are answered; one that was not read to its end is waited for as an answer is.
        self.input = taken_back.recv_timeout(self.limit).ok();
        Ok(scores)
    }

    /// Refuses a line that came although no row asked for it.
    fn nothing_is_left(&self, row: &str) -> Result<()> {
        match self.answers.try_recv() {
            Ok(Ok(line)) => {
                Err(self.refuse(row, &line, "it came before the row was asked for: one line too many"))
            }
            Ok(Err(_)) | Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(()),
        }
    }

    /// Waits for the answer to one item.
    fn answer(&mut self, item: &RewardItem<'_>, index: usize, first: u64) -> Result<Option<f64>> {
        let row = item.describe(index);
        match self.answers.recv_timeout(self.limit) {
            Ok(Ok(line)) => {
                let id = first + index as u64;
                reward(&line, id).map_err(|why| self.refuse(&row, &line, &why))
            }
            Ok(Err(error)) => Err(self.refuse(&row, b"", &error.to_string())),
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::Late { row, command: self.command.clone(), limit: self.limit })
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.ended_at(row)),
        }
    }

    fn ended(&mut self, items: &[RewardItem<'_>]) -> Error {
        self.ended_at(items.first().map_or_else(String::new, |item| item.describe(0)))
    }

    fn ended_at(&mut self, row: String) -> Error {
        // Its output is closed, so it has ended or is about to.
        let status = match wait(&mut self.child, PATIENCE) {
            Some(status) => status.to_string(),
            None => "it closed its output".to_owned(),
        };
        Error::Ended { row, command: self.command.clone(), status }
    }

    fn refuse(&self, row: &str, line: &[u8], why: &str) -> Error {
        // What a terminal would obey is shown as what it is not.
        let harmless = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
        let shown: String =
            String::from_utf8_lossy(line).trim_end().chars().take(120).map(harmless).collect();
        Error::Answer {
            row: row.to_owned(),
            command: self.command.clone(),
            answer: format!("`{shown}`"),
            why: why.to_owned(),
        }
    }
}

impl Reward for Program {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
        Ok(self.ask(items)?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.input.take());
        if wait(&mut self.child, PATIENCE).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn question(item: &RewardItem<'_>, id: u64) -> Value {
    json!({"id": id, "prompt": item.prompt, "completion": item.completion, "row": item.columns})
}

/// Reads an answer, or says what is wrong with it.
fn reward(line: &[u8], id: u64) -> Result<Option<f64>, String> {
    if line.len() as u64 >= LONGEST_ANSWER {
        return Err(format!("an answer has less than {LONGEST_ANSWER} bytes and ends with a line end"));
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

/// Hands on the lines of a program until it ends or nobody listens.
fn read_lines(output: ChildStdout, send: impl Fn(Line) -> bool) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match output.by_ref().take(LONGEST_ANSWER).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) if send(Ok(line)) => {}
            Ok(_) => return,
            Err(error) => {
                send(Err(error));
                return;
            }
        }
    }
}

/// Waits for a process to end, at most so long.
fn wait(child: &mut Child, most: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + most;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
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
