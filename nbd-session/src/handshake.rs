//! From a connected transport to the data phase.

use crate::link::{Link, LinkError};
use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{
    ApiMisuse, Client, ClientConfig, Direction, Discard, Machine, Negotiation, Phase, Stats,
};
use nbd_transport::tls::{TlsConnector, TlsError, TlsInfo};
use std::io::{Read, Write};
use std::mem;

/// A negotiation on its way over a transport, driven without waiting.
///
/// ```text
///   drive ──► wait for the direction it returned ──► drive ──► ...
///                 │ empty: the negotiation wants its caller
///                 ├─ Idle: ask for an option through `negotiation`, drive again
///                 └─ Established: `finish`
/// ```
#[derive(Debug)]
pub struct Handshake {
    negotiation: Box<Negotiation>,
    link: Link,
    tls: Tls,
}

/// Whether there is something to start TLS with.
#[derive(Debug)]
enum Tls {
    /// Nothing, or it has been started.
    None,
    /// It will be given once it is wanted.
    Later,
    Ready(Credentials),
}

/// What TLS is started with.
#[derive(Debug)]
struct Credentials {
    connector: TlsConnector,
    host: Option<String>,
}

impl Handshake {
    /// A handshake of which nothing has happened yet, without credentials for TLS. If the
    /// configuration asks for TLS all the same and the server agrees,
    /// [`drive`](Self::drive) fails with [`TlsError::NotConfigured`].
    ///
    /// # Errors
    /// [`ApiMisuse::BadName`], see [`Negotiation::new`].
    pub fn new(config: ClientConfig) -> Result<Self, ApiMisuse> {
        Ok(Self {
            negotiation: Box::new(Negotiation::new(config)?),
            link: Link::plain(),
            tls: Tls::None,
        })
    }

    /// A handshake with credentials for TLS. Whether they are used is for the configuration
    /// ([`ClientConfig::tls`]) and the server to say.
    ///
    /// `host` is the host that was connected to, with which the server's certificate is compared;
    /// none for a transport without host names.
    ///
    /// # Errors
    /// [`ApiMisuse::BadName`], see [`Negotiation::new`].
    pub fn with_tls(
        config: ClientConfig,
        connector: TlsConnector,
        host: Option<&str>,
    ) -> Result<Self, ApiMisuse> {
        let host = host.map(str::to_owned);
        let tls = Tls::Ready(Credentials { connector, host });
        Ok(Self { tls, ..Self::new(config)? })
    }

    /// A handshake whose credentials for TLS are given by
    /// [`give_credentials`](Self::give_credentials) when it
    /// [wants](Self::wants_credentials) them, which is when the server has agreed to TLS.
    ///
    /// # Errors
    /// [`ApiMisuse::BadName`], see [`Negotiation::new`].
    pub fn with_late_tls(config: ClientConfig) -> Result<Self, ApiMisuse> {
        Ok(Self { tls: Tls::Later, ..Self::new(config)? })
    }

    /// Whether the server has agreed to TLS, and nothing goes on before there are
    /// [credentials](Self::give_credentials).
    #[must_use]
    pub fn wants_credentials(&self) -> bool {
        matches!(self.tls, Tls::Later) && !self.link.is_tls() && self.is_upgradable()
    }

    /// Starts TLS with these credentials, if they are [wanted](Self::wants_credentials). `host`
    /// is as in [`with_tls`](Self::with_tls).
    ///
    /// # Errors
    /// When TLS cannot be started.
    pub fn give_credentials(
        &mut self,
        connector: TlsConnector,
        host: Option<String>,
    ) -> Result<(), LinkError> {
        if self.wants_credentials() {
            self.tls = Tls::Ready(Credentials { connector, host });
        }
        self.upgrade()
    }

