//! What a poller watches for a connection, and when it need not.

use std::io::{self, ErrorKind};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::connection::Connection;
use crate::wire::Watched;

/// So many drives in a row have to take something in with no event between them. It costs two
/// calls to leave the poller and to come back.
const ENOUGH: u32 = 64;

/// Where a connection is registered, and with what.
///
/// While it connects there may be several descriptors; all of them have the one token. What is
/// closed leaves the poller by itself.
///
/// Being watched has its price: with each reply the system tells the poller, in the server's
/// time. A caller who has commands to submit all the time drives again without polling, so
/// nobody listens. The connection leaves the poller then, and is back before the caller polls
/// again:
///
/// ```text
///              ENOUGH drives with replies, no event
///   watched ──────────────────────────────────────────► away: needs_drive
///      ▲                                                  │
///      └──────────────────────────────────────────────────┘
///                a drive without a reply
/// ```
///
/// What has come in the meantime is not missed: a poller tells at registration of what is there.
#[derive(Debug)]
pub(crate) struct Registration {
    token: Token,
    watched: Vec<Watched>,
    /// For the next look, so that none of them allocates.
    spare: Vec<Watched>,
    /// The poller does not know of it.
    away: bool,
    /// Drives in a row that took something in, with no event between them.
    unasked: u32,
}

impl Registration {
    const fn new(token: Token) -> Self {
        Self { token, watched: Vec::new(), spare: Vec::new(), away: false, unasked: 0 }
    }

    /// The poller has told something: it is listened to.
    pub(crate) const fn heard(&mut self) {
        self.unasked = 0;
    }

    /// Tells the registry what is to be watched from now on. Says whether there has to be
    /// another drive before the next poll.
    pub(crate) fn follow(
        &mut self,
        registry: &Registry,
        received: bool,
        watch: impl FnOnce(&mut Vec<Watched>),
    ) -> io::Result<bool> {
        self.unasked = if received { self.unasked.saturating_add(1) } else { 0 };
        let leaves = self.unasked >= ENOUGH;
        self.spare.clear();
        watch(&mut self.spare);
        if leaves {
            if !self.away {
                for entry in self.watched.drain(..) {
                    SourceFd(&entry.fd).deregister(registry)?;
                }
            }
        } else {
            for entry in &self.spare {
                tell(registry, self.token, *entry, &self.watched)?;
            }
            std::mem::swap(&mut self.watched, &mut self.spare);
        }
        self.away = leaves;
        Ok(leaves)
    }
}

/// Registers what is new, or wanted for something else than before.
///
/// Another descriptor of the same number may have been closed, and left; or it has been handed
/// on from the way to the server to the stream, and is still there.
fn tell(registry: &Registry, token: Token, new: Watched, old: &[Watched]) -> io::Result<()> {
    let mut source = SourceFd(&new.fd);
    let before = old.iter().find(|old| old.is_same(&new));
    match before {
        Some(before) if before.interest == new.interest => Ok(()),
        Some(_) => source.reregister(registry, token, new.interest),
        None => match source.register(registry, token, new.interest) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                source.reregister(registry, token, new.interest)
            }
            registered => registered,
        },
    }
}

/// It follows what it waits for; the interest that is given makes no difference. Between two
/// connections there is nothing to watch.
impl<B> Source for Connection<B> {
    fn register(&mut self, registry: &Registry, token: Token, _: Interest) -> io::Result<()> {
        let mut registration = Registration::new(token);
        let direction = self.session.direction();
        registration.follow(registry, false, |watch| self.wire.watched(direction, watch))?;
        self.registration = Some(registration);
        Ok(())
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.deregister(registry)?;
        self.register(registry, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        let Some(registration) = self.registration.take() else { return Ok(()) };
        let mut present = Vec::new();
        self.wire.watched(self.session.direction(), &mut present);
        // What was closed meanwhile has left by itself, and its number may be another's.
        let there = |old: &&Watched| present.iter().any(|new| new.is_same(old));
        for entry in registration.watched.iter().filter(there) {
            SourceFd(&entry.fd).deregister(registry)?;
        }
        Ok(())
    }
}
