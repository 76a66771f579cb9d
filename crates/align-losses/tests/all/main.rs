//! The tests of the crate from outside, as one program: each program more would cost seconds of linking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod common;
mod conformance;
mod coupled;
mod golden;
mod golden_family;
mod held_out;
mod objectives;
mod properties;
mod python_numbers;
mod una;
