//! The numbers that every loss of labelled answers shows.

use align_core::{
    MetricTerm,
    tch::{Kind, Tensor},
};

use crate::Result;

/// Averages how far the reward of each answer lies on the side of its label, `[m]`, and counts the answers for which it
/// does: at 0, where policy and reference are equal, it lies on neither side.
pub(crate) fn margin_metrics(margins: &Tensor) -> Result<[MetricTerm; 2]> {
    let margins = margins.f_detach()?;
    let right = margins.f_gt(0.0)?.f_to_kind(Kind::Double)?;
    Ok([MetricTerm::of("labels/margins", &margins)?, MetricTerm::of("labels/accuracies", &right)?])
}
