//! nbd-sim

pub mod oracle;
pub mod transcript;
