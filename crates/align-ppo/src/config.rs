//! The configuration lives in `align-types`, so that it can be read and checked without libtorch.

pub use align_core::align_types::config::{
    AdvantageKind, CriticKind, KlEstimator, KlPlacement, OverlongPenalty, PolicyAggregation, PpoConfig,
    RewardBaseline, RewardScaling, Truncated,
};
