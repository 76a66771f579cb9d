use super::Prompts;
use crate::{Result, intervals::Estimate};

/// Values of rows under one name, of which the average is a figure.
#[derive(Debug, Clone, PartialEq)]
pub struct RowValues {
    /// The name of the figure.
    pub name: &'static str,
    /// (row, value, weight) of each value; a row may have several.
    pub values: Vec<(usize, f64, f64)>,
    /// Whether the figure is the exponential of the average (a perplexity) and not the average.
    pub exponential: bool,
}

impl RowValues {
    /// Takes values of which the average is the figure.
    pub fn new(name: &'static str, values: impl IntoIterator<Item = (usize, f64, f64)>) -> Self {
        Self { name, values: values.into_iter().collect(), exponential: false }
    }
}

impl Prompts {
    /// Averages values of rows, with intervals over prompts; a name without a value has no figure.
    ///
    /// ```
    /// use align_core::evaluation::{Prompts, RowValues};
    ///
    /// let nll = RowValues::new("loss", [(0, 2.0, 1.0), (1, 1.0, 3.0)]);
    /// let perplexity = RowValues { name: "perplexity", exponential: true, ..nll.clone() };
    /// let prompts = Prompts { of_rows: vec![0, 1], count: 2 };
    /// let figures = prompts.figures(&[nll, perplexity], 0)?;
    /// assert_eq!(figures[0].1.mean, 1.25);
    /// assert_eq!(figures[1].1.mean, 1.25f64.exp());
    /// # Ok::<(), align_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`crate::Error::NonFinite`] for a value that is not finite.
    pub fn figures(&self, values: &[RowValues], seed: u64) -> Result<Vec<(&'static str, Estimate)>> {
        let mut figures = Vec::with_capacity(values.len());
        for RowValues { name, values, exponential } in values {
            let Some(mut average) = self.average(name, values.iter().copied(), seed)? else { continue };
            if *exponential {
                average.mean = average.mean.exp();
                average.interval = average.interval.map(|(low, high)| (low.exp(), high.exp()));
            }
            figures.push((*name, average));
        }
        Ok(figures)
    }
}
