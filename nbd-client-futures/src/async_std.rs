//! Connections on async-std.

crate::watched::runtime!(
    /// The runtime of the crate `async-std`.
    AsyncStd in "nbd_client_futures::async_std",
    ::async_std::task::spawn,
    ::async_std::task::spawn_blocking
);
