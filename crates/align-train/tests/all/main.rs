//! The tests of the crate from outside, as one program: each program more would cost seconds of linking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod adamw;
mod common;
mod coupled;
mod engine;
mod evaluation;
mod events;
mod health;
mod moving_reference;
mod resume;
mod run_folder;
