//! Which chunks can answer which commands.

use crate::error::{Error, InvalidMessage, PeerMisbehaved};
use crate::wire::chunk::{ChunkType, ErrorHead};
use crate::wire::request::CommandType;

/// Whether a chunk of this type and length can answer the command at all
/// (proto.md, "Structured reply types").
pub(crate) fn check_form(
    kind: ChunkType,
    length: u64,
    command: CommandType,
    done: bool,
    extended: bool,
    empty_request: bool,
) -> Result<(), Error> {
    let (fits, sound) = match kind {
        ChunkType::None => {
            if !done {
                return Err(PeerMisbehaved::NoneNotDone.into());
            }
            (true, length == 0)
        }
        ChunkType::OffsetData => {
            let least = if empty_request { 8 } else { 9 };
            (command == CommandType::Read, length >= least)
        }
        ChunkType::OffsetHole => (command == CommandType::Read, length == 12),
        ChunkType::BlockStatus => {
            (command == CommandType::BlockStatus && !extended, length >= 12 && length % 8 == 4)
        }
        ChunkType::BlockStatusExt => {
            (command == CommandType::BlockStatus && extended, length >= 24 && length % 16 == 8)
        }
        ChunkType::Error | ChunkType::ErrorOffset | ChunkType::OtherError(_) => {
            (true, length >= ErrorHead::LEN as u64)
        }
    };
    if !fits {
        return Err(PeerMisbehaved::UnexpectedChunkType.into());
    }
    if !sound {
        return Err(InvalidMessage::ChunkLength.into());
    }
    Ok(())
}
