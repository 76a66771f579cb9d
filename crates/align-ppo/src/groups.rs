use align_core::stats::Divisor;

/// Added to the standard deviation of a group (TRL).
pub const GROUP_EPSILON: f64 = 1e-4;

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / (values.len().max(1) as f64)
}

/// Says whether all numbers are equal: then none of them is better than another. Rounding of their mean must not make a
/// difference of it.
pub(crate) fn all_equal(values: &[f64]) -> bool {
    values.windows(2).all(|pair| matches!(pair, [a, b] if a == b))
}

/// Computes R_i − mean of the other R_j (RLOO, 2402.14740), 0 where there is no other.
///
/// ```
/// assert_eq!(align_ppo::leave_one_out(&[1.0, 0.0, 0.5]), [0.75, -0.75, 0.0]);
/// ```
pub fn leave_one_out(returns: &[f64]) -> Vec<f64> {
    let n = returns.len() as f64;
    if returns.len() < 2 {
        return vec![0.0; returns.len()];
    }
    centred(returns).into_iter().map(|advantage| advantage * n / (n - 1.0)).collect()
}

/// Computes R_i − mean R (Dr. GRPO, 2503.20783).
pub fn centred(returns: &[f64]) -> Vec<f64> {
    if all_equal(returns) {
        return vec![0.0; returns.len()];
    }
    let mean = mean(returns);
    returns.iter().map(|value| value - mean).collect()
}

/// Computes (R_i − mean R) / (std R + ε) (GRPO, 2402.03300), 0 where all are equal.
///
/// GRPO and DAPO here have n − 1 in the standard deviation and ε = [`GROUP_EPSILON`], as TRL.
///
/// ```
/// use align_core::stats::Divisor;
/// use align_ppo::group_normalised;
///
/// assert_eq!(group_normalised(&[1.0, 3.0], Divisor::Count, 0.0), [-1.0, 1.0]);
/// assert_eq!(group_normalised(&[0.1, 0.1, 0.1], Divisor::Count, 0.0), [0.0; 3]);
/// ```
pub fn group_normalised(returns: &[f64], divisor: Divisor, epsilon: f64) -> Vec<f64> {
    let centred = centred(returns);
    if all_equal(returns) {
        return centred;
    }
    let count = match divisor {
        Divisor::Count => returns.len() as f64,
        Divisor::CountMinusOne => returns.len() as f64 - 1.0,
    };
    let deviation = (centred.iter().map(|c| c * c).sum::<f64>() / count.max(1.0)).sqrt();
    centred.into_iter().map(|value| value / (deviation + epsilon)).collect()
}
