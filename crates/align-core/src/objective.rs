use align_types::PromptGroup;
use tch::{Kind, Tensor};

use crate::{CausalLm, Error, PackedBatch, Result};

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
    /// # Errors
    /// [`Error::Input`] when the number of denominators differs or one is not positive.
    pub fn scaled_sum(&self, denominators: &[f64]) -> Result<Tensor> {
        if denominators.len() != self.components.len() || self.components.is_empty() {
            let why = format!("{} for {} components", denominators.len(), self.components.len());
            return Err(Error::input("denominators", why));
        }
        let mut total: Option<Tensor> = None;
        for (component, denominator) in self.components.iter().zip(denominators) {
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
        total.ok_or_else(|| Error::input("loss", "it has no component"))
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
pub trait Objective: Send {
    /// Returns the denominator of each component over the whole optimiser batch, from the data alone: the loop
    /// needs them before the first micro-batch.
    ///
    /// # Errors
    /// [`Error::Input`] names a group that this objective cannot take.
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>>;

    /// Computes the loss of some groups; `batch` is their packed form.
    ///
    /// The components come in the order of [`Self::denominators`].
    ///
    /// # Errors
    /// A group that this objective cannot take, or a failure of the model.
    fn loss(&self, model: &dyn CausalLm, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<LossOutput>;

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
    fn replicate(&self) -> Result<Box<dyn Objective>>;
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
}
