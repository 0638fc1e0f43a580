//! One request: what it does to the export, wherever that is done.

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nbd_proto::{Command, CommandFlags, CommandType, ContextId, Errno, Extent, RequestId};

use super::buffers::Buffer;
use super::describe::ALLOCATION;
use super::placement::LONGEST;
use crate::export::{AllocationExtent, AsyncExport, Attempt, Export, ExtentKind, Zeroing};

/// Reads from this length on are looked through for holes, in bytes. For
/// shorter ones it would take longer than to send the zeroes.
const HOLE_SEARCH: u64 = 64 << 10;

/// Most parts of one read. A range in more pieces is sent whole.
const MAX_PARTS: usize = 64;

/// Most extents of one block status. Clients ask again for the rest.
const MAX_EXTENTS: usize = 8 << 10;

/// Bytes that an extent takes, here and on the wire (structured-reply extension,
/// `NBD_REPLY_TYPE_BLOCK_STATUS_EXT`).
pub(crate) const EXTENT_SIZE: usize = 16;

/// A request on its way through the export and back.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: RequestId,
    pub(crate) command: Command,
    /// The payload of a write, or room for that of a read.
    pub(crate) buffer: Option<Buffer>,
    /// The size of the export as its client knows it, in bytes.
    pub(crate) size: u64,
    /// Whether a read may be answered in parts.
    pub(crate) in_parts: bool,
    /// The meta contexts a block status asks for.
    pub(crate) contexts: Vec<(ContextId, String)>,
    /// What came of it.
    pub(crate) outcome: Outcome,
    /// How long the export took.
    pub(crate) took: Duration,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is done, and there is nothing to send.
    Done,
    /// The whole of a read is in the buffer.
    Data,
    /// A read whose data is in the buffer, where it is not known to be zero.
    Parts(Vec<AllocationExtent>),
    /// The extents of each context.
    Extents(Vec<(ContextId, Vec<Extent>)>),
    /// It failed.
    Failed { errno: Errno, reason: String },
}

impl From<io::Error> for Outcome {
    fn from(error: io::Error) -> Self {
        let errno = match error.raw_os_error() {
            Some(number) => Errno::from_linux(number),
            None => errno_of(error.kind()),
        };
        Self::Failed { errno, reason: error.to_string() }
    }
}

/// The number for an error that has none.
const fn errno_of(kind: io::ErrorKind) -> Errno {
    use io::ErrorKind;
    match kind {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Errno::Perm,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Errno::NoSpc,
        ErrorKind::InvalidInput => Errno::Inval,
        ErrorKind::Unsupported => Errno::NotSup,
        ErrorKind::OutOfMemory => Errno::NoMem,
        _ => Errno::Io,
    }
}

impl Job {
    /// Answers a short read if that takes no waiting.
    pub(crate) fn attempt(&mut self, export: &dyn Export) -> Attempt {
        let Command { kind, offset, length, .. } = self.command;
        let looks_for_holes = self.in_parts && length >= HOLE_SEARCH;
        if kind != CommandType::Read || looks_for_holes || length > LONGEST {
            return Attempt::Unknown;
        }
        let Some(buffer) = &mut self.buffer else {
            return Attempt::Unknown;
        };
        let len = usize::try_from(length).unwrap_or(usize::MAX);
        let attempt = AssertUnwindSafe(|| export.try_read_exact_at(buffer.first_mut(len), offset));
        match catch_unwind(attempt) {
            Ok(Ok(Attempt::Done)) => {
                self.outcome = Outcome::Data;
                Attempt::Done
            }
            Ok(Ok(attempt)) => attempt,
            Ok(Err(error)) => {
                self.outcome = error.into();
                Attempt::Done
            }
            Err(_) => {
                self.outcome = panicked();
                Attempt::Done
            }
        }
    }

