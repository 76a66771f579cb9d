//! What can go wrong here has names in `align-core`: a shape, an input with its row, a number that is none, a
//! configuration, libtorch. An enum of our own would wrap it and say nothing more.

pub use align_core::{Error, Result};
