//! The binary of the evaluation function.

fn main() {}
