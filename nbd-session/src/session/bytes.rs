//! Reading and writing.

use std::io::{Read, Write};
use std::time::Instant;

use nbd_proto::io::Progress;
use nbd_proto::{Direction, Machine, PayloadSink, PayloadSource};

use super::loss::closed;
use super::outflow::Noted;
use super::payload::Payloads;
use super::{Goodbye, Open, Session, Stage};
use crate::error::Error;
use crate::link::LinkError;
use crate::outgoing::Outgoing;

impl Session {
    /// Reads once from the stream, which may wait; what has come is taken in. `payload` is
    /// where the data of reads goes, by the ids of their commands.
    ///
    /// Returns [`Progress::More`] when there may be more to read at once, [`Progress::Blocked`]
    /// when not, and [`Progress::Closed`] when this stream is of no use any more: then
    /// [`next_step`](Self::next_step) says what follows.
    ///
    /// Bytes that were received by other means are a stream of their own, that is never at its
    /// end but has nothing more to read for now: see [`Received`](crate::Received).
    #[inline]
    pub fn read<R, P>(&mut self, io: &mut R, payload: &mut P, now: Instant) -> Progress
    where
        R: Read + ?Sized,
        P: PayloadSink,
    {
        self.silence.tell(now);
        self.again.remove(Direction::READ);
        let Stage::Open(Open { core, link }) = &mut self.stage else {
            return self.read_negotiating(io, now);
        };
        if self.end.is_some() {
            return Progress::Closed;
        }
        let mut payloads = Payloads {
            log: self.recovery.as_deref().and_then(|recovery| recovery.log.as_ref()),
            leaving: None,
            details: &mut self.details,
            lent: payload,
        };
        let result = link.read(core, io, &mut payloads, self.attempts.mode);
        self.silence.look_after_read(core);
        self.settle(result, Direction::READ, now)
    }

    /// Writes once to the stream. `payload` is where the data of writes comes from.
    ///
    /// Returns as [`read`](Self::read). A stream that takes nothing more is not closed yet:
    /// what the peer has said already can still be read.
    ///
    /// What the stream takes has left: that it takes more after it had no room for a while is a
    /// sign of life. A buffer that is sent by other means is for [`fill`](Self::fill).
    #[inline]
    pub fn write<W, P>(&mut self, io: &mut W, payload: &mut P, now: Instant) -> Progress
    where
        W: Write + ?Sized,
        P: PayloadSource,
    {
        let mut io = Noted::new(io);
        let progress = self.write_once(&mut io, payload, now);
        if self.silence.outflow.is_followed() {
            let all = !self.direction().contains(Direction::WRITE);
            self.note_outflow(io.took, io.had_no_room, all, now);
        }
        progress
    }

    /// Puts what is due into a buffer, from which it is sent by other means: for transports that
    /// are handed what to send. [`sent`](Self::sent) is to be told how much of it has gone.
    pub fn fill<P>(&mut self, outgoing: &mut Outgoing, payload: &mut P, now: Instant)
    where
        P: PayloadSource,
    {
        while self.direction().contains(Direction::WRITE)
            && self.write_once(outgoing, payload, now) == Progress::More
        {}
        if let Stage::Open(Open { core, .. }) = &self.stage {
            self.silence.look(core);
        }
    }

    /// The transport has taken so many bytes of the [buffer](Self::fill); 0 when it has no room
    /// for any.
    pub fn sent(&mut self, outgoing: &mut Outgoing, count: usize, now: Instant) {
        outgoing.sent(count);
        if self.silence.outflow.is_followed() {
            self.silence.tell(now);
            let all = outgoing.is_empty() && !self.direction().contains(Direction::WRITE);
            self.note_outflow(count > 0, count == 0, all, now);
        }
    }

    fn note_outflow(&mut self, took: bool, had_no_room: bool, all: bool, now: Instant) {
        let Stage::Open(Open { core, .. }) = &self.stage else { return };
        if took {
            self.silence.outflow.took(all, now);
        } else if had_no_room {
            self.silence.outflow.has_no_room(now);
        }
        self.silence.look(core);
    }

