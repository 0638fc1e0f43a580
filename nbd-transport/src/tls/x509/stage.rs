//! The stage over a rustls session.
//!
//! The library's unbuffered form is used: it decrypts in the buffer that was read into, and
//! encrypts into the one that is written from, so a socket is read in large pieces and written in
//! one. Its buffered form takes 4 KiB at a time.

use super::super::gather::gather;
use super::super::stage::{Opened, Plaintext, TlsStage};
use super::super::wire::Outgoing;
use super::super::{StageError, TlsError, TlsInfo, TlsPeer, TlsRole, TlsVersion, Wire};
use super::fault::session_error;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, ProtocolVersion};
use std::fmt;
use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use webpki::EndEntityCert;

/// The most plaintext that is encrypted ahead of the transport, in bytes.
const AHEAD: usize = 256 << 10;

/// The most that encryption adds to a record (RFC 5246, 6.2.3; RFC 8446, 5.2), with its header.
const OVERHEAD: usize = 5 + 256;

/// The most plaintext one record carries, in bytes.
const RECORD: usize = 16 << 10;

/// Either end of a connection.
pub(super) trait Side: Send + Sync {
    type Data;
    const PEER: TlsRole;
    const SUSPICION: &str;
    /// When it has gone before anything was agreed on.
    const SILENT_SUSPICION: &str;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &CommonState;
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    const PEER: TlsRole = TlsRole::Server;
    const SUSPICION: &str =
        "does it want a client certificate, or another one, or a pre-shared key?";
    const SILENT_SUSPICION: &str = "is it too old for TLS 1.2, has it a key that is not accepted \
                                    here, or does it want a pre-shared key?";

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    const PEER: TlsRole = TlsRole::Client;
    const SUSPICION: &str = "it may not trust our certificate";
    const SILENT_SUSPICION: &str = Self::SUSPICION;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

pub(super) struct Stage<S> {
    connection: S,
    wire: Wire,
    held: Held,
    staging: Vec<u8>,
    /// The peer has sent `close_notify`.
    peer_closed: bool,
    closing: bool,
    /// Why it is over, if it went wrong.
    failed: Option<TlsError>,
    info: Option<TlsInfo>,
}

/// Plaintext that nobody has taken yet. It never exceeds what fits in [`Wire`].
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    at: usize,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn taken(&mut self, n: usize) {
        self.at += n;
        if self.at >= self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
    }
}

/// What [`Stage::advance`] is for.
enum Aim<'a> {
    /// The end of the handshake.
    Handshake,
    /// All plaintext that has arrived, as far as it is taken.
    Plaintext(&'a mut dyn Plaintext),
    /// To encrypt these. How many bytes of them were taken is the result.
    Seal(&'a [IoSlice<'a>]),
    /// To say that nothing more comes.
    Close,
}

impl<S: Side> Stage<S> {
    pub(super) fn new(connection: S) -> Self {
        Self {
            connection,
            wire: Wire::new(),
            held: Held::default(),
            staging: Vec::new(),
            peer_closed: false,
            closing: false,
            failed: None,
            info: None,
        }
    }

    /// Pursues an aim, unless it has all gone wrong before. Returns how many bytes were encrypted.
    fn pursue(&mut self, aim: Aim<'_>) -> Result<usize, StageError> {
        match &self.failed {
            Some(error) => Err(error.clone().into()),
            None => self.advance(aim).map_err(|error| self.fail(error)),
        }
    }

    /// Goes from state to state until the aim is reached or more ciphertext is needed.
    fn advance(&mut self, mut aim: Aim<'_>) -> Result<usize, StageError> {
        loop {
            let Self { connection, wire: Wire { incoming, outgoing }, held, staging, .. } = self;
            let status = if self.closing && cfg!(debug_assertions) {
                guarded(|| connection.process(incoming.bytes()))?
            } else {
                connection.process(incoming.bytes())
            };
            let UnbufferedStatus { mut discard, state } = status;
            let mut refused = None;
            let mut done = None;
            match state.map_err(fault::<S>)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(fault::<S>)?;
                        discard += record.discard;
                        let taken = match &mut aim {
                            Aim::Plaintext(to) if held.is_empty() && refused.is_none() => {
                                to.feed(record.payload).unwrap_or_else(|error| {
                                    refused = Some(error);
                                    0
                                })
                            }
                            _ => 0,
                        };
                        held.push(record.payload.get(taken..).unwrap_or_default());
                    }
                    if matches!(aim, Aim::Plaintext(_)) && !held.is_empty() {
                        done = Some(0);
                    }
                }
                ConnectionState::EncodeTlsData(data) => encode(data, outgoing)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::BlockedHandshake | ConnectionState::Closed => done = Some(0),
                ConnectionState::PeerClosed => self.peer_closed = true,
                ConnectionState::WriteTraffic(mut traffic) => {
                    done = Some(match &aim {
                        Aim::Handshake | Aim::Plaintext(_) => 0,
                        Aim::Seal(pieces) => gather(pieces, AHEAD, staging, |bytes| {
                            encrypt(&mut traffic, bytes, outgoing)
                        })?,
                        Aim::Close => close(&mut traffic, outgoing)?,
                    });
                }
                _ => {
                    let reason = String::from("data before the handshake was done");
                    return Err(TlsError::Misbehaved { peer: S::PEER, reason }.into());
                }
            }
            incoming.consume(discard);
            if let Some(error) = refused {
                return Err(error.into());
            }
            if let Some(n) = done {
                return Ok(n);
            }
        }
    }

    /// What the library tells the peer about a failure is there only after the failure. Nothing
    /// else may be asked of it then: it would look at the same bytes again.
    fn fail(&mut self, error: StageError) -> StageError {
        let StageError::Tls(reason) = &error else {
            return error;
        };
        self.failed = Some(reason.clone());
        if self.closing {
            // Nothing can follow `close_notify`.
            return error;
        }
        while self.connection.common().wants_write() {
            let UnbufferedStatus { discard, state } =
                self.connection.process(self.wire.incoming.bytes());
            let encoded = match state {
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, &mut self.wire.outgoing).is_ok()
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while traffic.next_record().is_some() {}
                    true
                }
                Ok(_) | Err(_) => false,
            };
            self.wire.incoming.consume(discard);
            if !encoded {
                break;
            }
        }
        error
    }

    fn agreed(&self) -> Option<TlsInfo> {
        let common = self.connection.common();
        let version = match common.protocol_version()? {
            ProtocolVersion::TLSv1_2 => TlsVersion::Tls12,
            _ => TlsVersion::Tls13,
        };
        let suite = common.negotiated_cipher_suite()?.suite();
        let certificate = common.peer_certificates().and_then(<[_]>::first);
        Some(TlsInfo {
            version,
            cipher_suite: suite.as_str().map_or_else(|| format!("{suite:?}"), str::to_owned),
            peer: certificate.map_or(TlsPeer::Anonymous, |der| TlsPeer::Certificate {
                der: der.to_vec(),
                names: names(der),
            }),
        })
    }
}

