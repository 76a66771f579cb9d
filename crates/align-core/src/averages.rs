//! Averages of weights: a reference that follows the policy, an exponential average, the mean of several models.

use tch::Kind;

use crate::{Error, Parameter, Result, no_grad};

/// Mixes weights into others in place: average ← share · weights + (1 − share) · average.
///
/// With `share` 1 the average becomes the weights, bit for bit. What the literature makes of it:
///
/// * TR-DPO (2404.09656): share α = 0.6 of the policy in the reference, every 512 updates;
/// * an exponential average with decay d: share 1 − d after every update;
/// * the mean of n models (WARM, 2401.12187): share 1/k for the k-th, beginning with the second.
///
/// Every model over the same storage sees the new numbers. No gradient is recorded; a graph recorded before must not be
/// used for a backward pass after.
///
/// ```
/// use align_core::{Parameter, mix_weights, tch::Tensor};
///
/// let one = |x: f32| Parameter { name: "w".into(), tensor: Tensor::from_slice(&[x]), decay: true };
/// let average = [one(2.0)];
/// mix_weights(&average, &[one(4.0)], 0.25)?;
/// assert_eq!(average[0].tensor.f_double_value(&[0])?, 2.5);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] for a share outside (0, 1], and as [`check_mixable`]; libtorch refuses.
pub fn mix_weights(average: &[Parameter], weights: &[Parameter], share: f64) -> Result<()> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(Error::input("share of the new weights", format!("{share} is not in (0, 1]")));
    }
    check_mixable(average, weights)?;
    let _guard = no_grad();
    for (into, from) in average.iter().zip(weights) {
        let mut into = into.tensor.f_detach()?;
        let from = from.tensor.f_detach()?;
        if share == 1.0 {
            // Not left to `lerp`, whose last bit is its own affair.
            into.f_copy_(&from)?;
        } else {
            let _ = into.f_lerp_(&from, share)?;
        }
    }
    Ok(())
}

/// Checks that weights can be averaged with others: the same names in the same order, shapes and devices, and an average
/// in float32 or float64, as fewer bits would lose a small share.
///
/// # Errors
/// [`Error::Input`] names the first parameter that has no counterpart, or whose average has too few bits.
pub fn check_mixable(average: &[Parameter], weights: &[Parameter]) -> Result<()> {
    if average.len() != weights.len() {
        let why = format!("{} in the average, {} to mix in", average.len(), weights.len());
        return Err(Error::input("number of parameters", why));
    }
    for (into, from) in average.iter().zip(weights) {
        let (name, other) = (&into.name, &from.name);
        if name != other {
            return Err(Error::input(format!("parameter {name}"), format!("it meets {other}")));
        }
        let (shape, others) = (into.tensor.size(), from.tensor.size());
        if shape != others {
            let why = format!("the average has shape {shape:?}, what is mixed in {others:?}");
            return Err(Error::input(format!("parameter {name}"), why));
        }
        let (device, others) = (into.tensor.device(), from.tensor.device());
        if device != others {
            let why = format!("the average is on {device:?}, what is mixed in on {others:?}");
            return Err(Error::input(format!("parameter {name}"), why));
        }
        if !matches!(into.tensor.kind(), Kind::Float | Kind::Double)
            || from.tensor.kind() != into.tensor.kind()
        {
            let why = format!(
                "an average in {:?} of weights in {:?}: both must be float32, or float64",
                into.tensor.kind(),
                from.tensor.kind()
            );
            return Err(Error::input(format!("parameter {name}"), why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;

    fn parameter(name: &str, values: &[f64]) -> Parameter {
        let tensor = Tensor::from_slice(values).set_requires_grad(true);
        Parameter { name: name.into(), tensor, decay: true }
    }

    fn values(parameters: &[Parameter]) -> Vec<Vec<f64>> {
        parameters.iter().map(|p| Vec::try_from(p.tensor.detach()).unwrap()).collect()
    }

    /// 0.6 · 1 + 0.4 · 6 = 3, 0.6 · (−5) + 0.4 · 10 = 1; then once more with 0.5: (11 + 3) / 2, (9 + 1) / 2.
    #[test]
    fn the_share_weighs_what_is_mixed_in() {
        let average = [parameter("a", &[6.0]), parameter("b", &[10.0])];
        mix_weights(&average, &[parameter("a", &[1.0]), parameter("b", &[-5.0])], 0.6).unwrap();
        for (value, expected) in values(&average).into_iter().flatten().zip([3.0, 1.0]) {
            assert!((value - expected).abs() < 1e-12, "{value}");
        }
        mix_weights(&average, &[parameter("a", &[11.0]), parameter("b", &[9.0])], 0.5).unwrap();
        for (value, expected) in values(&average).into_iter().flatten().zip([7.0, 5.0]) {
            assert!((value - expected).abs() < 1e-12, "{value}");
        }
        assert!(average.iter().all(|p| p.tensor.requires_grad()), "they stay leaves");
    }

    /// The mean of 3, 6 and 15 is 8: shares 1/2 and 1/3.
    #[test]
    fn shares_of_one_over_k_give_the_mean() {
        let mean = [parameter("a", &[3.0])];
        mix_weights(&mean, &[parameter("a", &[6.0])], 1.0 / 2.0).unwrap();
        mix_weights(&mean, &[parameter("a", &[15.0])], 1.0 / 3.0).unwrap();
        assert!((values(&mean)[0][0] - 8.0).abs() < 1e-12);
    }

    #[test]
    fn a_share_of_one_copies_the_bits_and_others_see_it() {
        let average = [parameter("a", &[0.3, f64::MAX])];
        let alias = average[0].tensor.detach();
        let new = [0.1 + 0.2, -0.0];
        mix_weights(&average, &[parameter("a", &new)], 1.0).unwrap();
        let seen = Vec::<f64>::try_from(alias).unwrap();
        assert_eq!(seen.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), new.map(f64::to_bits));
    }

    #[test]
    fn what_does_not_belong_together_is_named_and_left_alone() {
        let average = [parameter("a", &[1.0]), parameter("b", &[2.0])];
        let half = |name: &str| Parameter {
            tensor: Tensor::from_slice(&[1.0f64]).to_kind(Kind::BFloat16),
            ..parameter(name, &[1.0])
        };
        for (weights, why) in [
            (vec![parameter("a", &[5.0])], "2 in the average, 1 to mix in"),
            (vec![parameter("a", &[5.0]), parameter("c", &[5.0])], "parameter b: it meets c"),
            (
                vec![parameter("a", &[5.0]), parameter("b", &[5.0, 6.0])],
                "parameter b: the average has shape [1]",
            ),
            (
                vec![parameter("a", &[5.0]), half("b")],
                "parameter b: an average in Double of weights in BFloat16",
            ),
        ] {
            let error = mix_weights(&average, &weights, 0.5).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(mix_weights(&[half("a")], &[half("a")], 0.5).is_err(), "a small share would be lost");
        for share in [0.0, -0.5, 1.5, f64::NAN] {
            assert!(mix_weights(&average, &average, share).is_err(), "{share}");
        }
        assert_eq!(values(&average), [[1.0], [2.0]]);
    }
}
