//! KTO with a reference point that is not the paper's.

use align_core::{
    CausalLm, Coupling, LossOutput, Objective, PackedBatch, Parameter, Result, align_types::PromptGroup,
};
use align_losses::{Kto, kto_baseline};

/// KTO whose z0 is the mean of clamped ratios where the paper's is the clamped mean of ratios.
///
/// mean(max(0, log π − log π_ref)) over the same mismatched pairs of the batch: what falls does not weigh against what
/// rises, so that this z0 leaves 0 although the policy makes mismatched answers less likely. Everything else is
/// [`Kto`]'s.
pub(super) struct ClampedRatios(Box<dyn Objective>);

impl ClampedRatios {
    /// Changes the z0 of an objective whose reference is precomputed.
    pub fn new(kto: Kto) -> Self {
        Self(Box::new(kto))
    }
}

/// Clamps each ratio of the measures, which hold log π and log π_ref by turns, before the mean.
fn wrong_baseline(measures: &[Vec<f64>]) -> f64 {
    let ratio = |pair: &[f64]| match pair {
        [policy, reference] => Some((policy - reference).max(0.0)),
        _ => None,
    };
    let ratios: Vec<f64> = measures.iter().flat_map(|row| row.chunks(2).filter_map(ratio)).collect();
    kto_baseline(&ratios)
}

impl Objective for ClampedRatios {
    fn couple(&self, groups: &[PromptGroup], measures: &[Vec<f64>]) -> Result<Coupling> {
        Ok(Coupling { notes: vec![vec![wrong_baseline(measures)]; groups.len()], state: Vec::new() })
    }

    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        self.0.denominators(groups)
    }

    fn loss(
        &self,
        model: &(dyn CausalLm + 'static),
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> Result<LossOutput> {
        self.0.loss(model, batch, groups)
    }

    fn survey(&self, groups: &[PromptGroup]) -> Result<Option<Vec<PromptGroup>>> {
        self.0.survey(groups)
    }

    fn measure(
        &self,
        model: &(dyn CausalLm + 'static),
        batch: &PackedBatch,
        surveyed: &[PromptGroup],
    ) -> Result<Vec<Vec<f64>>> {
        self.0.measure(model, batch, surveyed)
    }

    fn coupled_loss(
        &self,
        model: &(dyn CausalLm + 'static),
        batch: &PackedBatch,
        groups: &[PromptGroup],
        notes: &[Vec<f64>],
    ) -> Result<LossOutput> {
        self.0.coupled_loss(model, batch, groups, notes)
    }

    fn after_update(&mut self, updates: u64, policy: &[Parameter]) -> Result<()> {
        self.0.after_update(updates, policy)
    }

    fn check_first_step(&self, metrics: &[(String, f64)]) -> Result<()> {
        self.0.check_first_step(metrics)
    }

    fn replicate(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(Self(self.0.replicate()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_clamped_before_the_mean_and_the_papers_after() {
        // Ratios 1, −4 and 0.5: (1 + 0 + 0.5) / 3 against max(0, −2.5 / 3).
        let measures = [vec![-3.0, -4.0], vec![-9.0, -5.0, -2.0, -2.5]];
        assert_eq!(wrong_baseline(&measures), 0.5);
        assert_eq!(kto_baseline(&[1.0, -4.0, 0.5]), 0.0);
        assert_eq!(wrong_baseline(&[]), 0.0);
    }
}
