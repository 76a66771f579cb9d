//! Experiments in which a policy is trained on its own samples.
//!
//! [`study`] is what they have in common: arms with seeds that end in named numbers, and figures that are differences of
//! these numbers between arms, all of them lines of a plan; [`part`] makes it one part of an experiment among others.
//! [`train`] runs the iteration of `align-ppo` on a small model, [`rated`] rewards it by a reward model.

pub mod part;
pub mod rated;
mod show;
pub mod study;
pub mod train;
