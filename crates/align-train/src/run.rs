use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use align_core::align_types::{
    HealthCheck, MetricSink,
    config::{OptimizerConfig, TrainConfig},
};
use align_core::{BatchReport, BoxError, Concluded, Evaluation, StepAt, StepError, Stepped, Steps};
use serde_json::{Map, Value, json};

use crate::checkpoint::{Best, Checkpoints, SaveModel, TrainerState, Unevaluated, Writers};
use crate::health::Seen;
use crate::keep_best::KeepBest;
use crate::pace::Pace;
use crate::progress::{Position, Progress, Silent};
use crate::schedule::schedule_factor;
use crate::{Checkpoint, Error, EventsFile, MetricsFile, Result, RunFolder, SavedStep, Unit, environment};

/// Everything a run is made of.
pub struct RunJob<'a> {
    /// The run folder, from [`RunFolder::open`].
    pub folder: &'a RunFolder,
    /// The checkpoint to continue from; the policy must then hold the weights of its `model_dir`.
    pub start: Option<Checkpoint>,
    /// What is repeated.
    pub steps: &'a mut dyn Steps,
    /// Keeps the checkpoint with the best value of this held-out metric (`loss`, `rewards/margins`, with or
    /// without `eval/`).
    pub keep_best: Option<String>,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Saving and logging. `max_steps` and `epochs` are not read: see `total_steps`.
    pub config: &'a TrainConfig,
    /// The schedule, and the peak rate that its metric is a share of.
    pub optimizer: &'a OptimizerConfig,
    /// What a prompt group is called in the metrics.
    pub unit: Unit,
    /// Compute threads that are really used.
    pub threads: usize,
    /// Stands for everything else that shapes the result: tokenised rows, held-out rows, weights of a base or
    /// reference model. The caller makes it (a digest, say); a run is only continued with the same. Empty where
    /// there is nothing to compare.
    pub inputs: String,
    /// Further entries of `summary.json`, such as rows cut and skipped.
    pub summary: Map<String, Value>,
}

/// Called with the number of steps after the last of them; returns further entries of `summary.json`.
pub type BeforeFinish<'a> = &'a dyn Fn(u64) -> Result<Map<String, Value>, BoxError>;

/// What a run does to the outside.
pub struct Hooks<'a> {
    /// Writes the model to an empty folder, in float32, with everything that is needed to load it again.
    pub save_model: SaveModel<'a>,
    /// Writes the model of the finished run, where that is to differ from those of checkpoints: in fewer bits, say.
    pub save_final: Option<SaveModel<'a>>,
    /// Called after the last step's checkpoint and before the final model and `summary.json`, which make the run
    /// finished. A run that is killed meanwhile calls it again when it is resumed, so it must bear repetition.
    pub before_finish: Option<BeforeFinish<'a>>,
    /// Receive every line of `metrics.jsonl` as well.
    pub sinks: Vec<Box<dyn MetricSink>>,
    /// Look at the metrics of every step, logged or not. What they say is shown as a warning and listed in
    /// `summary.json`, once per check and run.
    pub checks: Vec<HealthCheck>,
    /// Shows a person where the run is.
    pub progress: Box<dyn Progress + 'a>,
    /// Set from outside (Ctrl-C) to end the run after the step at hand and a checkpoint.
    pub stop: Arc<AtomicBool>,
}

