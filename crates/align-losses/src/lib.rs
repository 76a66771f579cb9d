//! Losses that learn from demonstrations and preferences, as pure functions over per-item terms.
//!
//! A loss function takes log-probabilities and a small configuration and returns per-item terms, the
//! denominator they mean, and the detached numbers that people plot. It does no IO, draws no random number,
//! owns no optimiser and knows no device. [`Sft`] and [`Dpo`] put the functions behind
//! [`align_core::Objective`], the seam that a training loop takes.
//!
//! Formulas are cited at each function; golden vectors in `tests/` pin them.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod config;
mod dpo;
mod error;
mod sft;

pub use config::{Aggregation, DpoConfig, DpoLossType, SftConfig};
pub use dpo::{Dpo, DpoInputs, Reference, dpo_loss};
pub use error::{Error, Result};
pub use sft::{Sft, sft_loss};
