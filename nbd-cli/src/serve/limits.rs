//! What clients can make the server hold.

use nbd_server::Limits;

use crate::size;

/// The least memory there can be, in bytes: a quarter of it is the longest request, and clients
/// may take it for granted that 64 KiB are not too long.
const LEAST_MEMORY: u64 = 256 << 10;

/// What clients can make the server hold.
#[derive(Debug, clap::Args)]
pub(super) struct LimitArgs {
    /// Most clients at a time that use an export
    #[arg(long, value_name = "COUNT", default_value_t = 4096)]
    max_connections: usize,
    /// Most bytes of requests and replies that all clients together make it hold, 256K at least:
    /// whoever wants more waits. No request may be longer than a quarter of it, or than 32M
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = memory)]
    max_memory: u64,
}

impl LimitArgs {
    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.max_connections = self.max_connections;
        limits.max_memory = usize::try_from(self.max_memory).unwrap_or(usize::MAX);
        let quarter = u32::try_from(self.max_memory / 4).unwrap_or(u32::MAX);
        limits.max_payload = limits.max_payload.min(quarter);
        limits
    }
}

/// Reads how much memory there is.
fn memory(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text).map_err(|error| error.to_string())?;
    if bytes < LEAST_MEMORY {
        return Err(format!("it should be {} at least", size::format(LEAST_MEMORY)));
    }
    Ok(bytes)
}
