//! Live progress on stderr: a bar on a terminal, a plain line every few seconds elsewhere.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use align_train::Meter;

use crate::{Error, Result, study::Unit};

/// Length of the bar in its own units.
const BAR_LENGTH: u64 = 1000;

#[derive(Debug)]
struct State {
    /// Share of each unit that is done, 0 to 1.
    done: Vec<f64>,
    /// What runs, in words.
    running: Vec<String>,
    /// None in tests.
    meter: Option<Meter>,
}

/// The progress of a run over all of its units.
#[derive(Debug)]
pub struct Progress<'a> {
    costs: Vec<f64>,
    state: Mutex<State>,
    /// Cost of what was finished before this run began.
    before: f64,
    started: Instant,
    stop: &'a AtomicBool,
}

impl<'a> Progress<'a> {
    /// Begins; `finished` says of each unit whether an earlier run did it. `talk` is false in tests.
    pub fn start(units: &[Unit], finished: &[bool], stop: &'a AtomicBool, talk: bool) -> Self {
        let costs: Vec<f64> = units.iter().map(|u| u.cost).collect();
        let done: Vec<f64> = finished.iter().map(|f| f64::from(u8::from(*f))).collect();
        let before = costs.iter().zip(&done).map(|(c, d)| c * d).sum();
        let state = State { done, running: Vec::new(), meter: talk.then(meter) };
        Self { costs, state: Mutex::new(state), before, started: Instant::now(), stop }
    }

    /// Tells that a unit begins and returns its handle.
    pub fn begin(&'a self, index: usize, unit: &Unit) -> UnitProgress<'a> {
        self.change(|state| state.running.push(unit.id()));
        UnitProgress { progress: self, index }
    }

    /// Tells that a unit is finished.
    pub fn end(&self, index: usize, unit: &Unit) {
        let id = unit.id();
        self.change(|state| {
            state.running.retain(|r| *r != id);
            if let Some(done) = state.done.get_mut(index) {
                *done = 1.0;
            }
        });
    }

    /// Clears the bar, so that what is printed next stands alone.
    pub fn finish(&self) {
        if let Some(meter) = &self.state.lock().unwrap_or_else(PoisonError::into_inner).meter {
            meter.finish();
        }
    }

    fn change(&self, how: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        how(&mut state);
        let share = self.share(&state);
        let message = format!("{} · {}", self.remaining(share), state.running.join(", "));
        if let Some(meter) = &mut state.meter {
            let percent = (share * 100.0).floor();
            let position = (share * BAR_LENGTH as f64) as u64;
            meter.advance(position, &message, false, |_| format!("{percent:>3} % · {message}"));
        }
    }

    fn cost_done(&self, state: &State) -> f64 {
        self.costs.iter().zip(&state.done).map(|(c, d)| c * d).sum()
    }

    fn share(&self, state: &State) -> f64 {
        let total: f64 = self.costs.iter().sum();
        if total > 0.0 { self.cost_done(state) / total } else { 1.0 }
    }

    fn remaining(&self, share: f64) -> String {
        let total: f64 = self.costs.iter().sum();
        let elapsed = self.started.elapsed().as_secs_f64();
        match remaining_seconds(elapsed, share * total - self.before, (1.0 - share) * total) {
            Some(seconds) => format!("about {} left", in_words(seconds)),
            None => "estimating".to_owned(),
        }
    }
}

fn meter() -> Meter {
    let mut meter = Meter::new("{percent:>3} % {bar:30} {elapsed} · {wide_msg}");
    meter.begin(0, BAR_LENGTH);
    meter.tick();
    meter
}

/// Estimates the seconds that are left from the cost that this run has done so far.
fn remaining_seconds(elapsed: f64, done: f64, left: f64) -> Option<f64> {
    (elapsed > 2.0 && done > 0.0).then(|| elapsed / done * left)
}

/// Writes a time for people: `8 s`, `2 min 05 s`.
pub fn in_words(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    if whole < 60 { format!("{whole} s") } else { format!("{} min {:02} s", whole / 60, whole % 60) }
}

/// The progress of one unit.
#[derive(Debug, Clone, Copy)]
pub struct UnitProgress<'a> {
    progress: &'a Progress<'a>,
    index: usize,
}

impl UnitProgress<'_> {
    /// Tells which share of the unit is done, 0 to 1.
    pub fn share(&self, share: f64) {
        self.progress.change(|state| {
            if let Some(done) = state.done.get_mut(self.index) {
                *done = share.clamp(0.0, 1.0);
            }
        });
    }

    /// Returns the flag that is set when the user wants the run to stop.
    pub fn stop_flag(&self) -> &AtomicBool {
        self.progress.stop
    }

    /// Fails when the user wants the run to stop; called every few steps.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check(&self) -> Result<()> {
        if self.progress.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_time_counts_only_what_this_run_did() {
        // Ten seconds for a fifth of the cost that was left at the start.
        assert_eq!(remaining_seconds(10.0, 20.0, 80.0), Some(40.0));
        assert_eq!(remaining_seconds(1.0, 20.0, 80.0), None);
        assert_eq!(remaining_seconds(10.0, 0.0, 80.0), None);
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(in_words(7.6), "8 s");
        assert_eq!(in_words(125.0), "2 min 05 s");
        assert_eq!(in_words(-1.0), "0 s");
    }
}
