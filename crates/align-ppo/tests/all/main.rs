//! Tests of the phases, losses and objectives of on-policy training.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bandit;
mod common;
mod cuts;
mod estimates;
mod golden;
mod hostile;
mod losses;
mod objectives;
mod phases;
