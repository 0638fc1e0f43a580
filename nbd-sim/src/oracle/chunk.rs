//! Structured and extended reply chunks: header and payload.

use super::Oracle;
use super::error::Fault;
use super::message::{ChunkBody, Command, Extent, Message};
use super::numbers::{DONE, chunk};
use super::reader::{Reader, Stop, string};

impl Oracle {
    /// "Structured reply chunk message" and "Extended reply chunk message".
    pub(super) fn chunk(
        &mut self,
        extended: bool,
        reader: &mut Reader<'_>,
    ) -> Result<Message, Stop> {
        let flags = reader.u16()?;
        let kind = reader.u16()?;
        let cookie = reader.u64()?;
        let offset = if extended { Some(reader.u64()?) } else { None };
        let length = if extended { reader.u64()? } else { u64::from(reader.u32()?) };
        let progress = self.in_flight.get(&cookie).ok_or(Fault::CookieUnknown(cookie))?;
        let request = &self.summary.requests[progress.index].request;
        let command = request.command;
        let sent = request.offset;
        if let Some(found) = offset.filter(|found| *found != sent) {
            return Err(Fault::ReplyOffset { sent, found }.into());
        }
        if !fits(kind, command, extended) {
            return Err(Fault::ChunkKind { kind, command }.into());
        }
        self.check_size(kind, length)?;
        let mut payload = Reader::new(reader.bytes(length)?);
        let body = match parse_body(kind, &mut payload) {
            Err(Stop::Short) => return Err(Fault::ChunkLength { kind, length }.into()),
            parsed => parsed?,
        };
        // Error chunks may end in fields that are not known yet; no other chunk may.
        if payload.left() > 0 && kind & chunk::ERROR_BIT == 0 {
            return Err(Fault::ChunkLength { kind, length }.into());
        }
        if kind == chunk::NONE && flags & DONE == 0 {
            return Err(Fault::NoneNotDone.into());
        }
        if let ChunkBody::Status { context, extents } = &body {
            self.check_width(*context, extents)?;
        }
        self.apply(flags, cookie, &body)?;
        Ok(Message::Chunk { flags, kind, cookie, offset, body })
    }

    /// "A server MUST NOT send a chunk where any variable-length portion of the chunk is
    /// larger than any advertised maximum payload size".
    fn check_size(&self, kind: u16, length: u64) -> Result<(), Fault> {
        let fixed = match kind {
            chunk::OFFSET_DATA | chunk::BLOCK_STATUS_EXT => 8,
            chunk::BLOCK_STATUS => 4,
            _ => return Ok(()),
        };
        let variable = length.saturating_sub(fixed);
        match self.summary.block_sizes {
            Some(sizes) if variable > u64::from(sizes.maximum) => Err(Fault::TooLong(variable)),
            _ => Ok(()),
        }
    }

    /// The contexts of the `base:` namespace have 32 bits of status.
    fn check_width(&self, context: u32, extents: &[Extent]) -> Result<(), Fault> {
        let base = |id| {
            let mut contexts = self.summary.contexts.iter();
            contexts.any(|context| context.id == id && context.name.starts_with("base:"))
        };
        match extents.iter().find(|extent| extent.flags > u64::from(u32::MAX)) {
            Some(extent) if base(context) => Err(Fault::WideStatus(extent.flags)),
            _ => Ok(()),
        }
    }
}

/// "Structured reply types": which chunk is valid as a reply to which request.
fn fits(kind: u16, command: Command, extended: bool) -> bool {
    match kind {
        chunk::NONE => true,
        chunk::OFFSET_DATA | chunk::OFFSET_HOLE => command == Command::Read,
        chunk::BLOCK_STATUS => command == Command::BlockStatus && !extended,
        chunk::BLOCK_STATUS_EXT => command == Command::BlockStatus && extended,
        chunk::ERROR_OFFSET => !matches!(command, Command::Flush | Command::Other(_)),
        // An error of an unknown kind still is an error.
        other => other & chunk::ERROR_BIT != 0,
    }
}

fn parse_body(kind: u16, payload: &mut Reader<'_>) -> Result<ChunkBody, Stop> {
    Ok(match kind {
        chunk::NONE => ChunkBody::None,
        chunk::OFFSET_DATA => {
            let offset = payload.u64()?;
            if payload.left() == 0 {
                return Err(Stop::Short);
            }
            ChunkBody::Data { offset, data: payload.rest().to_vec() }
        }
        chunk::OFFSET_HOLE => match (payload.u64()?, payload.u32()?) {
            (_, 0) => return Err(Fault::Empty.into()),
            (offset, length) => ChunkBody::Hole { offset, length },
        },
        chunk::BLOCK_STATUS => {
            let context = payload.u32()?;
            let mut extents = Vec::new();
            while payload.left() > 0 || extents.is_empty() {
                let (length, flags) = (u64::from(payload.u32()?), u64::from(payload.u32()?));
                extents.push(extent(length, flags)?);
            }
            ChunkBody::Status { context, extents }
        }
        chunk::BLOCK_STATUS_EXT => {
            let context = payload.u32()?;
            let count = payload.u32()?;
            let mut extents = Vec::new();
            while payload.left() > 0 || extents.is_empty() {
                let (length, flags) = (payload.u64()?, payload.u64()?);
                extents.push(extent(length, flags)?);
            }
            if u32::try_from(extents.len()) != Ok(count) {
                return Err(Fault::DescriptorCount(count).into());
            }
            ChunkBody::Status { context, extents }
        }
        _ => {
            let error = payload.u32()?;
            if error == 0 {
                return Err(Fault::NoError.into());
            }
            let length = payload.u16()?;
            let message = string(payload.bytes(u64::from(length))?)?;
            let has_offset = kind == chunk::ERROR_OFFSET;
            let offset = if has_offset { Some(payload.u64()?) } else { None };
            ChunkBody::Error { error, message, offset }
        }
    })
}

fn extent(length: u64, flags: u64) -> Result<Extent, Fault> {
    if length == 0 { Err(Fault::Empty) } else { Ok(Extent { length, flags }) }
}
