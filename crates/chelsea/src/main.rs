//! The `chelsea` command.
fn main() {}
