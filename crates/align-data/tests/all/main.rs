//! The tests of the crate from outside, as one program: each program more would cost seconds of linking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

mod common;
mod conformance;
mod csv;
mod curriculum;
mod doctor;
mod kinds;
mod load;
mod masks;
mod mix;
mod order;
mod parquet;
mod reader;
mod real_data;
mod sentencepiece;
mod templates;
mod tokenise;
mod tokenizer;
