//! Advantages of a batch.
fn main() {}
