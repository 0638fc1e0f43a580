//! The process behind a connection: watched, signalled, and never left a zombie.

mod directory;
mod reaper;
mod signal;
mod spawn;
mod spawner;
mod stderr;

pub(crate) use directory::OwnDirectory;
pub use signal::Signal;
pub use spawn::Spawn;

use rustix::process::{Pid, kill_process};
use std::io;
use std::process::{Child, ExitStatus};
use std::time::Instant;
use stderr::StderrTail;

/// A program started for a connection.
///
/// What happens when it is dropped is [`OnDrop`]. To let a program end by itself, close its
/// socket and call [`wait`](Self::wait) or [`wait_until`](Self::wait_until) first.
///
/// In a process that was forked it is no longer the program's parent: nothing can be learnt of
/// the program there, and dropping it leaves the program and its socket alone.
#[derive(Debug)]
pub struct PeerProcess {
    child: Child,
    stderr: Option<StderrTail>,
    /// Holds the socket of an activated program; removed with this value.
    directory: Option<OwnDirectory>,
    on_drop: OnDrop,
}

/// What becomes of a program when its [`PeerProcess`] is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnDrop {
    /// It is asked to end, by `SIGTERM`, and not waited for: a thread collects its exit status,
    /// and sends `SIGKILL` when it has not ended five seconds later.
    #[default]
    Terminate,
    /// Dropping waits, for as long as it takes, until the program has ended. It will when it ends
    /// with its connection, and that was closed before.
    Wait,
    /// It is asked to end, by `SIGTERM`, and dropping waits for that, for as long as it takes.
    TerminateAndWait,
}

impl PeerProcess {
    fn new(mut child: Child) -> io::Result<Self> {
        let pipe = child.stderr.take();
        let mut peer = Self { child, stderr: None, directory: None, on_drop: OnDrop::default() };
        peer.stderr = pipe.map(StderrTail::follow).transpose()?;
        Ok(peer)
    }

    /// Keeps `directory` until the process is dropped.
    pub(crate) fn keep(&mut self, directory: OwnDirectory) {
        self.directory = Some(directory);
    }

    /// Says what becomes of the program when this is dropped.
    pub const fn set_on_drop(&mut self, on_drop: OnDrop) {
        self.on_drop = on_drop;
    }

    /// The process id. Once the process has ended and its status has been seen, the system may
    /// give it to another: use [`PeerProcess::kill`] to send signals.
    #[must_use]
    #[doc(alias = "nbd_get_subprocess_pid")]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the process ended, or `None` while it runs. Does not block.
    ///
    /// # Errors
    ///
    /// When the system cannot tell, for instance because somebody else collected the status.
    pub fn try_status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for the process to end, and says how it ended.
    ///
    /// # Errors
    ///
    /// As for [`PeerProcess::try_status`].
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// Waits for the process to end until `deadline` (for ever without one), and says how it
    /// ended; `None` when it still runs then.
    ///
    /// # Errors
    ///
    /// As for [`PeerProcess::try_status`].
    pub fn wait_until(&mut self, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
        match deadline {
            Some(deadline) => reaper::wait(&mut self.child, deadline),
            None => self.wait().map(Some),
        }
    }

    /// Sends `signal` to the process, unless it has ended.
    ///
    /// # Errors
    ///
    /// When the system refuses, for instance because the process changed its user.
    #[doc(alias = "nbd_kill_subprocess")]
    pub fn kill(&mut self, signal: Signal) -> io::Result<()> {
        // The id is surely that of our child only as long as its status has not been collected.
        if self.try_status()?.is_none() {
            kill_process(Pid::from_child(&self.child), signal.to_system())?;
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
        if self.on_drop != OnDrop::Wait {
            let _ = self.kill(Signal::TERM);
        }
        match self.on_drop {
            OnDrop::Terminate => {
                if let Ok(None) = self.try_status() {
                    reaper::retire(Pid::from_child(&self.child));
                }
            }
            OnDrop::Wait | OnDrop::TerminateAndWait => {
                let _ = self.wait();
            }
        }
    }
}
