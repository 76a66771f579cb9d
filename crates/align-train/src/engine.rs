use std::ops::Range;

use align_core::{
    BatchReport, CausalLm, Coupling, Objective, PackedBatch, Packs, Parameter, Part, Trainable,
    align_types::{PromptGroup, config::OptimizerConfig},
    clear_gradients, no_grad,
    tch::{Device, Tensor},
};

use crate::adamw::{AdamW, Update};
use crate::clip::{clip_factor, gradient_norm};
use crate::coupled::{Survey, notes_of};
use crate::totals::Totals;
use crate::{Error, Result, gradients, parallel};

/// How a batch is computed; nothing here changes the result beyond rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// Compute threads, at least 1. Off the CPU one is used whatever is asked for: a GPU is kept busy by one, and
    /// replicas would only multiply the gradients in its memory.
    pub threads: usize,
    /// Upper bound of flat tokens in one forward pass; a longer group runs alone.
    pub micro_batch_tokens: usize,
}

/// Computes loss, gradient and update of whole optimiser batches over own compute threads.
///
/// Each thread has a replica of model and objective (weights exist once, gradients once per thread) and takes
/// its share of the tokens. Every sum over threads and micro-batches runs in a fixed order, so equal inputs
/// and thread counts give equal bits. `M` is what is trained: a language model unless said otherwise.
pub struct Engine<M: Trainable + ?Sized = dyn CausalLm> {
    workers: Vec<Worker<M>>,
    optimizer: AdamW,
    max_grad_norm: f64,
    compute: Compute,
    gradients: Option<Gradients>,
}

pub(crate) struct Worker<M: Trainable + ?Sized> {
    pub model: Box<M>,
    pub objective: Box<dyn Objective<M>>,
    parameters: Vec<Parameter>,
}

struct Gradients {
    tensors: Vec<Option<Tensor>>,
    norm: f64,
    /// The objective's state after the update, where it has one.
    state: Option<Vec<f64>>,
}

/// Held-out rows, arranged once.
pub struct EvalBatch {
    pub(crate) packs: Packs,
    denominators: Vec<f64>,
    pub(crate) survey: Option<Survey>,
}

impl Engine {
    /// Makes an engine that trains a language model (or the weights it shares, where it is a replica) on `objective`.
    ///
    /// # Errors
    /// As [`Self::over`].
    pub fn new(
        model: Box<dyn CausalLm>,
        objective: Box<dyn Objective>,
        optimizer: &OptimizerConfig,
        compute: Compute,
    ) -> Result<Self> {
        Self::over(model, objective, optimizer, compute)
    }
}

impl<M: Trainable + ?Sized> Engine<M> {
    /// Makes an engine that trains any kind of model, as [`Engine::new`] does a language model.
    ///
    /// # Errors
    /// [`Error::Config`] for a model without parameters; libtorch refuses to replicate.
    pub fn over(
        model: Box<M>,
        objective: Box<dyn Objective<M>>,
        optimizer: &OptimizerConfig,
        compute: Compute,
    ) -> Result<Self> {
        optimizer.validate()?;
        let threads = if model.device() == Device::Cpu { compute.threads.max(1) } else { 1 };
        let compute = Compute { threads, ..compute };
        let replicas = (1..threads)
            .map(|_| Ok(Worker::new(model.replicate()?, objective.replicate()?)))
            .collect::<Result<Vec<_>>>()?;
        let mut workers = vec![Worker::new(model, objective)];
        workers.extend(replicas);
        let parameters = workers.first().map(|w| w.parameters.as_slice()).unwrap_or_default();
        if parameters.is_empty() {
            return Err(Error::Config("the model has no trainable parameters".into()));
        }
        let adamw = AdamW::new(parameters, optimizer);
        let max_grad_norm = optimizer.max_grad_norm;
        Ok(Self { workers, optimizer: adamw, max_grad_norm, compute, gradients: None })
    }

