//! What an iteration costs: operations by phase, from shapes, as `docs/scaling.md` derives them.

use std::time::{Duration, Instant};

use align_cli::Result;
use align_core::tch::{Device, Kind, Tensor};
use align_lm::ModelConfig;

use crate::failure;

/// What of a model decides the cost of a pass.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Weights in the matrices of the blocks.
    matrices: f64,
    hidden: f64,
    layers: f64,
    vocabulary: f64,
}

/// Means over the prompts and answers of an iteration.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Prompts.
    pub prompts: f64,
    /// Answers to each.
    pub answers: f64,
    /// Tokens of a prompt.
    pub prompt: f64,
    /// Tokens of an answer, at most.
    pub answer: f64,
}

impl Shape {
    /// Reads it from a configuration.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn of(config: &ModelConfig) -> Result<Self> {
        let (sizes, all) = (config.sizes(), config.parameter_count().map_err(failure::of)?);
        let vocabulary = sizes.vocab_size * sizes.hidden_size;
        let outside = if sizes.tie_word_embeddings { vocabulary } else { 2 * vocabulary };
        Ok(Self {
            matrices: all.saturating_sub(outside) as f64,
            hidden: sizes.hidden_size as f64,
            layers: sizes.num_hidden_layers as f64,
            vocabulary: sizes.vocab_size as f64,
        })
    }

    /// Counts the operations of a forward pass that gives one number per token, as a critic or a reward model does.
    pub fn trunk(&self, batch: &Batch) -> f64 {
        let Batch { prompts, answers, prompt, answer } = *batch;
        let tokens = prompts * (prompt + answers * answer);
        // Tokens that tokens see.
        let seen = prompts * (prompt * prompt / 2.0 + answers * answer * (prompt + answer / 2.0));
        2.0 * self.matrices * tokens + 4.0 * self.layers * self.hidden * seen
    }

    /// Counts the operations of a forward pass that gives logits for every answer token.
    pub fn forward(&self, batch: &Batch) -> f64 {
        let answer_tokens = batch.prompts * batch.answers * batch.answer;
        self.trunk(batch) + 2.0 * self.hidden * self.vocabulary * answer_tokens
    }

    /// Counts the bytes of keys and values of a token in float32.
    pub fn cache_bytes(config: &ModelConfig) -> usize {
        let sizes = config.sizes();
        2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim * 4
    }
}

/// How long the rate is measured.
const PROBE: Duration = Duration::from_millis(60);

/// Measures how many operations of a matrix product one thread of this processor does in a second.
///
/// # Errors
/// libtorch refuses.
pub fn operations_per_second() -> Result<f64> {
    const SIDE: i64 = 256;
    let measured = || -> std::result::Result<f64, align_core::tch::TchError> {
        let one = Tensor::f_ones([SIDE, SIDE], (Kind::Float, Device::Cpu))?;
        // The first product loads what the others use.
        let _ = one.f_matmul(&one)?;
        let began = Instant::now();
        let mut products = 0.0;
        while began.elapsed() < PROBE {
            let _ = one.f_matmul(&one)?;
            products += 1.0;
        }
        Ok(products * 2.0 * (SIDE * SIDE * SIDE) as f64 / began.elapsed().as_secs_f64())
    };
    measured().map_err(align_core::Error::from).map_err(failure::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: one prompt of 2 tokens, 2 answers of 3. 8 tokens of 10 weights; the prompt's tokens see 2 in all (2²/2),
    /// those of each answer 3 (2 + 1.5) = 10.5; one layer of width 4; 6 answer tokens have logits of 5 words.
    #[test]
    fn operations_are_those_of_the_formula() {
        let shape = Shape { matrices: 10.0, hidden: 4.0, layers: 1.0, vocabulary: 5.0 };
        let batch = Batch { prompts: 1.0, answers: 2.0, prompt: 2.0, answer: 3.0 };
        let seen = 2.0 + 2.0 * 10.5;
        assert_eq!(shape.trunk(&batch), 2.0 * 10.0 * 8.0 + 4.0 * 4.0 * seen);
        assert_eq!(shape.forward(&batch), shape.trunk(&batch) + 2.0 * 4.0 * 5.0 * 6.0);
    }
}
