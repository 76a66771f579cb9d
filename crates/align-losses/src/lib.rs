//! Losses that learn from demonstrations and preferences, as pure functions over per-item terms.
//!
//! A loss function takes log-probabilities and a small configuration and returns per-item terms, the
//! denominator they mean, and the detached numbers that people plot. It does no IO, draws no random number,
//! owns no optimiser and knows no device. [`Sft`], [`Dpo`], [`Kto`] and [`Una`] put the functions behind
//! [`align_core::Objective`], the seam that a training loop takes.
//!
//! [`held_out`] is how these losses and their metrics are read off rows that were not trained on.
//!
//! Formulas are cited at each function; golden vectors and the numbers of a Python program in `fixtures/losses`
//! pin them.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod config;
mod dpo;
mod error;
mod held_out;
mod kto;
mod labels;
mod moving;
mod reference;
mod sft;
mod una;

pub use config::{
    Aggregation, DpoConfig, DpoLossType, FDivergence, KtoConfig, KtoLossType, ReferenceSync, ScoreTransform,
    SftConfig, SftLossType, UnaConfig, UnaLossType,
};
pub use dpo::{Dpo, DpoInputs, PairLengths, dpo_loss, length_desensitised_sums, policy_weights};
pub use error::{Error, Result};
pub use held_out::{AnswerLogProbs, HeldOut, HeldOutItem, HeldOutMethod, held_out};
pub use kto::{BcoBatch, Kto, KtoInputs, RunningMean, bco_loss, kto_baseline, kto_loss};
pub use moving::MovingReference;
pub use reference::Reference;
pub use sft::{Sft, sft_loss};
pub use una::{FeedbackInputs, REFERENCE_REWARDS, Una, UnaInputs, a_star_target, qrpo_target, una_loss};