    #[inline]
    fn write_once<W, P>(&mut self, io: &mut W, payload: &mut P, now: Instant) -> Progress
    where
        W: Write + ?Sized,
        P: PayloadSource,
    {
        self.silence.tell(now);
        self.again.remove(Direction::WRITE);
        let Stage::Open(Open { core, link }) = &mut self.stage else {
            return self.write_negotiating(io, now);
        };
        if self.end.is_some() {
            return Progress::Closed;
        }
        let payloads = Payloads {
            log: self.recovery.as_deref().and_then(|recovery| recovery.log.as_ref()),
            leaving: self.leaving.as_ref(),
            details: &mut self.details,
            lent: payload,
        };
        let before = core.outstanding().sent_operations();
        let result = link.write(core, io, &payloads, self.attempts.mode);
        let after = core.outstanding().sent_operations();
        self.silence.outflow.prepared(after.saturating_sub(before));
        match result {
            Ok(Progress::Closed) => {
                self.write_refused(now);
                Progress::Blocked
            }
            result => self.settle(result, Direction::WRITE, now),
        }
    }

    #[inline]
    fn settle(
        &mut self,
        result: Result<Progress, LinkError>,
        direction: Direction,
        now: Instant,
    ) -> Progress {
        let progress = match result {
            Ok(progress) => progress,
            Err(error) => return self.failed(error, now),
        };
        let plain = self.recovery.is_none() && matches!(self.goodbye, Goodbye::No);
        if plain && progress != Progress::Closed {
            self.again.set(direction, progress == Progress::More);
            return progress;
        }
        self.settle_cold(progress, direction, now)
    }

    #[cold]
    fn failed(&mut self, error: LinkError, now: Instant) -> Progress {
        self.lost(error.into(), now);
        Progress::Closed
    }

    #[cold]
    fn settle_cold(&mut self, progress: Progress, direction: Direction, now: Instant) -> Progress {
        match progress {
            Progress::Blocked | Progress::More => {
                self.again.set(direction, progress == Progress::More);
                self.drain(now);
                if self.has_drained() {
                    // The server said that it is shutting down, and has nothing more to say.
                    self.lost(closed(), now);
                    return Progress::Closed;
                }
                self.wind_up(now);
                progress
            }
            Progress::Closed => {
                self.lost(closed(), now);
                Progress::Closed
            }
        }
    }

    /// The stream takes nothing more, though more may come: for adapters that learn that outside
    /// of a [write](Self::write).
    pub fn stop_sending(&mut self, now: Instant) {
        match &mut self.stage {
            _ if self.end.is_some() => {}
            Stage::Open(Open { core, .. }) => {
                core.send_failed();
                self.write_refused(now);
            }
            _ => self.fail(std::io::Error::from(std::io::ErrorKind::BrokenPipe), now),
        }
    }

    /// The server takes no more. Replies may still come, but not for ever.
    #[cold]
    fn write_refused(&mut self, now: Instant) {
        self.refused = true;
        self.linger_on(now);
        self.drain(now);
    }

    #[cold]
    fn read_negotiating<R: Read + ?Sized>(&mut self, io: &mut R, now: Instant) -> Progress {
        let mode = self.attempts.mode;
        // A late event of a stream that was closed.
        let Stage::Negotiating(negotiating) = &mut self.stage else { return Progress::Closed };
        let result = negotiating.handshake.read(io, mode);
        self.negotiated_so_far(result, now)
    }

    #[cold]
    fn write_negotiating<W: Write + ?Sized>(&mut self, io: &mut W, now: Instant) -> Progress {
        let mode = self.attempts.mode;
        // As when reading.
        let Stage::Negotiating(negotiating) = &mut self.stage else { return Progress::Closed };
        let result = negotiating.handshake.write(io, mode);
        self.negotiated_so_far(result, now)
    }

    /// Ends this connection, though not the session: for adapters whose stream failed outside
    /// of a read or write.
    pub fn fail(&mut self, cause: impl Into<Error>, now: Instant) {
        if self.end.is_none() {
            self.lost(cause.into(), now);
        }
    }
}
