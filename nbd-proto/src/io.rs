//! The generic driver: any machine over any [`Read`] and [`Write`].

use core::ops::ControlFlow;
use std::io::{self, IoSlice, Read, Write};

use crate::error::Error;
use crate::machine::Machine;
use crate::payload::{PayloadSink, PayloadSource};
use crate::types::Direction;

/// What the transport is good at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "several buffers at a time or one")]
pub enum IoMode {
    /// `read_vectored` and `write_vectored` are real, as on a socket.
    Vectored,
    /// Only one buffer at a time, as in a stream that encrypts or wraps another.
    Single,
}

/// How a call to the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever drives must act on each: a new one may not go unnoticed"
)]
pub enum Progress {
    /// The transport has no more to read, or no room, for now; or nothing is
    /// wanted or due.
    Blocked,
    /// There may be more to do at once: the budget is used up.
    More,
    /// The peer will send no more, or takes no more.
    Closed,
}

/// Why driving failed.
#[derive(Debug, thiserror::Error)]
#[expect(clippy::exhaustive_enums, reason = "what moves bytes fails, or what understands them")]
pub enum DriveError {
    /// The transport failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The machine ended the connection.
    #[error(transparent)]
    Protocol(#[from] Error),
}

impl From<DriveError> for io::Error {
    fn from(error: DriveError) -> Self {
        match error {
            DriveError::Io(error) => error,
            DriveError::Protocol(error) => error.into(),
        }
    }
}

/// The number of bytes that a transport says it has moved, of those it was offered.
///
/// ```
/// use nbd_proto::io::checked_count;
///
/// assert_eq!(checked_count(512, 4096).ok(), Some(512));
/// assert!(checked_count(4097, 4096).is_err());
/// ```
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when it says more than that: it is broken, and nobody
/// knows what it has moved.
pub fn checked_count(count: usize, offered: usize) -> io::Result<usize> {
    if count <= offered {
        return Ok(count);
    }
    let text = "the stream says that it has moved more bytes than it was offered";
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Whether an error of a transport says that nobody is at the other end any more.
///
/// Which of them it is, and whether it shows in a write or a read, is a matter of chance. In
/// a write it is no failure but the end: what the peer sent before it went can still be read,
/// and tells more.
///
/// ```
/// use std::io::ErrorKind;
///
/// assert!(nbd_proto::io::is_gone(ErrorKind::ConnectionReset));
/// assert!(!nbd_proto::io::is_gone(ErrorKind::TimedOut));
/// ```
#[must_use]
pub const fn is_gone(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected)
}

/// Calls to the transport in one notification, so that one busy connection does
/// not starve the others of an event loop.
const BUDGET: usize = 16;

/// Slices of one vectored write; enough for the headers and payloads of 64 writes.
const SLICES: usize = 128;

/// Slices that most writes get by with: however many requests without payload are one.
const FEW_SLICES: usize = 4;

/// Bytes collected on the stack for one write to a transport that is not
/// vectored.
const STAGING: usize = 16 << 10;

/// Whether one call took everything there was.
enum Once {
    Progress(Progress),
    /// The transport filled all that was offered: it may have more.
    Full,
}

pub(crate) fn read_once<M, R, S>(
    machine: &mut M,
    io: &mut R,
    sink: &mut S,
    mode: IoMode,
) -> Result<Progress, DriveError>
where
    M: Machine,
    R: Read + ?Sized,
    S: PayloadSink,
{
    Ok(match read(machine, io, sink, mode)? {
        Once::Progress(progress) => progress,
        Once::Full => Progress::More,
    })
}

pub(crate) fn notify_read<M, R, S>(
    machine: &mut M,
    io: &mut R,
    sink: &mut S,
    mode: IoMode,
) -> Result<Progress, DriveError>
where
    M: Machine,
    R: Read + ?Sized,
    S: PayloadSink,
{
    for _ in 0..BUDGET {
        match read(machine, io, sink, mode)? {
            Once::Progress(progress) => return Ok(progress),
            Once::Full => {}
        }
    }
    Ok(Progress::More)
}

fn read<M, R, S>(
    machine: &mut M,
    io: &mut R,
    sink: &mut S,
    mode: IoMode,
) -> Result<Once, DriveError>
where
    M: Machine,
    R: Read + ?Sized,
    S: PayloadSink,
{
    if machine.has_buffered() {
        machine.received(0, sink)?;
    }
    loop {
        let (offered, result) = match mode {
            IoMode::Vectored => {
                let mut bufs = machine.recv_bufs(sink);
                match (bufs.payload.len(), bufs.scratch.len()) {
                    (0, 0) => return Ok(Once::Progress(Progress::Blocked)),
                    // A plain read is cheaper than a vectored one of one part.
                    (0, n) => (n, io.read(bufs.scratch)),
                    (n, 0) => (n, io.read(bufs.payload)),
                    (a, b) => (a.saturating_add(b), io.read_vectored(&mut bufs.as_io_slices())),
                }
            }
            IoMode::Single => {
                let buffer = machine.recv_buf(sink);
                if buffer.is_empty() {
                    return Ok(Once::Progress(Progress::Blocked));
                }
                (buffer.len(), io.read(buffer))
            }
        };
        match result {
            Ok(0) => {
                machine.eof()?;
                return Ok(Once::Progress(Progress::Closed));
            }
            Ok(n) => {
                let n = checked_count(n, offered)?;
                machine.received(n, sink)?;
                // A short read means that a stream socket was empty.
                let progress = Once::Progress(Progress::Blocked);
                return Ok(if n < offered { progress } else { Once::Full });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Once::Progress(Progress::Blocked));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

pub(crate) fn write_once<M, W, P>(
    machine: &mut M,
    io: &mut W,
    source: &P,
    mode: IoMode,
) -> Result<Progress, DriveError>
where
    M: Machine,
    W: Write + ?Sized,
    P: PayloadSource + ?Sized,
{
    if !machine.get_direction().contains(Direction::WRITE) {
        return Ok(Progress::Blocked);
    }
    loop {
        let (offered, result) = match mode {
            IoMode::Vectored => {
                let mut few = [IoSlice::new(&[]); FEW_SLICES];
                let filled = machine.send_bufs(source, &mut few)?;
                match few.get(..filled).unwrap_or_default() {
                    [one] => (one.len(), io.write(one)),
                    some if some.len() < FEW_SLICES => (total(some), io.write_vectored(some)),
                    _ => {
                        let mut slices = [IoSlice::new(&[]); SLICES];
                        let filled = machine.send_bufs(source, &mut slices)?;
                        let many = slices.get(..filled).unwrap_or_default();
                        (total(many), io.write_vectored(many))
                    }
                }
            }
            IoMode::Single => write_staged(machine, io, source)?,
        };
        match result {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(n) => {
                machine.sent(checked_count(n, offered)?)?;
                let more = machine.get_direction().contains(Direction::WRITE);
                return Ok(if more { Progress::More } else { Progress::Blocked });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Progress::Blocked);
            }
            Err(error) if is_gone(error.kind()) => {
                // Replies that are on their way still tell which commands
                // succeeded; the end follows when they have been read.
                machine.send_failed();
                return Ok(Progress::Closed);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn total(slices: &[IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

/// Collects small pieces for one write; a piece that is large and comes first goes
/// out from where it is. Also returns how many bytes were offered.
fn write_staged<M, W, P>(
    machine: &M,
    io: &mut W,
    source: &P,
) -> Result<(usize, io::Result<usize>), DriveError>
where
    M: Machine,
    W: Write + ?Sized,
    P: PayloadSource + ?Sized,
{
    let mut staging = [0; STAGING];
    let mut staged = 0;
    let mut direct: &[u8] = &[];
    machine.for_each_unsent(source, |bytes| {
        if staged == 0 && bytes.len() >= STAGING {
            direct = bytes;
            return ControlFlow::Break(());
        }
        let room = staging.get_mut(staged..).unwrap_or_default();
        let n = room.len().min(bytes.len());
        if let (Some(to), Some(from)) = (room.get_mut(..n), bytes.get(..n)) {
            to.copy_from_slice(from);
        }
        staged = staged.saturating_add(n);
        if n < bytes.len() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let bytes = if direct.is_empty() { staging.get(..staged).unwrap_or_default() } else { direct };
    Ok((bytes.len(), io.write(bytes)))
}

pub(crate) fn notify_write<M, W, P>(
    machine: &mut M,
    io: &mut W,
    source: &P,
    mode: IoMode,
) -> Result<Progress, DriveError>
where
    M: Machine,
    W: Write + ?Sized,
    P: PayloadSource + ?Sized,
{
    for _ in 0..BUDGET {
        let before = machine.stats().bytes_sent;
        let progress = write_once(machine, io, source, mode)?;
        if progress != Progress::More {
            return Ok(progress);
        }
        debug_assert!(machine.stats().bytes_sent > before, "a write must make progress");
    }
    Ok(Progress::More)
}
