//! A Network Block Device client over futures-io.
//!
//! A [`Client`] is a handle that any number of tasks clone and use at the same time.
//! One task per connection moves the bytes. Futures may be dropped at any time.
//!
#![cfg_attr(feature = "smol", doc = "```no_run")]
#![cfg_attr(not(feature = "smol"), doc = "```ignore")]
//! # fn main() -> Result<(), nbd_client_futures::Error> {
//! smol::block_on(async {
//!     let client = nbd_client_futures::smol::connect("nbd://localhost/disk").await?;
//!     let sector = client.read(0, 512).await?;
//!     println!("{} bytes", sector.len());
//!     client.disconnect().await
//! })
//! # }
//! ```
//!
//! | to | use |
//! |---|---|
//! | connect on smol | module `smol`, with feature `smol` |
//! | connect on async-std | module `async_std`, with feature `async-std` |
//! | connect on another runtime | [`Connector::on`] and a [`Runtime`] of your own |
//! | read, write and the rest | [`Client`] |
//! | see the export as a file | [`ExportFile`] |
//! | walk over its extents | [`Extents`], [`ContextExtents`] |
//! | ask before choosing an export | [`Options`] |
//! | use several connections | [`Pool`] |
//!
//! The authors of async-std have given it up in favour of smol; this crate depends on
//! it with its feature only.
//!
//! # In Cargo.toml
//!
//! ```toml
//! [dependencies]
//! nbd-client-futures = { version = "0.1", features = ["smol"] }
//! smol = "2"
//! ```
//!
//! For tokio there is `nbd-client-tokio`, for completions `nbd-client-compio`, for threads
//! `nbd-client-blocking`, for a poll loop `nbd-client-mio`. A server is `nbd-server`.
//!
//! # Errors
//!
//! [`Error::kind`] says what to do about one, [`Error::errno`] gives the number: a full disk is the
//! server's answer `ENOSPC`.
//!
//! ```
//! use nbd_client_futures::{Errno, Error};
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
//! | `smol` | the runtime of smol |
//! | `async-std` | the runtime of async-std |
//!
//! Without any there is no C to be built.
//!
//! # Platforms
//!
//! Linux, whole and tested.

#[cfg(any(feature = "smol", feature = "async-std"))]
mod watched;

#[cfg(feature = "async-std")]
pub mod async_std;
#[cfg(feature = "smol")]
pub mod smol;

pub use nbd_client_async::{
    BlockingWork, Client, Command, CommandFlags, ConnectOptions, Connector, ContextExtents,
    ContextId, Endpoint, Errno, Error, ErrorKind, Event, ExportFile, ExportInfo, Extent, Extents,
    GoError, IntoStream, IoCall, NbdUri, Options, PlacedExtent, Pool, ReadBuffer, Reconnect,
    Rejected, Runtime, Segment, SessionStats, Sleep, State, Task, TlsConfig, TlsPolicy, Watched,
    WriteBuffer, proto, session, transport,
};