impl<'a> Hooks<'a> {
    /// Makes hooks that save with a closure, show nothing and never stop.
    pub fn new(save_model: SaveModel<'a>) -> Self {
        Self {
            save_model,
            save_final: None,
            before_finish: None,
            sinks: Vec::new(),
            checks: Vec::new(),
            progress: Box::new(Silent),
            stop: Arc::default(),
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps are done; the model is in `model/` and this is `summary.json`.
    Finished(Map<String, Value>),
    /// The stop flag was set; a checkpoint was written if any step was done.
    Interrupted {
        /// Steps done.
        step: u64,
        /// The checkpoint.
        checkpoint: Option<PathBuf>,
    },
}

/// Does steps until all are done or the stop flag is set, with checkpoints, metrics and exact resume.
///
/// A run that is killed at any moment and started again with [`crate::OpenMode::Resume`] ends with the same
/// bits, for the same machine and number of threads, on the CPU. On a GPU it goes on from the same state, but
/// some of libtorch's kernels add in an order that differs from one process to the next.
///
/// # Errors
/// [`Error::Step`] when a step fails (a loss or gradient that is not finite, rows that cannot be used) or its
/// evaluation does; the state before the step, or after it, is then in a checkpoint. An evaluation that fails once the stop
/// flag is set is no error: a resumed run begins with it. A held-out loss that is not
/// finite is no error: it is `null` in the metrics, and a warning says so. [`Error::Checkpoint`] when `start` and the
/// model do not belong together, [`Error::InputsMismatch`] when `start` was written with other `inputs`. [`Error::BeforeFinish`] when
/// that hook fails. Files that cannot be written.
pub fn run<'a>(job: RunJob<'a>, hooks: Hooks<'a>) -> Result<Outcome> {
    job.config.validate()?;
    let mut run = Run::new(job, hooks)?;
    let (done, total) = (run.state.step, run.state.total_steps);
    run.hooks.progress.start(done, total);
    let outcome = run.steps();
    run.hooks.progress.finish();
    outcome
}

/// What held-out rows gave; nothing on steps without an evaluation.
#[derive(Default)]
struct HeldOut {
    metrics: Vec<(String, f64)>,
    /// Whether it is the best so far.
    improved: bool,
}

struct Run<'a> {
    steps: &'a mut dyn Steps,
    keep_best: Option<KeepBest>,
    config: &'a TrainConfig,
    optimizer: &'a OptimizerConfig,
    unit: Unit,
    folder: &'a RunFolder,
    checkpoints: Checkpoints,
    metrics: MetricsFile,
    events: EventsFile,
    hooks: Hooks<'a>,
    state: TrainerState,
    /// Whether the state is on disk already.
    saved: bool,
    pace: Pace,
    summary: Map<String, Value>,
}

impl<'a> Run<'a> {
    fn new(job: RunJob<'a>, hooks: Hooks<'a>) -> Result<Self> {
        let RunJob { config, folder, steps, .. } = job;
        if let Some(metric) = &job.keep_best {
            match steps.evaluation_metrics().map_err(Error::of_method)? {
                Some(names) => KeepBest::check(metric, &names)?,
                None => {
                    let why = "keep-best needs held-out rows: give some, or leave it out";
                    return Err(Error::Config(why.into()));
                }
            }
        }
        let saved = job.start.is_some();
        let state = match job.start {
            Some(checkpoint) => continue_from(&checkpoint, steps, job.total_steps, &job.inputs)?,
            None => {
                let fingerprint = folder.config_fingerprint();
                let new = TrainerState::new(job.total_steps, config.seed, job.threads, fingerprint);
                TrainerState { inputs: job.inputs, ..new }
            }
        };
        // The line of a step whose held-out rows are still to be measured is written again, with them.
        let lines = state.step.saturating_sub(u64::from(state.unevaluated.is_some()));
        let metrics = MetricsFile::open(&folder.metrics_file(), lines)?;
        let events = EventsFile::open(folder.path(), lines)?;
        Ok(Self {
            steps,
            keep_best: job.keep_best.as_deref().map(KeepBest::new),
            config,
            optimizer: job.optimizer,
            unit: job.unit,
            folder,
            checkpoints: folder.checkpoints(),
            metrics,
            events,
            hooks,
            pace: Pace::new(state.wall_time.clone()),
            state,
            saved,
            summary: job.summary,
        })
    }

    fn steps(&mut self) -> Result<Outcome> {
        if !self.make_up()? {
            return self.interrupt();
        }
        while self.state.step < self.state.total_steps {
            if self.hooks.stop.load(Ordering::SeqCst) || !self.step()? {
                return self.interrupt();
            }
        }
        // A resumed run may have nothing left to do but this.
        self.save()?;
        if !self.conclude()? {
            return self.interrupt();
        }
        if let Some(hook) = self.hooks.before_finish {
            let found = hook(self.state.step);
            if found.is_err() && self.hooks.stop.load(Ordering::SeqCst) {
                // Everything is saved, and the hook is asked again when the run is continued.
                return self.interrupt();
            }
            let mut found = found.map_err(|error| Error::before_finish(self.folder.path(), error))?;
            self.summary.append(&mut found);
        }
        self.finish()
    }

