//! A Network Block Device server, as a library: serve your own storage.
//!
//! An export of your own is a size and a way to read; all else has a default:
//!
//! ```
//! use nbd_server::{Export, Server};
//! use std::io;
//!
//! /// Every byte is the low byte of its offset.
//! struct Pattern;
//!
//! impl Export for Pattern {
//!     fn size(&self) -> u64 {
//!         1 << 30
//!     }
//!
//!     fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
//!         buf.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = at as u8);
//!         Ok(())
//!     }
//! }
//!
//! let server = Server::new(Pattern).listen_tcp("127.0.0.1:0")?.start()?;
//! println!("nbdinfo {}", server.uris()[0]);
//! server.stop()?;
//! # Ok::<(), io::Error>(())
//! ```
//!
//! [`MemoryExport`] and [`FileExport`] come with it, and so do slices, overlays, directories and,
//! with the feature `tokio`, disks over an object store.
//!
//! Clients get what the protocol offers: structured replies and extended headers, block status,
//! block sizes, TLS, several connections. Many requests of a client are under way at once, and
//! are answered as they become ready; a request that an export answers without waiting costs no
//! switch of threads.
//!
//! ```text
//!   stream ─► handshake ─► requests ─► Export (yours) ─► replies, in whatever order they are ready
//!                 │ list, open(name, peer)       │
//!              Exports (yours)              bounded by bytes held
//! ```
//!
//! # In Cargo.toml
//!
//! ```toml
//! [dependencies]
//! nbd-server = "0.1"
//! ```
//!
//! Clients are `nbd-client-blocking`, `nbd-client-mio`, `nbd-client-tokio` and
//! `nbd-client-futures`; the protocol alone is `nbd-proto`.
//!
//! # Features
//!
//! | feature | what |
//! |---|---|
//! | `tls` (default) | TLS with certificates, by rustls |
//! | `ring` | the same with the cryptography of ring |
//! | `psk` | TLS with pre-shared keys, by OpenSSL |
//! | `qcow2` | images in the format of QEMU, by the crate imago |
//! | `tokio` | `Server::spawn`: a server in tasks of tokio, and exports that need its runtime; `ObjectExport` |
//! | `tracing` | events as those of the crate tracing |
//!
//! # Platforms
//!
//! Linux.

#[cfg(not(target_os = "linux"))]
compile_error!("nbd-server runs on Linux; the server half of nbd-proto runs everywhere");

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod access;
mod clients;
mod config;
mod connection;
mod directory;
mod event;
mod export;
mod exports;
mod listener;
mod peer;
mod pool;
mod server;
#[cfg(any(test, fuzzing))]
mod simulation;
#[cfg(feature = "tokio")]
mod tasks;
mod threads;

pub use access::{Access, AccessRule, AccessRuleError, ReadOnly};
pub use config::Limits;
pub use connection::ConnectionError;
pub use directory::Directory;
pub use event::Event;
#[cfg(feature = "qcow2")]
pub use export::Qcow2Export;
pub use export::{
    Abilities, AllocationExtent, AsyncExport, Attempt, BoxFuture, Export, ExtentKind, FileExport,
    MemoryExport, Overlay, Slice, Zeroing, file_extents,
};
#[cfg(feature = "tokio")]
pub use export::{ObjectExport, Objects};
pub use exports::{ExportList, Exports, Listed, Opened};
pub use listener::Listener;
pub use peer::{Peer, PeerAddress};
pub use server::Server;
/// What a fuzzer's bytes are played to.
#[cfg(fuzzing)]
#[doc(hidden)]
pub use simulation::play;
#[cfg(feature = "tokio")]
pub use tasks::AsyncServerHandle;
pub use threads::ServerHandle;

pub use bytes::Bytes;
pub use nbd_proto as proto;
pub use nbd_proto::{BlockSizes, Errno, Extent, TlsPolicy};
// Not inlined, for all pages of rustls would be repeated with it.
#[doc(no_inline)]
pub use nbd_transport::tls;
