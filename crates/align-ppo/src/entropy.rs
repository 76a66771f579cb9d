use align_core::{
    expect_shape, records_gradients,
    tch::{Kind, Tensor},
};

use crate::Result;

/// Rows whose distributions are computed at once where no gradient is recorded: the rest of a large vocabulary needs no
/// memory then.
const ROWS_AT_ONCE: i64 = 256;

/// Computes the entropy of each row of logits at a temperature, in nats: H = −Σ p log p.
///
/// * `logits` `[N, V]`; returns `[N]`, in [0, ln V], in float32 or wider.
///
/// ```
/// use align_core::tch::Tensor;
///
/// let even = Tensor::from_slice(&[0.0, 0.0, 0.0, 0.0]).reshape([1, 4]);
/// assert!((align_ppo::entropies(&even, 1.0)?.f_double_value(&[0])? - 4f64.ln()).abs() < 1e-12);
/// # Ok::<(), align_ppo::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`](align_core::Error::Shape) for logits that are not `[N, V]`.
pub fn entropies(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    expect_shape("logits", logits, &[-1, -1])?;
    let rows = logits.size().first().copied().unwrap_or(0);
    if rows <= ROWS_AT_ONCE || records_gradients()? {
        return of_rows(logits, temperature);
    }
    let starts = (0..rows).step_by(ROWS_AT_ONCE as usize);
    let parts = starts
        .map(|start| of_rows(&logits.f_narrow(0, start, ROWS_AT_ONCE.min(rows - start))?, temperature))
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_cat(&parts, 0)?)
}

/// Below this e^x is 0 in float32.
const LEAST_LOG_PROB: f64 = -1e4;

fn of_rows(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    let kind = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let log_probs = logits.f_to_kind(kind)?.f_div_scalar(temperature)?.f_log_softmax(1, kind)?;
    // A token that is ruled out has the term 0, not 0 · −∞.
    let bounded = log_probs.f_clamp_min(LEAST_LOG_PROB)?;
    Ok(log_probs.f_exp()?.f_mul(&bounded)?.f_sum_dim_intlist(1, false, kind)?.f_neg()?)
}
