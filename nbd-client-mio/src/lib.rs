//! A Network Block Device client for [mio].
//!
//! A [`Connection`] is an event source. Connecting, negotiating and moving data all
//! happen in [`Connection::drive`], which never waits for the server, so that one thread
//! serves as many connections as it likes; a drive makes at most sixteen reads that bring
//! something.
//!
//! ```no_run
//! use mio::{Events, Interest, Poll, Token};
//! use nbd_client_mio::{Builder, Connection, State};
//!
//! let mut poll = Poll::new()?;
//! let mut events = Events::with_capacity(64);
//! let mut disk: Connection<Vec<u8>> = Builder::new().connect_uri("nbd://localhost/disk")?;
//! poll.registry().register(&mut disk, Token(0), Interest::READABLE)?;
//! let mut asked = false;
//! loop {
//!     let state = disk.drive(poll.registry())?;
//!     if state == State::Ready && !asked {
//!         disk.read(0, vec![0; 512])?;
//!         asked = true;
//!     }
//!     while let Some(done) = disk.next_completion() {
//!         done.result?;
//!         println!("{:?}", done.buffer);
//!         disk.disconnect();
//!     }
//!     if state == State::Closed {
//!         break;
//!     }
//!     if !disk.wants_again() {
//!         poll.poll(&mut events, None)?;
//!         events.iter().for_each(|event| disk.note(event));
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```text
//!   Poll ── event ──► note ──► drive ──► next_completion ──► Completion { buffer, result }
//!                               ▲  ▲            ▲
//!            read, write, … ────┘  │            └── handle_timeout, at next_deadline
//!                                  └── wants_again: once more before the next poll
//! ```
//!
//! A connection has no clock of its own. With [`Builder::timeout`] or
//! [`Builder::keep_alive`], poll no longer than until [`Connection::next_deadline`], and
//! call [`Connection::handle_timeout`] then, after [`Connection::drive`]: what has come in
//! time counts, however late it is looked at.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod builder;
mod clock;
mod connection;
mod dial;
mod drive;
mod ports;
mod rejected;
mod stage;
mod submitter;
mod watch;

pub use builder::Builder;
pub use connection::{Completion, Connection, State};
pub use nbd_proto as proto;
pub use nbd_proto::CommandFailure;
pub use nbd_session as session;
pub use nbd_session::OldError as Error;
pub use nbd_transport as transport;
pub use rejected::Rejected;
pub use submitter::Submitter;
