//! What a poller watches for a connection, and when it need not.

use std::io;
use std::os::fd::RawFd;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::connection::Connection;

/// So many drives in a row have to take something in with no event between them. It costs two
/// calls to leave the poller and to come back.
const ENOUGH: u32 = 64;

/// Where a connection is registered, and what for.
///
/// Being watched has its price: with each reply the system tells the poller, in the server's
/// time. A caller who has commands to submit all the time drives again without polling, so
/// nobody listens. The connection leaves the poller then, and is back before the caller polls
/// again:
///
/// ```text
///              ENOUGH drives with replies, no event
///   watched ──────────────────────────────────────────► away: wants_again
///      ▲                                                  │
///      └──────────────────────────────────────────────────┘
///                a drive without a reply
/// ```
///
/// What has come in the meantime is not missed: a poller tells at registration of what is there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    token: Token,
    interest: Interest,
    fd: RawFd,
    /// The poller does not know of it.
    away: bool,
    /// Drives in a row that took something in, with no event between them.
    unasked: u32,
}

impl Watch {
    const fn new(token: Token, interest: Interest, fd: RawFd) -> Self {
        Self { token, interest, fd, away: false, unasked: 0 }
    }

    /// The poller has told something: it is listened to.
    pub(crate) const fn noted(&mut self) {
        self.unasked = 0;
    }

    /// Tells the registry if something else is to be watched after a drive, or elsewhere, or
    /// nothing. Says whether there has to be another drive before the next poll.
    pub(crate) fn follow(
        &mut self,
        registry: &Registry,
        fd: RawFd,
        interest: Interest,
        received: bool,
    ) -> io::Result<bool> {
        self.unasked = if received { self.unasked.saturating_add(1) } else { 0 };
        let leaves = self.unasked >= ENOUGH;
        let mut source = SourceFd(&fd);
        if self.away || self.fd != fd {
            if !leaves {
                source.register(registry, self.token, interest)?;
            }
        } else if leaves {
            source.deregister(registry)?;
        } else if self.interest != interest {
            source.reregister(registry, self.token, interest)?;
        }
        (self.fd, self.interest, self.away) = (fd, interest, leaves);
        Ok(leaves)
    }
}

/// What was given comes on top of what it waits for, until it is first driven.
impl<B> Source for Connection<B> {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        let fd = self.stage.raw_fd().ok_or(io::ErrorKind::NotConnected)?;
        let interest = interest | self.stage.interest(self.blocked);
        SourceFd(&fd).register(registry, token, interest)?;
        self.watch = Some(Watch::new(token, interest, fd));
        Ok(())
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        if self.watch.is_some_and(|watch| watch.away) {
            return self.register(registry, token, interest);
        }
        let fd = self.stage.raw_fd().ok_or(io::ErrorKind::NotConnected)?;
        let interest = interest | self.stage.interest(self.blocked);
        SourceFd(&fd).reregister(registry, token, interest)?;
        self.watch = Some(Watch::new(token, interest, fd));
        Ok(())
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        let away = self.watch.take().is_some_and(|watch| watch.away);
        match self.stage.raw_fd() {
            Some(fd) if !away => SourceFd(&fd).deregister(registry),
            // A socket that is closed already has left by itself.
            _ => Ok(()),
        }
    }
}
