use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use align_core::align_types::{
    HealthCheck, MetricSink, PromptGroup, PromptSource,
    config::{OptimizerConfig, TrainConfig},
};
use align_core::{CausalLm, Objective, Trainable};
use serde_json::{Map, Value, json};

use crate::checkpoint::{Best, Checkpoints, SaveModel, TrainerState, Writers};
use crate::engine::EvalBatch;
use crate::health::Seen;
use crate::keep_best::KeepBest;
use crate::pace::Pace;
use crate::progress::{Position, Progress, Silent};
use crate::{
    BatchReport, BoxError, Checkpoint, Compute, Engine, Error, EventsFile, MetricsFile, Result, RunFolder,
    SavedStep, Unit, environment, eval_rows, fingerprint, learning_rate,
};

/// Everything a run is made of; `M` is what is trained, a language model unless said otherwise.
pub struct TrainJob<'a, M: Trainable + ?Sized = dyn CausalLm> {
    /// The run folder, from [`RunFolder::open`].
    pub folder: &'a RunFolder,
    /// The checkpoint to continue from; `model` must then hold the weights of its `model_dir`.
    pub start: Option<Checkpoint>,
    /// The model. To keep a handle for saving, give a replica: it shares the weights.
    pub model: Box<M>,
    /// What is minimised.
    pub objective: Box<dyn Objective<M>>,
    /// The rows of each step.
    pub source: &'a mut dyn PromptSource,
    /// Held-out rows; may be empty.
    pub eval: Vec<PromptGroup>,
    /// Keeps the checkpoint with the best value of this held-out metric (`loss`, `rewards/margins`, with or
    /// without `eval/`).
    pub keep_best: Option<String>,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Batches, saving, logging. `max_steps` and `epochs` are not read: see `total_steps`.
    pub config: &'a TrainConfig,
    /// Optimiser and schedule.
    pub optimizer: &'a OptimizerConfig,
    /// What a prompt group is called in the metrics.
    pub unit: Unit,
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

/// Trains until all steps are done or the stop flag is set.
///
/// A run that is killed at any moment and started again with [`crate::OpenMode::Resume`] ends with the same
/// bits, for the same machine and number of threads, on the CPU. On a GPU it goes on from the same state, but
/// some of libtorch's kernels add in an order that differs from one process to the next.
///
/// # Errors
/// [`Error::Step`] when a step fails (a loss or gradient that is not finite, rows that cannot be used) or its
/// evaluation does; the state before the step, or after it, is then in a checkpoint. A held-out loss that is not
/// finite is no error: it is `null` in the metrics, and a warning says so. [`Error::Checkpoint`] when `start` and `model` do not belong
/// together, [`Error::InputsMismatch`] when `start` was written with other `inputs`. [`Error::BeforeFinish`] when
/// that hook fails. Files that cannot be written.
pub fn train<'a, M: Trainable + ?Sized>(job: TrainJob<'a, M>, hooks: Hooks<'a>) -> Result<Outcome> {
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
struct Evaluation {
    metrics: Vec<(String, f64)>,
    /// Whether it is the best so far.
    improved: bool,
}

struct Run<'a, M: Trainable + ?Sized> {
    engine: Engine<M>,
    source: &'a mut dyn PromptSource,
    eval: Option<EvalBatch>,
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

impl<'a, M: Trainable + ?Sized> Run<'a, M> {
    fn new(job: TrainJob<'a, M>, hooks: Hooks<'a>) -> Result<Self> {
        let TrainJob { config, folder, .. } = job;
        let compute = Compute { threads: config.threads, micro_batch_tokens: config.micro_batch_tokens };
        let mut engine = Engine::over(job.model, job.objective, job.optimizer, compute)?;
        let eval = match job.eval.first() {
            None => None,
            Some(first) => {
                if let Some(metric) = &job.keep_best {
                    let one = engine.prepare_evaluation(vec![first.clone()])?;
                    KeepBest::check(metric, &engine.evaluate_all(&one)?.0)?;
                }
                Some(engine.prepare_evaluation(job.eval)?)
            }
        };
        if eval.is_none() && job.keep_best.is_some() {
            return Err(Error::Config("keep-best needs held-out rows: give some, or leave it out".into()));
        }
        let saved = job.start.is_some();
        let state = match job.start {
            Some(checkpoint) => continue_from(&checkpoint, &mut engine, job.total_steps, &job.inputs)?,
            None => {
                let fingerprint = folder.config_fingerprint();
                let threads = engine.compute_settings().threads;
                let new = TrainerState::new(job.total_steps, config.seed, threads, fingerprint);
                TrainerState { inputs: job.inputs, ..new }
            }
        };
        let metrics = MetricsFile::open(&folder.metrics_file(), state.step)?;
        let events = EventsFile::open(folder.path(), state.step)?;
        Ok(Self {
            engine,
            source: job.source,
            eval,
            keep_best: job.keep_best.as_deref().map(KeepBest::new),
            config,
            optimizer: job.optimizer,
            unit: job.unit,
            folder,
            checkpoints: folder.checkpoints(),
            metrics,
            events,
            hooks,
            pace: Pace::new(state.wall_time),
            state,
            saved,
            summary: job.summary,
        })
    }