    /// Returns the parameters that are trained, in the model's order.
    pub fn parameters(&self) -> &[Parameter] {
        self.workers.first().map(|worker| worker.parameters.as_slice()).unwrap_or_default()
    }

    /// Returns the objective.
    pub fn objective(&self) -> Option<&dyn Objective<M>> {
        self.workers.first().map(|worker| worker.objective.as_ref())
    }

    /// Returns how batches are computed, with the threads that are really used.
    pub fn compute_settings(&self) -> Compute {
        self.compute
    }

    /// Returns the optimiser.
    pub fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// Reads the optimiser's moments from a file.
    ///
    /// # Errors
    /// As [`AdamW::load`].
    pub fn load_optimizer(&mut self, path: &std::path::Path) -> Result<()> {
        let parameters = self.workers.first().map(|worker| worker.parameters.as_slice()).unwrap_or_default();
        self.optimizer.load(path, parameters)
    }

    /// Computes loss, metrics and gradient of a batch and keeps the gradient for [`Self::apply`]. Weights and
    /// moments do not change.
    ///
    /// # Errors
    /// [`Error::NonFinite`] names the rows whose loss or gradient is not a number, [`Error::Rows`] those that
    /// the objective or the model cannot take, [`Error::Denominators`] an objective that contradicts itself.
    pub fn compute(&mut self, groups: Vec<PromptGroup>) -> Result<BatchReport> {
        let denominators = self.denominators(&groups)?;
        let survey = self.survey(&groups)?;
        let packs = self.packs(groups);
        self.gradient_of(&packs, &denominators, survey.as_ref())
    }

    /// As [`Self::compute`], for a batch that is planned already.
    ///
    /// # Errors
    /// As [`Self::compute`].
    pub(crate) fn compute_packs(&mut self, packs: &Packs) -> Result<BatchReport> {
        self.check_parts(packs)?;
        let groups: Vec<PromptGroup> = packs.groups().into_iter().cloned().collect();
        let denominators = self.denominators(&groups)?;
        let survey = self.survey(&groups)?;
        self.gradient_of(packs, &denominators, survey.as_ref())
    }

    /// Plans how a batch is computed.
    pub(crate) fn packs(&self, groups: Vec<PromptGroup>) -> Packs {
        Packs::new(groups, self.compute.threads, self.compute.micro_batch_tokens)
    }

    /// Checks that there is a worker for each part: one without would be left out.
    pub(crate) fn check_parts(&self, packs: &Packs) -> Result<()> {
        let (parts, workers) = (packs.parts.len(), self.workers.len());
        if parts <= workers {
            return Ok(());
        }
        let why = format!("it was planned for {parts} workers, and there are {workers}");
        Err(align_core::Error::input("batch", why).into())
    }

    fn gradient_of(
        &mut self,
        packs: &Packs,
        denominators: &[f64],
        survey: Option<&Survey>,
    ) -> Result<BatchReport> {
        self.gradients = None;
        for worker in &self.workers {
            clear_gradients(worker.parameters.iter().map(|p| &p.tensor))?;
        }
        // Before the step begins: a baseline is measured without dropout.
        let coupling = survey.map(|survey| self.couple(survey)).transpose()?;
        let parts = &packs.parts;
        self.begin_step(Some(self.optimizer.updates()));
        let totals = self.run(parts, |worker, part| worker.train(part, denominators, coupling.as_ref()));
        self.begin_step(None);
        let totals = totals?;
        totals.check_denominators(denominators)?;
        let mut report = totals.report(denominators);
        let tensors = self.merge_gradients(parts.len())?;
        let norm = gradient_norm(&tensors, self.compute.threads)?;
        if !norm.is_finite() {
            let rows = in_order(parts);
            return Err(Error::NonFinite { what: "the gradient norm", value: norm, rows });
        }
        report.grad_norm = norm;
        self.gradients = Some(Gradients { tensors, norm, state: coupling.map(|coupling| coupling.state) });
        Ok(report)
    }

