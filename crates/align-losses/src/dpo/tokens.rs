//! Options of the DPO family that look at single tokens. Completions come in pairs, the chosen one first.

use align_core::{
    TokenLogProbs, expect_shape,
    tch::{Kind, Tensor},
};

use crate::{Error, Result};

/// Checks that the completions make pairs.
fn expect_pairs(logps: &TokenLogProbs) -> Result<()> {
    if logps.lens().len().is_multiple_of(2) {
        return Ok(());
    }
    let why = format!("{} completions do not make pairs", logps.lens().len());
    Err(Error::input("token log-probabilities", why))
}

/// Computes length-desensitised sums of the answers of P pairs, `[2 P]` in float64 (LD-DPO, 2409.06411 eq. 9).
///
/// Tokens up to the length of the shorter answer count fully, those beyond it `alpha` times; 1 gives plain sums.
///
/// ```
/// use align_core::{TokenLogProbs, tch::Tensor};
///
/// let logps = TokenLogProbs::new(Tensor::from_slice(&[-1.0, -2.0, -4.0, -8.0]), vec![3, 1])?;
/// let sums = align_losses::length_desensitised_sums(&logps, 0.5)?;
/// assert_eq!(Vec::<f64>::try_from(sums)?, [-1.0 - 0.5 * 6.0, -8.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Input`] for an odd number of completions.
pub fn length_desensitised_sums(logps: &TokenLogProbs, alpha: f64) -> Result<Tensor> {
    expect_pairs(logps)?;
    let mut weights: Vec<f64> = Vec::with_capacity(logps.tokens());
    for pair in logps.lens().chunks(2) {
        let shared = pair.iter().copied().min().unwrap_or(0);
        for len in pair {
            weights.extend((0..*len).map(|place| if place < shared { 1.0 } else { alpha }));
        }
    }
    let weights = Tensor::f_from_slice(&weights)?.f_to_device(logps.values().device())?;
    let weighted = logps.values().f_to_kind(Kind::Double)?.f_mul(&weights)?;
    TokenLogProbs::new(weighted, logps.lens().to_vec())?.sums()
}

/// Computes the weights of P pairs by the policy itself, `[P]` in float64 and without gradient (WPO, 2406.11827
/// eq. 2): w = exp(mean over tokens of (lp − log Σ_v π(v)²)) of each answer, multiplied over the pair.
///
/// `log_collisions` `[N]` are log Σ_v π(v)² of each token ([`align_core::log_collision_probs`]).
///
/// # Errors
/// [`Error::Shape`] when the tensors differ in length, [`Error::Input`] for an odd number of completions.
pub fn policy_weights(logps: &TokenLogProbs, log_collisions: &Tensor) -> Result<Tensor> {
    expect_pairs(logps)?;
    expect_shape("log collision probabilities", log_collisions, &logps.values().size())?;
    let aligned = logps.values().f_detach()?.f_sub(&log_collisions.f_detach()?)?;
    let means = TokenLogProbs::new(aligned, logps.lens().to_vec())?.means()?;
    // exp of the sum of the two means is the product of the two weights.
    Ok(means.f_reshape([-1, 2])?.f_sum_dim_intlist(1, false, Kind::Double)?.f_exp()?)
}