    /// Writes what is due and reads what has come, as long as there is any. Returns what to wait
    /// for; nothing when the negotiation wants its caller, or is over.
    ///
    /// # Errors
    /// When the transport fails, the server breaks the protocol, or refuses what the connection
    /// cannot do without.
    pub fn drive<T>(&mut self, io: &mut T, mode: IoMode) -> Result<Direction, LinkError>
    where
        T: Read + Write + ?Sized,
    {
        loop {
            while self.direction().contains(Direction::WRITE) {
                if self.write(io, mode)? != Progress::More {
                    break;
                }
            }
            let direction = self.direction();
            if !direction.contains(Direction::READ) {
                return Ok(direction);
            }
            let before = self.negotiation.stats().bytes_received;
            let progress = match self.read(io, mode) {
                Ok(progress) => progress,
                Err(error) => {
                    // There may be a last word for the server; whether it arrives changes nothing.
                    let _ = self.write(io, mode);
                    return Err(error);
                }
            };
            let received = self.negotiation.stats().bytes_received > before;
            if !received && progress != Progress::More {
                return Ok(self.direction());
            }
        }
    }

    /// Reads once.
    ///
    /// # Errors
    /// As [`drive`](Self::drive).
    pub fn read<R>(&mut self, io: &mut R, mode: IoMode) -> Result<Progress, LinkError>
    where
        R: Read + ?Sized,
    {
        let progress = self.link.read(&mut *self.negotiation, io, &mut Discard, mode)?;
        self.upgrade()?;
        Ok(progress)
    }

    /// Writes once.
    ///
    /// # Errors
    /// As [`drive`](Self::drive).
    pub fn write<W>(&mut self, io: &mut W, mode: IoMode) -> Result<Progress, LinkError>
    where
        W: Write + ?Sized,
    {
        let progress = self.link.write(&mut *self.negotiation, io, &Discard, mode)?;
        self.upgrade()?;
        Ok(progress)
    }

    /// What to wait for on the transport; nothing when the negotiation wants its caller, or is
    /// over.
    #[must_use]
    pub fn direction(&self) -> Direction {
        let direction = self.link.direction(&*self.negotiation);
        if self.negotiation.phase() == Phase::Idle {
            // Nothing is due from the server until the caller asks.
            return direction & Direction::WRITE;
        }
        direction
    }

    /// What the peer may still be told after an error, such as why TLS failed. Whether it
    /// arrives changes nothing.
    pub fn last_word(&mut self) -> Vec<u8> {
        let mut word = Vec::new();
        // That the negotiation ends, if it can still be told.
        let _ = self.write(&mut word, IoMode::Single);
        word.append(&mut self.link.last_word());
        word
    }

    /// Whether TLS can be started, or its end be told to the negotiation.
    fn is_upgradable(&self) -> bool {
        self.negotiation.phase() == Phase::StartTls
            && !self.negotiation.get_direction().contains(Direction::WRITE)
            && !self.link.is_handshaking()
    }

    fn upgrade(&mut self) -> Result<(), LinkError> {
        if !self.is_upgradable() {
            return Ok(());
        }
        if self.link.is_tls() {
            return Ok(self.negotiation.tls_ready()?);
        }
        let Credentials { connector, host } = match mem::replace(&mut self.tls, Tls::None) {
            Tls::Ready(credentials) => credentials,
            Tls::None => return Err(TlsError::NotConfigured.into()),
            Tls::Later => {
                self.tls = Tls::Later;
                return Ok(());
            }
        };
        self.link.start_tls(connector.start(host.as_deref())?);
        Ok(())
    }

    /// Whether something was received that raises no event any more: read without waiting.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        self.link.is_behind() || self.negotiation.has_buffered()
    }

    /// The negotiation, to ask for options and to learn what became of them.
    pub fn negotiation(&mut self) -> &mut Negotiation {
        &mut self.negotiation
    }

    /// The negotiation, for questions.
    #[must_use]
    pub fn peek(&self) -> &Negotiation {
        &self.negotiation
    }

    /// Counters of the protocol so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        self.negotiation.stats()
    }

    /// What the negotiation waits for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.negotiation.phase()
    }

    /// What was agreed on for TLS, once it is in use.
    #[must_use]
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        self.link.tls_info()
    }

    /// The data phase, once established, and what carries its bytes.
    ///
    /// # Errors
    /// Gives itself back in any other phase, or while bytes are still to be sent.
    pub fn finish(self) -> Result<(Client, Link), Self> {
        match self.negotiation.finish() {
            Ok(client) => Ok((client, self.link)),
            Err(negotiation) => Err(Self { negotiation, link: self.link, tls: self.tls }),
        }
    }
}
