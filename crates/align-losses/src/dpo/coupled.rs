//! Losses of the whole optimiser batch: the term of a pair depends on the other pairs.

use align_core::tch::Tensor;

use super::inputs::Pairs;
use super::paired;
use crate::{DpoConfig, DpoLossType, Error, Result};

/// Computes the terms `[B]` of a loss that couples rows; the pairs must be the whole optimiser batch.
///
/// The terms come in the order of ranks, not of pairs: term k compares the k-th smallest numbers of two samples
/// (alignment by optimal transport, 2406.05882), δ_k, and is −(1 − ε) log σ(β δ_k) − ε log σ(−β δ_k).
///
/// * `aot`: δ = sort(log π(c) − log π(r)) − sort(log π_ref(c) − log π_ref(r));
/// * `aot_unpaired`: δ = sort(h_c) − sort(h_r).
pub(super) fn terms(loss: DpoLossType, pairs: &Pairs, config: &DpoConfig) -> Result<Tensor> {
    let sorted = |values: &Tensor| -> Result<Tensor> {
        // Stable, so that equal numbers share their gradients in the same way every time.
        Ok(values.f_sort_stable(true, 0, false)?.0)
    };
    let transported = match loss {
        DpoLossType::Aot => {
            let policy = sorted(&pairs.policy.difference()?)?;
            match &pairs.reference {
                Some(reference) => policy.f_sub(&sorted(&reference.difference()?)?)?,
                None => policy,
            }
        }
        DpoLossType::AotUnpaired => sorted(&pairs.ratios.chosen)?.f_sub(&sorted(&pairs.ratios.rejected)?)?,
        other => return Err(Error::input("loss_type", format!("{other:?} does not couple rows"))),
    };
    paired::sigmoid(&transported.f_mul_scalar(config.beta)?, config.label_smoothing)
}
