use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between plain lines.
const PAUSE: Duration = Duration::from_secs(5);

/// A bar on stderr where that is a terminal, otherwise a plain line every few seconds.
///
/// ```
/// use align_train::Meter;
///
/// let mut meter = Meter::new("{bar:30} {pos}/{len} rows");
/// meter.begin(0, 200);
/// meter.advance(60, "fast", false, |gone| format!("60 of 200 rows, {:.0} s", gone.as_secs_f64()));
/// meter.finish();
/// ```
#[derive(Debug)]
pub struct Meter {
    bar: Option<ProgressBar>,
    began: Instant,
    said: Instant,
}

impl Meter {
    /// Makes a meter for this process's stderr; `template` is the bar in the language of `indicatif`.
    pub fn new(template: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // A template that cannot be parsed leaves the plain bar.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, began: Instant::now(), said: Instant::now() }
    }

    /// Begins with `done` of `total` done.
    pub fn begin(&mut self, done: u64, total: u64) {
        (self.began, self.said) = (Instant::now(), Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.reset_eta();
        }
    }

    /// Moves the bar to `done` with a message behind it; without a bar it says a line, if one is due or this one must
    /// be said, and tells it the time since [`Meter::begin`].
    pub fn advance(&mut self, done: u64, message: &str, must: bool, line: impl FnOnce(Duration) -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message.to_owned());
        } else if must || self.said.elapsed() >= PAUSE {
            self.said = Instant::now();
            say(&line(self.began.elapsed()));
        }
    }

    /// Says something once, above the bar.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => say(text),
        }
    }

    /// Redraws the bar now and then although nothing moves, so that the time on it runs.
    pub fn tick(&self) {
        if let Some(bar) = &self.bar {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Writes a line to stderr. A reader that went away is no reason to lose a run, and `eprintln!` would panic.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
