//! Losses of one pair alone. Margins and rewards are `[B]` in float64; each function returns terms `[B]`.
//!
//! All use log σ and never the logarithm of σ, which underflows where a pair is far from its label.

use align_core::tch::Tensor;

use super::inputs::Sides;
use crate::Result;

/// Bound of the exponent of DiscoPOP; for τ <= 1 it is never reached.
const LARGEST_EXPONENT: f64 = 80.0;

/// Computes −log σ(z).
fn nll(z: &Tensor) -> Result<Tensor> {
    Ok(z.f_log_sigmoid()?.f_neg()?)
}

/// Computes −(1 − ε) log σ(z) − ε log σ(−z): DPO (2305.18290 eq. 7), conservative for ε > 0 (E. Mitchell, "A note
/// on DPO with noisy preferences", 2023).
///
/// TRL 1.16 ignores the smoothing for `sigmoid`; an option that is given is not ignored here.
pub(super) fn sigmoid(margin: &Tensor, smoothing: f64) -> Result<Tensor> {
    let right = margin.f_log_sigmoid()?.f_mul_scalar(smoothing - 1.0)?;
    if smoothing == 0.0 {
        return Ok(right);
    }
    Ok(right.f_sub(&margin.f_neg()?.f_log_sigmoid()?.f_mul_scalar(smoothing)?)?)
}

/// Computes max(0, 1 − z), z = β D (RSO, 2309.06657).
pub(super) fn hinge(margin: &Tensor) -> Result<Tensor> {
    Ok(margin.f_neg()?.f_add_scalar(1.0)?.f_relu()?)
}

/// Computes (D̄ − 1 / (2 τ))², D̄ the difference of averages per token, τ = β (2310.12036 eq. 17).
///
/// The paper prints sums; its authors confirmed to TRL that its results use averages.
pub(super) fn ipo(average_difference: &Tensor, beta: f64) -> Result<Tensor> {
    Ok(average_difference.f_sub_scalar(0.5 / beta)?.f_square()?)
}

/// Computes KL((σ(z), σ(−z)) ‖ (1 − ε, ε)) (2402.00856 eq. 16).
pub(super) fn exo_pair(margin: &Tensor, smoothing: f64) -> Result<Tensor> {
    let opposite = margin.f_neg()?;
    let wins = margin.f_log_sigmoid()?.f_sub_scalar((-smoothing).ln_1p())?.f_mul(&margin.f_sigmoid()?)?;
    let loses = opposite.f_log_sigmoid()?.f_sub_scalar(smoothing.ln())?.f_mul(&opposite.f_sigmoid()?)?;
    Ok(wins.f_add(&loses)?)
}

/// Computes −log σ(r_c) − ½ log σ(−r_c) − ½ log σ(−r_r) (2402.05369).
pub(super) fn nca_pair(rewards: &Sides) -> Result<Tensor> {
    let against = nll(&rewards.chosen.f_neg()?)?.f_add(&nll(&rewards.rejected.f_neg()?)?)?;
    Ok(nll(&rewards.chosen)?.f_add(&against.f_mul_scalar(0.5)?)?)
}

/// Computes [−(1 − ε) log σ(z) + ε log σ(−z)] / (1 − 2 ε) (2403.00409); not bounded below for ε > 0.
pub(super) fn robust(margin: &Tensor, smoothing: f64) -> Result<Tensor> {
    let right = nll(margin)?.f_mul_scalar(1.0 - smoothing)?;
    let flipped = nll(&margin.f_neg()?)?.f_mul_scalar(smoothing)?;
    Ok(right.f_sub(&flipped)?.f_div_scalar(1.0 - 2.0 * smoothing)?)
}

/// Computes −log σ(r_c) − log σ(−r_r) (2404.04656 without its reward shift, as TRL has it for pairs).
pub(super) fn bco_pair(rewards: &Sides) -> Result<Tensor> {
    Ok(nll(&rewards.chosen)?.f_add(&nll(&rewards.rejected.f_neg()?)?)?)
}

/// Computes (h_c − 1 / (2 β))² + (h_r + 1 / (2 β))² (2405.00675 eq. 4.7 with win probabilities 1 and 0).
pub(super) fn sppo_hard(ratios: &Sides, beta: f64) -> Result<Tensor> {
    let target = 0.5 / beta;
    let winner = ratios.chosen.f_sub_scalar(target)?.f_square()?;
    Ok(winner.f_add(&ratios.rejected.f_add_scalar(target)?.f_square()?)?)
}

/// Computes (1 − σ(r_c)) + σ(r_r) (2408.06266 eq. 7).
pub(super) fn apo_zero(rewards: &Sides) -> Result<Tensor> {
    Ok(rewards.chosen.f_neg()?.f_sigmoid()?.f_add(&rewards.rejected.f_sigmoid()?)?)
}

/// Computes σ(r_c) + (1 − σ(r_c − r_r)) (2408.06266 eq. 8).
pub(super) fn apo_down(rewards: &Sides) -> Result<Tensor> {
    let behind = rewards.difference()?.f_neg()?.f_sigmoid()?;
    Ok(rewards.chosen.f_sigmoid()?.f_add(&behind)?)
}

/// Computes (1 − s) (−log σ(z)) + s exp(−z), s = σ(z / τ) (2406.08414 eq. 5).
///
/// s exp(−z) is written exp(log s − z): for τ <= 1 its exponent is never above 0, while s times an exponential
/// that has overflowed would be 0 · ∞.
pub(super) fn discopop(margin: &Tensor, tau: f64) -> Result<Tensor> {
    let blend = margin.f_div_scalar(tau)?;
    let logistic = nll(margin)?.f_mul(&blend.f_neg()?.f_sigmoid()?)?;
    let exponent = blend.f_log_sigmoid()?.f_sub(margin)?.f_clamp_max(LARGEST_EXPONENT)?;
    Ok(logistic.f_add(&exponent.f_exp()?)?)
}
