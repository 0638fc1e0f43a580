//! One command at a time, over as many connections as it takes.

use std::mem;

use nbd_proto::{Command, CommandType, ContextId};
use nbd_session::OldError as Error;

use super::{Lasting, closed};
use crate::client::Client;
use crate::ports::{Many, Single};

/// The memory of a caller who waits.
enum Lent<'a> {
    Read(&'a mut [u8]),
    Write(&'a [u8]),
}

impl AsRef<[u8]> for Lent<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Read(buffer) => buffer,
            Self::Write(buffer) => buffer,
        }
    }
}

impl AsMut<[u8]> for Lent<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Read(buffer) => buffer,
            Self::Write(_) => &mut [],
        }
    }
}

/// One command from submission to its end. What is told of parts of the answer is told when
/// it is complete, for it may come in two halves on two connections.
#[cold]
#[inline(never)]
pub(crate) fn run(
    client: &mut Client,
    command: Command,
    filter: Option<&[ContextId]>,
    mut single: Single<'_>,
) -> Result<(), Error> {
    let buffer = match command.kind {
        CommandType::Read => Some(Lent::Read(mem::take(&mut single.read))),
        CommandType::Write => Some(Lent::Write(single.write)),
        CommandType::Flush
        | CommandType::Trim
        | CommandType::Cache
        | CommandType::WriteZeroes
        | CommandType::BlockStatus => None,
    };
    let mut ports = Many::new();
    let deadline = client.pump.deadline();
    let Some(mut lasting) = Lasting::of(client, &mut ports) else { return Err(closed()) };
    let id = lasting.submit(command, filter, buffer)?;
    if single.on_chunk.is_some() {
        lasting.report_chunks(id);
    }
    let done = loop {
        if let Some(done) = lasting.take(id) {
            break done;
        }
        if let Err(error) = lasting.round(deadline) {
            lasting.abandon(id);
            return Err(error);
        }
    };
    if let Some(on_chunk) = single.on_chunk {
        done.chunks.into_iter().for_each(on_chunk);
    }
    if let Some(on_extent) = single.on_extent {
        done.extents.into_iter().for_each(|(context, extent)| on_extent(context, extent));
    }
    done.result
}

/// Before the session ends: waits until acknowledged writes that were lost have been put
/// back. Returns whether there is a connection to end.
pub(crate) fn put_back(client: &mut Client) -> Result<bool, Error> {
    let mut ports = Many::<Lent<'_>>::new();
    match Lasting::of(client, &mut ports) {
        Some(mut lasting) => lasting.put_back(),
        None => Ok(true),
    }
}
