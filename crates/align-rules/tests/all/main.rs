//! The tests of the crate from outside, as one program: each program more would cost seconds of linking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod math;
mod program;
mod rules;
mod text;
