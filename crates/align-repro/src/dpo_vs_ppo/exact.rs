//! DPO's loss and PPO's objective where every expectation is a sum over a handful of responses.

use align_core::tch::{Kind, Tensor};
use align_losses::{DpoConfig, DpoInputs, dpo_loss};

use super::Tamper;
use crate::{Error, Result};

/// Log-probabilities of the two sides of B pairs, each `[B]`.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    /// Of the chosen responses.
    pub chosen: &'a Tensor,
    /// Of the rejected responses.
    pub rejected: &'a Tensor,
}

/// Computes the DPO loss of each of B pairs, `[B]`, by `align_losses`: this is the method that is on trial.
///
/// # Errors
/// Those of [`dpo_loss`].
pub fn dpo_terms(policy: Sides<'_>, reference: Sides<'_>, beta: f64, tamper: Tamper) -> Result<Tensor> {
    let (chosen, rejected) = match tamper {
        Tamper::FlipMargin => (policy.rejected, policy.chosen),
        _ => (policy.chosen, policy.rejected),
    };
    let inputs = DpoInputs {
        ref_chosen: Some(reference.chosen),
        ref_rejected: Some(reference.rejected),
        ..DpoInputs::new(chosen, rejected)
    };
    let output = dpo_loss(&inputs, &DpoConfig { beta, ..Default::default() })?;
    let component = output.components.into_iter().next();
    Ok(component.ok_or_else(|| Error::input("DPO loss", "it has no component"))?.terms)
}

/// Computes KL(π ‖ π_ref) over the last dimension, from log-probabilities of one shape.
///
/// # Errors
/// libtorch refuses.
pub fn kl(policy: &Tensor, reference: &Tensor) -> Result<Tensor> {
    Ok(policy.f_exp()?.f_mul(&policy.f_sub(reference)?)?.f_sum_dim_intlist(-1i64, false, policy.kind())?)
}

/// Computes E(r) under π over the last dimension.
///
/// # Errors
/// libtorch refuses.
pub fn expected(policy: &Tensor, reward: &Tensor) -> Result<Tensor> {
    Ok(policy.f_exp()?.f_mul(reward)?.f_sum_dim_intlist(-1i64, false, policy.kind())?)
}

/// Computes PPO's objective E(r) − β KL(π ‖ π_ref) over the last dimension, without sampling.
///
/// # Errors
/// libtorch refuses.
pub fn ppo_objective(policy: &Tensor, reference: &Tensor, reward: &Tensor, beta: f64) -> Result<Tensor> {
    Ok(expected(policy, reward)?.f_sub(&kl(policy, reference)?.f_mul_scalar(beta)?)?)
}

/// Computes the log-probabilities of the policy that maximises [`ppo_objective`]: π ∝ π_ref exp(r / β).
///
/// # Errors
/// libtorch refuses.
pub fn kl_optimum(reference: &Tensor, reward: &Tensor, beta: f64) -> Result<Tensor> {
    Ok(reference.f_add(&reward.f_div_scalar(beta)?)?.f_log_softmax(-1, Kind::Double)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closed_form_is_the_maximum() {
        let reference = Tensor::from_slice(&[0.2f64, 0.5, 0.3]).log();
        let reward = Tensor::from_slice(&[1.0f64, -0.5, 0.2]);
        let value =
            |policy: &Tensor| ppo_objective(policy, &reference, &reward, 0.4).unwrap().double_value(&[]);
        let best = kl_optimum(&reference, &reward, 0.4).unwrap();
        // At the optimum the objective is beta log Z, Z = sum of pi_ref exp(r / beta).
        let z: f64 = 0.2 * (2.5f64).exp() + 0.5 * (-1.25f64).exp() + 0.3 * (0.5f64).exp();
        assert!((value(&best) - 0.4 * z.ln()).abs() < 1e-12);
        for shift in [[0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, -0.1]] {
            let moved = (&best + Tensor::from_slice(&shift)).log_softmax(-1, Kind::Double);
            assert!(value(&moved) < value(&best));
        }
    }
}