    /// Says where the run is while it does step `step`.
    fn at<'s>(&self, step: u64, stop: &'s AtomicBool) -> StepAt<'s> {
        let total = self.state.total_steps;
        let schedule = schedule_factor(self.optimizer, step.saturating_sub(1), total);
        StepAt { step, total, schedule, stop }
    }

    /// Does a step; `false` when it was stopped before it changed anything, or while its held-out rows were measured.
    fn step(&mut self) -> Result<bool> {
        let step = self.state.step + 1;
        let stop = Arc::clone(&self.hooks.stop);
        let at = self.at(step, &stop);
        let report = match self.steps.step(&at) {
            Ok(Stepped::Done(report)) => report,
            Ok(Stepped::Stopped) => return Ok(false),
            Err(StepError { intact, source }) => {
                return Err(self.failed(step, intact, Error::of_method(source)));
            }
        };
        let rate = self.optimizer.learning_rate * at.schedule;
        self.saved = false;
        self.state.step = step;
        self.state.next_batch = step;
        self.state.rows += report.groups as u64;
        self.state.tokens += report.tokens as u64;
        self.pace.count(report.groups, report.tokens);
        self.check_health(step, &report);
        let evaluation = self.evaluate_if_due(step);
        // The step itself is done: its line is written whatever became of the evaluation.
        let held_out = evaluation.as_ref().map(|it| it.metrics.as_slice()).unwrap_or_default();
        let put_off = evaluation.is_err() && self.hooks.stop.load(Ordering::SeqCst);
        if put_off || self.is_logged(step, held_out) {
            let line = self.line(rate, &report);
            self.log(step, &line, held_out)?;
            self.state.unevaluated = put_off.then(|| Unevaluated::new(line));
        }
        if put_off {
            // Ctrl-C reaches a program that scores too, which then fails: a resumed run asks it again.
            return Ok(false);
        }
        let evaluation = evaluation.map_err(|source| self.failed(step, true, source))?;
        let (total, tokens_per_second) = (self.state.total_steps, self.pace.tokens_per_second());
        self.hooks.progress.step(&Position { step, total, loss: report.loss, tokens_per_second });
        if evaluation.improved || every(self.config.save_every, step) {
            self.save()?;
        }
        Ok(true)
    }

    /// Measures the held-out rows of the last step where that was broken off; `false` where it is once more.
    fn make_up(&mut self) -> Result<bool> {
        let Some(line) = self.state.unevaluated.clone().map(Unevaluated::into_line) else { return Ok(true) };
        let step = self.state.step;
        let evaluation = self.evaluate(step);
        let held_out = evaluation.as_ref().map(|it| it.metrics.as_slice()).unwrap_or_default();
        self.log(step, &line, held_out)?;
        if evaluation.is_err() && self.hooks.stop.load(Ordering::SeqCst) {
            return Ok(false);
        }
        // On disk it stays until the next checkpoint: a run that is killed before measures once more.
        self.state.unevaluated = None;
        if let Err(source) = evaluation {
            // What fails by itself is given up, here as in a run that was not stopped.
            self.saved = false;
            return Err(self.failed(step, true, source));
        }
        Ok(true)
    }

    /// Shows a step to the checks and says what they say.
    fn check_health(&mut self, step: u64, report: &BatchReport) {
        let fixed = [("loss", report.loss), ("grad_norm", report.grad_norm)];
        let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
        let metrics: Vec<_> = fixed.into_iter().chain(report.metrics.iter().cloned()).collect();
        let (total_steps, rows) = (self.state.total_steps, report.groups);
        let seen = Seen { step, total_steps, rows, metrics: &metrics, counts: &report.counts };
        for warning in self.state.health.watch(&self.hooks.checks, &seen) {
            self.hooks.progress.warn(&format!("step {step}: {}", warning.message));
        }
    }

    /// Keeps the state when a step or its evaluation fails, where it still is that of a whole step, and says where; of a
    /// step that is torn it keeps the model.
    fn failed(&mut self, step: u64, intact: bool, source: Error) -> Error {
        let done = self.state.step;
        let newest = |run: &Self| {
            let newest = run.checkpoints.newest().ok().and_then(|(newest, _)| newest);
            newest.map(|found| SavedStep { step: found.state.step, folder: found.folder })
        };
        let mut torn = None;
        let saved = if !intact {
            // Its updates so far are work, and a checkpoint may be many steps old.
            match self.checkpoints.write_torn(step, self.hooks.save_model) {
                Ok(folder) => torn = Some(folder),
                Err(error) => {
                    self.hooks
                        .progress
                        .warn(&format!("the model in the middle of step {step} is not saved: {error}"));
                }
            }
            newest(self)
        } else if done == 0 {
            None
        } else {
            match self.save() {
                Ok(()) => Some(SavedStep { step: done, folder: self.checkpoints.folder_of(done) }),
                Err(error) => {
                    // The step's own error is the one to report; this one is said beside it.
                    self.hooks.progress.warn(&format!("the state after step {done} is not saved: {error}"));
                    newest(self)
                }
            }
        };
        Error::Step { step, saved, torn, source: Box::new(source) }
    }

    /// Evaluates held-out rows with the weights after this step, on the steps where that is due.
    fn evaluate_if_due(&mut self, step: u64) -> Result<HeldOut> {
        if !(every(self.config.eval_every, step) || step == self.state.total_steps) {
            return Ok(HeldOut::default());
        }
        self.evaluate(step)
    }

    fn evaluate(&mut self, step: u64) -> Result<HeldOut> {
        let began = Instant::now();
        let stop = Arc::clone(&self.hooks.stop);
        let at = self.at(step, &stop);
        let found = self.steps.evaluate(&at).map_err(Error::of_method)?;
        let Some(Evaluation { report, warning }) = found else { return Ok(HeldOut::default()) };
        self.pace.eval(began);
        if let Some(warning) = warning {
            self.hooks.progress.warn(&format!("held-out rows after step {step}: {warning}"));
        }
        let mut metrics = vec![("eval/loss".to_owned(), report.loss)];
        metrics.extend(report.metrics.into_iter().map(|(name, value)| (format!("eval/{name}"), value)));
        let mut improved = false;
        if let Some(keep) = &self.keep_best {
            let (metric, value) = keep.find(&metrics)?;
            improved = keep.is_better(value, self.state.best.as_ref());
            if improved {
                self.state.best = Some(Best { metric, value, step });
            }
        }
        Ok(HeldOut { metrics, improved })
    }

    fn is_logged(&self, step: u64, evaluation: &[(String, f64)]) -> bool {
        let last = step == self.state.total_steps;
        step == 1 || last || every(self.config.log_every, step) || !evaluation.is_empty()
    }

    /// Makes the line of the step that was just done, without held-out rows.
    fn line(&mut self, rate: f64, report: &BatchReport) -> Vec<(String, f64)> {
        let (groups_per_second, tokens_per_second) = self.pace.since_last_line();
        let fixed = [
            ("loss", report.loss),
            ("learning_rate", rate),
            ("grad_norm", report.grad_norm),
            ("tokens", self.state.tokens as f64),
            ("tokens_per_second", tokens_per_second),
            (self.unit.rate_name(), groups_per_second),
            ("peak_rss_mb", environment::peak_rss_mb()),
            ("time", self.pace.total()),
        ];
        let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
        fixed.into_iter().chain(report.metrics.iter().cloned()).collect()
    }

    fn log(&mut self, step: u64, line: &[(String, f64)], evaluation: &[(String, f64)]) -> Result<()> {
        let metrics = [line, evaluation].concat();
        self.metrics.append(step, &metrics)?;
        self.events.append(step, &metrics)?;
        self.hooks.sinks.iter_mut().try_for_each(|sink| Ok(sink.record(step, &metrics)?))
    }

    /// Writes a checkpoint of the state unless it is on disk already.
    fn save(&mut self) -> Result<()> {
        if self.saved {
            return Ok(());
        }
        let began = Instant::now();
        // Lines up to this step must be on disk before the checkpoint that says they are.
        self.metrics.sync()?;
        self.events.sync()?;
        self.state.wall_time = self.pace.wall_time(self.steps.phases());
        let steps = &*self.steps;
        let writers = Writers {
            model: self.hooks.save_model,
            rest: &|folder| steps.save(folder).map_err(Error::of_method),
        };
        self.checkpoints.write(&self.state, writers)?;
        self.saved = true;
        let best = self.state.best.as_ref().map(|best| best.step);
        self.checkpoints.prune(self.state.step, self.config.keep_checkpoints, best)?;
        self.pace.save(began);
        Ok(())
    }

    fn interrupt(&mut self) -> Result<Outcome> {
        let step = self.state.step;
        if step == 0 {
            return Ok(Outcome::Interrupted { step, checkpoint: None });
        }
        self.save()?;
        Ok(Outcome::Interrupted { step, checkpoint: Some(self.checkpoints.folder_of(step)) })
    }

    /// Lets the method write what belongs to the end of the run, and says whether it came to the end: `false` where
    /// the stop flag was set meanwhile.
    fn conclude(&mut self) -> Result<bool> {
        let began = Instant::now();
        let stop = Arc::clone(&self.hooks.stop);
        let at = self.at(self.state.step, &stop);
        let concluded = self.steps.conclude(&at, self.folder.path());
        self.pace.eval(began);
        match concluded.map_err(Error::of_method)? {
            Concluded::Done => Ok(true),
            Concluded::Stopped => Ok(false),
            Concluded::Without(what) => {
                self.hooks.progress.warn(&what);
                Ok(true)
            }
        }
    }

    fn finish(&mut self) -> Result<Outcome> {
        let began = Instant::now();
        self.metrics.sync()?;
        self.events.sync()?;
        let mut summary = Map::new();
        let mut add = |key: &str, value: Value| summary.insert(key.to_owned(), value);
        add("status", "finished".into());
        add("steps", self.state.step.into());
        add("rows", self.state.rows.into());
        add("tokens", self.state.tokens.into());
        add("final", Value::Object(self.metrics.last().clone()));
        if let Some(best) = &self.state.best {
            let folder = format!("checkpoints/step-{}", best.step);
            add(
                "best",
                json!({ "metric": best.metric, "value": best.value, "step": best.step, "checkpoint": folder }),
            );
        }
        add("wall_time", json!(self.pace.wall_time(self.steps.phases())));
        add("peak_rss_mb", environment::peak_rss_mb().into());
        add("warnings", json!(self.state.health.warnings));
        summary.append(&mut self.summary);
        self.folder.finish(self.hooks.save_final.unwrap_or(self.hooks.save_model), summary.clone())?;
        self.pace.save(began);
        Ok(Outcome::Finished(summary))
    }
}

/// Puts a checkpoint's state into the method; the weights of the policy are there already, and are checked.
fn continue_from(
    checkpoint: &Checkpoint,
    steps: &mut dyn Steps,
    total_steps: u64,
    inputs: &str,
) -> Result<TrainerState> {
    let state = checkpoint.state.clone();
    // Before the number of steps, which follows from the number of rows: this says what the user can mend.
    if state.inputs != inputs {
        return Err(Error::InputsMismatch { path: checkpoint.folder.clone() });
    }
    if state.total_steps != total_steps {
        let why = format!("its run has {} steps, this one {total_steps}", state.total_steps);
        return Err(Error::checkpoint(&checkpoint.folder, why));
    }
    steps.load(&checkpoint.folder).map_err(Error::of_method)?;
    Ok(state)
}

fn every(n: u64, step: u64) -> bool {
    n > 0 && step.is_multiple_of(n)
}
