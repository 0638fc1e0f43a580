//! Looking a name up in a thread.

use super::deadline::Deadline;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, PipeReader, Write, pipe};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The addresses of a host, asked for in a thread of its own.
///
/// Its descriptor becomes readable when there is an [answer](Self::answer). The thread ends when
/// the resolver does; a lookup that is dropped before leaves it to itself.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Has something to read once the thread has its answer.
    bell: PipeReader,
    thread: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

impl Lookup {
    /// Begins to ask for the addresses of `host`, in the order the system prefers.
    ///
    /// # Errors
    ///
    /// When there is no thread or no descriptor to be had.
    pub(super) fn start(host: String, port: u16) -> io::Result<Self> {
        let (bell, mut rope) = pipe()?;
        let ask = move || {
            let answer = look_up(&host, port);
            // Closing it is not enough: a process that was forked meanwhile holds it open. Who
            // does not listen any more has dropped the lookup.
            let _ = rope.write_all(b"!");
            answer
        };
        let thread = thread::Builder::new().name("nbd-resolver".to_owned()).spawn(ask)?;
        Ok(Self { bell, thread: Some(thread) })
    }

    /// What the host's addresses are, or why there are none; `None` as long as there is
    /// none, and after it was taken.
    pub(super) fn answer(&mut self) -> Option<io::Result<Vec<SocketAddr>>> {
        let mut fds = vec![PollFd::new(&self.bell, PollFlags::IN)];
        match Deadline::after(Duration::ZERO).poll(&mut fds) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(Err(error)),
        }
        let ended = |_| Err(io::Error::other("the resolver's thread ended without an answer"));
        Some(self.thread.take()?.join().unwrap_or_else(ended))
    }
}

impl AsFd for Lookup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

pub(super) fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((host, port).to_socket_addrs()?.collect())
}