    /// Does what is asked. Takes as long as the export takes.
    pub(crate) fn run(&mut self, export: &dyn Export) {
        let begun = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| self.perform(export)));
        self.outcome = match done {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => error.into(),
            // The thread has told what it was.
            Err(_) => panicked(),
        };
        self.took = begun.elapsed();
    }

    fn perform(&mut self, export: &dyn Export) -> io::Result<Outcome> {
        let Command { kind, flags, offset, length } = self.command;
        let len = usize::try_from(length).unwrap_or(usize::MAX);
        match kind {
            CommandType::Read => return self.read(export),
            CommandType::BlockStatus => return self.block_status(export),
            CommandType::Write => {
                let payload = self.buffer.as_ref().map_or(&[] as &[u8], |buffer| buffer.first(len));
                export.write_all_at(payload, offset)?;
            }
            CommandType::Trim => export.trim(offset, length)?,
            CommandType::WriteZeroes => {
                export.write_zeroes(offset, length, zeroing(flags))?;
            }
            CommandType::Cache => export.cache(offset, length)?,
            CommandType::Flush => export.flush()?,
        }
        if kind.modifies() && flags.contains(CommandFlags::FUA) {
            export.flush()?;
        }
        Ok(Outcome::Done)
    }

    /// Does what is asked of an export of the asynchronous form. Never on the spot, so nobody
    /// asks how long it took. Extents are of `base:allocation`, it has no other context.
    pub(crate) async fn run_async(&mut self, export: &dyn AsyncExport) {
        self.outcome = self.perform_async(export).await.unwrap_or_else(Outcome::from);
    }

    async fn perform_async(&mut self, export: &dyn AsyncExport) -> io::Result<Outcome> {
        let Command { kind, flags, offset, length } = self.command;
        let len = usize::try_from(length).unwrap_or(usize::MAX);
        match kind {
            CommandType::Read => {
                let bytes = export.read(offset, len).await?;
                if bytes.len() != len {
                    let text =
                        format!("the export has read {} bytes instead of {len}", bytes.len());
                    return Err(io::Error::other(text));
                }
                if let Some(buffer) = &mut self.buffer {
                    buffer.hold(bytes);
                }
                return Ok(Outcome::Data);
            }
            CommandType::BlockStatus => {
                let found = export.extents(offset, length).await?;
                let mut extents = Extents::new(self);
                let add = |extent: &AllocationExtent| {
                    extents.add(Extent { length: extent.length, status: status_of(extent.kind) })
                };
                let _: ControlFlow<()> = found.iter().try_for_each(add);
                let extents = extents.all;
                return Ok(Outcome::Extents(
                    self.contexts.iter().map(|(id, _)| (*id, extents.clone())).collect(),
                ));
            }
            CommandType::Write => {
                let payload = self.buffer.as_ref().map_or(&[] as &[u8], |buffer| buffer.first(len));
                export.write_all_at(payload, offset).await?;
            }
            CommandType::Trim => export.trim(offset, length).await?,
            CommandType::WriteZeroes => {
                export.write_zeroes(offset, length, zeroing(flags)).await?;
            }
            CommandType::Cache => export.cache(offset, length).await?,
            CommandType::Flush => export.flush().await?,
        }
        if kind.modifies() && flags.contains(CommandFlags::FUA) {
            export.flush().await?;
        }
        Ok(Outcome::Done)
    }

    /// Nobody can be had to carry it out.
    pub(crate) fn refuse(&mut self) {
        let reason = "the server has no thread for the request".to_owned();
        self.outcome = Outcome::Failed { errno: Errno::NoMem, reason };
    }

    /// It was not carried out to its end.
    pub(crate) fn give_up(&mut self) {
        self.outcome = panicked();
    }

    fn read(&mut self, export: &dyn Export) -> io::Result<Outcome> {
        let Command { offset, length, .. } = self.command;
        let len = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(buffer) = &mut self.buffer else {
            return Ok(Outcome::Data);
        };
        let buffer = buffer.first_mut(len);
        if self.in_parts
            && length >= HOLE_SEARCH
            && let Some(parts) = find_parts(self.command, export)?
        {
            // All data is read before any part is sent, so that an error is the whole reply.
            let (mut rest, mut position) = (buffer, offset);
            for part in &parts {
                let (bytes, after) = rest.split_at_mut(rest.len().min(part.length as usize));
                if part.kind == ExtentKind::Data {
                    export.read_exact_at(bytes, position)?;
                }
                rest = after;
                position += part.length;
            }
            return Ok(Outcome::Parts(parts));
        }
        export.read_exact_at(buffer, offset)?;
        Ok(Outcome::Data)
    }

    fn block_status(&self, export: &dyn Export) -> io::Result<Outcome> {
        let Command { offset, length, .. } = self.command;
        let mut all = Vec::with_capacity(self.contexts.len());
        for (id, name) in &self.contexts {
            let mut extents = Extents::new(self);
            if name == ALLOCATION {
                export.extents(offset, length, &mut |extent| {
                    extents.add(Extent { length: extent.length, status: status_of(extent.kind) })
                })?;
            } else {
                export.context_extents(name, offset, length, &mut |extent| extents.add(extent))?;
            }
            all.push((*id, extents.all));
        }
        Ok(Outcome::Extents(all))
    }
}