    fn steps(&mut self) -> Result<Outcome> {
        while self.state.step < self.state.total_steps {
            if self.hooks.stop.load(Ordering::SeqCst) {
                return self.interrupt();
            }
            self.step()?;
        }
        // A resumed run may have nothing left to do but this.
        self.save()?;
        if !self.write_eval_rows()? {
            return self.interrupt();
        }
        if let Some(hook) = self.hooks.before_finish {
            let found = hook(self.state.step);
            let mut found = found.map_err(|error| Error::before_finish(self.folder.path(), error))?;
            self.summary.append(&mut found);
        }
        self.finish()
    }

    fn step(&mut self) -> Result<()> {
        let step = self.state.step + 1;
        let report = match self.compute(step) {
            Ok(report) => report,
            Err(source) => return Err(self.failed(step, source)),
        };
        let rate = learning_rate(self.optimizer, step - 1, self.state.total_steps);
        let began = Instant::now();
        self.engine.apply(rate)?;
        self.pace.train(began);
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
        self.log_if_due(step, rate, &report, held_out)?;
        let evaluation = evaluation.map_err(|source| self.failed(step, source))?;
        let (total, tokens_per_second) = (self.state.total_steps, self.pace.tokens_per_second());
        self.hooks.progress.step(&Position { step, total, loss: report.loss, tokens_per_second });
        if evaluation.improved || every(self.config.save_every, step) {
            self.save()?;
        }
        Ok(())
    }

    /// Computes a batch up to its gradient; weights and moments are those before the step.
    fn compute(&mut self, step: u64) -> Result<BatchReport> {
        let began = Instant::now();
        let groups = self.source.batch(self.state.next_batch)?;
        self.pace.data(began);
        let began = Instant::now();
        let report = self.engine.compute(groups)?;
        self.pace.train(began);
        if step == 1 {
            let mut metrics = vec![("loss".to_owned(), report.loss)];
            metrics.extend(report.metrics.iter().cloned());
            self.engine.objective().map_or(Ok(()), |objective| objective.check_first_step(&metrics))?;
        }
        Ok(report)
    }

    /// Shows a step to the checks and says what they say.
    fn check_health(&mut self, step: u64, report: &BatchReport) {
        let fixed = [("loss", report.loss), ("grad_norm", report.grad_norm)];
        let fixed = fixed.map(|(name, value)| (name.to_owned(), value));
        let metrics: Vec<_> = fixed.into_iter().chain(report.metrics.iter().cloned()).collect();
        let (total_steps, rows) = (self.state.total_steps, report.groups);
        let seen = Seen { step, total_steps, rows, metrics: &metrics };
        for warning in self.state.health.watch(&self.hooks.checks, &seen) {
            self.hooks.progress.warn(&format!("step {step}: {}", warning.message));
        }
    }

    /// Keeps the state as it is when a step or its evaluation fails, and says where.
    fn failed(&mut self, step: u64, source: Error) -> Error {
        let done = self.state.step;
        let saved = if done == 0 {
            None
        } else {
            match self.save() {
                Ok(()) => Some(SavedStep { step: done, folder: self.checkpoints.folder_of(done) }),
                Err(error) => {
                    // The step's own error is the one to report; this one is said beside it.
                    self.hooks.progress.warn(&format!("the state after step {done} is not saved: {error}"));
                    let newest = self.checkpoints.newest().ok().and_then(|(newest, _)| newest);
                    newest.map(|found| SavedStep { step: found.state.step, folder: found.folder })
                }
            }
        };
        Error::Step { step, saved, source: Box::new(source) }
    }

