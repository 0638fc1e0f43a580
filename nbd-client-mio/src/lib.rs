//! A Network Block Device client for [mio].
//!
//! A [`Connection`] is an event source. Connecting, negotiating and moving data all
//! happen in [`Connection::drive`], which never waits for the server, so that one thread
//! serves as many connections as it likes; a drive makes at most sixteen reads that bring
//! something.
//!
//! ```no_run
//! use mio::{Events, Interest, Poll, Token};
//! use nbd_client_mio::{Connection, Limit, State};
//!
//! let mut poll = Poll::new()?;
//! let mut events = Events::with_capacity(64);
//! let mut disk: Connection<Vec<u8>> = Connection::connect("nbd://localhost/disk")?;
//! poll.registry().register(&mut disk, Token(0), Interest::READABLE)?;
//! let mut asked = false;
//! loop {
//!     let state = disk.drive(poll.registry())?;
//!     if state == State::Ready && !asked {
//!         disk.read(vec![0; 512], 0)?;
//!         asked = true;
//!     }
//!     while let Some(done) = disk.next_completion() {
//!         done.result?;
//!         println!("{:?}", done.buffer);
//!         disk.disconnect(Limit::Default);
//!     }
//!     if state == State::Closed {
//!         break;
//!     }
//!     if !disk.needs_drive() {
//!         poll.poll(&mut events, None)?;
//!         events.iter().for_each(|event| disk.handle_event(event));
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```text
//!   Poll ── event ──► handle_event ──► drive ──► next_completion ──► Completion { buffer, result }
//!                                      ▲  ▲            ▲
//!                   read, write, … ────┘  │            └── handle_timeout, at next_deadline
//!                                         └── needs_drive: once more before the next poll
//! ```
//!
//! A connection has no clock of its own. With a limit of time, [`ConnectOptions::keep_alive`] or
//! [`ConnectOptions::reconnect`], poll no longer than until [`Connection::next_deadline`], and
//! call [`Connection::handle_timeout`] then, after [`Connection::drive`]: what has come in
//! time counts, however late it is looked at.
//!
//! # In Cargo.toml
//!
//! ```toml
//! [dependencies]
//! mio = "1"
//! nbd-client-mio = "0.1"
//! ```
//!
//! For threads there is `nbd-client-blocking`, for tokio `nbd-client-tokio`, for smol and async-std
//! `nbd-client-futures`. For an event loop of another kind there is `nbd-session`.
//!
//! # Errors
//!
//! [`Error::kind`] says what to do about one, [`Error::errno`] gives the number: a full disk is the
//! server's answer `ENOSPC`.
//!
//! ```
//! use nbd_client_mio::{Errno, Error};
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

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod commands;
mod completion;
mod connection;
mod drive;
mod extents;
mod file;
mod pool;
mod registration;
mod submitter;
mod wire;

pub use completion::Completion;
pub use connection::Connection;
pub use extents::Extents;
pub use file::{ExportFile, ExportView};
pub use nbd_proto as proto;
pub use nbd_proto::{Command, CommandFlags, ContextId, Errno, ExportInfo, Extent, TlsPolicy};
pub use nbd_session as session;
pub use nbd_session::extents::{PlacedExtent, Segment};
pub use nbd_session::replay::Reconnect;
pub use nbd_session::{
    BufferPool, ConnectOptions, Error, ErrorKind, Event, Limit, OptionReply, OptionRequest,
    PooledBuffer, Rejected, Request, State,
};
pub use nbd_transport as transport;
pub use nbd_transport::tls::TlsConfig;
pub use nbd_transport::{Endpoint, NbdUri};
pub use pool::Pool;
pub use submitter::Submitter;
