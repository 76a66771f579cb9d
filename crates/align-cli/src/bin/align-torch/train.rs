//! What every training command does: everything is read and checked, then the run folder is made, then it trains.

use std::path::Path;

use align_cli::{
    Result,
    args::{ReferenceArgs, TrainArgs},
};
use align_core::{
    Objective,
    align_types::{HealthCheck, PromptSource},
};
use align_data::{DataConfig, Kind};
use align_lm::{Companions, LoadOptions, Model, SaveDtype};
use align_train::{BoxError, Hooks, TrainJob, Unit};
use serde_json::{Map, Value};

use crate::{
    command::{Command, Run},
    dry_run, failure, inputs,
    learner::Learner,
    model, reference,
    rows::{self, Reports, Rows},
    samples::Samples,
    tuning::Tuning,
};

/// What one training command is, beside the others.
pub trait Method {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What a row is called in the metrics.
    fn unit(&self) -> Unit;

    /// Returns the flags of the reference policy, where there is one.
    fn reference_args(&self) -> Option<&ReferenceArgs> {
        None
    }

    /// Returns the folder of the model that the trained one is compared with, where there is one.
    fn reference<'a>(&'a self, base: &'a Path) -> Option<&'a Path> {
        self.reference_args().map(|args| reference::folder(args, base))
    }

    /// Lists what is read beside `--model` and the rows, by flag: a run in the same place is not deleted with it.
    fn reads<'a>(&'a self, base: &'a Path) -> Vec<(&'static str, &'a Path)> {
        self.reference(base).map(|folder| ("--ref-model", folder)).into_iter().collect()
    }

    /// Checks what can be checked once rows are read.
    ///
    /// # Errors
    /// Rows that the method cannot use.
    fn check_rows(&self, _: &Rows) -> Result<()> {
        Ok(())
    }

    /// Returns the kinds of rows that it trains on.
    fn kinds(&self) -> &'static [Kind];

    /// Names the other columns that it reads, beside those that rows of its kinds are made of.
    fn columns(&self) -> &'static [&'static str] {
        &[]
    }

    /// Changes how rows are read, beside what the shared flags say.
    fn data_config(&self, config: DataConfig) -> DataConfig {
        config
    }

    /// Returns what is watched over while it trains.
    fn health(&self) -> Vec<HealthCheck>;
}

/// The part of a method that knows what it trains.
pub trait Training: Method + Sized {
    /// The kind of model.
    type Model: Learner;

    /// Fits the model to the rows before anything is made of it.
    ///
    /// # Errors
    /// Rows that the model cannot be fitted to.
    fn fit(&self, policy: Self::Model, _: &model::Folder, _: &Rows) -> Result<Self::Model> {
        Ok(policy)
    }

    /// Makes the objective; what it needs to know of rows may be written into them.
    ///
    /// # Errors
    /// A reference that cannot be loaded.
    fn objective(&self, setup: &Setup<'_, Self::Model>, rows: &mut Rows) -> Result<Box<Goal<Self::Model>>>;

    /// Makes the source of batches of `steps` steps, which may choose among the rows, and the share of each file in an
    /// epoch. `run` is the run folder.
    ///
    /// # Errors
    /// As [`Rows::source`].
    fn source(
        &self,
        setup: &Setup<'_, Self::Model>,
        rows: &Rows,
        steps: u64,
        _run: &Path,
    ) -> Result<(Box<dyn PromptSource>, Vec<Value>)> {
        rows.source(setup.train.batch.batch_size, setup.train.seed, steps)
    }

    /// Says of the trained model what goes into `summary.json` beside the metrics.
    ///
    /// # Errors
    /// Held-out rows that cannot be read, or a model that fails.
    fn findings(&self, _: &Setup<'_, Self::Model>, _: &Rows, _run: &Path) -> Result<Map<String, Value>> {
        Ok(Map::new())
    }
}

/// What a model of this kind is trained to do.
pub type Goal<M> = dyn Objective<<M as Learner>::Seen>;

/// What an objective is made from.
pub struct Setup<'a, M = Model> {
    /// The flags of every training command.
    pub train: &'a TrainArgs,
    /// What else is in the folder of `--model`.
    pub folder: &'a model::Folder,
    /// The model that is trained.
    pub policy: &'a M,
    /// What is trained of it.
    pub tuning: &'a Tuning<'a>,
    /// The folder of `--model`.
    pub base: &'a Path,
    /// Whether the policy comes from a checkpoint and no longer is what `base` holds.
    pub continued: bool,
    /// How a model that is not trained is loaded.
    pub reference: LoadOptions,
    /// Compute threads.
    pub threads: usize,
    /// Most tokens of one forward pass.
    pub micro_batch_tokens: usize,
    /// Most tokens of a prompt with one of its answers.
    pub max_length: usize,
}

