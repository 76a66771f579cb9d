//! Units of work on several threads, with their results kept on disk.

use std::{
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use align_core::threads::prepare_compute_thread;
use serde_json::Value;

use crate::{
    Error, Result,
    progress::Progress,
    store::Store,
    study::{Results, Study, Unit, UnitContext},
};

/// How a run uses the machine.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions<'a> {
    /// Units that run at the same time, each on one thread; never changes a result.
    pub workers: usize,
    /// Set when the user wants the run to stop.
    pub stop: &'a AtomicBool,
    /// Whether progress is written to stderr.
    pub talk: bool,
}

/// What waits, runs and is done.
#[derive(Debug)]
struct Schedule {
    waiting: BTreeSet<usize>,
    /// What each unit holds up, see [`holds_up`].
    urgency: Vec<f64>,
    done: Vec<Option<Value>>,
    errors: Vec<(usize, Error)>,
}

impl Schedule {
    /// Returns the waiting unit with its needs met that holds up most; of several the first.
    fn ready(&self, units: &[Unit]) -> Option<usize> {
        let is_done = |index: &usize| self.done.get(*index).is_some_and(Option::is_some);
        let is_ready = |index: &&usize| units.get(**index).is_some_and(|u| u.needs.iter().all(is_done));
        let urgency = |index: &usize| self.urgency.get(*index).copied().unwrap_or(0.0);
        // `max_by` takes the last of several.
        self.waiting.iter().rev().filter(is_ready).max_by(|a, b| urgency(a).total_cmp(&urgency(b))).copied()
    }
}

/// Sums for every unit the seconds of the longest chain of units that begins with it and needs the one before: begun
/// late, such a chain runs alone at the end while other threads have nothing to do.
fn holds_up(units: &[Unit]) -> Vec<f64> {
    let mut after = vec![0.0f64; units.len()];
    for (index, unit) in units.iter().enumerate().rev() {
        let chain = unit.cost + after.get(index).copied().unwrap_or(0.0);
        for need in &unit.needs {
            if let Some(longest) = after.get_mut(*need) {
                *longest = longest.max(chain);
            }
        }
        if let Some(own) = after.get_mut(index) {
            *own = chain;
        }
    }
    after
}

struct Floor<'a> {
    study: &'a dyn Study,
    units: &'a [Unit],
    store: &'a Store,
    schedule: Mutex<Schedule>,
    changed: Condvar,
    stop: &'a AtomicBool,
}

/// Runs the units of a study that an earlier run has not finished, several at a time.
///
/// Results are kept on disk as they come.
///
/// # Errors
/// [`Error::Interrupted`] when the user stops the run; otherwise the error of the first unit that failed.
pub fn run_units(
    study: &dyn Study,
    units: &[Unit],
    store: &Store,
    options: RunOptions<'_>,
) -> Result<Results> {
    let done = units.iter().map(|unit| store.finished(unit)).collect::<Result<Vec<_>>>()?;
    let finished: Vec<bool> = done.iter().map(Option::is_some).collect();
    let progress = Progress::start(units, &finished, options.stop, options.talk);
    let waiting = finished.iter().enumerate().filter(|(_, f)| !**f).map(|(index, _)| index).collect();
    let schedule = Mutex::new(Schedule { waiting, urgency: holds_up(units), done, errors: Vec::new() });
    let floor = Floor { study, units, store, schedule, changed: Condvar::new(), stop: options.stop };
    let joined = std::thread::scope(|scope| {
        let spawn = |_| scope.spawn(|| floor.work(&progress));
        let workers: Vec<_> = (0..options.workers.max(1)).map(spawn).collect();
        workers.into_iter().map(|w| w.join().map_err(|_| Error::Worker)).collect::<Result<Vec<()>>>()
    });
    progress.finish();
    joined?;
    collect(floor.schedule.into_inner().unwrap_or_else(PoisonError::into_inner), units)
}

fn collect(mut schedule: Schedule, units: &[Unit]) -> Result<Results> {
    schedule.errors.sort_by_key(|(index, _)| *index);
    if let Some((_, error)) = schedule.errors.into_iter().next() {
        return Err(error);
    }
    let mut results = Results::default();
    for (unit, value) in units.iter().zip(schedule.done) {
        results.insert(unit, value.ok_or(Error::Interrupted)?);
    }
    Ok(results)
}

impl Floor<'_> {
    fn work(&self, progress: &Progress<'_>) {
        prepare_compute_thread();
        while let Some(index) = self.next() {
            // A panic is a bug, but the workers that wait for this unit must hear of it all the same.
            let run = AssertUnwindSafe(|| self.run(index, progress));
            let result = std::panic::catch_unwind(run).unwrap_or(Err(Error::Worker));
            let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(value) => {
                    if let Some(place) = schedule.done.get_mut(index) {
                        *place = Some(value);
                    }
                }
                Err(error) => schedule.errors.push((index, error)),
            }
            self.changed.notify_all();
        }
        self.changed.notify_all();
    }

    /// Waits for a unit that can run; `None` when nothing is left for this worker.
    fn next(&self) -> Option<usize> {
        let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.stop.load(Ordering::Relaxed) || !schedule.errors.is_empty() || schedule.waiting.is_empty()
            {
                return None;
            }
            if let Some(index) = schedule.ready(self.units) {
                schedule.waiting.remove(&index);
                return Some(index);
            }
            schedule = self.changed.wait(schedule).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, index: usize, progress: &Progress<'_>) -> Result<Value> {
        let unit = self.units.get(index).ok_or(Error::Worker)?;
        let work = self.store.work();
        let context = UnitContext { progress: progress.begin(index, unit), work: &work };
        let value = self.study.run(unit, &context)?;
        self.store.keep(unit, &value)?;
        progress.end(index, unit);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(cost: f64, needs: &[usize]) -> Unit {
        Unit { arm: "a".into(), seed: Some(0), needs: needs.to_vec(), cost }
    }

    fn schedule(units: &[Unit]) -> Schedule {
        let done = units.iter().map(|_| None).collect();
        Schedule { waiting: (0..units.len()).collect(), urgency: holds_up(units), done, errors: Vec::new() }
    }

    #[test]
    fn what_begins_the_longest_chain_is_run_first() {
        let units = [unit(10.0, &[]), unit(1.0, &[0]), unit(5.0, &[]), unit(20.0, &[2]), unit(2.0, &[2, 0])];
        assert_eq!(holds_up(&units), [12.0, 1.0, 25.0, 20.0, 2.0]);
        let mut schedule = schedule(&units);
        let mut order = Vec::new();
        while let Some(index) = schedule.ready(&units) {
            schedule.waiting.remove(&index);
            schedule.done[index] = Some(Value::Null);
            order.push(index);
        }
        assert_eq!(order, [2, 3, 0, 4, 1]);
    }

    #[test]
    fn of_several_as_urgent_the_first_is_run() {
        let units = [unit(1.0, &[]), unit(1.0, &[]), unit(1.0, &[])];
        assert_eq!(schedule(&units).ready(&units), Some(0));
    }
}