    /// Clips the gradient of the last [`Self::compute`], updates the weights and tells the objective. Without a gradient
    /// it does nothing.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn apply(&mut self, learning_rate: f64) -> Result<()> {
        let (Some(gradients), Some(master)) = (self.gradients.take(), self.workers.first_mut()) else {
            return Ok(());
        };
        let scale = clip_factor(gradients.norm, self.max_grad_norm);
        let update = Update { learning_rate, scale, threads: self.compute.threads };
        self.optimizer.step(&mut master.parameters, &gradients.tensors, update)?;
        if let Some(state) = gradients.state {
            master.objective.restore(&state)?;
        }
        // No other worker is at work now.
        Ok(master.objective.after_update(self.optimizer.updates(), &master.parameters)?)
    }

    /// Tells the objective that an iteration is over.
    pub(crate) fn after_iteration(&mut self) -> Result<()> {
        match self.workers.first_mut() {
            Some(master) => Ok(master.objective.after_iteration(&master.parameters)?),
            None => Ok(()),
        }
    }

    /// Gives the objective the state of a checkpoint.
    ///
    /// # Errors
    /// A state that is not this objective's.
    pub fn restore_objective(&mut self, state: &[f64]) -> Result<()> {
        match self.workers.first_mut() {
            Some(master) => Ok(master.objective.restore(state)?),
            None => Ok(()),
        }
    }

    pub(crate) fn workers_mut(&mut self) -> &mut [Worker<M>] {
        &mut self.workers
    }

    /// Arranges held-out rows for [`Self::evaluate`].
    ///
    /// # Errors
    /// A group that the objective cannot take.
    pub fn prepare_evaluation(&self, groups: Vec<PromptGroup>) -> Result<EvalBatch> {
        let denominators = self.denominators(&groups)?;
        let survey = self.survey(&groups)?;
        Ok(EvalBatch { packs: self.packs(groups), denominators, survey })
    }

    /// Computes loss and metrics of held-out rows without a gradient.
    ///
    /// # Errors
    /// As [`Self::compute`].
    pub fn evaluate(&mut self, batch: &EvalBatch) -> Result<BatchReport> {
        let (report, rows) = self.evaluate_all(batch)?;
        if rows.is_empty() { Ok(report) } else { Err(loss_is_no_number(report.loss, rows)) }
    }

    /// As [`Self::evaluate`], but a loss that is not finite stays in the report; its rows are named beside it.
    pub(crate) fn evaluate_all(&mut self, batch: &EvalBatch) -> Result<(BatchReport, Vec<String>)> {
        let coupling = batch.survey.as_ref().map(|survey| self.couple(survey)).transpose()?;
        let work = |worker: &mut Worker<M>, part: &Part| {
            worker.evaluate(part, &batch.denominators, coupling.as_ref())
        };
        let mut totals = self.run(&batch.packs.parts, work)?;
        totals.check_denominators(&batch.denominators)?;
        let rows = std::mem::take(&mut totals.not_finite);
        Ok((totals.report(&batch.denominators), rows))
    }

    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        if groups.is_empty() {
            return Err(align_core::Error::input("batch", "it has no rows").into());
        }
        match self.workers.first() {
            Some(master) => Ok(master.objective.denominators(groups)?),
            None => Ok(Vec::new()),
        }
    }

    /// Tells every replica whether its passes train; the count of updates is the same after a run is resumed.
    fn begin_step(&self, step: Option<u64>) {
        self.workers.iter().for_each(|worker| worker.model.begin_step(step));
    }

    fn run(
        &mut self,
        parts: &[Part],
        work: impl Fn(&mut Worker<M>, &Part) -> Result<Totals> + Sync,
    ) -> Result<Totals> {
        let pairs: Vec<(&mut Worker<M>, &Part)> = self.workers.iter_mut().zip(parts).collect();
        let mut all = Totals::default();
        for totals in parallel::map(pairs, |(worker, part)| work(worker, part))? {
            all.add(totals?);
        }
        Ok(all)
    }

    /// Adds the gradients of the other workers to those of the first, in their order.
    fn merge_gradients(&self, used: usize) -> Result<Vec<Option<Tensor>>> {
        let lists = self.workers.iter().take(used).map(Worker::gradients).collect::<Result<Vec<_>>>()?;
        gradients::merge(lists, self.compute.threads)
    }
}

