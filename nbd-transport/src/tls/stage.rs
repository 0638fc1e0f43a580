//! TLS without IO, for who has a loop of their own: the stage between a machine and its transport.
//!
//! Clients and servers drive it by `nbd_session::Link`; nobody else needs this module.

use super::{TlsError, TlsInfo, TlsRole};
use nbd_proto::{Machine, PayloadSink};
use private::Sealed;
use std::fmt;
use std::io::IoSlice;

pub use super::error::StageError;
pub use super::wire::Wire;

/// A TLS session without IO.
///
/// ```text
///   transport        wire                 stage                     machine
///   read ──► recv_buf, received ─► open ─► decrypts ─► Plaintext ─► feed or received
///   write ◄─ unsent, sent ◄─────── seal ◄─ encrypts ◄────────────── send_bufs, sent
/// ```
///
/// To drive one, give and take
/// ciphertext through [`wire`](Self::wire_mut), call [`handshake`](Self::handshake) after each
/// delivery until it says that it is done, and [`open`](Self::open) from then on.
///
/// After an error, what is unsent is a last word to the peer, and the session is over.
///
/// It is sealed: a [`TlsConnector`](super::TlsConnector) or a
/// [`TlsAcceptor`](super::TlsAcceptor) starts one.
pub trait TlsStage: fmt::Debug + Send + Sync + Sealed {
    /// The ciphertext.
    fn wire(&self) -> &Wire;

    /// The ciphertext, to give and to take some.
    fn wire_mut(&mut self) -> &mut Wire;

    /// Goes on with the handshake as far as what has arrived allows. Returns whether it is done.
    /// The first call of a client has something to send.
    ///
    /// # Errors
    /// When the peer cannot be trusted or does not want to go on.
    fn handshake(&mut self) -> Result<bool, TlsError>;

    /// Decrypts what has arrived and hands it over, as long as there is any and the receiver takes
    /// it.
    ///
    /// # Errors
    /// When a record is forged or malformed, and what the receiver makes of the plaintext.
    fn open(&mut self, to: &mut dyn Plaintext) -> Result<Opened, StageError>;

    /// Encrypts the pieces in order, in as few records as possible. Returns how many bytes were
    /// taken; none while much is unsent.
    ///
    /// # Errors
    /// When the session is over.
    fn seal(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, TlsError>;

    /// Tells the peer that nothing more comes (`close_notify`), so that it can tell the end from a
    /// truncation.
    fn close(&mut self);

    /// What was agreed on, once the handshake is done.
    fn info(&self) -> Option<&TlsInfo>;

    /// Who is at the other end.
    fn peer(&self) -> TlsRole;

    /// Why a peer may have closed without a word during the handshake or right after it.
    fn suspicion(&self) -> &'static str;
}

pub(super) mod private {
    #[expect(unnameable_types, reason = "so that nobody else implements it")]
    pub trait Sealed {}
}

/// How [`TlsStage::open`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever drives must act on each: a new one may not go unnoticed"
)]
pub enum Opened {
    /// It needs more ciphertext.
    Drained,
    /// The receiver takes no more, and something is left for it.
    Behind,
    /// The peer has ended the session in good order, and everything was handed over.
    Closed,
}

/// Where plaintext goes. A stage uses the form that saves it a copy.
pub trait Plaintext {
    /// Takes bytes; returns how many. Fewer than given mean that it takes no more for now.
    ///
    /// # Errors
    /// When the bytes break the protocol.
    fn feed(&mut self, bytes: &[u8]) -> Result<usize, nbd_proto::Error>;

    /// Where the next bytes go. Empty when it takes no more for now.
    fn recv_buf(&mut self) -> &mut [u8];

    /// `n` bytes have been put there.
    ///
    /// # Errors
    /// When the bytes break the protocol.
    fn received(&mut self, n: usize) -> Result<(), nbd_proto::Error>;
}

/// A machine and its sink as the destination of plaintext.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a machine and its sink, put together by the caller")]
pub struct IntoMachine<'a, M, S> {
    /// Who understands the bytes.
    pub machine: &'a mut M,
    /// Where its payload lands.
    pub sink: &'a mut S,
}

impl<M: Machine, S: PayloadSink> Plaintext for IntoMachine<'_, M, S> {
    fn feed(&mut self, bytes: &[u8]) -> Result<usize, nbd_proto::Error> {
        self.machine.feed(bytes, self.sink)
    }

    fn recv_buf(&mut self) -> &mut [u8] {
        self.machine.recv_buf(self.sink)
    }

    fn received(&mut self, n: usize) -> Result<(), nbd_proto::Error> {
        self.machine.received(n, self.sink)
    }
}
