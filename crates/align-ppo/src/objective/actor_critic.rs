use align_core::{
    ActorCritic, LossOutput, Objective, PackedBatch, Parameter, align_types::PromptGroup, no_grad,
};

use super::critic::{critic_loss, value_column, value_tokens};
use super::policy::PolicyCore;
use super::references::{References, by_group};
use crate::{MeasureLayout, PpoConfig, Result};

/// The loss of a policy and its critic on one transformer: that of the policy plus `vf_coef` times that of the critic.
///
/// A reference that moves follows the policy's parameters, the first ones of the pair.
#[derive(Debug)]
pub struct ActorCriticObjective {
    core: PolicyCore,
    cliprange: f64,
    vf_coef: f64,
}

impl ActorCriticObjective {
    /// Makes the objective. `temperature` is that of sampling, `token_limit` the most tokens of an answer.
    ///
    /// # Errors
    /// A configuration outside its range; a temperature that is not above 0; a missing reference.
    pub fn new(
        config: &PpoConfig,
        temperature: f64,
        token_limit: usize,
        references: References,
    ) -> Result<Self> {
        let core = PolicyCore::new(config, temperature, token_limit, references)?;
        Ok(Self { core, cliprange: config.cliprange_value, vf_coef: config.vf_coef })
    }

    /// Returns what [`Objective::measure`] gives, for [`read_measures`](crate::read_measures).
    pub fn layout(&self) -> MeasureLayout {
        MeasureLayout { values: true, ..self.core.references.layout() }
    }
}

impl Objective<dyn ActorCritic> for ActorCriticObjective {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        let mut denominators = self.core.denominators(groups)?;
        denominators.push(value_tokens(groups)?);
        Ok(denominators)
    }

    fn loss(
        &self,
        model: &(dyn ActorCritic + 'static),
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> Result<LossOutput> {
        let (logits, values) = model.logits_and_values(batch)?;
        let mut output = self.core.loss(&logits, batch, groups)?;
        // Beside the critic's component that of the policy is shown under its name.
        output.metrics.retain(|metric| metric.name != "loss/policy_avg");
        let critic = critic_loss(&values, batch, groups, self.cliprange)?;
        output.components.extend(critic.components.into_iter().map(|mut component| {
            component.weight = self.vf_coef;
            component
        }));
        output.metrics.extend(critic.metrics);
        Ok(output)
    }

    fn measure(
        &self,
        model: &(dyn ActorCritic + 'static),
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> Result<Vec<Vec<f64>>> {
        let _guard = no_grad();
        let (logits, values) = model.logits_and_values(batch)?;
        let mut columns = self.core.measure(&logits, batch)?;
        columns.push(value_column(&values)?);
        by_group(groups, &columns)
    }

    fn after_iteration(&mut self, parameters: &[Parameter]) -> Result<()> {
        let policy = parameters.get(..self.core.references.weights().len()).unwrap_or(parameters);
        self.core.references.after_iteration(policy)
    }

    fn weights(&self) -> Vec<Parameter> {
        self.core.references.weights()
    }

    fn replicate(&self) -> Result<Box<dyn Objective<dyn ActorCritic>>> {
        Ok(Box::new(Self { core: self.core.replicate()?, ..*self }))
    }
}
