//! Reward models: losses of comparisons, calibration, ensembles.
//!
//! A reward model gives a prompt with an answer one number ([`align_core::ScoreModel`]); this crate says how it learns
//! that number from comparisons, labels and scores, how far the number can be trusted, and how several models are one.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod error;

pub use error::{Error, Result};
