//! nbd-cli
mod store;

fn main() {}
