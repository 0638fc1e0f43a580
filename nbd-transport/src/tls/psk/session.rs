//! The stage over an OpenSSL session.

use super::super::error::describe_alert;
use super::super::gather::gather;
use super::super::stage::{Opened, Plaintext, TlsStage};
use super::super::{StageError, TlsError, TlsInfo, TlsPeer, TlsRole, TlsVersion, Wire};
use nbd_proto::escape;
use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{Error, ErrorCode, Ssl, SslRef, SslStream, SslVersion};
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};

/// The most plaintext that is encrypted ahead of the transport, in bytes.
const AHEAD: usize = 256 << 10;

/// What the library adds to the number of an alert to make an error code of it.
const ALERT: i32 = 1000;

/// Whose key it is.
pub(super) enum Identity {
    /// Ours, on the client's side.
    Ours(String),
    /// That of the user the client says it is. Where the library keeps it.
    Theirs(Index<Ssl, String>),
}

pub(super) struct Stage {
    stream: SslStream<Duplex>,
    staging: Vec<u8>,
    peer: TlsRole,
    identity: Identity,
    closing: bool,
    info: Option<TlsInfo>,
}

impl Stage {
    pub(super) fn new(ssl: Ssl, peer: TlsRole, identity: Identity) -> Result<Self, ErrorStack> {
        Ok(Self {
            stream: SslStream::new(ssl, Duplex(Wire::new()))?,
            staging: Vec::new(),
            peer,
            identity,
            closing: false,
            info: None,
        })
    }

    /// The name of the user whose key both sides have proved to know. TLS 1.2 tells it, and TLS 1.3
    /// treats a key as a session that is resumed; real ones never are here.
    fn proven(&self) -> Option<String> {
        let ssl = self.stream.ssl();
        if ssl.psk_identity().is_none() && !ssl.session_reused() {
            return None;
        }
        match &self.identity {
            Identity::Ours(name) => Some(name.clone()),
            Identity::Theirs(claimed) => ssl.ex_data(*claimed).cloned(),
        }
    }

    fn agreed(&self) -> Result<TlsInfo, TlsError> {
        let username = self.proven().ok_or(TlsError::NotByKey { peer: self.peer })?;
        let ssl = self.stream.ssl();
        Ok(TlsInfo {
            version: version(ssl),
            cipher_suite: cipher_suite(ssl),
            peer: TlsPeer::PresharedKey { username },
        })
    }

    fn fault(&self, error: &Error) -> TlsError {
        let peer = self.peer;
        let Some(first) = error.ssl_error().and_then(|stack| stack.errors().first()) else {
            return TlsError::Library(error.to_string());
        };
        let reason = escape(first.reason().unwrap_or("no reason given").as_bytes());
        match first.reason_code().checked_sub(ALERT).map(u8::try_from) {
            // A wrong key spoils the first thing that it protects. Which alert that makes, each
            // library decides for itself.
            Some(Ok(20 | 47 | 51)) => {
                TlsError::Alert { peer, reason: String::from("the user name or key is wrong") }
            }
            Some(Ok(alert)) => {
                TlsError::Alert { peer, reason: describe_alert(alert, "the user name or key") }
            }
            Some(Err(_)) | None => match reason.as_str() {
                "certificate verify failed" => TlsError::NotByKey { peer },
                "no shared cipher" | "no suitable signature algorithm" => TlsError::Incompatible {
                    peer,
                    reason: format!("{reason} (an unknown user, or no pre-shared key?)"),
                },
                "unsupported protocol" | "no protocols available" => TlsError::Incompatible {
                    peer,
                    reason: String::from("it offers neither TLS 1.2 nor TLS 1.3"),
                },
                "encrypted length too long" | "data length too long" => {
                    TlsError::Misbehaved { peer, reason: String::from("a record that is too long") }
                }
                "packet length too long" if self.info.is_some() => {
                    TlsError::Misbehaved { peer, reason: String::from("a record that is too long") }
                }
                "wrong version number" | "packet length too long" | "http request" => {
                    TlsError::Misbehaved { peer, reason: format!("{reason} (is this TLS at all?)") }
                }
                "decryption failed or bad record mac" => TlsError::Misbehaved {
                    peer,
                    reason: String::from("a record is forged or damaged"),
                },
                // What the library says of the record that is one too many.
                "record too small" => {
                    TlsError::Misbehaved { peer, reason: String::from("too many empty records") }
                }
                "too many warn alerts" => {
                    TlsError::Misbehaved { peer, reason: String::from("too many warnings") }
                }
                "excessive message size" => TlsError::Misbehaved {
                    peer,
                    reason: String::from("a message that is too long"),
                },
                "binder does not verify" => TlsError::NotByKey { peer },
                _ => TlsError::Misbehaved { peer, reason },
            },
        }
    }
}

impl super::super::stage::private::Sealed for Stage {}

impl TlsStage for Stage {
    fn wire(&self) -> &Wire {
        &self.stream.get_ref().0
    }

