//! The tests of the crate from outside, as one program: each program more would cost seconds of linking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod bad_input;
mod conformance;
mod eval;
mod families;
mod files;
mod front;
mod health;
mod health_made_up;
mod learning;
mod lora;
mod offline;
mod ppo;
mod ppo_held_out;
mod ppo_variants;
mod precision;
mod real_files;
mod recipes;
mod references;
mod refused;
mod report;
mod resume;
mod reward;
mod reward_models;
mod runs;
mod score;
mod support;
mod text;
mod trl;
