//! The NBD protocol, client and server side, as state machines without IO.
//!
//! Nothing in this crate opens a socket, reads a clock, spawns a thread or stores
//! a payload. Bytes that arrived are given to a machine, bytes it wants to send are
//! taken from it, and where payload lives is the caller's business. So it runs in any
//! event loop, under any runtime, in a fuzzer and in a simulation, always the same.
//!
//! ```text
//!   Negotiation ──finish──► Client          ServerNegotiation ──finish──► Server
//!        │                     │                     │                      │
//!        └──────────── Machine: bytes in, bytes out ─┴──────────────────────┘
//! ```
//!
//! Most programs want an adapter instead: `nbd-client-blocking`, `nbd-client-mio`,
//! `nbd-client-tokio`, `nbd-client-futures`.
//!
//! # A loop of your own
//!
//! 1. [`Negotiation::new`], then move bytes through [`Machine`] until
//!    [`Negotiation::phase`] is [`Phase::Established`], then [`Negotiation::finish`].
//! 2. [`Client::submit`] commands, as many as there are; it never writes.
//! 3. Send what is due: `send_bufs` and [`sent`](Machine::sent), or
//!    [`drain`](Machine::drain), or `notify_write`.
//! 4. Receive what has come: [`recv_bufs`](Machine::recv_bufs) and
//!    [`received`](Machine::received), or [`feed`](Machine::feed), or `notify_read`.
//! 5. Take [`Client::poll_event`] until it is empty; go to 2, or wait for what
//!    [`get_direction`](Machine::get_direction) says.
//! 6. When it [is ending](Machine::is_ending) and nothing is left to send, shut the sending side
//!    of the transport down: there are servers that wait for that before they close.
//!
//! Look at the phase and take the events *before* waiting: what has just been received may have
//! been the last that was due, and then nobody sends anything more.
//!
//! A client and a server of a read-only disk, over sockets whose reads wait:
//!
//! ```
//! use nbd_proto::*;
//! use std::io::{Read, Write};
//! use std::net::{Shutdown, TcpListener, TcpStream};
//!
//! type Payload = Buffers<Vec<u8>>;
//!
//! fn send(machine: &mut impl Machine, stream: &mut TcpStream, payload: &Payload) -> std::io::Result<()> {
//!     let mut due = Vec::new();
//!     machine.drain(&mut due, payload)?;
//!     stream.write_all(&due)
//! }
//!
//! fn receive(machine: &mut impl Machine, stream: &mut TcpStream, payload: &mut Payload) -> std::io::Result<()> {
//!     if machine.has_buffered() {
//!         return Ok(machine.received(0, payload)?);
//!     }
//!     match stream.read(machine.recv_buf(payload))? {
//!         0 => Ok(machine.eof()?),
//!         n => Ok(machine.received(n, payload)?),
//!     }
//! }
//!
//! fn serve(mut stream: TcpStream, disk: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//!     let (mut negotiation, mut payload) = (ServerNegotiation::new(ServerConfig::new()), Buffers::new());
//!     loop {
//!         send(&mut negotiation, &mut stream, &payload)?;
//!         match negotiation.phase() {
//!             ServerPhase::Busy => receive(&mut negotiation, &mut stream, &mut payload)?,
//!             ServerPhase::Question => match negotiation.question() {
//!                 Some(Question::Info(_) | Question::Go(_) | Question::ExportName(_)) => {
//!                     let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::READ_ONLY;
//!                     negotiation.describe(ExportInfo::new(disk.len() as u64, flags))?;
//!                 }
//!                 _ => negotiation.acknowledge()?,
//!             },
//!             ServerPhase::Established => break,
//!             ServerPhase::StartTls | ServerPhase::Closed => return Ok(()),
//!         }
//!     }
//!     let mut server = negotiation.finish().map_err(|_| "not established")?;
//!     while !server.is_closed() {
//!         receive(&mut server, &mut stream, &mut payload)?;
//!         while let Some(event) = server.poll_event() {
//!             match event {
//!                 ServerEvent::Request { id, command } if command.kind == CommandType::Read => {
//!                     // The request was checked: it lies within the export.
//!                     let at = command.offset as usize;
//!                     payload.insert(id, disk[at..at + command.length as usize].to_vec());
//!                     server.reply_data(id)?;
//!                 }
//!                 ServerEvent::Request { id, .. } => server.reply(id, Err(Errno::NotSup))?,
//!                 ServerEvent::Replied { id } => drop(payload.remove(id)),
//!                 ServerEvent::Disconnected { .. } => {}
//!             }
//!         }
//!         send(&mut server, &mut stream, &payload)?;
//!     }
//!     Ok(())
//! }
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let mut stream = TcpStream::connect(listener.local_addr()?)?;
//! let accepted = listener.accept()?.0;
//! let server = std::thread::spawn(move || serve(accepted, &[7; 4096]).map_err(|error| error.to_string()));
//!
//! let mut payload = Buffers::new();
//! let mut negotiation = Negotiation::new(ClientConfig::new())?;
//! while negotiation.phase() == Phase::Busy {
//!     receive(&mut negotiation, &mut stream, &mut payload)?;
//!     send(&mut negotiation, &mut stream, &payload)?;
//! }
//! let mut client = negotiation.finish().map_err(|_| "not established")?;
//! let id = client.submit(Command::read(512, 1024))?;
//! payload.insert(id, vec![0; 1024]);
//! while !client.is_closed() {
//!     send(&mut client, &mut stream, &payload)?;
//!     if client.is_ending() {
//!         stream.shutdown(Shutdown::Write)?;
//!     }
//!     match client.poll_event() {
//!         Some(Event::Completed { id, result, .. }) => {
//!             result?;
//!             assert_eq!(payload.remove(id), Some(vec![7; 1024]));
//!             client.disconnect(Disconnect::AfterReplies);
//!         }
//!         Some(Event::Anomaly(_) | Event::Disconnected { .. }) => {}
//!         None => receive(&mut client, &mut stream, &mut payload)?,
//!     }
//! }
//! server.join().expect("no panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Here both ends are in one place, and the "network" is a `Vec<u8>`:
//!
//! ```
//! use nbd_proto::*;
//!
//! // The two negotiations talk until both are done.
//! let mut client = Negotiation::new(ClientConfig::new().export("disk"))?;
//! let mut server = ServerNegotiation::new(ServerConfig::new());
//! let mut wire = Vec::new();
//! while client.phase() != Phase::Established {
//!     server.drain(&mut wire, &Discard)?;
//!     client.feed(&std::mem::take(&mut wire), &mut Discard)?;
//!     client.drain(&mut wire, &Discard)?;
//!     server.feed(&std::mem::take(&mut wire), &mut Discard)?;
//!     if let Some(Question::Go(_)) = server.question() {
//!         server.describe(ExportInfo::new(1 << 20, TransmissionFlags::HAS_FLAGS))?;
//!     }
//! }
//! let (mut client, mut server) = (client.finish().unwrap(), server.finish().unwrap());
//!
//! // The client asks, the server answers from memory of its own.
//! let id = client.submit(Command::read(4096, 5))?;
//! client.drain(&mut wire, &Discard)?;
//! server.feed(&std::mem::take(&mut wire), &mut Discard)?;
//! let Some(ServerEvent::Request { id: request, .. }) = server.poll_event() else { panic!() };
//! server.reply_data(request)?;
//! server.drain(&mut wire, &WriteFrom { id: request, buffer: b"bytes" })?;
//!
//! // The answer lands where the client says.
//! let mut buffer = [0; 5];
//! client.feed(&wire, &mut ReadInto { id, buffer: &mut buffer })?;
//! assert!(matches!(client.poll_event(), Some(Event::Completed { result: Ok(()), .. })));
//! assert_eq!(&buffer, b"bytes");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where payload lands is up to whoever implements [`PayloadSink`]. [`Buffers`] has a buffer for
//! each request; [`Replies`] also keeps the extents of a block status, the parts of a read and
//! what the server says about an error; [`WriteBuffers`] is a server's.
//!
//! # In Cargo.toml
//!
//! ```toml
//! [dependencies]
//! nbd-proto = "0.1"
//! ```
//!
//! With sockets it is `nbd-client-blocking`, `nbd-client-mio`, `nbd-client-tokio` and
//! `nbd-client-futures`; a server is `nbd-server`. With time limits and connections that are made
//! again, and still without sockets, it is `nbd-session`.
//!
//! # Features
//!
//! `std` (default): the driver over [`std::io`], `IoSlice`s, conversions into
//! [`std::io::Error`]. Without it the crate needs `alloc` only.
//!
//! # Platforms
//!
//! Every one that Rust has a standard library or an allocator for: nothing here asks a system for
//! anything.
#![no_std]
// Nothing a peer sends may end in a panic, or in a sum that has wrapped unseen: what each
// calculation does at its limits is spelt out.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable
    )
)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod client;
mod config;
mod details;
mod engine;
mod errno;
mod error;
mod event;
mod failure;
#[cfg(feature = "std")]
pub mod io;
mod machine;
mod negotiate;
mod payload;
mod reply;
mod server;
mod types;
pub mod wire;

