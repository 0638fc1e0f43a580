//! What all machines have in common: bytes in, bytes out.

use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::engine::Stats;
use crate::engine::intake::RecvBufs;
use crate::error::Error;
use crate::payload::{PayloadSink, PayloadSource};
use crate::types::Direction;

mod private {
    #[expect(unnameable_types, reason = "so that nobody else implements it")]
    pub trait Sealed {}

    impl Sealed for crate::Client {}
    impl Sealed for crate::Negotiation {}
    impl Sealed for crate::Server {}
    impl Sealed for crate::ServerNegotiation {}
}

/// A state machine that is driven with bytes: [`Negotiation`](crate::Negotiation),
/// [`Client`](crate::Client), [`ServerNegotiation`](crate::ServerNegotiation) and
/// [`Server`](crate::Server).
///
/// Receiving and sending each come in two forms, which may be mixed:
///
/// | | pull: the machine says where | push: the caller has the bytes |
/// |---|---|---|
/// | receive | [`recv_bufs`](Self::recv_bufs), read, [`received`](Self::received) | [`feed`](Self::feed) |
/// | send | [`for_each_unsent`](Self::for_each_unsent) or `send_bufs`, write, [`sent`](Self::sent) | [`drain`](Self::drain) |
///
/// With feature `std`, `notify_read` and `notify_write` do the pull form over any
/// [`Read`](std::io::Read) and [`Write`](std::io::Write).
///
/// There is no order to keep: any call is legal at any time, nothing has to be
/// drained before anything else, and what is reported waits in bounded storage.
/// After an error the machine is dead and returns the same error again; events
/// can still be taken from it.
///
/// It is sealed: there are these four.
pub trait Machine: private::Sealed {
    /// Where the next bytes go. Both parts are empty when nothing is wanted.
    fn recv_bufs<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> RecvBufs<'a>;

    /// Where the next bytes go, for transports that take one buffer at a time.
    /// Empty when nothing is wanted.
    fn recv_buf<'a, S: PayloadSink>(&'a mut self, sink: &'a mut S) -> &'a mut [u8];

    /// `n` bytes have been received into what was offered last, front to back.
    /// All of them are consumed. `n` may be 0, to parse on after the machine
    /// waited; end of file is told by [`eof`](Self::eof).
    ///
    /// # Errors
    /// When the peer's bytes end the connection, and when `n` is more than was
    /// offered.
    fn received<S: PayloadSink>(&mut self, n: usize, sink: &mut S) -> Result<(), Error>;

    /// Whether bytes that were received wait to be parsed: call
    /// [`received`](Self::received) with 0, or [`feed`](Self::feed) with nothing,
    /// before waiting for the peer, who may have said all there is to say. So it is
    /// after one machine handed over to the next, and after a machine waited for its
    /// caller.
    fn has_buffered(&self) -> bool;

    /// Takes received bytes from a slice of the caller's. Returns how many; fewer
    /// than given only while the machine waits for the caller, never on a
    /// [`Client`](crate::Client).
    ///
    /// # Errors
    /// When the peer's bytes end the connection.
    fn feed<S: PayloadSink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<usize, Error>;

    /// The peer will send no more.
    ///
    /// # Errors
    /// When something was still due.
    fn eof(&mut self) -> Result<(), Error>;

