//! What β h must be for an answer whose reward is known together with rewards of the reference policy for the
//! same prompt. Both replace the partition function that UNA sets to 1.

use crate::{Error, Result};

/// Computes q − β log Z, the implicit reward that QRPO regresses on (2507.08068).
///
/// q is the share of `reference_rewards` that are at most `reward`. It is uniform on [0, 1] under the reference
/// policy, so the partition function is known exactly: Z = β (e^(1/β) − 1).
///
/// ```
/// // One of two reference rewards is below: q = 1/2; β = 1: log Z = ln(e − 1).
/// let target = align_losses::qrpo_target(0.5, &[0.0, 1.0], 1.0)?;
/// assert!((target - (0.5 - (1f64.exp() - 1.0).ln())).abs() < 1e-12);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] without reference rewards, or for rewards that are not finite.
pub fn qrpo_target(reward: f64, reference_rewards: &[f64], beta: f64) -> Result<f64> {
    check(reward, reference_rewards)?;
    let below = reference_rewards.iter().filter(|other| **other <= reward).count() as f64;
    let quantile = below / reference_rewards.len() as f64;
    // log Z = ln β + 1/β + ln(1 − e^(−1/β)): e^(1/β) itself overflows for small β.
    let beta_log_z = beta * beta.ln() + 1.0 + beta * (-(-1.0 / beta).exp()).ln_1p();
    Ok(quantile - beta_log_z)
}

/// Computes r − V*, the implicit reward that A*-PO regresses on (2505.20686), V* = β log mean exp(r_ref / β) over
/// rewards of the reference policy.
///
/// ```
/// // Equal reference rewards: V* is that reward whatever β is.
/// let target = align_losses::a_star_target(3.0, &[1.0, 1.0, 1.0], 0.01)?;
/// assert!((target - 2.0).abs() < 1e-12);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] without reference rewards, or for rewards that are not finite.
pub fn a_star_target(reward: f64, reference_rewards: &[f64], beta: f64) -> Result<f64> {
    check(reward, reference_rewards)?;
    let largest = reference_rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = reference_rewards.iter().map(|other| ((other - largest) / beta).exp()).sum();
    let value = largest + beta * (sum / reference_rewards.len() as f64).ln();
    Ok(reward - value)
}

fn check(reward: f64, reference_rewards: &[f64]) -> Result<()> {
    if reference_rewards.is_empty() {
        return Err(Error::input("reference rewards", "there is none for the prompt"));
    }
    match std::iter::once(&reward).chain(reference_rewards).find(|value| !value.is_finite()) {
        Some(value) => Err(Error::input("rewards", format!("{value} is no finite number"))),
        None => Ok(()),
    }
}
