//! Training over batches of rows: the run of every offline method.

use std::path::Path;
use std::time::Instant;

use align_core::align_types::{
    PromptGroup, PromptSource,
    config::{OptimizerConfig, TrainConfig},
};
use align_core::{
    BatchReport, BoxError, CausalLm, Concluded, Evaluation, Objective, StepAt, StepError, Stepped, Steps,
    Trainable,
};
use serde_json::{Map, Value};

use crate::engine::EvalBatch;
use crate::{
    Checkpoint, Compute, Engine, Error, Hooks, Outcome, Result, RunFolder, RunJob, Unit, eval_rows, run,
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

/// Trains until all steps are done or the stop flag is set: [`run`] with an optimiser step per batch of rows.
///
/// # Errors
/// As [`run`].
pub fn train<'a, M: Trainable + ?Sized>(job: TrainJob<'a, M>, hooks: Hooks<'a>) -> Result<Outcome> {
    let TrainJob { config, optimizer, source, .. } = job;
    config.validate()?;
    let compute = Compute { threads: config.threads, micro_batch_tokens: config.micro_batch_tokens };
    let engine = Engine::over(job.model, job.objective, optimizer, compute)?;
    let threads = engine.compute_settings().threads;
    let first = job.eval.first().cloned();
    let eval = if job.eval.is_empty() { None } else { Some(engine.prepare_evaluation(job.eval)?) };
    let peak = optimizer.learning_rate;
    let mut steps = Batches { engine, source, peak, first, eval, train: 0.0, data: 0.0 };
    let job = RunJob {
        folder: job.folder,
        start: job.start,
        steps: &mut steps,
        keep_best: job.keep_best,
        total_steps: job.total_steps,
        config,
        optimizer,
        unit: job.unit,
        threads,
        inputs: job.inputs,
        summary: job.summary,
    };
    run(job, hooks)
}

/// One optimiser step per batch of rows.
struct Batches<'a, M: Trainable + ?Sized> {
    engine: Engine<M>,
    source: &'a mut dyn PromptSource,
    /// The peak learning rate.
    peak: f64,
    /// The first held-out row.
    first: Option<PromptGroup>,
    eval: Option<EvalBatch>,
    /// Seconds of loss, gradient and update.
    train: f64,
    /// Seconds of waiting for rows.
    data: f64,
}

impl<M: Trainable + ?Sized> Batches<'_, M> {
    /// Takes the rows of a step; `None` where the source gave up because the run is to end.
    fn rows(&mut self, at: &StepAt<'_>) -> Result<Option<Vec<PromptGroup>>> {
        let began = Instant::now();
        let rows = self.source.batch(at.step - 1);
        self.data += began.elapsed().as_secs_f64();
        match rows {
            // An error of another kind comes again when the run is continued.
            Err(_) if at.stopped() => Ok(None),
            rows => Ok(Some(rows?)),
        }
    }

    /// Computes a batch up to its gradient; weights and moments are those before the step.
    fn compute(&mut self, step: u64, groups: Vec<PromptGroup>) -> Result<BatchReport> {
        let began = Instant::now();
        let report = self.engine.compute(groups)?;
        self.train += began.elapsed().as_secs_f64();
        if step == 1 {
            let mut metrics = vec![("loss".to_owned(), report.loss)];
            metrics.extend(report.metrics.iter().cloned());
            self.engine.objective().map_or(Ok(()), |objective| objective.check_first_step(&metrics))?;
        }
        Ok(report)
    }
}

impl<M: Trainable + ?Sized> Steps for Batches<'_, M> {
    fn step(&mut self, at: &StepAt<'_>) -> Result<Stepped, StepError> {
        let Some(groups) = self.rows(at).map_err(StepError::intact)? else { return Ok(Stepped::Stopped) };
        let mut report = self.compute(at.step, groups).map_err(StepError::intact)?;
        let began = Instant::now();
        self.engine.apply(self.peak * at.schedule).map_err(StepError::torn)?;
        self.train += began.elapsed().as_secs_f64();
        report.metrics.extend(self.source.metrics());
        Ok(Stepped::Done(report))
    }

    fn save(&self, folder: &Path) -> Result<(), BoxError> {
        Ok(self.engine.save_state(folder, false)?)
    }

    fn load(&mut self, folder: &Path) -> Result<(), BoxError> {
        Ok(self.engine.load_state(folder, false)?)
    }

    fn evaluation_metrics(&mut self) -> Result<Option<Vec<String>>, BoxError> {
        let Some(first) = &self.first else { return Ok(None) };
        let one = self.engine.prepare_evaluation(vec![first.clone()])?;
        let (report, _) = self.engine.evaluate_all(&one)?;
        Ok(Some(report.metrics.into_iter().map(|(name, _)| name).collect()))
    }

    fn evaluate(&mut self, _: &StepAt<'_>) -> Result<Option<Evaluation>, BoxError> {
        let Some(eval) = &self.eval else { return Ok(None) };
        let (report, rows) = self.engine.evaluate_all(eval)?;
        let error = |rows| Error::NonFinite { what: "the loss", value: report.loss, rows };
        let warning = (!rows.is_empty()).then(|| error(rows).to_string());
        Ok(Some(Evaluation { report, warning }))
    }

    /// Writes what each held-out row gives. Rows that cannot be evaluated were reported when the run came to its last
    /// step, and do not keep it from being finished.
    fn conclude(&mut self, at: &StepAt<'_>, folder: &Path) -> Result<Concluded, BoxError> {
        let Some(eval) = &self.eval else { return Ok(Concluded::Done) };
        match self.engine.evaluate_rows(eval, at.step, at.stop) {
            Ok(Some(lines)) => {
                eval_rows::write(folder, &lines)?;
                Ok(Concluded::Done)
            }
            Ok(None) => Ok(Concluded::Stopped),
            Err(error) => Ok(Concluded::Without(format!("{} is not written: {error}", eval_rows::FILE))),
        }
    }

    fn phases(&self) -> Vec<(&'static str, f64)> {
        vec![("train", self.train), ("data", self.data)]
    }
}