impl<S: Side> super::super::stage::private::Sealed for Stage<S> {}

impl<S: Side> TlsStage for Stage<S> {
    fn wire(&self) -> &Wire {
        &self.wire
    }

    fn wire_mut(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn handshake(&mut self) -> Result<bool, TlsError> {
        if self.info.is_none() {
            self.pursue(Aim::Handshake).map_err(tls_error)?;
            if !self.connection.common().is_handshaking() {
                self.info = self.agreed();
            }
        }
        Ok(self.info.is_some())
    }

    fn open(&mut self, to: &mut dyn Plaintext) -> Result<Opened, StageError> {
        if !self.held.is_empty() {
            let taken = to.feed(self.held.rest())?;
            self.held.taken(taken);
        }
        if self.held.is_empty() {
            self.pursue(Aim::Plaintext(to))?;
        }
        Ok(if !self.held.is_empty() {
            Opened::Behind
        } else if self.peer_closed {
            Opened::Closed
        } else {
            Opened::Drained
        })
    }

    fn seal(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, TlsError> {
        if self.wire.unsent().len() >= AHEAD || self.closing {
            return Ok(0);
        }
        self.pursue(Aim::Seal(pieces)).map_err(tls_error)
    }

    fn close(&mut self) {
        if !self.closing && self.info.is_some() {
            self.closing = true;
            // If that fails, the session is over anyhow.
            let _ = self.pursue(Aim::Close);
        }
    }

    fn info(&self) -> Option<&TlsInfo> {
        self.info.as_ref()
    }

    fn peer(&self) -> TlsRole {
        S::PEER
    }

    fn suspicion(&self) -> &'static str {
        match self.connection.common().protocol_version() {
            Some(_) => S::SUSPICION,
            None => S::SILENT_SUSPICION,
        }
    }
}

impl<S> fmt::Debug for Stage<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("wire", &self.wire)
            .field("held", &self.held.rest().len())
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// The host names in a certificate. One that cannot be read was accepted unchecked.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    EndEntityCert::try_from(certificate)
        .map(|parsed| parsed.valid_dns_names().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// The library asserts, where assertions are compiled in, that it never sends an alert behind its
/// `close_notify`; a bad record that comes then makes it try to. No bytes may cause a panic.
fn guarded<T>(process: impl FnOnce() -> T) -> Result<T, TlsError> {
    catch_unwind(AssertUnwindSafe(process))
        .map_err(|_| TlsError::Library(String::from("a bad record came after the end")))
}

fn fault<S: Side>(error: rustls::Error) -> TlsError {
    session_error(error, S::PEER)
}

/// Only [`Aim::Plaintext`] brings errors of other kinds.
fn tls_error(error: StageError) -> TlsError {
    match error {
        StageError::Tls(error) => error,
        other => TlsError::Library(other.to_string()),
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Outgoing) -> Result<(), TlsError> {
    let mut size = RECORD + OVERHEAD;
    loop {
        match data.encode(outgoing.room(size)) {
            Ok(n) => {
                outgoing.added(n);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(error)) if error.required_size > size => {
                size = error.required_size;
            }
            Err(error) => return Err(TlsError::Library(error.to_string())),
        }
    }
}

fn encrypt<D>(
    traffic: &mut WriteTraffic<'_, D>,
    bytes: &[u8],
    outgoing: &mut Outgoing,
) -> Result<(), TlsError> {
    let records = bytes.len().div_ceil(RECORD) + 1;
    put(outgoing, bytes.len() + records * OVERHEAD, |room| traffic.encrypt(bytes, room))
}

/// Takes none of the pieces.
fn close<D>(traffic: &mut WriteTraffic<'_, D>, outgoing: &mut Outgoing) -> Result<usize, TlsError> {
    put(outgoing, 2 * OVERHEAD, |room| traffic.queue_close_notify(room))?;
    Ok(0)
}

fn put(
    outgoing: &mut Outgoing,
    size: usize,
    write: impl FnOnce(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), TlsError> {
    let n = write(outgoing.room(size)).map_err(|error| TlsError::Library(error.to_string()))?;
    outgoing.added(n);
    Ok(())
}
