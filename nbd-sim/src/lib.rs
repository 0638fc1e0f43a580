//! nbd-sim

pub mod oracle;
#[cfg(feature = "peers")]
pub mod peer;
pub mod transcript;
