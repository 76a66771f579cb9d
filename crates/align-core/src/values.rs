use tch::{Device, Tensor};

use crate::logprobs::by_completion;
use crate::{PackedBatch, Parameter, Result, expect_shape};

/// Values of the states that a completion goes through, flat, with the number of tokens of each completion.
///
/// State i of a completion is the prompt and its first i tokens: its value is computed before token i is known, from
/// the row that predicts it. The state after the last token has a value too, for completions that were cut off
/// (arXiv:1506.02438, generalised advantage estimation); where the end token was sampled it is not used.
///
/// ```
/// use align_core::{TokenValues, tch::Tensor};
///
/// let (values, after) = (Tensor::from_slice(&[0.5f32, 0.25, 1.0]), Tensor::from_slice(&[0.0f32, 2.0]));
/// let values = TokenValues::new(values, after, vec![2, 1])?;
/// assert_eq!(values.to_vecs()?, [vec![0.5, 0.25], vec![1.0]]);
/// # Ok::<(), align_core::Error>(())
/// ```
#[derive(Debug)]
pub struct TokenValues {
    values: Tensor,
    after: Tensor,
    lens: Vec<usize>,
}

impl TokenValues {
    /// Takes the values before each token, `[N]`, those after the last token of each completion, `[C]`, and the number
    /// of tokens of each completion; their sum is N.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the numbers do not add up.
    pub fn new(values: Tensor, after: Tensor, lens: Vec<usize>) -> Result<Self> {
        expect_shape("token values", &values, &[lens.iter().sum::<usize>() as i64])?;
        expect_shape("values after completions", &after, &[lens.len() as i64])?;
        Ok(Self { values, after, lens })
    }

    /// Lists the rows of a batch whose hidden states have values: first those that predict a token, `[N]`, then the
    /// last one of every completion, `[C]`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn rows(batch: &PackedBatch, device: Device) -> Result<Tensor> {
        let rows = [batch.predict_rows(), &batch.last_rows()].concat();
        PackedBatch::index_tensor(&rows, device)
    }

    /// Takes the values of [`Self::rows`], `[N + C]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for another number of values.
    pub fn of_rows(values: &Tensor, batch: &PackedBatch) -> Result<Self> {
        let (tokens, completions) = (batch.targets().len() as i64, batch.completion_lens().len() as i64);
        expect_shape("values of rows", values, &[tokens + completions])?;
        let (before, after) = (values.f_narrow(0, 0, tokens)?, values.f_narrow(0, tokens, completions)?);
        Self::new(before, after, batch.completion_lens().to_vec())
    }

    /// Returns the value before each token, `[N]`, in the order of [`PackedBatch::targets`].
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Returns the value after the last token of each completion, `[C]`.
    pub fn after(&self) -> &Tensor {
        &self.after
    }

    /// Returns the number of tokens of each completion, `[C]`.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Copies the values before each token out, one list per completion.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn to_vecs(&self) -> Result<Vec<Vec<f32>>> {
        by_completion(&self.values, &self.lens)
    }
}

/// A model that gives every completion one number, for example a reward model.
pub trait ScoreModel: Send {
    /// Returns the number of tokens of the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Returns the longest sequence the model takes, if it has a bound.
    fn context_length(&self) -> Option<usize>;

    /// Returns the device of the weights.
    fn device(&self) -> Device;

    /// Computes the score of every completion behind its prompt, `[C]` in float32, in the order of
    /// [`PackedBatch::completion_lens`]. Any real number: higher is better, and only differences mean something.
    ///
    /// # Errors
    /// A token outside the vocabulary, a sequence longer than the context, or a failure of libtorch.
    fn scores(&self, batch: &PackedBatch) -> Result<Tensor>;

    /// Returns the trainable parameters in a fixed order.
    fn parameters(&self) -> Vec<Parameter>;

    /// Makes a model over the same storage with leaves of its own, for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    fn replicate(&self) -> Result<Box<dyn ScoreModel>>;

    /// As [`CausalLm::begin_step`](crate::CausalLm::begin_step).
    fn begin_step(&self, step: Option<u64>) {
        let _ = step;
    }

    /// As [`CausalLm::backward`](crate::CausalLm::backward).
    ///
    /// # Errors
    /// libtorch refuses.
    fn backward(&self, loss: &Tensor) -> Result<()> {
        Ok(loss.f_backward()?)
    }

