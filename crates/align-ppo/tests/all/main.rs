//! Tests of the phases, losses and objectives of on-policy training.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

mod iteration;
