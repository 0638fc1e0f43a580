//! A connected socket as `Read` and `Write`, with the wish to wait decided call by call.

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, recvmsg, send,
    sendmsg, shutdown,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::BorrowedFd;

/// Sending never waits, and tells of a peer that is gone by an error, never by a signal. Where
/// the system knows that wish for a socket only, not for a call, `Stream::new` has expressed it.
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::DONTWAIT;

/// A socket for the length of a few calls.
///
/// Whether a call may wait is not a mode of the socket here but of the call, so one thread can
/// send without waiting and then wait for an answer, with no further system call in between. A
/// peer that is gone is an error and never a signal.
#[derive(Debug)]
pub struct SocketIo<'a> {
    socket: BorrowedFd<'a>,
    receive: RecvFlags,
    send: SendFlags,
    calls: u64,
    starved: bool,
}

impl<'a> SocketIo<'a> {
    /// Neither reading nor writing waits.
    #[must_use]
    pub const fn non_blocking(socket: BorrowedFd<'a>) -> Self {
        Self { socket, receive: RecvFlags::DONTWAIT, send: SEND, calls: 0, starved: false }
    }

    /// Reading waits for something to read, as long as the socket's receive timeout allows;
    /// writing does not wait.
    #[must_use]
    pub const fn blocking_read(socket: BorrowedFd<'a>) -> Self {
        Self { socket, receive: RecvFlags::empty(), send: SEND, calls: 0, starved: false }
    }

    /// System calls made so far.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.calls
    }

    /// Whether the last read found nothing: at once, or after the receive timeout.
    #[must_use]
    pub const fn starved(&self) -> bool {
        self.starved
    }

    /// Sends nothing more, though more may come. That a peer is gone already is no loss.
    pub fn shut_down(&mut self) {
        self.calls += 1;
        let _ = shutdown(self.socket, Shutdown::Write);
    }

    fn sent(&mut self, result: Result<usize, Errno>) -> io::Result<usize> {
        self.calls += 1;
        Ok(result?)
    }

    fn received<T>(&mut self, result: Result<T, Errno>) -> io::Result<T> {
        self.calls += 1;
        self.starved = matches!(result, Err(Errno::AGAIN));
        Ok(result?)
    }
}

impl Read for SocketIo<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let result = recv(self.socket, buf, self.receive);
        self.received(result).map(|(received, _)| received)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut control = RecvAncillaryBuffer::default();
        let result = recvmsg(self.socket, bufs, &mut control, self.receive);
        self.received(result).map(|message| message.bytes)
    }
}

impl Write for SocketIo<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let result = send(self.socket, buf, self.send);
        self.sent(result)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut control = SendAncillaryBuffer::default();
        let result = sendmsg(self.socket, bufs, &mut control, self.send);
        self.sent(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
