//! One machine at one end of a pipe, driven by pull or by push.

use std::io::{self, Read, Write};

use nbd_proto::io::{DriveError, IoMode, Progress};
use nbd_proto::{Direction, Machine, PayloadSink, PayloadSource};

use crate::pipe::End;
use crate::rng::Rng;

/// Which form of a machine's methods moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// The machine says where bytes go: `recv_bufs`, `send_bufs`.
    Pull(IoMode),
    /// The bytes are here already: `feed` in pieces of that size, and `drain`.
    Push(usize),
}

impl Drive {
    /// Any of them.
    pub fn random(rng: &mut Rng) -> Self {
        rng.pick(&[
            Self::Pull(IoMode::Vectored),
            Self::Pull(IoMode::Vectored),
            Self::Pull(IoMode::Single),
            Self::Push(64 << 10),
            Self::Push(5),
        ])
    }
}

/// An end of a pipe and what is on its way between it and a machine. It outlives
/// the machine: the data phase goes on where the negotiation stopped.
#[derive(Debug)]
pub struct Link {
    end: End,
    drive: Drive,
    /// Read from the pipe, not yet taken by a machine that waits.
    arrived: Vec<u8>,
    /// Drained from a machine, not yet taken by the pipe.
    leaving: Vec<u8>,
    /// How much of that the pipe has taken.
    left: usize,
    /// What the pipe is read into; kept, because clearing it takes longer than all else.
    buffer: Vec<u8>,
    saw_end: bool,
}

impl Link {
    /// Nothing is under way yet.
    pub const fn new(end: End, drive: Drive) -> Self {
        Self {
            end,
            drive,
            arrived: Vec::new(),
            leaving: Vec::new(),
            left: 0,
            buffer: Vec::new(),
            saw_end: false,
        }
    }

    /// The end of the pipe.
    pub const fn end(&self) -> &End {
        &self.end
    }

    /// Closes the connection.
    pub fn close(&mut self) {
        self.end.close();
    }

    /// Whether everything a machine gave away has gone into the pipe.
    pub const fn is_flushed(&self) -> bool {
        self.leaving.is_empty()
    }

    /// Reads once, if the machine wants to.
    ///
    /// # Errors
    /// Those of the machine.
    pub fn read<M, S>(&mut self, machine: &mut M, sink: &mut S) -> Result<(), DriveError>
    where
        M: Machine,
        S: PayloadSink,
    {
        match self.drive {
            Drive::Pull(mode) => machine.read_from(&mut self.end, sink, mode).map(|_| ()),
            Drive::Push(piece) => self.push(machine, sink, piece),
        }
    }

    fn push<M, S>(&mut self, machine: &mut M, sink: &mut S, piece: usize) -> Result<(), DriveError>
    where
        M: Machine,
        S: PayloadSink,
    {
        // What a waiting machine left over goes first; an empty feed lets it parse
        // what it has kept.
        let taken = machine.feed(&self.arrived, sink)?;
        self.arrived.drain(..taken);
        if !self.arrived.is_empty() || !machine.get_direction().contains(Direction::READ) {
            return Ok(());
        }
        if self.saw_end {
            return Ok(());
        }
        if self.buffer.len() < piece {
            self.buffer.resize(piece, 0);
        }
        match self.end.read(&mut self.buffer[..piece]) {
            Ok(0) => {
                self.saw_end = true;
                machine.eof()?;
            }
            Ok(n) => {
                let taken = machine.feed(&self.buffer[..n], sink)?;
                self.arrived.extend_from_slice(&self.buffer[taken..n]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Writes once, if anything is due.
    ///
    /// # Errors
    /// Those of the machine.
    pub fn write<M, P>(&mut self, machine: &mut M, source: &P) -> Result<(), DriveError>
    where
        M: Machine,
        P: PayloadSource,
    {
        match self.drive {
            Drive::Pull(mode) => {
                machine.write_to(&mut self.end, source, mode).map(|_: Progress| ())
            }
            Drive::Push(_) => {
                if self.leaving.is_empty() {
                    machine.drain(&mut self.leaving, source)?;
                }
                if self.flush().is_err() {
                    machine.send_failed();
                }
                Ok(())
            }
        }
    }

    /// Writes what a machine gave away before.
    ///
    /// # Errors
    /// When the pipe takes no more; the bytes are dropped then.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.leaving.is_empty() {
            return Ok(());
        }
        match self.end.write(&self.leaving[self.left..]) {
            Ok(n) => {
                self.left += n;
                if self.left == self.leaving.len() {
                    self.leaving.clear();
                    self.left = 0;
                }
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => {
                self.leaving.clear();
                self.left = 0;
                Err(error)
            }
        }
    }
}
