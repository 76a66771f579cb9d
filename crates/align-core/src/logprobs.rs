use tch::{Kind, Reduction, Tensor};

use crate::{Error, Result, expect_shape};

/// Gathers the log-probability of each target from its row of logits.
///
/// lp = log softmax(logits / temperature) at the target, computed in float32 or wider.
///
/// * `logits` `[N, V]`, row i being the one that *predicts* target i;
/// * `targets` `[N]` int64, in 0..V;
/// * `temperature` > 0: the sampling temperature for on-policy methods, 1 for offline losses.
///
/// Returns `[N]`.
///
/// # Errors
/// [`Error::Shape`] when rows and targets differ in number, [`Error::Input`] for a temperature that is not
/// positive, [`Error::Torch`] for targets outside the vocabulary.
pub fn gather_log_probs(logits: &Tensor, targets: &Tensor, temperature: f64) -> Result<Tensor> {
    expect_shape("logits", logits, &[-1, -1])?;
    expect_shape("targets", targets, &[logits.size().first().copied().unwrap_or(0)])?;
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(Error::input("temperature", format!("{temperature} is not a number above 0")));
    }
    let wide = match logits.kind() {
        Kind::Double | Kind::Float => logits.shallow_clone(),
        _ => logits.f_to_kind(Kind::Float)?,
    };
    let scaled = if temperature == 1.0 { wide } else { wide.f_div_scalar(temperature)? };
    let nll = scaled.f_cross_entropy_loss::<Tensor>(targets, None, Reduction::None, -100, 0.0)?;
    Ok(nll.f_neg()?)
}

/// Computes log Σ_v π(v)² of each row of logits: the log-probability that two draws agree.
///
/// * `logits` `[N, V]`.
///
/// Returns `[N]` in float32 or wider, in [−ln V, 0]. WPO (2406.11827 eq. 2) measures tokens by it.
///
/// # Errors
/// [`Error::Shape`] for logits that are not `[N, V]`.
pub fn log_collision_probs(logits: &Tensor) -> Result<Tensor> {
    expect_shape("logits", logits, &[-1, -1])?;
    let kind = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    Ok(logits.f_log_softmax(1, kind)?.f_mul_scalar(2.0)?.f_logsumexp(1, false)?)
}

/// Log-probabilities of completion tokens, flat, with the number of tokens of each completion.
///
/// ```
/// use align_core::{TokenLogProbs, tch::Tensor};
///
/// let logps = TokenLogProbs::new(Tensor::from_slice(&[-1.0f32, -2.0, -0.5]), vec![2, 1])?;
/// assert_eq!(Vec::<f64>::try_from(logps.sums()?)?, [-3.0, -0.5]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TokenLogProbs {
    values: Tensor,
    lens: Vec<usize>,
}

impl TokenLogProbs {
    /// Takes the values `[N]` and the number of tokens of each completion; their sum is N.
    ///
    /// # Errors
    /// [`Error::Shape`] when the numbers do not add up.
    pub fn new(values: Tensor, lens: Vec<usize>) -> Result<Self> {
        let total: usize = lens.iter().sum();
        expect_shape("token log-probabilities", &values, &[total as i64])?;
        Ok(Self { values, lens })
    }

    /// Returns the values, `[N]`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Returns the number of tokens of each completion, `[C]`.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Counts the tokens.
    pub fn tokens(&self) -> usize {
        self.lens.iter().sum()
    }

    /// Sums the tokens of each completion, `[C]`, in float64.
    ///
    /// Long answers have sums in the thousands, of which a pair needs the difference: in float32 it would
    /// lose digits that the loss sees.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn sums(&self) -> Result<Tensor> {
        let sizes: Vec<i64> = self.lens.iter().map(|n| *n as i64).collect();
        let pieces = self.values.f_to_kind(Kind::Double)?.f_split_with_sizes(&sizes, 0)?;
        let sums = pieces.iter().map(|p| Ok(p.f_sum(Kind::Double)?)).collect::<Result<Vec<_>>>()?;
        if sums.is_empty() {
            return Ok(self.values.f_to_kind(Kind::Double)?);
        }
        Ok(Tensor::f_stack(&sums, 0)?)
    }

    /// Averages the tokens of each completion, `[C]`, in float64.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn means(&self) -> Result<Tensor> {
        let counts: Vec<f64> = self.lens.iter().map(|n| (*n).max(1) as f64).collect();
        Ok(self.sums()?.f_div(&Tensor::f_from_slice(&counts)?.f_to_device(self.values.device())?)?)
    }

    /// Returns a copy that carries no gradient.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn detach(&self) -> Result<Self> {
        Ok(Self { values: self.values.f_detach()?, lens: self.lens.clone() })
    }

    /// Copies the values out, one list per completion.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn to_vecs(&self) -> Result<Vec<Vec<f32>>> {
        by_completion(&self.values, &self.lens)
    }
}

