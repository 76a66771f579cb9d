//! Averages and their intervals, which are those of `align-core`.

pub use align_core::intervals::{COVERAGE, Estimate, Over, half_width, student_quantile};

/// Averages; 0 of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
