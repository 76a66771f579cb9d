//! `align-torch`: the commands that need tensors.

fn main() {}
