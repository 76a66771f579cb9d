//! A pure function over tensors can only fail in ways that `align-core` has names for: a shape, an input, a
//! configuration, libtorch. An enum of our own would wrap it and say nothing more.

pub use align_core::{Error, Result};
