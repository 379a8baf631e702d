//! The binary of the preprocessing function.

fn main() {}
