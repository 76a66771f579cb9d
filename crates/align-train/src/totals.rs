use align_core::{BatchReport, LossOutput, MetricTerm, PackedBatch};

use crate::{Error, Result};

/// How far announced and found denominators may differ: rounding of sums of floating-point counts.
const DENOMINATOR_TOLERANCE: f64 = 1e-9;

/// Sums over micro-batches and threads, in the order in which they are added.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    loss: f64,
    components: Vec<Component>,
    metrics: Vec<MetricTerm>,
    groups: usize,
    tokens: usize,
    /// Held-out rows whose loss is not finite.
    pub not_finite: Vec<String>,
}

#[derive(Debug)]
struct Component {
    name: &'static str,
    sum: f64,
    denominator: f64,
}

impl Totals {
    /// Adds one micro-batch whose share of the batch's loss is `loss`.
    pub fn add_output(&mut self, output: &LossOutput, loss: f64, batch: &PackedBatch) -> Result<()> {
        self.loss += loss;
        self.groups += batch.groups().len();
        self.tokens += batch.tokens();
        for (index, component) in output.components.iter().enumerate() {
            let sum = MetricTerm::of(component.name, &component.terms)?.sum;
            let (name, denominator) = (component.name, component.denominator);
            self.add_component(index, Component { name, sum, denominator });
        }
        output.metrics.iter().for_each(|term| self.add_metric(term));
        Ok(())
    }

    /// Adds the sums of another thread.
    pub fn add(&mut self, other: Self) {
        self.loss += other.loss;
        self.groups += other.groups;
        self.tokens += other.tokens;
        self.not_finite.extend(other.not_finite);
        other.components.into_iter().enumerate().for_each(|(index, c)| self.add_component(index, c));
        other.metrics.iter().for_each(|term| self.add_metric(term));
    }

    fn add_component(&mut self, index: usize, component: Component) {
        match self.components.get_mut(index) {
            Some(total) => {
                total.sum += component.sum;
                total.denominator += component.denominator;
            }
            None => self.components.push(component),
        }
    }

    fn add_metric(&mut self, term: &MetricTerm) {
        match self.metrics.iter_mut().find(|total| total.name == term.name) {
            Some(total) => {
                total.sum += term.sum;
                total.count += term.count;
            }
            None => self.metrics.push(term.clone()),
        }
    }

    /// Checks that the parts add up to what the objective announced for the whole batch; otherwise the loss
    /// would depend on how the batch is cut.
    pub fn check_denominators(&self, announced: &[f64]) -> Result<()> {
        for (component, (total, announced)) in self.components.iter().zip(announced).enumerate() {
            let found = total.denominator;
            if (found - announced).abs() > DENOMINATOR_TOLERANCE * announced.abs() {
                return Err(Error::Denominators { component, announced: *announced, found });
            }
        }
        Ok(())
    }

    /// Divides the sums. The summands of a loss that has several are reported under their names; a summand or a
    /// metric without any item is left out.
    pub fn report(&self, denominators: &[f64]) -> BatchReport {
        let summands = self.components.iter().zip(denominators);
        let summands = summands.filter(|(_, denominator)| self.components.len() > 1 && **denominator > 0.0);
        let mut metrics: Vec<(String, f64)> = summands.map(|(c, d)| (c.name.to_owned(), c.sum / d)).collect();
        let counted = self.metrics.iter().filter(|term| term.count > 0.0);
        metrics.extend(counted.clone().map(|term| (term.name.to_owned(), term.sum / term.count)));
        let counts = counted.map(|term| (term.name.to_owned(), term.count)).collect();
        BatchReport {
            loss: self.loss,
            grad_norm: 0.0,
            metrics,
            counts,
            groups: self.groups,
            tokens: self.tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch without rows of one kind has no mean over them, which would be 0 / 0.
    #[test]
    fn a_summand_without_items_is_not_reported() {
        let component = |name, sum, denominator| Component { name, sum, denominator };
        let components = vec![component("pairs", 3.0, 2.0), component("scored", 0.0, 0.0)];
        let report = Totals { components, ..Totals::default() }.report(&[2.0, 0.0]);
        assert_eq!(report.metrics, [("pairs".to_owned(), 1.5)]);
    }
}
