use align_core::tch::Tensor;

use crate::{PolicyAggregation, Result};

/// Over what the token terms of a loss are averaged, with the number that it may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Averaging {
    /// The mode.
    pub mode: PolicyAggregation,
    /// Most tokens of an answer (`max_new_tokens`), by which `seq_sum_const` divides.
    pub token_limit: usize,
}

impl Averaging {
    /// Computes what answers of these lengths add to the denominator.
    pub fn denominator(&self, lens: impl Iterator<Item = usize>) -> f64 {
        match self.mode {
            PolicyAggregation::TokenMean => lens.sum::<usize>() as f64,
            PolicyAggregation::SeqMeanMean | PolicyAggregation::SeqSumMean => lens.count() as f64,
            PolicyAggregation::SeqSumConst => (lens.count() * self.token_limit.max(1)) as f64,
        }
    }

    /// Weights the terms of tokens `[N]`, so that their sum over the denominator is the average that is meant; `lens` are
    /// the tokens of each answer, N together.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn weigh(&self, terms: &Tensor, lens: &[usize]) -> Result<Tensor> {
        if self.mode != PolicyAggregation::SeqMeanMean {
            return Ok(terms.shallow_clone());
        }
        let weights: Vec<f64> =
            lens.iter().flat_map(|len| std::iter::repeat_n(1.0 / (*len).max(1) as f64, *len)).collect();
        Ok(terms.f_mul(&Tensor::f_from_slice(&weights)?.f_to_device(terms.device())?)?)
    }
}