    /// As [`CausalLm::discard_forwards`](crate::CausalLm::discard_forwards).
    fn discard_forwards(&self) {}
}

/// A model that estimates the return of a completion from each of its states: the critic of PPO.
pub trait ValueModel: Send {
    /// Returns the device of the weights.
    fn device(&self) -> Device;

    /// Computes the value of every state of every completion, in float32.
    ///
    /// # Errors
    /// A token outside the vocabulary, a sequence longer than the context, or a failure of libtorch.
    fn values(&self, batch: &PackedBatch) -> Result<TokenValues>;

    /// Returns the trainable parameters in a fixed order.
    fn parameters(&self) -> Vec<Parameter>;

    /// Makes a model over the same storage with leaves of its own, for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    fn replicate(&self) -> Result<Box<dyn ValueModel>>;

    /// As [`CausalLm::begin_step`](crate::CausalLm::begin_step).
    fn begin_step(&self, step: Option<u64>) {
        let _ = step;
    }

    /// As [`CausalLm::backward`](crate::CausalLm::backward).
    ///
    /// # Errors
    /// libtorch refuses.
    fn backward(&self, loss: &Tensor) -> Result<()> {
        Ok(loss.f_backward()?)
    }

    /// As [`CausalLm::discard_forwards`](crate::CausalLm::discard_forwards).
    fn discard_forwards(&self) {}
}

/// A policy and its critic on one transformer: one forward pass gives logits and values.
pub trait ActorCritic: Send {
    /// Counts the tokens of the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Returns the device of the parameters.
    fn device(&self) -> Device;

    /// Computes the logits of the rows that predict a completion token, `[N, V]`, and the values of all states.
    ///
    /// # Errors
    /// A batch that the model cannot take; libtorch refuses.
    fn logits_and_values(&self, batch: &PackedBatch) -> Result<(Tensor, TokenValues)>;

    /// Returns the trainable parameters of the policy and then those of the value head.
    fn parameters(&self) -> Vec<Parameter>;

    /// Makes a pair over the same storage with leaves of its own, for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    fn replicate(&self) -> Result<Box<dyn ActorCritic>>;

    /// As [`CausalLm::begin_step`](crate::CausalLm::begin_step).
    fn begin_step(&self, step: Option<u64>) {
        let _ = step;
    }

    /// As [`CausalLm::backward`](crate::CausalLm::backward).
    ///
    /// # Errors
    /// libtorch refuses.
    fn backward(&self, loss: &Tensor) -> Result<()> {
        Ok(loss.f_backward()?)
    }

    /// As [`CausalLm::discard_forwards`](crate::CausalLm::discard_forwards).
    fn discard_forwards(&self) {}
}

#[cfg(test)]
mod tests {
    use align_types::{Completion, PromptGroup};

    use super::*;

    /// Every state once: before each token and after the last, for completions that share a prompt.
    #[test]
    fn values_belong_to_states() {
        let completions = vec![Completion::new(vec![3, 4]), Completion::new(vec![5])];
        let batch = PackedBatch::new(&[PromptGroup::new(vec![1, 2], completions)]).unwrap();
        let rows = TokenValues::rows(&batch, Device::Cpu).unwrap();
        // Rows: 0, 1 prompt; 2, 3 the first completion; 4 the second.
        assert_eq!(Vec::<i64>::try_from(&rows).unwrap(), [1, 2, 1, 3, 4]);
        let values = TokenValues::of_rows(&(rows * 10), &batch).unwrap();
        assert_eq!(values.to_vecs().unwrap(), [vec![10.0, 20.0], vec![10.0]]);
        assert_eq!(Vec::<i64>::try_from(values.after()).unwrap(), [30, 40]);
        assert_eq!(values.lens(), [2, 1]);
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let ones = |n: i64| Tensor::ones([n], (tch::Kind::Float, Device::Cpu));
        assert!(TokenValues::new(ones(3), ones(2), vec![2, 1]).is_ok());
        assert!(TokenValues::new(ones(2), ones(2), vec![2, 1]).is_err());
        assert!(TokenValues::new(ones(3), ones(3), vec![2, 1]).is_err());
        assert!(TokenValues::of_rows(&ones(1), &PackedBatch::default()).is_err());
    }
}
