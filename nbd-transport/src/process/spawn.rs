//! A program that is ready to be started.

use super::{PeerProcess, spawner};
use crate::command::CommandSpec;
use std::ffi::{OsStr, OsString};
use std::io;
use std::process::Command;

/// A program that is ready to be started, its end of the connection included.
///
/// Starting it takes about a millisecond, in which the system makes a process and begins to run
/// the program.
#[derive(Debug)]
pub struct Spawn {
    program: OsString,
    command: Command,
}

impl Spawn {
    pub(crate) fn new(spec: &CommandSpec, command: Command) -> Self {
        Self { program: spec.program().to_owned(), command }
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    /// Starts it from a thread that lasts as long as this process.
    ///
    /// A program may ask to be ended with its parent, as `nbdkit --exit-with-parent` does, and to
    /// Linux the parent is the thread that started it. So this is right whichever thread calls
    /// it.
    ///
    /// # Errors
    ///
    /// What the system says: the program does not exist, or there is no process to be had.
    pub fn start(self) -> io::Result<PeerProcess> {
        PeerProcess::new(spawner::spawn(self.command)?)
    }

    /// Starts it from the calling thread, and makes no other: for a thread that lasts, such as
    /// the first one of a process.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_from_this_thread(mut self) -> io::Result<PeerProcess> {
        let child = self.command.spawn()?;
        // Its end of the connection goes before anything else happens: when the program dies
        // nobody must be left to hold what nobody serves.
        drop(self.command);
        PeerProcess::new(child)
    }
}
