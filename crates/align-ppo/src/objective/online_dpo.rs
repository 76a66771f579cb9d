use align_core::{
    CausalLm, LossOutput, Objective, PackedBatch, Parameter, TokenLogProbs,
    align_types::{PromptGroup, config::DpoConfig},
    no_grad,
    tch::Tensor,
};
use align_losses::{DpoInputs, dpo_loss};

use super::policy::{check, log_probs};
use super::references::{References, by_group};
use crate::{Error, MeasureLayout, PpoConfig, Result, answers::name_of};

/// DPO on pairs of the policy's own samples (2402.04792), as [`pair_samples`](crate::pair_samples) makes them; the
/// reference is read from the trajectories.
#[derive(Debug)]
pub struct OnlineDpoObjective {
    config: DpoConfig,
    temperature: f64,
    references: References,
}

impl OnlineDpoObjective {
    /// Makes the objective. `temperature` is that of sampling, for policy and reference.
    ///
    /// # Errors
    /// A configuration outside its range; a temperature that is not above 0; a missing reference.
    pub fn new(config: &PpoConfig, temperature: f64, references: References) -> Result<Self> {
        check(config, temperature, &references)?;
        if references.model().is_none() {
            return Err(Error::input("reference", "online-dpo compares the policy with one"));
        }
        Ok(Self { config: DpoConfig { beta: config.beta, ..DpoConfig::default() }, temperature, references })
    }

    /// Returns what [`Objective::measure`] gives, for [`read_measures`](crate::read_measures).
    pub fn layout(&self) -> MeasureLayout {
        self.references.layout()
    }

    fn log_probs(&self, logits: &Tensor, batch: &PackedBatch) -> Result<TokenLogProbs> {
        TokenLogProbs::new(log_probs(logits, batch, self.temperature)?, batch.completion_lens().to_vec())
    }
}

/// Sums the reference's log-probabilities of the answers of pairs, `[2 P]`.
fn reference_sums(groups: &[PromptGroup]) -> Result<Tensor> {
    let mut sums: Vec<f64> = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        for (answer, completion) in group.completions.iter().enumerate() {
            let name = || name_of(group, index, answer);
            let list = completion.trajectory.as_deref().map(|t| t.reference.as_slice()).unwrap_or_default();
            crate::answers::check_tokens(
                "reference log-probabilities",
                list,
                completion.token_ids.len(),
                &name,
            )?;
            sums.push(list.iter().map(|number| f64::from(*number)).sum());
        }
    }
    Ok(Tensor::f_from_slice(&sums)?)
}

/// Splits `[2 P]` numbers into those of the chosen and of the rejected answers.
fn sides(sums: &Tensor) -> Result<(Tensor, Tensor)> {
    let pairs = sums.f_reshape([-1, 2])?;
    Ok((pairs.f_select(1, 0)?, pairs.f_select(1, 1)?))
}

impl Objective for OnlineDpoObjective {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        match groups.iter().enumerate().find(|(_, group)| group.completions.len() != 2) {
            Some((index, group)) => {
                let why = format!("{} answers; online-dpo trains on pairs of them", group.completions.len());
                Err(Error::input(group.describe(index), why))
            }
            None => Ok(vec![groups.len() as f64]),
        }
    }

    fn loss(&self, model: &dyn CausalLm, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<LossOutput> {
        let sums = self.log_probs(&model.logits(batch)?, batch)?.sums()?;
        let (chosen, rejected) = sides(&sums)?;
        let (ref_chosen, ref_rejected) = sides(&reference_sums(groups)?.f_to_device(sums.device())?)?;
        let inputs = DpoInputs {
            ref_chosen: Some(&ref_chosen),
            ref_rejected: Some(&ref_rejected),
            ..DpoInputs::new(&chosen, &rejected)
        };
        dpo_loss(&inputs, &self.config)
    }

    fn measure(
        &self,
        model: &dyn CausalLm,
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> Result<Vec<Vec<f64>>> {
        let _guard = no_grad();
        let logits = model.logits(batch)?;
        let log_probs = self.log_probs(&logits, batch)?;
        by_group(groups, &self.references.measure(batch, log_probs, &logits, self.temperature)?)
    }

    fn after_iteration(&mut self, policy: &[Parameter]) -> Result<()> {
        self.references.after_iteration(policy)
    }

    fn weights(&self) -> Vec<Parameter> {
        self.references.weights()
    }

    fn replicate(&self) -> Result<Box<dyn Objective>> {
        let (config, references) = (self.config.clone(), self.references.replicate()?);
        Ok(Box::new(Self { config, references, temperature: self.temperature }))
    }
}
