//! The binary of the prediction function.

fn main() {}
