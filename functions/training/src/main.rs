//! The binary of the training function.

fn main() {}
