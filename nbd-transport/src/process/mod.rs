//! The process behind a connection: watched, signalled, and never left a zombie.

mod reaper;
mod spawn;
mod spawner;
mod stderr;

pub use rustix::process::Signal;
pub use spawn::Spawn;

use crate::connect::Deadline;
use rustix::process::{Pid, kill_process};
use std::io;
use std::process::{Child, ExitStatus};
use std::time::Instant;
use stderr::StderrTail;
use tempfile::TempDir;

/// A program started for a connection.
///
/// Dropping it sends `SIGTERM` and returns at once. A thread collects the exit status, and sends
/// `SIGKILL` to a program that has not ended five seconds later. To let a program end by
/// itself, close its socket and call [`PeerProcess::wait_until`] first.
#[derive(Debug)]
pub struct PeerProcess {
    /// Taken only when dropping.
    child: Option<Child>,
    pid: u32,
    stderr: Option<StderrTail>,
    /// Holds the socket of an activated program; removed with this value.
    directory: Option<TempDir>,
}

impl PeerProcess {
    fn new(mut child: Child) -> io::Result<Self> {
        let (pid, pipe) = (child.id(), child.stderr.take());
        let mut peer = Self { child: Some(child), pid, stderr: None, directory: None };
        peer.stderr = pipe.map(StderrTail::follow).transpose()?;
        Ok(peer)
    }

    /// Keeps `directory` until the process is dropped.
    pub(crate) fn keep(&mut self, directory: TempDir) {
        self.directory = Some(directory);
    }

    /// The process id. Once the process has ended and its status has been seen, the system may
    /// give it to another: use [`PeerProcess::kill`] to send signals.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// How the process ended, or `None` while it runs. Does not block.
    ///
    /// # Errors
    ///
    /// When the system cannot tell, for instance because somebody else collected the status.
    pub fn try_status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), Child::try_wait)
    }

    /// Waits for the process to end until `deadline` (for ever without one), and says how it
    /// ended; `None` when it still runs then.
    ///
    /// # Errors
    ///
    /// As for [`PeerProcess::try_status`].
    pub fn wait_until(&mut self, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
        self.wait(deadline.into())
    }

    pub(crate) fn wait(&mut self, deadline: Deadline<'_>) -> io::Result<Option<ExitStatus>> {
        self.child.as_mut().map_or(Ok(None), |child| reaper::wait(child, deadline))
    }

    /// Sends `signal` to the process, unless it has ended.
    ///
    /// # Errors
    ///
    /// When the system refuses, for instance because the process changed its user.
    pub fn kill(&mut self, signal: Signal) -> io::Result<()> {
        // The id is surely that of our child only as long as its status has not been collected.
        if self.try_status()?.is_none()
            && let Some(pid) = self.child.as_ref().map(Pid::from_child)
        {
            kill_process(pid, signal)?;
        }
        Ok(())
    }

    /// The last 16 KiB that the process wrote to a captured standard error; otherwise empty.
    ///
    /// Of a process that has ended it is all of it: the call waits for the rest to be read, up
    /// to two seconds.
    pub fn stderr_tail(&mut self) -> String {
        let ended = matches!(self.try_status(), Ok(Some(_)));
        self.stderr.as_ref().map_or_else(String::new, |tail| tail.text(ended))
    }

    /// The same, of what has been read by now.
    pub(crate) fn stderr_so_far(&self) -> String {
        self.stderr.as_ref().map_or_else(String::new, |tail| tail.text(false))
    }

    /// Whether nothing more will come of its standard error.
    pub(crate) fn stderr_has_ended(&self) -> bool {
        self.stderr.as_ref().is_none_or(StderrTail::has_ended)
    }
}

impl Drop for PeerProcess {
    fn drop(&mut self) {
        // A failure means that there is nothing left to be ended, or nothing we may end.
        let _ = self.kill(Signal::TERM);
        if let Some(child) = self.child.take() {
            reaper::retire(child);
        }
    }
}
