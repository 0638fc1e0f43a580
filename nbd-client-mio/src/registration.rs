//! What a poller watches for a connection, and when it need not.

use std::io::{self, ErrorKind};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Registry, Token};

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
    /// Drives in a row that took something in, with no event between them.
    pub(crate) unasked: u32,
}

impl Registration {
    pub(crate) const fn new(token: Token) -> Self {
        Self { token, watched: Vec::new(), spare: Vec::new(), unasked: 0 }
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
        if self.unasked >= ENOUGH {
            self.leave(registry, watch)?;
            return Ok(true);
        }
        self.spare.clear();
        watch(&mut self.spare);
        for entry in self.spare.iter().filter(|entry| !self.watched.contains(entry)) {
            tell(registry, self.token, entry)?;
        }
        std::mem::swap(&mut self.watched, &mut self.spare);
        Ok(false)
    }

    /// Has nothing watched. What was closed has left by itself, and its number may be that of
    /// another descriptor by now.
    pub(crate) fn leave(
        &mut self,
        registry: &Registry,
        watch: impl FnOnce(&mut Vec<Watched>),
    ) -> io::Result<()> {
        self.spare.clear();
        watch(&mut self.spare);
        for entry in self.watched.drain(..) {
            if self.spare.iter().any(|present| present.is_same(&entry)) {
                SourceFd(&entry.fd).deregister(registry)?;
            }
        }
        Ok(())
    }
}

/// Registers what is new, or wanted for something else than before.
///
/// Another descriptor of the same number may have been closed, and left; or it has been handed
/// on from the way to the server to the stream, and is still there.
fn tell(registry: &Registry, token: Token, new: &Watched) -> io::Result<()> {
    let mut source = SourceFd(&new.fd);
    match source.reregister(registry, token, new.interest) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            source.register(registry, token, new.interest)
        }
        told => told,
    }
}
