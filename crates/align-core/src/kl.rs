//! Estimators of KL(π ‖ π_ref) from samples of π.
//!
//! With d = log π(y) − log π_ref(y) at sampled tokens: k1 = d, k2 = d² / 2, k3 = exp(−d) − 1 + d
//! (J. Schulman, "Approximating KL Divergence", 2020). k1 and k3 are unbiased; k2 is not, but the gradient of
//! its average is the gradient of the KL, whereas that of k3 is the gradient of the *forward* KL(π_ref ‖ π)
//! and that of k1 is zero in expectation (2510.01555). Use k1 in rewards and k2 in losses unless you mean
//! something else.

use tch::Tensor;

use crate::{Result, expect_shape};

/// Bound of the exponent in k3: beyond it the estimate is noise and exp overflows soon.
const LARGEST_EXPONENT: f64 = 20.0;

/// Computes k1 = log π − log π_ref for tensors of one shape; may be negative.
///
/// # Errors
/// [`crate::Error::Shape`] when the shapes differ.
pub fn k1(policy: &Tensor, reference: &Tensor) -> Result<Tensor> {
    expect_shape("reference log-probabilities", reference, &policy.size())?;
    Ok(policy.f_sub(reference)?)
}

/// Computes k2 = (log π − log π_ref)² / 2; at least 0, biased.
///
/// # Errors
/// [`crate::Error::Shape`] when the shapes differ.
pub fn k2(policy: &Tensor, reference: &Tensor) -> Result<Tensor> {
    Ok(k1(policy, reference)?.f_square()?.f_mul_scalar(0.5)?)
}

/// Computes k3 = exp(log π_ref − log π) − 1 − (log π_ref − log π); at least 0, unbiased, heavy tail where
/// π_ref ≫ π. The exponent is clamped to ±20.
///
/// # Errors
/// [`crate::Error::Shape`] when the shapes differ.
pub fn k3(policy: &Tensor, reference: &Tensor) -> Result<Tensor> {
    let ratio = k1(policy, reference)?.f_neg()?.f_clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)?;
    Ok(ratio.f_expm1()?.f_sub(&ratio)?)
}

/// Computes [`k3`] of one number, d = log π − log π_ref.
///
/// ```
/// assert!((align_core::kl::k3_of(-0.5) - 0.14872127).abs() < 1e-8);
/// ```
pub fn k3_of(d: f64) -> f64 {
    let ratio = (-d).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT);
    ratio.exp_m1() - ratio
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    fn close(got: &Tensor, expected: &[f64], tolerance: f64) {
        let got = Vec::<f64>::try_from(got).unwrap();
        for (g, e) in got.iter().zip(expected) {
            assert!((g - e).abs() < tolerance, "{got:?} against {expected:?}");
        }
    }

    /// Golden vector G4, first line (computed in float64 with numpy).
    #[test]
    fn estimators_match_the_golden_vector() {
        let policy = Tensor::from_slice(&[-1.0, -0.5, -2.0, -0.7]);
        let reference = Tensor::from_slice(&[-1.2, -0.4, -1.5, -0.7]);
        close(&k1(&policy, &reference).unwrap(), &[0.2, -0.1, -0.5, 0.0], 1e-12);
        close(&k2(&policy, &reference).unwrap(), &[0.02, 0.005, 0.125, 0.0], 1e-12);
        close(&k3(&policy, &reference).unwrap(), &[0.01873075, 0.00517092, 0.14872127, 0.0], 5e-9);
    }

    /// Exact enumeration over five arms (golden vector G4): expectations and gradients of the estimators.
    #[test]
    fn expectations_and_gradients_are_those_of_the_divergences() {
        let logits = Tensor::from_slice(&[0.3, -0.2, 0.5, 0.0, -0.6]).set_requires_grad(true);
        let reference = Tensor::from_slice(&[0.1, 0.4, -0.3, 0.2, -0.1]).log_softmax(0, Kind::Double);
        let policy = logits.log_softmax(0, Kind::Double);
        let weights = policy.exp().detach();
        let expectation = |values: &Tensor| (values * &weights).sum(Kind::Double);
        let forward = (reference.exp() * (&reference - &policy)).sum(Kind::Double);
        let reverse = (policy.exp() * (&policy - &reference)).sum(Kind::Double);
        close(&reverse.reshape([1]), &[0.13424091], 5e-9);
        close(&forward.reshape([1]), &[0.12431896], 5e-9);
        close(&expectation(&k3(&policy, &reference).unwrap()).reshape([1]), &[0.13424091], 5e-9);
        close(&expectation(&k2(&policy, &reference).unwrap()).reshape([1]), &[0.14958870], 5e-9);
        let gradient = |loss: Tensor| Tensor::run_backward(&[loss], &[&logits], true, false).remove(0);
        let of_k1 = gradient(expectation(&k1(&policy, &reference).unwrap()));
        close(&of_k1, &[0.0; 5], 1e-12);
        let of_k2 = gradient(expectation(&k2(&policy, &reference).unwrap()));
        close(&of_k2, &Vec::<f64>::try_from(gradient(reverse)).unwrap(), 1e-12);
        let of_k3 = gradient(expectation(&k3(&policy, &reference).unwrap()));
        close(&of_k3, &Vec::<f64>::try_from(gradient(forward)).unwrap(), 1e-12);
    }

    #[test]
    fn numbers_and_tensors_agree_beyond_the_bound_as_well() {
        let d = [0.2, -0.1, -0.5, 0.0, 30.0, -30.0];
        let of_tensor = k3(&Tensor::from_slice(&d), &Tensor::from_slice(&[0.0f64; 6])).unwrap();
        close(&of_tensor, &d.map(k3_of), 1e-6);
        assert_eq!(k3_of(-30.0), k3_of(-20.0));
    }

    #[test]
    fn shapes_must_agree() {
        let a = Tensor::from_slice(&[0.0, 1.0]);
        assert!(k1(&a, &a.reshape([2, 1])).is_err());
    }
}
