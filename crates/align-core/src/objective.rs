use align_types::PromptGroup;
use tch::{Kind, Tensor};

use crate::{CausalLm, Coupling, Error, PackedBatch, Parameter, Result};

/// One summand of a loss: weight · Σ terms / denominator.
///
/// The sum and the denominator are kept apart, because the denominator belongs to the whole optimiser batch:
/// the loss, its gradient and its metrics then do not depend on how the batch is cut.
#[derive(Debug)]
pub struct LossComponent {
    /// Name in the metrics.
    pub name: &'static str,
    /// Weight of the summand.
    pub weight: f64,
    /// Per-item terms, `[n]`, with gradient.
    pub terms: Tensor,
    /// What the terms of *these* items add to the denominator (their number, or their tokens).
    pub denominator: f64,
}

/// A metric as a sum and a count; over a batch it is Σ sums / Σ counts.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricTerm {
    /// Name in `metrics.jsonl`.
    pub name: &'static str,
    /// Sum over the items.
    pub sum: f64,
    /// Number of items.
    pub count: f64,
}

impl MetricTerm {
    /// Sums a detached tensor of one value per item.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn of(name: &'static str, values: &Tensor) -> Result<Self> {
        let sum = values.f_detach()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        Ok(Self { name, sum, count: values.numel() as f64 })
    }
}

/// What a loss function returns for some items.
#[derive(Debug, Default)]
pub struct LossOutput {
    /// The summands.
    pub components: Vec<LossComponent>,
    /// Detached diagnostics.
    pub metrics: Vec<MetricTerm>,
}

impl LossOutput {
    /// Combines the components into the scalar whose gradient is the batch's: Σ weight · Σ terms / D, with one
    /// denominator D per component for the whole optimiser batch.
    ///
    /// A component without items and with denominator 0 adds nothing: a kind of rows that the batch does not hold.
    ///
    /// # Errors
    /// [`Error::Input`] when the number of denominators differs, one is not positive, or no component has items.
    pub fn scaled_sum(&self, denominators: &[f64]) -> Result<Tensor> {
        if denominators.len() != self.components.len() || self.components.is_empty() {
            let why = format!("{} for {} components", denominators.len(), self.components.len());
            return Err(Error::input("denominators", why));
        }
        let mut total: Option<Tensor> = None;
        for (component, denominator) in self.components.iter().zip(denominators) {
            if *denominator == 0.0 && component.terms.numel() == 0 {
                continue;
            }
            if !(*denominator > 0.0 && denominator.is_finite()) {
                return Err(Error::input(
                    component.name,
                    format!("denominator {denominator} is not positive"),
                ));
            }
            let sum = component.terms.f_sum(Kind::Double)?.f_mul_scalar(component.weight / denominator)?;
            total = Some(match total {
                None => sum,
                Some(before) => before.f_add(&sum)?,
            });
        }
        total.ok_or_else(|| Error::input("loss", "none of its components has an item"))
    }

    /// Returns the loss of these items alone: each component divided by its own denominator.
    ///
    /// # Errors
    /// As [`Self::scaled_sum`].
    pub fn mean(&self) -> Result<Tensor> {
        self.scaled_sum(&self.components.iter().map(|c| c.denominator).collect::<Vec<_>>())
    }
}

