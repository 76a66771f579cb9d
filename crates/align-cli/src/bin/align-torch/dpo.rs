//! `align dpo`.

use std::path::{Path, PathBuf};

use align_cli::{Result, args::DpoArgs};
use align_core::{CausalLm, Objective, PackedBatch, align_types::PromptGroup, no_grad};
use align_data::{DataConfig, DataReport};
use align_lm::{Model, ModelConfig};
use align_losses::{Dpo as DpoObjective, Reference};
use align_train::Unit;

use crate::{
    computer, failure,
    logprobs::batches,
    model::{self, Folder},
    train::{Method, Rows, Setup},
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

    fn load(
        &self,
        files: &[PathBuf],
        folder: &Folder,
        config: &DataConfig,
    ) -> Result<(Vec<PromptGroup>, DataReport)> {
        Ok(align_data::load_pairs(files, &folder.tokenizer, folder.template.as_ref(), config)?)
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
}

impl Dpo<'_> {
    /// Loads the reference: `--ref-model`, or the model as it was before the first step.
    fn load_reference(&self, setup: &Setup<'_>, given: Option<&Path>) -> Result<Model> {
        match given {
            Some(folder) => model::load(folder, &setup.reference),
            None => setup.tuning.beginning(setup.policy, setup.base, setup.continued, &setup.reference),
        }
    }
}

/// Computes the reference's log-probability of every answer, so that the model can be dropped.
fn precompute(reference: Model, setup: &Setup<'_>, rows: &mut Rows) -> Result<()> {
    let mut replicas = model::replicas(reference, setup.threads)?;
    for groups in [&mut rows.train, &mut rows.eval] {
        let cut = batches(groups, setup.micro_batch_tokens);
        let mut sums: Vec<f64> = Vec::new();
        for round in cut.chunks(replicas.len()) {
            let jobs = round.iter().map(|batch| groups.get(batch.clone()).unwrap_or_default());
            let results = computer::in_parallel(&mut replicas, jobs, |model, groups| {
                let _guard = no_grad();
                let batch = PackedBatch::new(groups).map_err(failure::of)?;
                let sums = model.token_log_probs(&batch, 1.0).and_then(|logps| logps.to_vecs());
                let sum = |values: &Vec<f32>| values.iter().map(|value| f64::from(*value)).sum::<f64>();
                Ok(sums.map_err(failure::of)?.iter().map(sum).collect::<Vec<_>>())
            })?;
            sums.extend(results.into_iter().flatten());
        }
        let answers = groups.iter_mut().flat_map(|group| &mut group.completions);
        answers.zip(sums).for_each(|(answer, sum)| answer.ref_logprob = Some(sum));
    }
    Ok(())
}
