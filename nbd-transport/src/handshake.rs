//! From a connected transport to the data phase.

use crate::link::{Link, LinkError};
use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{ApiMisuse, Client, ClientConfig, Direction, Discard, Machine, Negotiation, Phase};
use std::io::{Read, Write};

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
}

impl Handshake {
    /// A handshake of which nothing has happened yet.
    ///
    /// # Errors
    /// [`ApiMisuse::BadName`], see [`Negotiation::new`].
    pub fn new(config: ClientConfig) -> Result<Self, ApiMisuse> {
        Ok(Self {
            negotiation: Box::new(Negotiation::new(config)?),
            link: Link::plain(),
        })
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
            while self
                .link
                .direction(&*self.negotiation)
                .contains(Direction::WRITE)
            {
                let progress = self
                    .link
                    .write(&mut *self.negotiation, io, &Discard, mode)?;
                if progress != Progress::More {
                    break;
                }
            }
            let direction = self.link.direction(&*self.negotiation);
            if !direction.contains(Direction::READ) {
                return Ok(direction);
            }
            let before = self.negotiation.stats().bytes_received;
            if let Err(error) = self
                .link
                .read(&mut *self.negotiation, io, &mut Discard, mode)
            {
                // The machine may have a last word for the server; whether it arrives changes
                // nothing.
                let _ = self.link.write(&mut *self.negotiation, io, &Discard, mode);
                return Err(error);
            }
            if self.negotiation.stats().bytes_received == before {
                return Ok(self.link.direction(&*self.negotiation));
            }
            if self.negotiation.phase() == Phase::Idle {
                // Nothing is due from the server until the caller asks.
                return Ok(self.link.direction(&*self.negotiation) & Direction::WRITE);
            }
        }
    }

    /// The negotiation, to ask for options and to learn what became of them.
    pub fn negotiation(&mut self) -> &mut Negotiation {
        &mut self.negotiation
    }

    /// What the negotiation waits for.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.negotiation.phase()
    }

    /// The data phase, once established, and what carries its bytes.
    ///
    /// # Errors
    /// Gives itself back in any other phase, or while bytes are still to be sent.
    pub fn finish(self) -> Result<(Client, Link), Self> {
        match self.negotiation.finish() {
            Ok(client) => Ok((client, self.link)),
            Err(negotiation) => Err(Self {
                negotiation,
                link: self.link,
            }),
        }
    }
}