impl<M: Trainable + ?Sized> Worker<M> {
    fn new(model: Box<M>, objective: Box<dyn Objective<M>>) -> Self {
        let parameters = model.parameters();
        Self { model, objective, parameters }
    }

    fn gradients(&self) -> Result<Vec<Option<Tensor>>> {
        let gradient = |parameter: &Parameter| {
            let gradient = parameter.tensor.f_grad()?;
            Ok(gradient.defined().then_some(gradient))
        };
        self.parameters.iter().map(gradient).collect()
    }

    /// Adds the gradient of a part; the first loss that is not finite ends it.
    fn train(&mut self, part: &Part, denominators: &[f64], coupling: Option<&Coupling>) -> Result<Totals> {
        let totals = self.run(part, denominators, coupling, |loss, value, range| {
            if !value.is_finite() {
                return Err(loss_is_no_number(value, names_of(part, range)));
            }
            self.model.backward(loss).map_err(|error| refused(part, range, error))?;
            Ok(Vec::new())
        });
        if totals.is_err() {
            self.model.discard_forwards();
        }
        totals
    }

    /// Computes a part without a gradient and names the rows whose loss is not finite.
    fn evaluate(&mut self, part: &Part, denominators: &[f64], coupling: Option<&Coupling>) -> Result<Totals> {
        let _guard = no_grad();
        self.run(part, denominators, coupling, |_, value, range| {
            Ok(if value.is_finite() { Vec::new() } else { names_of(part, range) })
        })
    }

    /// Sums over micro-batches; `each` gets the loss of one and returns the rows to note in the totals.
    fn run(
        &self,
        part: &Part,
        denominators: &[f64],
        coupling: Option<&Coupling>,
        each: impl Fn(&Tensor, f64, &Range<usize>) -> Result<Vec<String>>,
    ) -> Result<Totals> {
        let mut totals = Totals::default();
        for range in &part.micro_batches {
            let groups = part.groups.get(range.clone()).unwrap_or_default();
            let rows = |source| refused(part, range, source);
            let batch = PackedBatch::new(groups).map_err(rows)?;
            let output = match coupling {
                Some(coupling) => {
                    let notes = notes_of(coupling, part, range);
                    self.objective.coupled_loss(self.model.as_ref(), &batch, groups, &notes)
                }
                None => self.objective.loss(self.model.as_ref(), &batch, groups),
            };
            let output = output.map_err(rows)?;
            let loss = output.scaled_sum(denominators).map_err(rows)?;
            let value = loss.f_double_value(&[])?;
            totals.not_finite.extend(each(&loss, value, range)?);
            totals.add_output(&output, value, &batch)?;
        }
        Ok(totals)
    }
}

pub(crate) fn refused(part: &Part, range: &Range<usize>, source: align_core::Error) -> Error {
    Error::Rows { rows: names_of(part, range), source }
}

fn loss_is_no_number(value: f64, rows: Vec<String>) -> Error {
    Error::NonFinite { what: "the loss", value, rows }
}

/// The names of all groups of a batch, in its order.
fn in_order(parts: &[Part]) -> Vec<String> {
    let mut placed: Vec<(usize, &String)> =
        parts.iter().flat_map(|part| part.places.iter().copied().zip(&part.names)).collect();
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, name)| name.clone()).collect()
}

fn names_of(part: &Part, range: &Range<usize>) -> Vec<String> {
    part.names.get(range.clone()).unwrap_or_default().to_vec()
}
