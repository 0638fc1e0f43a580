//! A Network Block Device client for [compio], on io_uring where there is one.
//!
//! A [`Client`] is a handle that any number of tasks clone and use at the same time, those of
//! other threads too. One task per connection moves the bytes, with one for each direction of
//! its socket, all on the runtime that the connection was made on. Futures may be dropped at
//! any time.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = compio::runtime::Runtime::new()?;
//! runtime.block_on(async {
//!     let client = nbd_client_compio::connect("nbd://localhost/disk").await?;
//!     let (one, two) = (client.read(0, 4096), client.read(1 << 20, 4096));
//!     println!("{} {}", one.await?.len(), two.await?.len());
//!     client.disconnect().await
//! })?;
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
//!
//! # Whose buffer is the kernel's
//!
//! ```text
//!   caller's buffer ◄── session ◄── copied ◄── a buffer of the connection ◄── kernel
//!   caller's buffer ──► session ──► copied ──► a buffer of the connection ──► kernel
//! ```
//!
//! The kernel is lent buffers of the connection only, and each is its until the operation is
//! complete. A future that is dropped withdraws its command and leaves them alone: what was half
//! sent is sent to its end, and a reply is read through. When a connection ends, its operations
//! are cancelled, and the runtime keeps their buffers until the kernel has let go of them.
//!
//! # Where there is no io_uring
//!
//! Systems that are old, and containers that forbid it, have none; nor have other systems than
//! Linux. compio polls there instead, without being told, and nothing else is different. A
//! runtime may be told so: see `compio::driver::ProactorBuilder::driver_type`.
//!
//! # In Cargo.toml
//!
//! ```toml
//! [dependencies]
//! compio = "0.19"
//! nbd-client-compio = "0.1"
//! ```
//!
//! For tokio there is `nbd-client-tokio`, for smol and async-std `nbd-client-futures`, for threads
//! `nbd-client-blocking`. A server is `nbd-server`.
//!
//! # Errors
//!
//! [`Error::kind`] says what to do about one, [`Error::errno`] gives the number: a full disk is the
//! server's answer `ENOSPC`.
//!
//! ```
//! use nbd_client_compio::{Errno, Error};
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
mod stream;
mod thread;
mod watched;

pub use nbd_client_async::{
    Client, Command, CommandFlags, ConnectOptions, ContextExtents, ContextId, Endpoint, Errno,
    Error, ErrorKind, Event, ExportFile, ExportInfo, Extent, Extents, GoError, IntoStream, NbdUri,
    Options, PlacedExtent, Pool, ReadBuffer, Reconnect, Rejected, Segment, SessionStats, State,
    TlsConfig, TlsPolicy, WriteBuffer, proto, session, transport,
};
pub use runtime::Compio;

nbd_client_async::entry_points!(Compio, "nbd_client_compio", "nbd_client_compio");
