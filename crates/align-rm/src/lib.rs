//! Reward models: losses of comparisons, calibration, ensembles.
//!
//! A reward model gives a prompt with an answer one number ([`align_core::ScoreModel`]); this crate says how it learns
//! that number from comparisons, labels and scores, how far the number can be trusted, and how several models are one.
//!
//! * [`comparison_loss`], [`label_loss`] and [`regression_loss`] are the losses as pure functions, [`RewardModelObjective`]
//!   puts them behind [`align_core::Objective`].

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod answers;
mod comparisons;
mod error;
mod objective;
mod pairs;

pub use align_core::align_types::config::{RewardConfig, ScoreLoss, TieRule};
pub use answers::{label_loss, regression_loss};
pub use comparisons::{Comparison, comparison_loss};
pub use error::{Error, Result};
pub use objective::{MARGIN, PREFERENCE, RewardModelObjective};
pub use pairs::{PairInputs, pair_loss};
