use align_core::tch::Tensor;

use crate::{DpoConfig, FDivergence, Result};

/// Largest exponent: beyond it the score is a number without use, and soon none at all.
const LARGEST_EXPONENT: f64 = 80.0;

/// α so close to 1 that the α-divergence is taken for its limit.
const LIMIT: f64 = 1e-6;

/// Computes the score f′(t) of log t = h for the divergence of the configuration (f-DPO, 2309.16240, in the
/// parametrisation of TRL).
///
/// | divergence | score |
/// | --- | --- |
/// | reverse KL | h |
/// | forward KL | 1 − exp(−h) |
/// | Jensen-Shannon | ln 2 + log σ(h) |
/// | α | (exp((α − 1) h) − 1) / (α − 1), h at α = 1 |
///
/// TRL caps the exponent of the α-divergence alone; here that of the forward KL has the same cap.
pub(super) fn scores(ratios: &Tensor, config: &DpoConfig) -> Result<Tensor> {
    let order = config.f_alpha_divergence_coef - 1.0;
    Ok(match config.f_divergence_type {
        FDivergence::ReverseKl => ratios.shallow_clone(),
        FDivergence::ForwardKl => expm1_over(ratios, -1.0)?,
        FDivergence::JsDivergence => ratios.f_log_sigmoid()?.f_add_scalar(std::f64::consts::LN_2)?,
        FDivergence::AlphaDivergence if order.abs() < LIMIT => ratios.shallow_clone(),
        FDivergence::AlphaDivergence => expm1_over(ratios, order)?,
    })
}

/// (exp(k h) − 1) / k; the forward KL is its case k = −1.
fn expm1_over(ratios: &Tensor, k: f64) -> Result<Tensor> {
    Ok(ratios.f_mul_scalar(k)?.f_clamp_max(LARGEST_EXPONENT)?.f_expm1()?.f_div_scalar(k)?)
}
