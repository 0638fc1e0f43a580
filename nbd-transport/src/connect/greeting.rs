//! The first byte of a program that was started, or its end.

use super::error::ConnectError;
use super::program::Server;
use crate::connection::Stream;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use std::io;
use std::time::{Duration, Instant};

/// How long a program that closed its socket may take to end, so that its status can be told.
const ENDING: Duration = Duration::from_secs(3);

/// The pauses between two looks at a program: short at first, for most end at once.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Waiting until a program has sent something. Servers speak first (proto.md, "Newstyle
/// negotiation" and "Oldstyle negotiation"), and a program that cannot start never does.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) id: u32,
    pub(super) stream: Stream,
    pub(super) server: Server,
}

pub(super) enum Heard {
    Nothing,
    Greeting,
    End,
    Fault(io::Error),
}

impl Greeting {
    pub(super) fn listen(&self) -> Heard {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| recv(&self.stream, &mut [0; 1], flags)) {
            Ok((1.., _)) => Heard::Greeting,
            Ok((0, _)) | Err(Errno::CONNRESET) => Heard::End,
            Err(Errno::AGAIN) => Heard::Nothing,
            Err(error) => Heard::Fault(error.into()),
        }
    }
}

/// A program that closed its socket, most likely because it ends: how, is to be told.
#[derive(Debug)]
pub(super) struct Ending {
    server: Server,
    since: Instant,
    next_look: Instant,
    pause: Duration,
}

impl Ending {
    pub(super) const fn new(server: Server, now: Instant) -> Self {
        Self { server, since: now, next_look: now, pause: FIRST_PAUSE }
    }

    pub(super) const fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Whether all is known that can be.
    pub(super) fn look(&mut self, now: Instant) -> io::Result<bool> {
        let peer = &mut self.server.peer;
        let ended = peer.try_status()?.is_some() && peer.stderr_has_ended();
        if ended || now.saturating_duration_since(self.since) >= ENDING {
            return Ok(true);
        }
        if now >= self.next_look {
            self.next_look = now + self.pause;
            self.pause = LONGEST_PAUSE.min(self.pause * 2);
        }
        Ok(false)
    }

    /// What is known.
    pub(super) fn into_error(self) -> ConnectError {
        let Server { program, mut peer } = self.server;
        let status = peer.try_status().unwrap_or_default();
        ConnectError::PeerClosed { program, status, stderr: peer.stderr_so_far() }
    }
}
