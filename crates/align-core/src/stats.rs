//! Statistics over the items that a mask keeps.

use tch::{Kind, Tensor};

use crate::{Result, expect_shape};

/// Added to the variance before the root, so that equal values give 0 and not NaN.
const WHITEN_EPSILON: f64 = 1e-8;

/// Which divisor a variance has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Divisor {
    /// The count n.
    Count,
    /// n − 1 (Bessel's correction).
    CountMinusOne,
}

/// Whether whitening takes the mean away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mean {
    /// The result has mean 0.
    Remove,
    /// The result keeps its mean; only the scale becomes 1.
    Keep,
}

fn as_double(values: &Tensor, mask: &Tensor) -> Result<(Tensor, Tensor, f64)> {
    expect_shape("mask", mask, &values.size())?;
    let keep = mask.f_to_kind(Kind::Bool)?;
    let count = keep.f_sum(Kind::Int64)?.f_int64_value(&[])? as f64;
    // Selecting, not multiplying: a masked infinity times 0 would be NaN.
    let wide = values.f_to_kind(Kind::Double)?.f_where_scalarother(&keep, 0.0)?;
    Ok((wide, keep, count))
}

/// Computes the mean of the kept values, a float64 scalar; 0 when the mask keeps none.
///
/// `values` and `mask` have one shape; the mask is boolean or 0/1.
///
/// # Errors
/// [`crate::Error::Shape`] when the shapes differ.
pub fn masked_mean(values: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let (wide, _, count) = as_double(values, mask)?;
    Ok(wide.f_sum(Kind::Double)?.f_div_scalar(count.max(1.0))?)
}

/// Computes the variance of the kept values, a float64 scalar; 0 when the mask keeps fewer than two.
///
/// # Errors
/// [`crate::Error::Shape`] when the shapes differ.
pub fn masked_variance(values: &Tensor, mask: &Tensor, divisor: Divisor) -> Result<Tensor> {
    let (wide, keep, count) = as_double(values, mask)?;
    let mean = wide.f_sum(Kind::Double)?.f_div_scalar(count.max(1.0))?;
    let squares = wide.f_sub(&mean)?.f_square()?.f_where_scalarother(&keep, 0.0)?.f_sum(Kind::Double)?;
    let n = match divisor {
        Divisor::Count => count,
        Divisor::CountMinusOne => count - 1.0,
    };
    Ok(squares.f_div_scalar(n.max(1.0))?)
}

/// Scales the kept values to variance 1 (divisor n) and, if asked, mean 0; masked places become 0.
///
/// The statistics are those of the whole tensor: give it the whole batch, not a micro-batch.
///
/// # Errors
/// [`crate::Error::Shape`] when the shapes differ.
pub fn masked_whiten(values: &Tensor, mask: &Tensor, mean: Mean, divisor: Divisor) -> Result<Tensor> {
    let center = masked_mean(values, mask)?;
    let scale = masked_variance(values, mask, divisor)?.f_add_scalar(WHITEN_EPSILON)?.f_rsqrt()?;
    let (wide, keep, _) = as_double(values, mask)?;
    let white = wide.f_sub(&center)?.f_mul(&scale)?;
    let shifted = match mean {
        Mean::Remove => white,
        Mean::Keep => white.f_add(&center)?,
    };
    Ok(shifted.f_where_scalarother(&keep, 0.0)?.f_to_kind(values.kind())?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(got: &Tensor, expected: &[f64]) {
        let got = Vec::<f64>::try_from(got).unwrap();
        assert!(got.iter().zip(expected).all(|(g, e)| (g - e).abs() < 5e-8), "{got:?} against {expected:?}");
    }

    /// Golden vector G3, whitening of the advantages at λ = 0.95, with a masked place that must not matter.
    #[test]
    fn whitening_matches_the_golden_vector() {
        let values = Tensor::from_slice(&[1.20505, 1.079, 1.02, 0.6, f64::INFINITY]);
        let mask = Tensor::from_slice(&[1i64, 1, 1, 1, 0]);
        let white = |mean, divisor| masked_whiten(&values, &mask, mean, divisor).unwrap();
        close(&white(Mean::Remove, Divisor::Count), &[1.00831815, 0.45339373, 0.19365124, -1.65536312, 0.0]);
        close(&white(Mean::Keep, Divisor::Count), &[1.98433065, 1.42940623, 1.16966374, -0.67935062, 0.0]);
        let unbiased = white(Mean::Remove, Divisor::CountMinusOne);
        close(&unbiased, &[0.87322916, 0.39265050, 0.16770689, -1.43358655, 0.0]);
    }

    #[test]
    fn an_empty_mask_gives_zero_and_not_nan() {
        let values = Tensor::from_slice(&[1.0, 2.0]);
        let none = Tensor::from_slice(&[0i64, 0]);
        assert_eq!(masked_mean(&values, &none).unwrap().double_value(&[]), 0.0);
        assert_eq!(masked_variance(&values, &none, Divisor::CountMinusOne).unwrap().double_value(&[]), 0.0);
    }

    proptest! {
        #[test]
        fn padding_never_changes_the_statistics(
            values in prop::collection::vec(-5.0f64..5.0, 2..20),
            padding in prop::collection::vec(-1e6f64..1e6, 0..5),
        ) {
            let padded: Vec<f64> = values.iter().chain(&padding).copied().collect();
            let mask: Vec<i64> = (0..padded.len()).map(|i| i64::from(i < values.len())).collect();
            let (padded, mask) = (Tensor::from_slice(&padded), Tensor::from_slice(&mask));
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
            prop_assert!((masked_mean(&padded, &mask).unwrap().double_value(&[]) - mean).abs() < 1e-9);
            let got = masked_variance(&padded, &mask, Divisor::Count).unwrap().double_value(&[]);
            prop_assert!((got - variance).abs() < 1e-9);
        }
    }
}