/// Copies numbers of tokens out, one list per completion.
pub(crate) fn by_completion(values: &Tensor, lens: &[usize]) -> Result<Vec<Vec<f32>>> {
    let flat = Vec::<f32>::try_from(values.f_detach()?.f_to_kind(Kind::Float)?.f_contiguous()?)?;
    let mut rest = flat.as_slice();
    let mut out = Vec::with_capacity(lens.len());
    for len in lens {
        let (piece, tail) = rest.split_at_checked(*len).unwrap_or((rest, &[]));
        out.push(piece.to_vec());
        rest = tail;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities (1/2, 1/4, 1/4): Σ p² = 3/8; four equal ones: 1/4; a certain one: 1.
    #[test]
    fn collision_probabilities_are_sums_of_squares() {
        let row = |p: &[f64]| Tensor::from_slice(p).log().reshape([1, -1]);
        let of = |p: &[f64]| log_collision_probs(&row(p)).unwrap().exp().double_value(&[0]);
        assert!((of(&[0.5, 0.25, 0.25]) - 0.375).abs() < 1e-12);
        assert!((of(&[3.0; 4]) - 0.25).abs() < 1e-12);
        let certain = log_collision_probs(&Tensor::from_slice(&[1e4f32, 0.0]).reshape([1, 2])).unwrap();
        assert_eq!(certain.double_value(&[0]), 0.0);
        assert!(log_collision_probs(&Tensor::from_slice(&[0.0])).is_err());
    }

    /// A model that says "next = current + 1 mod V" with probability 0.9: a matching sequence of length L has
    /// log-probability L ln 0.9. Gathering from unshifted rows would give something else.
    #[test]
    fn rows_predict_the_next_token() {
        let vocab = 5i64;
        let sequence = [0i64, 1, 2, 3];
        let (hit, miss) = (0.9f64.ln(), (0.1f64 / 4.0).ln());
        let logits: Vec<f64> = sequence
            .iter()
            .flat_map(|current| (0..vocab).map(move |v| if v == (current + 1) % vocab { hit } else { miss }))
            .collect();
        let logits = Tensor::from_slice(&logits).reshape([4, vocab]);
        let logps = gather_log_probs(&logits, &Tensor::from_slice(&[1i64, 2, 3, 4]), 1.0).unwrap();
        let sums = TokenLogProbs::new(logps, vec![4]).unwrap().sums().unwrap();
        assert!((sums.double_value(&[0]) - 4.0 * hit).abs() < 1e-12);
        // At temperature 2 the probabilities are proportional to their square roots.
        let tempered = gather_log_probs(&logits, &Tensor::from_slice(&[1i64, 2, 3, 4]), 2.0).unwrap();
        let expected = (0.9f64.sqrt() / (0.9f64.sqrt() + 4.0 * 0.025f64.sqrt())).ln();
        assert!((tempered.double_value(&[0]) - expected).abs() < 1e-12);
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let logits = Tensor::zeros([2, 3], (Kind::Float, tch::Device::Cpu));
        assert!(gather_log_probs(&logits, &Tensor::from_slice(&[1i64]), 1.0).is_err());
        assert!(gather_log_probs(&logits, &Tensor::from_slice(&[1i64, 1]), 0.0).is_err());
        assert!(gather_log_probs(&logits, &Tensor::from_slice(&[1i64, 3]), 1.0).is_err());
        assert!(TokenLogProbs::new(Tensor::from_slice(&[1.0f32]), vec![2]).is_err());
    }

    /// Two long answers that differ in one token: the difference of float32 sums would be off by more.
    #[test]
    fn sums_of_long_answers_keep_small_differences() {
        let n = 4096;
        let mut values = vec![-3.3333f32; 2 * n];
        values[n] -= 1e-4;
        let logps = TokenLogProbs::new(Tensor::from_slice(&values), vec![n, n]).unwrap();
        let sums = Vec::<f64>::try_from(logps.sums().unwrap()).unwrap();
        let exact = f64::from(values[0]) - f64::from(values[n]);
        assert!(((sums[0] - sums[1]) - exact).abs() < 1e-9);
    }

    #[test]
    fn values_come_back_by_completion() {
        let logps = TokenLogProbs::new(Tensor::from_slice(&[-1.0f32, -2.0, -3.0]), vec![1, 2]).unwrap();
        assert_eq!(logps.to_vecs().unwrap(), [vec![-1.0], vec![-2.0, -3.0]]);
        assert_eq!(Vec::<f64>::try_from(logps.means().unwrap()).unwrap(), [-1.0, -2.5]);
    }
}
