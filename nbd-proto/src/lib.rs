//! The NBD protocol, client and server side, as state machines without IO.
//!
//! Nothing in this crate opens a socket, reads a clock, spawns a thread or stores
//! a payload. Bytes that arrived are given to a machine, bytes it wants to send are
//! taken from it, and where payload lives is the caller's business.
#![no_std]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

mod client;
mod config;
mod engine;
mod errno;
mod error;
mod event;
#[cfg(feature = "std")]
pub mod io;
mod machine;
mod negotiate;
mod payload;
mod server;
mod types;
pub mod wire;

pub use client::{Client, Disconnect, RequestStatus};
pub use config::{ClientConfig, Limits, ServerConfig, StrictMode, TlsPolicy};
pub use engine::Stats;
pub use engine::intake::RecvBufs;
pub use errno::Errno;
pub use error::{
    Anomaly, ApiMisuse, CommandError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved,
    Refusal, ReplyFault, SubmitError,
};
pub use event::{Event, ServerEvent};
pub use machine::Machine;
pub use negotiate::client::{Negotiation, NegotiationEvent, Phase};
pub use negotiate::facts::{ExportInfo, Negotiated, Protocol};
pub use negotiate::server::{Question, ServerNegotiation, ServerPhase};
pub use payload::{
    Discard, ErrorReport, PayloadSink, PayloadSource, ReadChunk, ReadInto, Table, WriteFrom,
    escape, part, part_mut,
};
pub use server::Server;
pub use types::{Command, ContextId, Direction, Extent, HeaderStyle, RequestId};
pub use wire::flags::{CommandFlags, HandshakeFlags, TransmissionFlags};
pub use wire::option::{BlockSizes, ExportEntry, MetaContext, OptionCode, RefusalCode};
pub use wire::request::CommandType;
