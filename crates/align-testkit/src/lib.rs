//! What the tests of the `align` workspace share: toy models with exact gradients, fixtures, tolerances.
//!
//! Not published. Nothing here is fit for anything but tests, where a panic is the right answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bigram;
mod compare;
mod files;
mod values;

pub use bigram::BigramLm;
pub use compare::{assert_close, gradient_check};
pub use files::{fixture, real_data, workspace_root};
pub use values::{BigramActorCritic, TabularValues};
