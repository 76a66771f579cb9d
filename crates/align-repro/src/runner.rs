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
    done: Vec<Option<Value>>,
    errors: Vec<(usize, Error)>,
}

impl Schedule {
    /// Returns the first waiting unit whose needs are met.
    fn ready(&self, units: &[Unit]) -> Option<usize> {
        let is_done = |index: &usize| self.done.get(*index).is_some_and(Option::is_some);
        let is_ready = |index: &&usize| units.get(**index).is_some_and(|u| u.needs.iter().all(is_done));
        self.waiting.iter().find(is_ready).copied()
    }
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
    let schedule = Mutex::new(Schedule { waiting, done, errors: Vec::new() });
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
