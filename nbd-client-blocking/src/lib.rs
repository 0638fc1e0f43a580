//! A Network Block Device client for threads.
//!
//! No runtime, no helper thread: the calling thread does the work, and data goes
//! straight between the socket and the caller's memory.
//!
//! ```no_run
//! use nbd_client_blocking::Client;
//!
//! let mut client = Client::connect("nbd://localhost/disk")?;
//! let mut sector = [0; 512];
//! client.read_exact_at(&mut sector, 0)?;
//! client.disconnect()?;
//! # Ok::<(), nbd_client_blocking::Error>(())
//! ```
//!
//! | to | use |
//! |---|---|
//! | connect | [`Client::connect`], [`ConnectOptions`] |
//! | do one thing at a time | [`Client`] |
//! | keep many commands in flight | [`Pipeline`] |
//! | see the export as a file | [`ExportFile`] |
//! | walk over its extents | [`Extents`], [`ContextExtents`] |
//! | ask before choosing an export | [`Options`] |
//! | go on after a lost connection | [`ConnectOptions::reconnect`] |
//! | limit how long it may take | [`ConnectOptions::request_timeout`], [`Client::within`] |
//! | use several connections from many threads | [`Pool`] |
//!
//! With feature `tracing` every connection tells what it does in a span `nbd` of its own,
//! whose field `name` is [`Client::name`]. Feature `psk` brings TLS with pre-shared keys.
//!
//! # In Cargo.toml
//!
//! ```toml
//! [dependencies]
//! nbd-client-blocking = "0.1"
//! ```
//!
//! For a poll loop there is `nbd-client-mio`, for tokio `nbd-client-tokio`, for smol and async-std
//! `nbd-client-futures`, for completions `nbd-client-compio`. A server is `nbd-server`.
//!
//! # Errors
//!
//! [`Error::kind`] says what to do about one, [`Error::errno`] gives the number: a full disk is the
//! server's answer `ENOSPC`.
//!
//! ```
//! use nbd_client_blocking::{Errno, Error};
//!
//! fn is_full(error: &Error) -> bool {
//!     error.errno() == Errno::NoSpc.to_linux()
//! }
//! ```
//!
//! # Features
//!
//! | feature | what |
//! |---|---|
//! | `tls` (default) | TLS with certificates, by rustls with the cryptography of AWS-LC |
//! | `ring` | the same with the cryptography of ring |
//! | `psk` | TLS with pre-shared keys, by OpenSSL |
//! | `tracing` | events as those of the crate tracing |
//!
//! Without any there is no C to be built.
//!
//! # Platforms
//!
//! Linux, whole and tested. macOS and FreeBSD compile.

mod client;
mod completion;
mod connect;
mod dial;
mod driver;
mod extents;
mod options;
mod pipeline;
mod pool;
mod ports;
mod trace;
mod view;

pub use client::{Client, Within};
pub use completion::{Completion, Woken};
pub use extents::{ContextExtents, Extents};
pub use nbd_proto as proto;
pub use nbd_proto::{
    Command, CommandFailure, CommandFlags, ContextId, Errno, ExportInfo, Extent, TlsPolicy,
};
pub use nbd_session as session;
pub use nbd_session::extents::{PlacedExtent, Segment};
pub use nbd_session::replay::Reconnect;
pub use nbd_session::{
    BufferPool, ConnectOptions, Error, ErrorKind, Event, Limit, PooledBuffer, Rejected, Request,
    Session, State,
};
pub use nbd_transport as transport;
pub use nbd_transport::tls::TlsConfig;
pub use nbd_transport::{Endpoint, NbdUri};
pub use options::{GoError, Options};
pub use pipeline::Pipeline;
pub use pool::{Pool, PooledClient};
pub use ports::Borrowed;
pub use view::ExportFile;

/// The name of this library.
#[doc(alias = "nbd_get_package_name")]
pub const PACKAGE: &str = env!("CARGO_PKG_NAME");

/// The version of this library, such as `0.1.0`.
#[doc(alias("nbd_get_version", "nbd_get_version_extra"))]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(doc)]
#[doc = include_str!("coming_from_libnbd.md")]
pub mod coming_from_libnbd {}
