//! The reference policy of the offline methods: a model beside the policy, or what it gave before the first step.

use std::path::Path;

use align_cli::{Error, Result, args::ReferenceArgs};
use align_core::{CausalLm, PackedBatch, align_types::PromptGroup, no_grad};
use align_lm::{Model, ModelConfig};
use align_losses::Reference;

use crate::{
    computer, failure,
    logprobs::batches,
    model::{self, Folder},
    rows::Rows,
    train::Setup,
    tuning::Tuning,
};

/// The reference of a run.
pub struct Made {
    /// Where its log-probabilities come from.
    pub reference: Reference,
    /// The model itself where it was asked for and the log-probabilities are precomputed.
    pub model: Option<Model>,
    /// Whether the policy equals it before the first step.
    pub begins_equal: bool,
}

/// Returns the folder of the reference.
pub fn folder<'a>(args: &'a ReferenceArgs, base: &'a Path) -> &'a Path {
    args.ref_model.as_deref().unwrap_or(base)
}

/// Checks that a reference of its own speaks of the same tokens.
///
/// # Errors
/// A folder that cannot be read, another vocabulary.
pub fn check(args: &ReferenceArgs, folder: &Folder) -> Result<()> {
    let Some(reference) = &args.ref_model else { return Ok(()) };
    let config = ModelConfig::read(reference).map_err(failure::of)?;
    model::same_vocabulary(&folder.config, &config, reference)
}

/// Checks that every row fits into the context of a reference of its own.
///
/// # Errors
/// The first row that does not.
pub fn check_rows(args: &ReferenceArgs, rows: &Rows) -> Result<()> {
    let Some(reference) = &args.ref_model else { return Ok(()) };
    let context = ModelConfig::read(reference).map_err(failure::of)?.context_length();
    model::rows_fit(&rows.train, context, reference)?;
    model::rows_fit(&rows.eval, context, reference)
}

/// Loads the reference, or computes its log-probabilities into the rows; `keeps_model` asks for the model all the
/// same.
///
/// # Errors
/// A reference that cannot be loaded or run.
pub fn make(args: &ReferenceArgs, setup: &Setup<'_>, rows: &mut Rows, keeps_model: bool) -> Result<Made> {
    let begins_equal = args.ref_model.is_none() && setup.tuning.begins_at_rest(setup.policy);
    let model = load(setup, args.ref_model.as_deref())?;
    if !args.precompute_ref_log_probs {
        return Ok(Made { reference: Reference::Model(Box::new(model)), model: None, begins_equal });
    }
    let kept = keeps_model.then(|| model.replica().map_err(failure::of)).transpose()?;
    precompute(model, setup, rows)?;
    Ok(Made { reference: Reference::Precomputed, model: kept, begins_equal })
}

/// Loads the reference: `--ref-model`, or the model as it was before the first step.
fn load(setup: &Setup<'_>, given: Option<&Path>) -> Result<Model> {
    match given {
        // Below an adapter the base is there already.
        Some(folder) if folder == setup.base && !matches!(setup.tuning, Tuning::Full) => {
            setup.policy.base().map_err(failure::of)
        }
        Some(folder) => model::load(folder, &setup.reference),
        None => setup.tuning.beginning(setup.policy, setup.base, setup.continued, &setup.reference),
    }
}

/// Rows whose reference is computed before they are put away: few enough for memory where the rows are on disk.
const AT_ONCE: usize = 4096;

/// Computes the reference's log-probability of every answer, so that the model can be dropped.
fn precompute(reference: Model, setup: &Setup<'_>, rows: &mut Rows) -> Result<()> {
    let mut replicas = model::replicas(reference, setup.threads)?;
    for set in [&mut rows.train, &mut rows.eval] {
        let taken = std::mem::replace(set, Vec::new().into());
        *set = taken.update::<Error>(AT_ONCE, |groups| {
            let sums = sums(&mut replicas, groups, setup.micro_batch_tokens)?;
            let answers = groups.iter_mut().flat_map(|group| &mut group.completions);
            answers.zip(sums).for_each(|(answer, sum)| answer.ref_logprob = Some(sum));
            Ok(())
        })?;
    }
    Ok(())
}

/// Computes the log-probability of every answer.
fn sums(replicas: &mut [Model], groups: &[PromptGroup], micro_batch_tokens: usize) -> Result<Vec<f64>> {
    let cut = batches(groups, micro_batch_tokens);
    let mut sums: Vec<f64> = Vec::new();
    for round in cut.chunks(replicas.len()) {
        let jobs = round.iter().map(|batch| groups.get(batch.clone()).unwrap_or_default());
        let results = computer::in_parallel(replicas, jobs, |model, groups| {
            let _guard = no_grad();
            let batch = PackedBatch::new(groups).map_err(failure::of)?;
            let sums = model.token_log_probs(&batch, 1.0).and_then(|logps| logps.to_vecs());
            let sum = |values: &Vec<f32>| values.iter().map(|value| f64::from(*value)).sum::<f64>();
            Ok(sums.map_err(failure::of)?.iter().map(sum).collect::<Vec<_>>())
        })?;
        sums.extend(results.into_iter().flatten());
    }
    Ok(sums)
}
