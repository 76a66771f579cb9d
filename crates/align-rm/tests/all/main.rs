//! The tests of the crate from outside, as one program: linking one takes as long as compiling many.

mod calibration;
mod common;
mod ensembles;
mod golden;
mod properties;
mod rewards;