    /// Visits the bytes to send next, in order, until the visitor breaks off.
    ///
    /// They are the machine's until [`sent`](Self::sent) is told of them: a command that is
    /// abandoned, or a goodbye, may take them back. Whoever gives them to something that
    /// sends later, such as a ring of the kernel's, tells `sent` when it does so, and sends
    /// them whole or closes the connection; [`drain`](Self::drain) does the former.
    ///
    /// # Errors
    /// When the source lacks the payload that is due.
    fn for_each_unsent<'a, P, F>(&'a self, source: &'a P, visit: F) -> Result<(), Error>
    where
        P: PayloadSource + ?Sized,
        F: FnMut(&'a [u8]) -> ControlFlow<()>;

    /// `n` bytes of those have been sent.
    ///
    /// # Errors
    /// When `n` is more than there was to send.
    fn sent(&mut self, n: usize) -> Result<(), Error>;

    /// The transport takes no more bytes. What is queued is dropped; what the peer
    /// has sent already can still be received.
    fn send_failed(&mut self);

    /// What the machine waits for: the interest to register with a poller. Empty
    /// when the connection is over, or when only the caller can go on.
    #[doc(alias = "nbd_aio_get_direction")]
    fn get_direction(&self) -> Direction;

    /// Whether the connection is over, or ends by agreement: one side has said so
    /// and nothing more is due from the peer. Only then may a transport that can tell the end
    /// of a stream from its truncation, such as TLS, put up with either.
    fn is_ending(&self) -> bool;

    /// Commands whose reply the peer owes. 0 for whoever waits for no reply, but for questions.
    fn awaited(&self) -> usize;

    /// The state in words, for diagnostics only.
    #[doc(alias = "nbd_connection_state")]
    fn state_name(&self) -> &'static str;

    /// Counters.
    fn stats(&self) -> &Stats;

    /// Appends everything that is due to `out` and accounts for it as sent.
    /// Returns how many bytes that was.
    ///
    /// # Errors
    /// When the source lacks the payload that is due.
    fn drain<P>(&mut self, out: &mut Vec<u8>, source: &P) -> Result<usize, Error>
    where
        P: PayloadSource + ?Sized,
    {
        let before = out.len();
        self.for_each_unsent(source, |bytes| {
            out.extend_from_slice(bytes);
            ControlFlow::Continue(())
        })?;
        let n = out.len().saturating_sub(before);
        self.sent(n)?;
        Ok(n)
    }

    /// Fills `slices` with the bytes to send next, for a vectored write. Returns
    /// how many slices were filled.
    ///
    /// # Errors
    /// When the source lacks the payload that is due.
    #[cfg(feature = "std")]
    fn send_bufs<'a, P>(
        &'a self,
        source: &'a P,
        slices: &mut [std::io::IoSlice<'a>],
    ) -> Result<usize, Error>
    where
        P: PayloadSource + ?Sized,
    {
        let mut filled = 0;
        self.for_each_unsent(source, |bytes| match slices.get_mut(filled) {
            Some(slice) => {
                *slice = std::io::IoSlice::new(bytes);
                filled = filled.saturating_add(1);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        })?;
        Ok(filled)
    }

    /// Reads once. See [`notify_read`](Self::notify_read).
    ///
    /// # Errors
    /// When reading fails for another reason than having nothing to read, and when
    /// the peer's bytes end the connection.
    #[cfg(feature = "std")]
    fn read_from<R, S>(
        &mut self,
        io: &mut R,
        sink: &mut S,
        mode: crate::io::IoMode,
    ) -> Result<crate::io::Progress, crate::io::DriveError>
    where
        R: std::io::Read + ?Sized,
        S: PayloadSink,
        Self: Sized,
    {
        crate::io::read_once(self, io, sink, mode)
    }

    /// Reads as long as there is something to read, within a budget. To be called
    /// when a transport in non-blocking mode is readable.
    ///
    /// # Errors
    /// As [`read_from`](Self::read_from).
    #[cfg(feature = "std")]
    #[doc(alias = "nbd_aio_notify_read")]
    fn notify_read<R, S>(
        &mut self,
        io: &mut R,
        sink: &mut S,
        mode: crate::io::IoMode,
    ) -> Result<crate::io::Progress, crate::io::DriveError>
    where
        R: std::io::Read + ?Sized,
        S: PayloadSink,
        Self: Sized,
    {
        crate::io::notify_read(self, io, sink, mode)
    }

    /// Writes once. See [`notify_write`](Self::notify_write).
    ///
    /// # Errors
    /// When writing fails for another reason than lack of room, and when the source
    /// lacks the payload that is due.
    #[cfg(feature = "std")]
    fn write_to<W, P>(
        &mut self,
        io: &mut W,
        source: &P,
        mode: crate::io::IoMode,
    ) -> Result<crate::io::Progress, crate::io::DriveError>
    where
        W: std::io::Write + ?Sized,
        P: PayloadSource + ?Sized,
        Self: Sized,
    {
        crate::io::write_once(self, io, source, mode)
    }

    /// Writes as long as something is due and there is room, within a budget. To be
    /// called when a transport in non-blocking mode is writable, or right after
    /// something was queued.
    ///
    /// # Errors
    /// As [`write_to`](Self::write_to).
    #[cfg(feature = "std")]
    #[doc(alias = "nbd_aio_notify_write")]
    fn notify_write<W, P>(
        &mut self,
        io: &mut W,
        source: &P,
        mode: crate::io::IoMode,
    ) -> Result<crate::io::Progress, crate::io::DriveError>
    where
        W: std::io::Write + ?Sized,
        P: PayloadSource + ?Sized,
        Self: Sized,
    {
        crate::io::notify_write(self, io, source, mode)
    }
}
