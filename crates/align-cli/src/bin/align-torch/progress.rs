//! How far a command is: a bar on a terminal, a line every few seconds elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use align_cli::talk;
use indicatif::{ProgressBar, ProgressStyle};

/// Time between two lines where stderr is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Rows done out of rows to do.
pub struct Progress {
    kind: Kind,
    total: u64,
    done: u64,
}

enum Kind {
    Bar(ProgressBar),
    Lines { begun: Instant, last: Instant },
    Silent,
}

impl Progress {
    /// Begins with `done` of `total` rows done.
    pub fn new(total: usize, done: usize, silent: bool) -> Self {
        let (total, done) = (total as u64, done as u64);
        let kind = if silent {
            Kind::Silent
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(total).with_position(done);
            // A template that cannot be parsed leaves the plain bar.
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} rows, {eta} left") {
                bar.set_style(style);
            }
            Kind::Bar(bar)
        } else {
            Kind::Lines { begun: Instant::now(), last: Instant::now() }
        };
        Self { kind, total, done }
    }

    /// Counts rows as done.
    pub fn add(&mut self, rows: usize) {
        self.done += rows as u64;
        match &mut self.kind {
            Kind::Bar(bar) => bar.set_position(self.done),
            Kind::Lines { begun, last } if last.elapsed() >= BETWEEN_LINES => {
                *last = Instant::now();
                talk::say(&format!(
                    "{} of {} rows, {:.0} s",
                    self.done,
                    self.total,
                    begun.elapsed().as_secs_f64()
                ));
            }
            Kind::Lines { .. } | Kind::Silent => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Kind::Bar(bar) = self.kind {
            bar.finish_and_clear();
        }
    }
}
