use align_core::{
    storage::{f32_slice, is_plain_f32},
    tch::{Kind, Tensor},
};

use crate::{Result, parallel};

/// Numbers that are summed together: a fixed grid, so that the sum does not depend on the threads.
const CHUNK: usize = 1 << 16;
/// Below this many numbers a second thread costs more than it saves.
const WORTH_A_THREAD: usize = 1 << 18;

/// Added to the norm before dividing by it, as PyTorch's `clip_grad_norm_` does.
const EPSILON: f64 = 1e-6;

/// Computes the global norm √(Σ g²) of gradients in float64; gradients that are absent count as 0.
///
/// The sum runs over fixed pieces in a fixed order: the bits do not depend on the number of threads.
///
/// # Errors
/// libtorch refuses.
pub fn gradient_norm(gradients: &[Option<Tensor>], threads: usize) -> Result<f64> {
    let mut total = 0.0;
    let mut pieces: Vec<&[f32]> = Vec::new();
    for gradient in gradients.iter().flatten() {
        if is_plain_f32(gradient) {
            // SAFETY: gradients are only written during a backward pass, and none runs here.
            pieces.extend(unsafe { f32_slice(gradient) }?.chunks(CHUNK));
        } else {
            let wide = gradient.f_detach()?.f_to_kind(Kind::Float)?;
            total += wide.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
        }
    }
    let numbers: usize = pieces.iter().map(|piece| piece.len()).sum();
    let threads = if numbers < WORTH_A_THREAD { 1 } else { threads };
    let sums = parallel::map(parallel::deal(pieces, threads), |run| {
        run.into_iter().map(sum_of_squares).collect::<Vec<f64>>()
    })?;
    Ok(sums.into_iter().flatten().fold(total, |sum, piece| sum + piece).sqrt())
}

/// Sums squares in eight lanes: a fixed order that a processor can still do side by side.
fn sum_of_squares(piece: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (eights, rest) = piece.as_chunks::<8>();
    for eight in eights {
        for (lane, value) in lanes.iter_mut().zip(eight) {
            let wide = f64::from(*value);
            *lane += wide * wide;
        }
    }
    let tail: f64 = rest.iter().map(|value| f64::from(*value).powi(2)).sum();
    lanes.iter().sum::<f64>() + tail
}

/// Computes the factor that brings gradients of this norm down to `max_norm`; 1 when they are below it or
/// `max_norm` is 0.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm > 0.0 { (max_norm / (norm + EPSILON)).min(1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_norm_is_that_of_all_gradients_together() {
        let three = Tensor::from_slice(&[3.0f32, 0.0]);
        let four = Tensor::from_slice(&[4.0f64]);
        assert_eq!(gradient_norm(&[Some(three), None, Some(four)], 2).unwrap(), 5.0);
        assert_eq!(gradient_norm(&[], 1).unwrap(), 0.0);
        // 2e20 squared is beyond float32.
        assert_eq!(gradient_norm(&[Some(Tensor::from_slice(&[2e20f32]))], 1).unwrap(), f64::from(2e20f32));
    }

    #[test]
    fn a_number_that_is_not_finite_shows_in_the_norm() {
        let mut values = vec![1.0f32; 100];
        values[63] = f32::NAN;
        assert!(gradient_norm(&[Some(Tensor::from_slice(&values))], 1).unwrap().is_nan());
        values[63] = f32::INFINITY;
        assert!(gradient_norm(&[Some(Tensor::from_slice(&values))], 1).unwrap().is_infinite());
    }

    #[test]
    fn threads_do_not_change_the_bits() {
        let values: Vec<f32> =
            (0..600_000u32).map(|i| (i.wrapping_mul(2_654_435_761) as f32).sin()).collect();
        let gradients =
            [Some(Tensor::from_slice(&values[..400_000])), Some(Tensor::from_slice(&values[400_000..]))];
        let one = gradient_norm(&gradients, 1).unwrap();
        for threads in 2..5 {
            assert_eq!(one.to_bits(), gradient_norm(&gradients, threads).unwrap().to_bits());
        }
        let plain: f64 = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        assert!((one / plain - 1.0).abs() < 1e-12);
    }

    proptest! {
        #[test]
        fn clipped_gradients_have_at_most_the_largest_norm(norm in 0.0f64..1e6, max in 1e-3f64..1e3) {
            let factor = clip_factor(norm, max);
            prop_assert!(norm * factor <= max);
            prop_assert!(factor == 1.0 || norm + EPSILON > max);
            prop_assert_eq!(clip_factor(norm, 0.0), 1.0);
        }
    }
}
