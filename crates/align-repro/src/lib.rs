//! Reproductions of alignment papers as experiments that can fail.
//!
//! An [`experiment::Experiment`] is a plan in a file: metric, direction, seeds, budget, arms, [`claim::Claim`]s
//! and [`claim::Control`]s, fixed before the run. A [`study::Study`] is its code: units of work that run in
//! parallel and are kept on disk, and the figures they lead to. [`verdict`] turns figures with
//! [`interval`]s into `reproduced`, `not reproduced` or `inconclusive`, and [`report`] shows them.
//!
//! The program is `align-repro`, behind `cargo xtask reproduce`. Nothing depends on this crate.

pub mod abstain;
pub mod claim;
pub mod curriculum;
pub mod dpo_vs_ppo;
mod environment;
mod error;
pub mod experiment;
pub mod interval;
pub mod kto;
pub mod on_policy;
pub mod outcome;
pub mod planned;
pub mod progress;
pub mod report;
pub mod reward;
pub mod reward_boundary;
pub mod reward_overoptimisation;
pub mod reward_ranking;
pub mod rlhf;
pub mod runner;
pub mod store;
pub mod study;
pub mod style;
pub mod una;
pub mod verdict;

pub use environment::Environment;
pub use error::{Error, Result};