/// What a training loop minimises: the seam between an algorithm and the loop, which knows no algorithm.
///
/// `M` is what is trained: a language model unless said otherwise, `dyn ScoreModel` for the losses of reward models.
pub trait Objective<M: ?Sized + 'static = dyn CausalLm>: Send {
    /// Returns the denominator of each component over the whole optimiser batch, from the data alone: the loop
    /// needs them before the first micro-batch.
    ///
    /// # Errors
    /// [`Error::Input`] names a group that this objective cannot take.
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>>;

    /// Computes the loss of some groups; `batch` is their packed form.
    ///
    /// The components come in the order of [`Self::denominators`]. An objective with a [`Self::survey`] refuses:
    /// the micro-batch alone does not determine its loss.
    ///
    /// # Errors
    /// A group that this objective cannot take, or a failure of the model.
    fn loss(&self, model: &M, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<LossOutput>;

    /// Returns the rows whose numbers this objective must have of the whole optimiser batch before its first
    /// micro-batch; `None` (the default) when rows do not depend on each other.
    ///
    /// They may be the groups themselves or others made of them. A loop that finds `Some` calls [`Self::measure`],
    /// [`Self::couple`] and then [`Self::coupled_loss`] instead of [`Self::loss`]; [`crate::couple_batch`] is the
    /// first half of that.
    ///
    /// # Errors
    /// [`Error::Input`] names a group that this objective cannot take.
    fn survey(&self, groups: &[PromptGroup]) -> Result<Option<Vec<PromptGroup>>> {
        let _ = groups;
        Ok(None)
    }

    /// Measures some surveyed rows: one list of numbers per row, in their order. The loop records no gradient.
    ///
    /// # Errors
    /// As [`Self::loss`].
    fn measure(&self, model: &M, batch: &PackedBatch, surveyed: &[PromptGroup]) -> Result<Vec<Vec<f64>>> {
        let _ = (model, batch);
        Ok(vec![Vec::new(); surveyed.len()])
    }

    /// Computes what each group of the whole optimiser batch must know of the others, from the measures of all
    /// surveyed rows in their order. Gradients are recorded when the batch is trained on.
    ///
    /// # Errors
    /// [`Error::Input`] for measures that do not fit, [`Error::NonFinite`] for those that are no numbers.
    fn couple(&self, groups: &[PromptGroup], measures: &[Vec<f64>]) -> Result<Coupling> {
        let _ = measures;
        Ok(Coupling { notes: vec![Vec::new(); groups.len()], state: Vec::new() })
    }

    /// As [`Self::loss`], with the note of each group from [`Self::couple`].
    ///
    /// # Errors
    /// As [`Self::loss`].
    fn coupled_loss(
        &self,
        model: &M,
        batch: &PackedBatch,
        groups: &[PromptGroup],
        notes: &[Vec<f64>],
    ) -> Result<LossOutput> {
        let _ = notes;
        self.loss(model, batch, groups)
    }

    /// Returns what the objective carries from one optimiser step to the next (a running mean, for example), for
    /// checkpoints; empty (the default) when nothing.
    fn state(&self) -> Vec<f64> {
        Vec::new()
    }

    /// Takes a state over: after each update that of the batch's [`Coupling`], at a resumption that of the
    /// checkpoint. Replicas need it only where [`Self::couple`] runs.
    ///
    /// # Errors
    /// [`Error::Input`] for a state that is not this objective's.
    fn restore(&mut self, state: &[f64]) -> Result<()> {
        if state.is_empty() {
            return Ok(());
        }
        Err(Error::input("state of the objective", format!("{} numbers for one that has none", state.len())))
    }

    /// Called after each update of the policy's parameters, with the number of updates done so far (from 1); a resumed
    /// run counts on. The default does nothing.
    ///
    /// An objective that changes weights does so in place, in storage that its replicas share: a loop calls this on one
    /// of them, while no other is at work.
    ///
    /// # Errors
    /// [`Error::Input`] for parameters that are not those this objective was made for; libtorch refuses.
    fn after_update(&mut self, updates: u64, policy: &[Parameter]) -> Result<()> {
        let _ = (updates, policy);
        Ok(())
    }

    /// Hears that an iteration of several updates is over, of which at least one was done: a reference that follows the
    /// policy once per iteration moves here.
    ///
    /// # Errors
    /// libtorch refuses.
    fn after_iteration(&mut self, policy: &[Parameter]) -> Result<()> {
        let _ = policy;
        Ok(())
    }

    /// Returns the weights that [`Self::after_update`] changes, in a fixed order, for checkpoints; none (the default)
    /// where there are none. A resumed run writes those of the checkpoint into them.
    fn weights(&self) -> Vec<Parameter> {
        Vec::new()
    }

    /// Checks what must hold before the first update (for DPO: the loss is ln 2 while policy and reference are
    /// equal). `metrics` are those of step 1, `loss` included. The default has nothing to check.
    ///
    /// # Errors
    /// [`Error::Input`] says what was expected and what came.
    fn check_first_step(&self, metrics: &[(String, f64)]) -> Result<()> {
        let _ = metrics;
        Ok(())
    }

    /// Makes another objective over the same weights for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    fn replicate(&self) -> Result<Box<dyn Objective<M>>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(terms: &[f64], weight: f64) -> LossComponent {
        LossComponent { name: "x", weight, terms: Tensor::from_slice(terms), denominator: terms.len() as f64 }
    }

    #[test]
    fn cutting_a_batch_does_not_change_the_loss() {
        let whole = LossOutput { components: vec![component(&[1.0, 2.0, 6.0], 2.0)], metrics: vec![] };
        assert_eq!(whole.mean().unwrap().double_value(&[]), 6.0);
        let parts = [component(&[1.0], 2.0), component(&[2.0, 6.0], 2.0)];
        let sum: f64 = parts
            .into_iter()
            .map(|c| LossOutput { components: vec![c], metrics: vec![] }.scaled_sum(&[3.0]).unwrap())
            .map(|t| t.double_value(&[]))
            .sum();
        assert!((sum - 6.0).abs() < 1e-12);
    }

    #[test]
    fn denominators_that_do_not_fit_are_refused() {
        let loss = LossOutput { components: vec![component(&[1.0], 1.0)], metrics: vec![] };
        assert!(loss.scaled_sum(&[]).is_err());
        assert!(loss.scaled_sum(&[0.0]).is_err());
        assert!(LossOutput::default().mean().is_err());
    }

    #[test]
    fn a_kind_of_rows_that_is_absent_adds_nothing() {
        let two = |first: &[f64], second: &[f64]| LossOutput {
            components: vec![component(first, 1.0), component(second, 1.0)],
            metrics: vec![],
        };
        assert_eq!(two(&[4.0], &[]).scaled_sum(&[2.0, 0.0]).unwrap().double_value(&[]), 2.0);
        assert!(two(&[4.0], &[1.0]).scaled_sum(&[2.0, 0.0]).is_err());
        assert!(two(&[], &[]).scaled_sum(&[0.0, 0.0]).is_err());
    }
}