/// The extents of one context, as far as they are sent.
struct Extents {
    all: Vec<Extent>,
    most: usize,
    /// Bytes of the request that are still to be told of.
    left: u64,
    /// Bytes up to the end of the export. The last extent may reach beyond the request, and not
    /// beyond the export.
    room: u64,
}

impl Extents {
    fn new(job: &Job) -> Self {
        let Command { offset, length, .. } = job.command;
        let most = most_extents(&job.command);
        Self { all: Vec::new(), most, left: length, room: job.size.saturating_sub(offset) }
    }

    fn add(&mut self, mut extent: Extent) -> ControlFlow<()> {
        extent.length = extent.length.min(self.room);
        self.room -= extent.length;
        let full = self.all.len() == self.most;
        match self.all.last_mut() {
            Some(last) if last.status == extent.status => last.length += extent.length,
            _ if full => return ControlFlow::Break(()),
            _ if extent.length == 0 => {}
            _ => self.all.push(extent),
        }
        self.left = self.left.saturating_sub(extent.length);
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Most extents that a block status is answered with, for each context.
pub(crate) fn most_extents(command: &Command) -> usize {
    if command.flags.contains(CommandFlags::REQ_ONE) {
        return 1;
    }
    usize::try_from(command.length).unwrap_or(usize::MAX).min(MAX_EXTENTS)
}

fn zeroing(flags: CommandFlags) -> Zeroing {
    Zeroing {
        may_punch: !flags.contains(CommandFlags::NO_HOLE),
        fast_only: flags.contains(CommandFlags::FAST_ZERO),
    }
}

/// The parts of a read, if it is to be sent in parts: there is a hole, there are not too many,
/// and the client allows it.
fn find_parts(command: Command, export: &dyn Export) -> io::Result<Option<Vec<AllocationExtent>>> {
    let one_chunk = command.flags.contains(CommandFlags::DF);
    let most = if one_chunk { 1 } else { MAX_PARTS };
    let mut parts: Vec<AllocationExtent> = Vec::new();
    let (mut left, mut holes, mut too_many) = (command.length, false, false);
    export.extents(command.offset, command.length, &mut |mut extent| {
        if parts.len() == most {
            too_many = true;
            return ControlFlow::Break(());
        }
        extent.length = extent.length.min(left);
        if extent.length > 0 {
            holes |= extent.kind != ExtentKind::Data;
            left -= extent.length;
            parts.push(extent);
        }
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok((holes && !too_many && left == 0).then_some(parts))
}

fn panicked() -> Outcome {
    Outcome::Failed { errno: Errno::Io, reason: "the export has failed".to_owned() }
}

/// The status that `base:allocation` has for a kind of extent.
const fn status_of(kind: ExtentKind) -> u64 {
    match kind {
        ExtentKind::Data => 0,
        ExtentKind::Hole => Extent::HOLE | Extent::ZERO,
        ExtentKind::Zero => Extent::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_have_a_bound_that_is_known_before() {
        let status = |length| Command::block_status(0, length);
        assert_eq!(most_extents(&status(1 << 40)), MAX_EXTENTS);
        // No extent is shorter than a byte.
        assert_eq!(most_extents(&status(10)), 10);
        assert_eq!(most_extents(&status(1 << 40).with(CommandFlags::REQ_ONE)), 1);
    }
}
