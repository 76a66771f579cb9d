//! A child process with which lines are exchanged, each within a time limit.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

/// Most bytes of one line; a program that writes without line ends must not fill the memory.
pub(crate) const LONGEST_LINE: u64 = 1 << 20;

/// Lines that may wait to be read; a program that writes on and on then waits, too.
const UNREAD: usize = 64;

/// How long a process may take to end by itself once nothing more is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the last of standard error may take to arrive once the process has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Most bytes of standard error that are kept for messages.
const KEPT: usize = 4096;

/// Lines of standard error that are shown in messages.
const SHOWN: usize = 5;

/// A line of the process, or why there is none.
pub(crate) type Line = std::io::Result<Vec<u8>>;

/// Gives the pipe back once all is written.
pub(crate) type Written = Receiver<ChildStdin>;

/// How a process ended that was asked nothing more.
#[derive(Debug)]
pub(crate) enum End {
    /// By itself, with success and without another word.
    Well,
    /// By itself, but not with success: how, and what it said on standard error.
    Failed(String),
    /// It wrote one more line first.
    Surplus(Vec<u8>),
    /// Not within the time.
    Late,
    /// It still has something to read, so that its input cannot be closed.
    Unread,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Away while something is written.
    input: Option<ChildStdin>,
    lines: Receiver<Line>,
    complaints: Arc<Mutex<Vec<u8>>>,
    /// Disconnected when standard error has come to its end.
    complained: Receiver<()>,
}

impl Process {
    /// Starts a program with its arguments.
    pub(crate) fn start(words: &[String]) -> std::io::Result<Self> {
        let (program, arguments) = words.split_first().ok_or(std::io::ErrorKind::NotFound)?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (send, lines) = sync_channel(UNREAD);
        let (listening, complained) = sync_channel(0);
        let complaints = Arc::default();
        let process = Self { child, input, lines, complaints, complained };
        // Threads of their own, because reading a pipe knows no time limit.
        if let Some(output) = output {
            let read = move || read_lines(output, |line| send.send(line).is_ok());
            std::thread::Builder::new().spawn(read)?;
        }
        if let Some(errors) = errors {
            let kept = process.complaints.clone();
            std::thread::Builder::new().spawn(move || show(errors, &kept, listening))?;
        }
        Ok(process)
    }

    /// Returns a line that is there already.
    pub(crate) fn unread(&self) -> Option<Vec<u8>> {
        self.lines.try_recv().ok().and_then(Result::ok)
    }

    /// Begins to write; `None` where an earlier text is still being written, because nobody reads it.
    ///
    /// Nobody waits for the writing, because a program that answers while it is being asked would otherwise wait for us,
    /// and we for it; nor after an error, because a process that the program started may hold the pipe and never read it.
    pub(crate) fn write(&mut self, text: String) -> std::io::Result<Option<Written>> {
        let Some(mut input) = self.input.take() else { return Ok(None) };
        let (give_back, written) = sync_channel(1);
        std::thread::Builder::new().spawn(move || {
            // Where the program has ended, its missing answer says so.
            let _ = input.write_all(text.as_bytes()).and_then(|()| input.flush());
            let _ = give_back.send(input);
        })?;
        Ok(Some(written))
    }

    /// Waits until all is written, at most so long.
    pub(crate) fn take_back(&mut self, written: &Written, limit: Duration) {
        self.input = written.recv_timeout(limit).ok();
    }

    /// Waits for a line.
    pub(crate) fn line(&self, limit: Duration) -> Result<Line, RecvTimeoutError> {
        self.lines.recv_timeout(limit)
    }

    /// Closes its input, and waits for its end, at most so long, or for a line that it still writes.
    pub(crate) fn close(&mut self, limit: Duration) -> End {
        let start = Instant::now();
        let left = || limit.saturating_sub(start.elapsed());
        if self.input.take().is_none() && wait(&mut self.child, PATIENCE).is_none() {
            return End::Unread;
        }
        loop {
            // Looked at before the lines are: what an ended process wrote waits in the pipe.
            let ended = matches!(self.child.try_wait(), Ok(Some(_)));
            // A process that it started may keep standard output open for ever.
            let patience = if ended { LAST_WORDS } else { left().min(LAST_WORDS) };
            match self.lines.recv_timeout(patience) {
                Ok(Ok(line)) => {
                    // It may still have a file to write.
                    let _ = wait(&mut self.child, PATIENCE);
                    return End::Surplus(line);
                }
                Err(RecvTimeoutError::Timeout) if !ended && !left().is_zero() => {}
                Err(RecvTimeoutError::Timeout) if !ended => return End::Late,
                _ => break,
            }
        }
        match wait(&mut self.child, left().max(LAST_WORDS)) {
            Some(status) if status.success() => End::Well,
            Some(_) => End::Failed(self.farewell()),
            None => End::Late,
        }
    }

    /// Says whether it goes on, after the time that it may take to end.
    pub(crate) fn is_alive(&mut self) -> bool {
        wait(&mut self.child, PATIENCE).is_none()
    }

    /// Says how a process that has closed its output ended, and what it said last on standard error.
    pub(crate) fn farewell(&mut self) -> String {
        let status = match wait(&mut self.child, PATIENCE) {
            Some(status) => status.to_string(),
            None => "it closed its output".to_owned(),
        };
        // A process that it started may keep standard error open for ever.
        let _ = self.complained.recv_timeout(LAST_WORDS);
        let kept = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let last = lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default().join(" | ");
        let harmless: String =
            last.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
        if harmless.is_empty() { status } else { format!("{status}; it said: {harmless}") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where the pipe is away, the program does not read, and need not be waited for.
        let patience = if self.input.take().is_some() { PATIENCE } else { Duration::ZERO };
        if wait(&mut self.child, patience).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Hands on the lines of a program until it ends or nobody listens.
fn read_lines(output: ChildStdout, send: impl Fn(Line) -> bool) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match output.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
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

/// Shows standard error on ours as it comes, and keeps its end. `listening` is dropped with the last of it.
fn show(mut errors: ChildStderr, kept: &Mutex<Vec<u8>>, listening: SyncSender<()>) {
    let mut buffer = [0_u8; KEPT];
    while let Ok(read @ 1..) = errors.read(&mut buffer) {
        let text = buffer.get(..read).unwrap_or_default();
        let _ = std::io::stderr().write_all(text);
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(text);
        let excess = kept.len().saturating_sub(KEPT);
        kept.drain(..excess);
    }
    drop(listening);
}

/// Waits for a process to end, at most so long.
fn wait(child: &mut Child, most: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if start.elapsed() < most => std::thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}