/// Trains.
///
/// # Errors
/// Everything that can be refused is refused before anything is written.
pub fn run<T: Training>(train: &TrainArgs, settings: &toml::Table, method: &T) -> Result<()> {
    let command = Command::new(train, settings, method)?;
    let Some(opened) = command.look()? else { return Ok(()) };
    let read = read(&command, method)?;
    if train.dry_run {
        let Read { folder, trained, rows, reports, .. } = &read;
        return dry_run::show(train, settings, method, folder, *trained, rows, &reports.train);
    }
    train_on(&command, method, opened, read)
}

/// What was read and found in order.
struct Read<'a> {
    folder: model::Folder,
    tuning: Tuning<'a>,
    /// Parameters of the adapter, where one is trained.
    trained: Option<usize>,
    rows: Rows,
    reports: Reports,
}

/// Reads model folder and rows, and checks that they fit each other.
fn read<'a, T: Training>(command: &Command<'a>, method: &T) -> Result<Read<'a>> {
    let Command { train, base, .. } = *command;
    let mut folder = model::open(base)?;
    folder.config = T::Model::config(base, folder.config)?;
    if let Some(args) = method.reference_args() {
        reference::check(args.ref_model.as_deref(), &folder)?;
    }
    let tuning = Tuning::of(train);
    let trained = tuning.check(&folder.config)?;
    let (rows, reports) = rows::read(train, method, &folder)?;
    if let Some(args) = method.reference_args() {
        reference::check_rows(args, &rows)?;
    }
    method.check_rows(&rows)?;
    Ok(Read { folder, tuning, trained, rows, reports })
}

/// Computes what a run is only continued with the same of.
fn inputs_of(method: &dyn Method, base: &Path, rows: &Rows, tuning: &Tuning<'_>) -> Result<String> {
    let mut folders = tuning.folders(base);
    let reference = method.reference(base).filter(|reference| !folders.contains(reference));
    folders.extend(reference);
    inputs::fingerprint(rows, &folders, method.columns())
}

fn train_on<T: Training>(
    command: &Command<'_>,
    method: &T,
    opened: Option<Run>,
    read: Read<'_>,
) -> Result<()> {
    let Command { train, device, base, output, .. } = *command;
    let Read { folder, tuning, mut rows, reports, .. } = read;
    // Weights of no use are refused before anything is written.
    rows.source(train.batch.batch_size, train.seed, 1)?;
    let inputs = inputs_of(method, base, &rows, &tuning)?;
    let checkpoint = match &opened {
        Some((_, Some(checkpoint))) => Some(checkpoint.model_dir()),
        _ => None,
    };
    let options = model::trained(train, device);
    let policy: T::Model = tuning.load(base, checkpoint.as_deref(), &options, train.seed)?;
    let policy = method.fit(policy, &folder, &rows)?;
    let companions = Companions::read(base).map_err(failure::of)?;
    let config = train.train_config();
    let setup = Setup {
        train,
        folder: &folder,
        policy: &policy,
        tuning: &tuning,
        base,
        continued: checkpoint.is_some(),
        reference: model::frozen(&train.machine, device),
        threads: config.threads,
        micro_batch_tokens: config.micro_batch_tokens,
        max_length: train.rows.max_length.min(folder.config.context_length()),
    };
    let objective = method.objective(&setup, &mut rows)?;
    let (run, start) = command.begin(opened)?;
    command.write_environment(&run)?;
    let context = folder.config.context_length();
    let samples = Samples::new(train.watch.samples, &rows, context, output, config.threads)?;
    if start.is_none() {
        policy.write_samples(&samples, &folder.tokenizer, 0)?;
    }

    let total_steps = config.total_steps(rows.train.len());
    let (mut source, shares) = method.source(&setup, &rows, total_steps, output)?;
    let mut summary = reports.summary();
    summary.insert("data_shares".into(), shares.into());
    if matches!(tuning, Tuning::Full) {
        summary.insert("model_dtype".into(), policy.source_dtype().into());
    }
    let save_in = |to: &Path, dtype: SaveDtype| match tuning {
        Tuning::Full => Ok(policy.save_with(to, dtype, &companions)?),
        Tuning::New(_) | Tuning::From(_) => Ok(policy.save_adapter_with(to, &companions)?),
    };
    let save = |to: &Path| save_in(to, SaveDtype::F32);
    let save_final = |to: &Path| save_in(to, SaveDtype::Source);
    let job = TrainJob {
        folder: &run,
        start,
        model: policy.seen()?,
        objective,
        source: source.as_mut(),
        eval: rows.eval.clone().into_vec()?,
        inputs,
        keep_best: train.watch.keep_best.clone(),
        total_steps,
        config: &config,
        optimizer: &train.optimizer_config(),
        unit: method.unit(),
        summary,
    };
    let before_finish = |step: u64| -> Result<Map<String, Value>, BoxError> {
        policy.write_samples(&samples, &folder.tokenizer, step)?;
        Ok(method.findings(&setup, &rows, output)?)
    };
    let mut hooks = Hooks::new(&save);
    hooks.save_final = Some(&save_final);
    hooks.before_finish = Some(&before_finish);
    let outcome = align_train::train(job, command.equip(hooks)).map_err(failure::of)?;
    command.end(outcome)
}
