//! `align dpo`.

use std::path::Path;

use align_cli::{Error, Result, args::DpoArgs, health};
use align_core::{
    CausalLm, Objective, PackedBatch,
    align_types::{HealthCheck, PromptGroup},
    no_grad,
};
use align_data::Kind;
use align_lm::{Model, ModelConfig};
use align_losses::{Dpo as DpoObjective, Reference};
use align_train::Unit;

use crate::{
    computer, failure,
    logprobs::batches,
    model::{self, Folder},
    rows::Rows,
    train::{Method, Setup},
    tuning::Tuning,
};

/// Direct preference optimisation.
pub struct Dpo<'a>(pub &'a DpoArgs);

impl Method for Dpo<'_> {
    fn name(&self) -> &'static str {
        "dpo"
    }

    fn unit(&self) -> Unit {
        Unit::Pairs
    }

    fn reference<'a>(&'a self, base: &'a Path) -> Option<&'a Path> {
        let given = self.0.method.ref_model.as_deref();
        (!self.0.method.reference_free).then_some(given.unwrap_or(base))
    }

    fn check(&self, folder: &Folder) -> Result<()> {
        let Some(reference) = &self.0.method.ref_model else { return Ok(()) };
        let config = ModelConfig::read(reference).map_err(failure::of)?;
        model::same_vocabulary(&folder.config, &config, reference)
    }

    fn check_rows(&self, rows: &Rows) -> Result<()> {
        let Some(reference) = &self.0.method.ref_model else { return Ok(()) };
        let context = ModelConfig::read(reference).map_err(failure::of)?.context_length();
        model::rows_fit(&rows.train, context, reference)?;
        model::rows_fit(&rows.eval, context, reference)
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Preference]
    }

    fn objective(&self, setup: &Setup<'_>, rows: &mut Rows) -> Result<Box<dyn Objective>> {
        let method = &self.0.method;
        let config = self.0.dpo_config();
        if method.reference_free {
            return Ok(Box::new(DpoObjective::new(config, Reference::Free).map_err(failure::of)?));
        }
        let model = self.load_reference(setup, method.ref_model.as_deref())?;
        let reference = if method.precompute_ref_log_probs {
            precompute(model, setup, rows)?;
            Reference::Precomputed
        } else {
            Reference::Model(Box::new(model))
        };
        let objective = DpoObjective::new(config, reference).map_err(failure::of)?;
        let at_reference = method.ref_model.is_none() && setup.tuning.begins_at_rest(setup.policy);
        Ok(Box::new(if at_reference { objective.starting_at_reference() } else { objective }))
    }

    fn health(&self) -> Vec<HealthCheck> {
        health::dpo(&self.0.dpo_config())
    }
}

impl Dpo<'_> {
    /// Loads the reference: `--ref-model`, or the model as it was before the first step.
    fn load_reference(&self, setup: &Setup<'_>, given: Option<&Path>) -> Result<Model> {
        match given {
            // Below an adapter the base is there already.
            Some(folder) if folder == setup.base && !matches!(setup.tuning, Tuning::Full) => {
                setup.policy.base().map_err(failure::of)
            }
            Some(folder) => model::load(folder, &setup.reference),
            None => setup.tuning.beginning(setup.policy, setup.base, setup.continued, &setup.reference),
        }
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