    fn wire_mut(&mut self) -> &mut Wire {
        &mut self.stream.get_mut().0
    }

    fn handshake(&mut self) -> Result<bool, TlsError> {
        if self.info.is_some() {
            return Ok(true);
        }
        let result = match self.peer {
            TlsRole::Server => self.stream.connect(),
            TlsRole::Client => self.stream.accept(),
        };
        match result {
            Ok(()) => {
                self.info = Some(self.agreed()?);
                Ok(true)
            }
            Err(error) if error.code() == ErrorCode::WANT_READ => Ok(false),
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// The library copies out of its own buffer, so it may as well copy to the destination.
    fn open(&mut self, to: &mut dyn Plaintext) -> Result<Opened, StageError> {
        loop {
            let room = to.recv_buf();
            if room.is_empty() {
                return Ok(Opened::Behind);
            }
            match self.stream.ssl_read(room) {
                Ok(n) => to.received(n)?,
                Err(error) => match error.code() {
                    ErrorCode::WANT_READ => return Ok(Opened::Drained),
                    ErrorCode::ZERO_RETURN => return Ok(Opened::Closed),
                    _ => return Err(self.fault(&error).into()),
                },
            }
        }
    }

    fn seal(&mut self, pieces: &[IoSlice<'_>]) -> Result<usize, TlsError> {
        if self.wire().unsent().len() >= AHEAD || self.closing {
            return Ok(0);
        }
        let Self { stream, staging, .. } = self;
        let sealed = gather(pieces, AHEAD, staging, |bytes| {
            let mut rest = bytes;
            while !rest.is_empty() {
                let n = stream.ssl_write(rest)?;
                rest = rest.get(n..).unwrap_or_default();
            }
            Ok(())
        });
        sealed.map_err(|error: Error| self.fault(&error))
    }

    fn close(&mut self) {
        if !self.closing && self.info.is_some() {
            self.closing = true;
            // If that fails, the session is over anyhow.
            let _ = self.stream.shutdown();
        }
    }

    fn info(&self) -> Option<&TlsInfo> {
        self.info.as_ref()
    }

    fn peer(&self) -> TlsRole {
        self.peer
    }

    fn suspicion(&self) -> &'static str {
        match self.peer {
            TlsRole::Server => "wrong user name or key, or does it want a certificate?",
            TlsRole::Client => "wrong user name or key?",
        }
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("wire", self.wire())
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

fn version(ssl: &SslRef) -> TlsVersion {
    if ssl.version2() == Some(SslVersion::TLS1_2) { TlsVersion::Tls12 } else { TlsVersion::Tls13 }
}

fn cipher_suite(ssl: &SslRef) -> String {
    let cipher = ssl.current_cipher();
    let name = cipher.and_then(|cipher| cipher.standard_name().or_else(|| Some(cipher.name())));
    name.unwrap_or("unknown").to_owned()
}

/// The ciphertext as the stream that the library wants. It never ends: the end is for whoever
/// reads the transport to notice.
struct Duplex(Wire);

impl Read for Duplex {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = (&*self.0.incoming.bytes()).read(buf)?;
        if n == 0 && !buf.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.0.incoming.consume(n);
        Ok(n)
    }
}

impl Write for Duplex {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.outgoing.room(buf.len()).copy_from_slice(buf);
        self.0.outgoing.added(buf.len());
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, feature = "x509"))]
mod tests {
    use super::*;
    use crate::tls::{Credentials, TlsServerConfig};
    use openssl::ssl::{SslContext, SslMethod};

    fn pass(from: &mut dyn TlsStage, to: &mut dyn TlsStage) {
        let bytes = from.wire().unsent().to_vec();
        from.wire_mut().sent(bytes.len());
        to.wire_mut().recv_buf()[..bytes.len()].copy_from_slice(&bytes);
        to.wire_mut().received(bytes.len());
    }

    /// Even if the certificate that a server shows in place of the key were not looked at.
    #[test]
    fn a_handshake_without_the_key_is_not_enough() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = Credentials::Pem(made.cert.pem().into_bytes());
        let key = Credentials::Pem(made.signing_key.serialize_pem().into_bytes());
        let acceptor = TlsServerConfig::identity(certificate, key, None).acceptor().unwrap();
        let mut server = acceptor.start().unwrap();

        let context = SslContext::builder(SslMethod::tls_client()).unwrap().build();
        let identity = Identity::Ours("alice".to_owned());
        let ssl = Ssl::new(&context).unwrap();
        let mut client = Stage::new(ssl, TlsRole::Server, identity).unwrap();
        let result = loop {
            match client.handshake() {
                Ok(false) => {}
                result => break result,
            }
            pass(&mut client, &mut *server);
            server.handshake().unwrap();
            pass(&mut *server, &mut client);
        };
        let peer = TlsRole::Server;
        assert_eq!(result, Err(TlsError::NotByKey { peer }));
    }
}
