use align_core::{
    LossOutput, Objective, PackedBatch, TokenValues, ValueModel, align_types::PromptGroup, no_grad,
    tch::Tensor,
};

use super::references::by_group;
use super::rows::{Rows, active_lens, known};
use crate::{MeasureLayout, PpoConfig, Result, ValueInputs, value_loss};

/// The loss of a critic with a network of its own: [`value_loss`] over the trajectories of the policy's samples.
///
/// [`Objective::measure`] gives the values of each state, as [`MeasureLayout::CRITIC`] has it.
#[derive(Debug, Clone)]
pub struct CriticObjective {
    cliprange: f64,
}

impl CriticObjective {
    /// Makes the objective.
    ///
    /// # Errors
    /// A configuration outside its range.
    pub fn new(config: &PpoConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self { cliprange: config.cliprange_value })
    }

    /// Returns what [`Objective::measure`] gives.
    pub fn layout(&self) -> MeasureLayout {
        MeasureLayout::CRITIC
    }
}

impl Objective<dyn ValueModel> for CriticObjective {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        Ok(vec![value_tokens(groups)?])
    }

    fn loss(
        &self,
        model: &(dyn ValueModel + 'static),
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> Result<LossOutput> {
        let mut output = critic_loss(&model.values(batch)?, batch, groups, self.cliprange)?;
        output.metrics.extend(shown(&output)?);
        Ok(output)
    }

    fn measure(
        &self,
        model: &(dyn ValueModel + 'static),
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> Result<Vec<Vec<f64>>> {
        let _guard = no_grad();
        by_group(groups, &[value_column(&model.values(batch)?)?])
    }

    fn replicate(&self) -> Result<Box<dyn Objective<dyn ValueModel>>> {
        Ok(Box::new(self.clone()))
    }
}

/// The loss of the critic under its own name, where it is the only component.
fn shown(output: &LossOutput) -> Result<Option<align_core::MetricTerm>> {
    let Some(component) = output.components.first().filter(|component| component.denominator > 0.0) else {
        return Ok(None);
    };
    let term = align_core::MetricTerm::of(component.name, &component.terms)?;
    Ok(Some(align_core::MetricTerm { count: component.denominator, ..term }))
}

pub(super) fn value_tokens(groups: &[PromptGroup]) -> Result<f64> {
    Ok(active_lens(groups)?.into_iter().sum::<usize>() as f64)
}

/// Computes the loss of the values of a batch.
pub(super) fn critic_loss(
    values: &TokenValues,
    batch: &PackedBatch,
    groups: &[PromptGroup],
    cliprange: f64,
) -> Result<LossOutput> {
    let rows = Rows::of(batch, groups)?;
    let device = values.values().device();
    let inputs = ValueInputs {
        values: &rows.pick(values.values())?,
        old: &known(groups, "values", device, |t| &t.values)?,
        returns: &known(groups, "returns", device, |t| &t.returns)?,
    };
    value_loss(&inputs, cliprange)
}

/// Lists the values of each completion, with that of the state behind it at the end.
pub(super) fn value_column(values: &TokenValues) -> Result<Vec<Vec<f32>>> {
    let mut lists = values.to_vecs()?;
    let after: &Tensor = values.after();
    let after =
        Vec::<f32>::try_from(after.f_detach()?.f_to_kind(align_core::tch::Kind::Float)?.f_contiguous()?)?;
    lists.iter_mut().zip(after).for_each(|(list, after)| list.push(after));
    Ok(lists)
}
