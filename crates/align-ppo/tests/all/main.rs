//! Tests of the phases, losses, objectives and the iteration of on-policy training.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod bandit;
mod common;
mod cuts;
mod estimates;
mod exact;
mod golden;
mod hostile;
mod iteration;
mod losses;
mod objectives;
mod phases;
mod readme;
