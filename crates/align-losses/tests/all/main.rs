//! The tests of the crate from outside, as one program: linking one takes as long as compiling many.

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