pub use client::{Client, Disconnect, Outstanding, RequestStatus};
pub use config::{ClientConfig, Limits, ServerConfig, StrictMode, TlsPolicy};
pub use details::{Details, Replies, ReplyDetails};
pub use engine::Stats;
pub use engine::intake::RecvBufs;
pub use errno::Errno;
pub use error::{
    Anomaly, ApiMisuse, CommandError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved,
    Refusal, ReplyFault, SubmitError,
};
pub use event::{Event, ServerEvent};
pub use failure::{CommandFailure, ServerMessage};
pub use machine::Machine;
pub use negotiate::client::{Negotiation, NegotiationEvent, Phase};
pub use negotiate::facts::{ExportInfo, Negotiated, Protocol};
pub use negotiate::server::{Question, ServerNegotiation, ServerPhase};
pub use payload::{
    Buffers, Discard, ErrorReport, PayloadSink, PayloadSource, ReadChunk, ReadInto, WriteBuffers,
    WriteFrom, escape, part, part_mut,
};
pub use server::Server;
pub use types::{Command, ContextId, Direction, Extent, HeaderStyle, RequestId};
pub use wire::flags::{CommandFlags, HandshakeFlags, TransmissionFlags};
pub use wire::option::{BlockSizes, ExportEntry, MetaContext, OptionCode, RefusalCode};
pub use wire::request::CommandType;
