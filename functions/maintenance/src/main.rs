//! The binary of the maintenance function.

fn main() {}
