//! The tests of the crate from outside, as one program: each program more would cost seconds of linking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod configs;
mod fixtures;
mod heads;
mod lora;
mod models;
mod precision;
mod qlora;
mod recompute;
mod torch_files;
