//! Reward models: losses of comparisons, calibration, ensembles.
//!
//! A reward model gives a prompt with an answer one number ([`align_core::ScoreModel`]); this crate says how it learns
//! that number from comparisons, labels and scores, how far the number can be trusted, and how several models are one.
//!
//! * [`comparison_loss`], [`label_loss`] and [`regression_loss`] are the losses as pure functions, [`RewardModelObjective`]
//!   puts them behind [`align_core::Objective`].
//! * [`Calibration`] is what held-out pairs say of a model; [`RewardNormalization`] gives its scores a zero and a scale.
//! * [`RowScorer`] scores rows in batches by tokens; [`ModelReward`] puts a model behind
//!   [`Reward`](align_core::align_types::Reward), with a tokenizer and a template of its own.
//! * [`combine_scores`] and [`average_weights`] make one model of several, [`EnsembleReward`] one reward of them.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod answers;
mod calibration;
mod comparisons;
mod ensemble;
mod error;
mod normalization;
mod objective;
mod pairs;
mod reward;
mod scale;
mod scorer;

pub use align_core::align_types::config::{RewardConfig, ScoreLoss, TieRule};
pub use answers::{label_loss, regression_loss};
pub use calibration::{
    Calibration, CalibrationPair, Probabilities, ReliabilityBin, calibration_error, fit_temperature,
};
pub use comparisons::{Comparison, comparison_loss};
pub use ensemble::{
    EnsembleMember, EnsembleRule, WeightedMember, average_weights, check_common_beginning, combine_scores,
    head_fingerprint,
};
pub use error::{Error, Result, ScoringError};
pub use normalization::{NORMALIZATION_FILE, NormalizedOn, RewardNormalization, Spread};
pub use objective::{MARGIN, PREFERENCE, RewardModelObjective};
pub use pairs::{PairInputs, pair_loss};
pub use reward::{Encode, EnsembleReward, ModelReward};
pub use scale::{files_digest, weights_digest};
pub use scorer::{BATCH_TOKENS, RowScorer};
