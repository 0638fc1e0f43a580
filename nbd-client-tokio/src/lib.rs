//! A Network Block Device client for tokio.
//!
//! A [`Client`] is a handle that any number of tasks clone and use at the same time.
//! One task per connection moves the bytes. Futures may be dropped at any time.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), nbd_client_tokio::Error> {
//! let client = nbd_client_tokio::connect("nbd://localhost/disk").await?;
//! let reads = (0..64).map(|index| {
//!     let client = client.clone();
//!     tokio::spawn(async move { client.read(index << 20, 4096).await })
//! });
//! for read in reads.collect::<Vec<_>>() {
//!     println!("{} bytes", read.await.expect("no panic")?.len());
//! }
//! client.disconnect().await?;
//! # Ok(()) }
//! ```
//!
//! | to | use |
//! |---|---|
//! | connect | [`connect`](connect()), [`Connect`], [`Connector`] |
//! | read, write and the rest | [`Client`] |
//! | see the export as a file | [`ExportFile`] |
//! | walk over its extents | [`Extents`], [`ContextExtents`] |
//! | ask before choosing an export | [`Options`] |
//! | use several connections | [`connect_pool`], [`Pool`] |
//! | connect over a stream of your own | [`Connector::connect_over`] |
//!
//! The runtime must have its IO driver enabled ([`enable_io`]), and its timers
//! ([`enable_time`]) where there are timeouts or connections are made again: otherwise
//! connecting fails, or the connection does as soon as a timer is needed. One is needed too
//! to end a session in good order when its last handle is dropped;
//! [`disconnect`](Client::disconnect) needs none. Tokio itself prints a panic then, which is
//! caught.
//!
//! [`enable_io`]: tokio::runtime::Builder::enable_io
//! [`enable_time`]: tokio::runtime::Builder::enable_time
//!
//! # In Cargo.toml
//!
//! ```toml
//! [dependencies]
//! nbd-client-tokio = "0.1"
//! tokio = { version = "1", features = ["macros", "rt"] }
//! ```
//!
//! For smol and async-std there is `nbd-client-futures`, for completions `nbd-client-compio`, for
//! threads `nbd-client-blocking`, for a poll loop `nbd-client-mio`. A server is `nbd-server`.
//!
//! # Errors
//!
//! [`Error::kind`] says what to do about one, [`Error::errno`] gives the number: a full disk is the
//! server's answer `ENOSPC`.
//!
//! ```
//! use nbd_client_tokio::{Errno, Error};
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
//! Linux, whole and tested.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod runtime;

pub use nbd_client_async::{
    Client, Command, CommandFlags, ConnectOptions, ContextExtents, ContextId, Endpoint, Errno,
    Error, ErrorKind, Event, ExportFile, ExportInfo, Extent, Extents, GoError, IntoStream, NbdUri,
    Options, PlacedExtent, Pool, ReadBuffer, Reconnect, Rejected, Segment, SessionStats, State,
    TlsConfig, TlsPolicy, WriteBuffer, proto, session, transport,
};
pub use runtime::Tokio;

nbd_client_async::entry_points!(Tokio, "nbd_client_tokio", "nbd_client_tokio");
