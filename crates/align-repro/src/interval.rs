//! Intervals, which are those of `align-core`.

pub use align_core::intervals::{COVERAGE, Estimate, Over, half_width, student_quantile};
