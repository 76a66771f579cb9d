use std::time::Duration;

use crate::meter::{Meter, say};

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

/// Shows a person where a run is. Every method has a default that shows nothing, but for warnings.
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

    /// Says what a person must learn even where nothing else is shown; on stderr unless told otherwise.
    fn warn(&mut self, text: &str) {
        say(&format!("warning: {text}"));
    }

    /// Ends.
    fn finish(&mut self) {}
}

/// Shows nothing but warnings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}

/// Talks on stderr: a bar where it is a terminal, else a plain line every few seconds.
#[derive(Debug)]
pub struct Terminal {
    meter: Meter,
    first: u64,
}

impl Terminal {
    /// Makes a display for this process's stderr.
    pub fn new() -> Self {
        let meter = Meter::new("{bar:30} {pos}/{len} steps  {msg}  {elapsed} gone, {eta} left");
        Self { meter, first: 0 }
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
        self.meter.begin(done, total);
    }

    fn step(&mut self, at: &Position) {
        let message = format!("loss {:.4}  {:.0} tokens/s", at.loss, at.tokens_per_second);
        let done = at.step.saturating_sub(self.first);
        let must = done <= 1 || at.step == at.total;
        self.meter.advance(at.step, &message, must, |gone| {
            let left = remaining(gone, done, at.total.saturating_sub(at.step));
            format!("step {}/{}  {message}  {left} left", at.step, at.total)
        });
    }

    fn note(&mut self, text: &str) {
        self.meter.note(text);
    }

    fn warn(&mut self, text: &str) {
        self.note(&format!("warning: {text}"));
    }

    fn finish(&mut self) {
        self.meter.finish();
    }
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
