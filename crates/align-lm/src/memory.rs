use crate::Result;
use crate::config::ModelConfig;
use crate::model::Model;

const F32: usize = 4;

/// An estimate of the memory that training takes, in bytes.
///
/// Weights, gradients and optimiser state follow from the shapes. The activations are what the backward pass keeps,
/// counted from the formulas of the architecture; allocator and attention buffers come on top. Two Llamas of 5 and 20
/// million parameters kept 6 % more than this on 3840 tokens (the masks of the groups); scores that are bounded before
/// the softmax (Gemma 2) take the square of a group's tokens per head besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryEstimate {
    /// Number of parameters, a tied matrix once.
    pub parameters: usize,
    /// Those that are trained.
    pub trained: usize,
    /// Float32 weights.
    pub weights: usize,
    /// Float32 gradients, once per training thread.
    pub gradients: usize,
    /// The two moments of Adam.
    pub optimizer: usize,
    /// Kept for the backward pass per token of the flat stream.
    pub activations_per_token: usize,
    /// Kept for the backward pass per completion token: its logits and their log-softmax.
    pub activations_per_completion_token: usize,
}

impl MemoryEstimate {
    /// Estimates the training of an adapter of this many parameters instead of all weights.
    #[must_use]
    pub fn with_adapter(self, parameters: usize) -> Self {
        let bytes = parameters.saturating_mul(F32);
        Self {
            parameters: self.parameters.saturating_add(parameters),
            trained: parameters,
            weights: self.weights.saturating_add(bytes),
            gradients: bytes,
            optimizer: bytes.saturating_mul(2),
            ..self
        }
    }
}

impl ModelConfig {
    /// Counts the parameters of a model of this configuration, a tied matrix once.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn parameter_count(&self) -> Result<usize> {
        let count =
            |shape: &Vec<i64>| shape.iter().fold(1, |n: usize, size| n.saturating_mul(*size as usize));
        let tensors = Model::plan(self)?.0.tensors;
        Ok(tensors.iter().fold(0, |sum: usize, (_, shape, _)| sum.saturating_add(count(shape))))
    }

    /// Estimates the memory of training a model of this configuration in full.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn memory_estimate(&self) -> Result<MemoryEstimate> {
        let parameters = self.parameter_count()?;
        let sizes = self.sizes();
        let (_, decoder) = Model::plan(self)?;
        let blocks: usize = decoder.blocks.iter().map(|block| block.activations(&sizes)).sum();
        Ok(MemoryEstimate {
            parameters,
            trained: parameters,
            weights: parameters.saturating_mul(F32),
            gradients: parameters.saturating_mul(F32),
            optimizer: parameters.saturating_mul(2 * F32),
            activations_per_token: (blocks + 3 * sizes.hidden_size) * F32,
            activations_per_completion_token: (2 * sizes.vocab_size + sizes.hidden_size) * F32,
        })
    }
}
