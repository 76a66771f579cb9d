//! Experiments in which a policy is trained on its own samples.
//!
//! [`study`] is what they have in common: arms with seeds that end in named numbers, and figures that are differences of
//! these numbers between arms, all of them lines of a plan. [`train`] runs the iteration of `align-ppo` on a small model.

mod show;
pub mod study;
pub mod train;
