use align_core::tch::Kind;

use crate::Result;
use crate::config::ModelConfig;
use crate::model::{LoadOptions, Model, Trainable};
use crate::nf4;
use crate::weights::Role;

const F32: usize = 4;
const BF16: usize = 2;

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
    /// The weights as they are stored.
    pub weights: usize,
    /// Float32 gradients, once per training thread; nothing for a model that is not trained.
    pub gradients: usize,
    /// The two moments of Adam.
    pub optimizer: usize,
    /// Weights in the format of computing that a pass keeps for its backward pass, once per training thread.
    pub casts: usize,
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
        Ok(self.counts()?.into_iter().fold(0, |sum: usize, (count, _)| sum.saturating_add(count)))
    }

    /// Counts the numbers of each tensor.
    fn counts(&self) -> Result<Vec<(usize, Role)>> {
        let count =
            |shape: &Vec<i64>| shape.iter().fold(1, |n: usize, size| n.saturating_mul(*size as usize));
        let tensors = Model::plan(self)?.0.tensors;
        Ok(tensors.iter().map(|(_, shape, role)| (count(shape), *role)).collect())
    }

    /// Estimates the memory of training a model of this configuration in full, in float32.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn memory_estimate(&self) -> Result<MemoryEstimate> {
        self.memory_estimate_for(&LoadOptions::default())
    }

    /// Estimates the memory of a model of this configuration that is loaded in this way. Of weights that are kept in
    /// 16 bits it is taken that the checkpoint has them so or wider.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn memory_estimate_for(&self, options: &LoadOptions) -> Result<MemoryEstimate> {
        let counts = self.counts()?;
        let total = |bytes: &dyn Fn(usize, Role) -> usize| {
            counts.iter().fold(0, |sum: usize, (count, role)| sum.saturating_add(bytes(*count, *role)))
        };
        let parameters = total(&|count, _| count);
        let trained = options.trainable != Trainable::No;
        let if_trained = |bytes: usize| if trained { bytes } else { 0 };
        let narrow = options.compute == Kind::BFloat16;
        let width = if narrow { BF16 } else { F32 };
        let sizes = self.sizes();
        let (_, decoder) = Model::plan(self)?;
        let blocks = decoder.blocks.iter().map(|block| block.activations(&sizes) * width);
        let outside = 3 * sizes.hidden_size * F32;
        let matrices = total(&|count, role| if role.decays() { count.saturating_mul(BF16) } else { 0 });
        let linear = |count: usize, role| if role == Role::Linear { count.saturating_mul(width) } else { 0 };
        let block = total(&linear) / decoder.blocks.len().max(1);
        let (blocks, casts) = match options.recomputes() {
            // What goes into each block, and one block in full.
            true => {
                let inputs = decoder.blocks.len() * sizes.hidden_size * width;
                (inputs + blocks.max().unwrap_or(0), matrices / decoder.blocks.len().max(1))
            }
            false => (blocks.sum(), matrices),
        };
        let logits = 2 * sizes.vocab_size * F32 + if narrow { sizes.vocab_size * BF16 } else { 0 };
        Ok(MemoryEstimate {
            parameters,
            trained: if_trained(parameters),
            weights: total(&|count, role| stored_bytes(count, role, options)),
            gradients: if_trained(parameters.saturating_mul(F32)),
            optimizer: if_trained(parameters.saturating_mul(2 * F32)),
            casts: match (options.frozen.is_nf4() && !trained, narrow) {
                // Below an adapter the matrices of the block at hand exist in full.
                (true, _) => block,
                (false, true) => if_trained(casts),
                (false, false) => 0,
            },
            activations_per_token: blocks + outside,
            activations_per_completion_token: logits + sizes.hidden_size * F32,
        })
    }
}

/// Counts the bytes of a tensor as [`Model::load`] keeps it.
fn stored_bytes(count: usize, role: Role, options: &LoadOptions) -> usize {
    if options.trainable == Trainable::No {
        if role == Role::Linear && options.frozen.is_nf4() {
            return nf4::bytes_for(count);
        }
        if role.decays() && options.frozen.kind(Kind::Float, options.compute).is_some() {
            return count.saturating_mul(BF16);
        }
    }
    count.saturating_mul(F32)
}
