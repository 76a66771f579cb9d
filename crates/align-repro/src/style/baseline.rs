//! KTO with a reference point that is not the paper's.

use align_core::{
    CausalLm, Coupling, LossOutput, Objective, PackedBatch, Parameter, Result, align_types::PromptGroup,
};
use align_losses::Kto;

/// KTO whose z0 is made of the batch's own answers instead of mismatched ones.
///
/// max(0, mean(log π − log π_ref)) over each answer under its own prompt: the rows that are trained on say where gain
/// begins, so that z0 rises with what it should be the measure of. Everything else is [`Kto`]'s.
pub(super) struct OwnAnswers(Box<dyn Objective>);

impl OwnAnswers {
    /// Changes the z0 of an objective that precomputes the reference and has no state.
    pub fn new(kto: Kto) -> Self {
        Self(Box::new(kto))
    }
}

impl Objective for OwnAnswers {
    fn survey(&self, groups: &[PromptGroup]) -> Result<Option<Vec<PromptGroup>>> {
        Ok(Some(groups.to_vec()))
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

    fn measure(
        &self,
        model: &(dyn CausalLm + 'static),
        batch: &PackedBatch,
        surveyed: &[PromptGroup],
    ) -> Result<Vec<Vec<f64>>> {
        self.0.measure(model, batch, surveyed)
    }

    fn couple(&self, groups: &[PromptGroup], measures: &[Vec<f64>]) -> Result<Coupling> {
        self.0.couple(groups, measures)
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
