//! The configurations live in `align-types`, so that they can be read and checked without libtorch.

pub use align_core::align_types::config::{
    Aggregation, DpoConfig, DpoLossType, FDivergence, KtoConfig, KtoLossType, ReferenceSync, ScoreTransform,
    SftConfig, SftLossType, UnaConfig, UnaLossType,
};
