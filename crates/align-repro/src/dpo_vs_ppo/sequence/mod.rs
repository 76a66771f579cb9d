//! Part 3: expressions are compiled for a small stack machine, with an exact reward.
//!
//! A small GPT-2 learns from demonstrations of which 27 % overflow the stack; then every method gets the same number of
//! sampled programs and is read on held-out prompts.

pub mod arms;
pub mod curves;
pub mod feedback;
pub mod machine;
pub mod on_policy;
pub mod policy;
pub mod rounds;
mod show;
pub mod task;
pub mod vocabulary;

pub use arms::{Sequence, SequenceArm, SequenceSize};
