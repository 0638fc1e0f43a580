//! One request: what it does to the store and what is replied.

use std::io;
use std::ops::ControlFlow;

use nbd_proto::{
    ApiMisuse, Command, CommandFlags, CommandType, Errno, Extent, HeaderStyle, PayloadSource,
    RequestId, Server,
};

use super::buffers::Buffers;
use crate::store::{ExtentKind, Store, StoreExtent, Zeroing};

/// Reads from this length on are looked through for holes, in bytes. For
/// shorter ones it would take longer than to send the zeroes.
const HOLE_SEARCH: u64 = 64 << 10;

/// Most parts of one read. A range in more pieces is sent whole.
const MAX_PARTS: usize = 64;

/// Most extents of one block status. Clients ask again for the rest.
const MAX_EXTENTS: usize = 64 << 10;

/// Everything that answering a request takes, used from one to the next.
#[derive(Debug, Default)]
pub(super) struct Answerer {
    parts: Vec<StoreExtent>,
    extents: Vec<Extent>,
}

/// Why a request fails: what the store said.
struct Failed {
    errno: Errno,
    reason: String,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self {
            errno: error.raw_os_error().map_or(Errno::Io, Errno::from_linux),
            reason: error.to_string(),
        }
    }
}

impl Answerer {
    /// Does what is asked and queues the reply.
    ///
    /// # Errors
    ///
    /// Never for a fault of the client or of the store: those are replies.
    pub(super) fn answer(
        &mut self,
        id: RequestId,
        command: Command,
        server: &mut Server,
        buffers: &mut Buffers,
        store: &dyn Store,
    ) -> Result<(), ApiMisuse> {
        let done = match command.kind {
            CommandType::Read => return self.read(id, command, server, buffers, store),
            CommandType::BlockStatus => {
                return self.block_status(id, command, server, buffers, store);
            }
            CommandType::Write => {
                let done = write(id, command, buffers, store);
                buffers.give_back(id);
                done
            }
            CommandType::Trim => store.trim(command.offset, command.length),
            CommandType::WriteZeroes => {
                let zeroing = Zeroing {
                    may_punch: !command.flags.contains(CommandFlags::NO_HOLE),
                    fast_only: command.flags.contains(CommandFlags::FAST_ZERO),
                };
                store.write_zeroes(command.offset, command.length, zeroing)
            }
            CommandType::Cache => store.cache(command.offset, command.length),
            CommandType::Flush => store.flush(),
            CommandType::Disconnect => Ok(()),
        };
        let durable = command.kind.modifies() && command.flags.contains(CommandFlags::FUA);
        let done = done.and_then(|()| if durable { store.flush() } else { Ok(()) });
        finish(id, server, done.map_err(Failed::from))
    }

    fn read(
        &mut self,
        id: RequestId,
        command: Command,
        server: &mut Server,
        buffers: &mut Buffers,
        store: &dyn Store,
    ) -> Result<(), ApiMisuse> {
        let Command { offset, length, .. } = command;
        // The machine lets nothing longer than the maximum payload through.
        let len = usize::try_from(length).unwrap_or(usize::MAX);
        let structured = server.negotiated().headers != HeaderStyle::Simple;
        if structured && length >= HOLE_SEARCH {
            match self.find_parts(command, store) {
                Ok(true) => return self.read_parts(id, offset, len, server, buffers, store),
                Ok(false) => {}
                Err(error) => return finish(id, server, Err(error.into())),
            }
        }
        match store.read_at(buffers.lend(id, len), offset) {
            Ok(()) => server.reply_data(id),
            Err(error) => finish(id, server, Err(error.into())),
        }
    }

    /// Notes the parts of the range, and whether to send it in parts: there is
    /// a hole, there are not too many, and the client allows it.
    fn find_parts(&mut self, command: Command, store: &dyn Store) -> io::Result<bool> {
        let one_chunk = command.flags.contains(CommandFlags::DF);
        let most = if one_chunk { 1 } else { MAX_PARTS };
        self.parts.clear();
        let mut too_many = false;
        store.extents(command.offset, command.length, &mut |extent| {
            if self.parts.len() == most {
                too_many = true;
                return ControlFlow::Break(());
            }
            self.parts.push(extent);
            ControlFlow::Continue(())
        })?;
        let holes = self.parts.iter().any(|part| part.kind != ExtentKind::Data);
        Ok(holes && !too_many)
    }

    /// Answers a read in the parts that were found. All data is read before any
    /// part is queued, so that an error is the whole reply.
    fn read_parts(
        &self,
        id: RequestId,
        offset: u64,
        len: usize,
        server: &mut Server,
        buffers: &mut Buffers,
        store: &dyn Store,
    ) -> Result<(), ApiMisuse> {
        if self.parts.iter().any(|part| part.kind == ExtentKind::Data) {
            let buffer = buffers.lend(id, len);
            let mut rest = &mut *buffer;
            let mut position = offset;
            for part in &self.parts {
                let (bytes, after) = rest.split_at_mut(rest.len().min(part.length as usize));
                if part.kind == ExtentKind::Data
                    && let Err(error) = store.read_at(bytes, position)
                {
                    return finish(id, server, Err(error.into()));
                }
                rest = after;
                position += part.length;
            }
        }
        let mut at = 0;
        for part in &self.parts {
            let length = part.length as usize;
            let last = at + length == len;
            match part.kind {
                ExtentKind::Data => server.send_data(id, at, length, last)?,
                ExtentKind::Hole | ExtentKind::Zero => server.send_hole(id, at, length, last)?,
            }
            at += length;
        }
        Ok(())
    }

    fn block_status(
        &mut self,
        id: RequestId,
        command: Command,
        server: &mut Server,
        buffers: &mut Buffers,
        store: &dyn Store,
    ) -> Result<(), ApiMisuse> {
        let one = command.flags.contains(CommandFlags::REQ_ONE);
        let most = if one { 1 } else { MAX_EXTENTS };
        self.extents.clear();
        let found = store.extents(command.offset, command.length, &mut |extent| {
            let status = status_of(extent.kind);
            let full = self.extents.len() == most;
            match self.extents.last_mut() {
                // The store was changed meanwhile.
                Some(last) if last.status == status => last.length += extent.length,
                _ if full => return ControlFlow::Break(()),
                _ => self.extents.push(Extent { length: extent.length, status }),
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = found {
            return finish(id, server, Err(error.into()));
        }
        let contexts = server.contexts(id);
        buffers.charge(id, contexts.len() * self.extents.len() * 16);
        for (i, context) in contexts.iter().enumerate() {
            let last = i + 1 == contexts.len();
            server.send_extents(id, *context, &self.extents, last)?;
        }
        Ok(())
    }
}

fn write(id: RequestId, command: Command, buffers: &Buffers, store: &dyn Store) -> io::Result<()> {
    let len = usize::try_from(command.length).unwrap_or(usize::MAX);
    // Nothing has arrived for a write of no bytes, which lends no buffer.
    store.write_at(buffers.bytes(id, 0, len), command.offset)
}

fn finish(id: RequestId, server: &mut Server, done: Result<(), Failed>) -> Result<(), ApiMisuse> {
    match done {
        Ok(()) => server.reply(id, Ok(())),
        Err(Failed { errno, reason }) => server.reply_error(id, errno, &reason),
    }
}

/// The status that `base:allocation` has for a kind of extent.
const fn status_of(kind: ExtentKind) -> u64 {
    match kind {
        ExtentKind::Data => 0,
        ExtentKind::Hole => Extent::HOLE | Extent::ZERO,
        ExtentKind::Zero => Extent::ZERO,
    }
}
