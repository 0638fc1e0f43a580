//! A socket on its way to a server, of which only the outcome is waited for.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use compio::runtime::fd::PollFd;
use futures_channel::oneshot::{Receiver, channel};
use futures_util::future::{Either, select};
use nbd_client_async::{IoCall, Watched};

use crate::thread::spawn;

/// A socket, and an operation that is complete when it is ready.
pub(crate) struct Descriptor {
    socket: OwnedFd,
    read: Option<Receiver<io::Result<()>>>,
    write: Option<Receiver<io::Result<()>>>,
}

impl Descriptor {
    pub(crate) const fn new(socket: OwnedFd) -> Self {
        Self { socket, read: None, write: None }
    }

    /// Waits for a direction, in a task: compio's operations stay with their thread. It ends
    /// with this.
    fn begin(&self, write: bool) -> io::Result<Receiver<io::Result<()>>> {
        let socket = self.socket.try_clone()?;
        let (mut tell, told) = channel();
        spawn(async move {
            let ready = Box::pin(async move {
                let socket = PollFd::new(socket)?;
                if write { socket.write_ready().await } else { socket.read_ready().await }
            });
            if let Either::Left((result, _)) = select(ready, tell.cancellation()).await {
                // Nobody may be waiting any more.
                let _ = tell.send(result);
            }
        })?;
        Ok(told)
    }

    fn poll(
        &mut self,
        write: bool,
        cx: &mut Context<'_>,
        io: IoCall<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match io(self.socket.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            let begun = if write { &mut self.write } else { &mut self.read };
            let mut waits = match begun.take() {
                Some(waits) => waits,
                None => self.begin(write)?,
            };
            let ready = Pin::new(&mut waits).poll(cx);
            let begun = if write { &mut self.write } else { &mut self.read };
            if ready.is_pending() {
                *begun = Some(waits);
            }
            ready!(ready).map_err(io::Error::other)??;
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Watched for Descriptor {
    fn poll_read_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
        self.poll(false, cx, io)
    }

    fn poll_write_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
        self.poll(true, cx, io)
    }
}
