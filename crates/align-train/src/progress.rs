use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How far a run is, as shown to the user.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    /// The step that was just done (from 1).
    pub step: u64,
    /// Steps of the whole run.
    pub total: u64,
    /// Its loss, before its update.
    pub loss: f64,
    /// Flat tokens per second over the steps of this process.
    pub tokens_per_second: f64,
}

/// Shows a person where a run is. Every method has a default that shows nothing.
pub trait Progress {
    /// Begins: `done` of `total` steps were done by earlier processes.
    fn start(&mut self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// Shows a step.
    fn step(&mut self, position: &Position) {
        let _ = position;
    }

    /// Says something once: a checkpoint written, a held-out result.
    fn note(&mut self, text: &str) {
        let _ = text;
    }

    /// Ends.
    fn finish(&mut self) {}
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}

/// Talks on stderr: a bar where it is a terminal, else a plain line every few seconds.
#[derive(Debug)]
pub struct Terminal {
    bar: Option<ProgressBar>,
    first: u64,
    began: Instant,
    said: Option<Instant>,
}

/// Time between plain lines.
const PAUSE: Duration = Duration::from_secs(5);

impl Terminal {
    /// Makes a display for this process's stderr.
    pub fn new() -> Self {
        let bar = std::io::IsTerminal::is_terminal(&std::io::stderr())
            .then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
        Self { bar, first: 0, began: Instant::now(), said: None }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Terminal {
    fn start(&mut self, done: u64, total: u64) {
        self.first = done;
        self.began = Instant::now();
        if let Some(bar) = &self.bar {
            let template = "{bar:30} {pos}/{len} steps  {msg}  {elapsed} gone, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_length(total);
            bar.set_position(done);
            bar.reset_eta();
        }
    }

    fn step(&mut self, at: &Position) {
        let message = format!("loss {:.4}  {:.0} tokens/s", at.loss, at.tokens_per_second);
        if let Some(bar) = &self.bar {
            bar.set_position(at.step);
            bar.set_message(message);
            return;
        }
        let due = self.said.is_none_or(|said| said.elapsed() >= PAUSE);
        if due || at.step == at.total {
            self.said = Some(Instant::now());
            let left =
                remaining(self.began.elapsed(), at.step.saturating_sub(self.first), at.total - at.step);
            say(&format!("step {}/{}  {message}  {left} left", at.step, at.total));
        }
    }

    fn note(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => say(text),
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Writes a line to stderr. A reader that went away is no reason to lose a run, and `eprintln!` would panic.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Estimates the time that is left from the time that the steps so far took.
fn remaining(gone: Duration, done: u64, left: u64) -> String {
    if done == 0 {
        return "unknown time".into();
    }
    let seconds = (gone.as_secs_f64() / done as f64 * left as f64).round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_pace() {
        assert_eq!(remaining(Duration::from_secs(10), 5, 3), "6s");
        assert_eq!(remaining(Duration::from_secs(60), 1, 2), "2m00s");
        assert_eq!(remaining(Duration::from_secs(3600), 1, 2), "2h00m");
        assert_eq!(remaining(Duration::from_secs(1), 0, 2), "unknown time");
    }
}