    /// Evaluates held-out rows with the weights after this step, on the steps where that is due.
    fn evaluate_if_due(&mut self, step: u64) -> Result<Evaluation> {
        let due = every(self.config.eval_every, step) || step == self.state.total_steps;
        let Some(eval) = self.eval.as_ref().filter(|_| due) else { return Ok(Evaluation::default()) };
        let began = Instant::now();
        let (report, not_finite) = self.engine.evaluate_all(eval)?;
        self.pace.eval(began);
        if !not_finite.is_empty() {
            let error = Error::NonFinite { what: "the loss", value: report.loss, rows: not_finite };
            self.hooks.progress.warn(&format!("held-out rows after step {step}: {error}"));
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
        Ok(Evaluation { metrics, improved })
    }

    fn log_if_due(
        &mut self,
        step: u64,
        rate: f64,
        report: &BatchReport,
        evaluation: &[(String, f64)],
    ) -> Result<()> {
        let last = step == self.state.total_steps;
        if !(step == 1 || last || every(self.config.log_every, step) || !evaluation.is_empty()) {
            return Ok(());
        }
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
        let mut metrics: Vec<(String, f64)> = fixed.map(|(name, value)| (name.to_owned(), value)).into();
        metrics.extend(report.metrics.iter().cloned());
        metrics.extend(self.source.metrics());
        metrics.extend(evaluation.iter().cloned());
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
        self.state.wall_time = self.pace.wall_time();
        self.state.weights_fingerprint = fingerprint::of_weights(self.engine.parameters())?;
        self.state.objective = self.engine.objective().map(|objective| objective.state()).unwrap_or_default();
        self.state.objective_fingerprint = self.engine.objective_fingerprint()?;
        let engine = &self.engine;
        let writers = Writers {
            model: self.hooks.save_model,
            optimizer: &|path| engine.optimizer().save(path),
            objective: &|path| engine.save_objective_weights(path),
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

    /// Writes what each held-out row gives with the final weights, and says whether it came to the end: `false` where
    /// the stop flag was set meanwhile. Rows that cannot be evaluated were reported when the run came to its last step,
    /// and do not keep it from being finished.
    fn write_eval_rows(&mut self) -> Result<bool> {
        let Some(eval) = &self.eval else { return Ok(true) };
        let began = Instant::now();
        let lines = self.engine.evaluate_rows(eval, self.state.step, &self.hooks.stop);
        self.pace.eval(began);
        match lines {
            Ok(Some(lines)) => eval_rows::write(self.folder.path(), &lines)?,
            Ok(None) => return Ok(false),
            Err(error) => {
                self.hooks.progress.warn(&format!("{} is not written: {error}", eval_rows::FILE));
            }
        }
        Ok(true)
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
        add("wall_time", json!(self.pace.wall_time()));
        add("peak_rss_mb", environment::peak_rss_mb().into());
        add("warnings", json!(self.state.health.warnings));
        summary.append(&mut self.summary);
        self.folder.finish(self.hooks.save_final.unwrap_or(self.hooks.save_model), summary.clone())?;
        self.pace.save(began);
        Ok(Outcome::Finished(summary))
    }
}

/// Puts a checkpoint's state into the engine; the weights are there already, and are checked.
fn continue_from<M: Trainable + ?Sized>(
    checkpoint: &Checkpoint,
    engine: &mut Engine<M>,
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
    if fingerprint::of_weights(engine.parameters())? != state.weights_fingerprint {
        let why = format!("the model does not hold the weights in {}", checkpoint.model_dir().display());
        return Err(Error::checkpoint(&checkpoint.folder, why));
    }
    engine.load_optimizer(&checkpoint.optimizer_file())?;
    engine.restore_objective(&state.objective)?;
    restore_weights_of_the_objective(checkpoint, engine)?;
    Ok(state)
}

fn restore_weights_of_the_objective<M: Trainable + ?Sized>(
    checkpoint: &Checkpoint,
    engine: &mut Engine<M>,
) -> Result<()> {
    let path = checkpoint.objective_file();
    let saved = &checkpoint.state.objective_fingerprint;
    let own = engine.objective_fingerprint()?;
    if saved.is_empty() != own.is_empty() {
        let has = |fingerprint: &str| if fingerprint.is_empty() { "has none" } else { "has some" };
        let why = format!(
            "the objective keeps weights beside the model's or it does not: the checkpoint {}, this run {}",
            has(saved),
            has(&own)
        );
        return Err(Error::checkpoint(&checkpoint.folder, why));
    }
    if saved.is_empty() {
        return Ok(());
    }
    engine.load_objective_weights(&path)?;
    if engine.objective_fingerprint()? == *saved {
        return Ok(());
    }
    Err(Error::checkpoint(&path, "its weights are not those that the run saved; take an older checkpoint"))
}

fn every(n: u64, step: u64) -> bool {
    n > 0 && step.is_multiple_of(n)
}
