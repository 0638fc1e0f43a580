//! What the client application asks for.

use nbd_proto::{Client, Command, CommandFlags, CommandType, TransmissionFlags};

use super::plan::Plan;
use crate::rng::Rng;

/// Bytes of memory a command needs.
pub(super) fn payload_len(command: &Command) -> usize {
    match command.kind {
        CommandType::Read | CommandType::Write => command.length as usize,
        _ => 0,
    }
}

/// A command that the export allows; `None` if it has no room for any.
pub(super) fn random_command(rng: &mut Rng, client: &Client, plan: &Plan) -> Option<Command> {
    let export = client.export();
    let kind = allowed_kind(rng, client)?;
    if kind == CommandType::Flush {
        return Some(Command::flush());
    }
    let block = export.minimum_block() as usize;
    // A flipped bit may have made the export look larger than the disk is.
    let blocks = export.size.min(plan.export.size) as usize / block;
    let most = (plan.longest / block).min(blocks);
    if most == 0 {
        return None;
    }
    let length = rng.between(1, most);
    let offset = (rng.below(blocks - length + 1) * block) as u64;
    let length = (length * block) as u64;
    let command = match kind {
        CommandType::Read => Command::read(offset, length as u32),
        CommandType::Write => Command::write(offset, length as u32),
        CommandType::Trim => Command::trim(offset, length),
        CommandType::Cache => Command::cache(offset, length),
        CommandType::WriteZeroes => Command::write_zeroes(offset, length),
        CommandType::BlockStatus => Command::block_status(offset, length),
        CommandType::Flush => return None,
    };
    Some(command.with(random_flags(rng, kind, export.flags)))
}

fn allowed_kind(rng: &mut Rng, client: &Client) -> Option<CommandType> {
    use TransmissionFlags as Flag;
    let offered = |flag| client.export().flags.contains(flag);
    let writable = !offered(Flag::READ_ONLY);
    let kind = rng.pick(&[
        CommandType::Read,
        CommandType::Read,
        CommandType::Read,
        CommandType::Write,
        CommandType::Write,
        CommandType::Flush,
        CommandType::Trim,
        CommandType::Cache,
        CommandType::WriteZeroes,
        CommandType::BlockStatus,
    ]);
    let allowed = match kind {
        CommandType::Read => true,
        CommandType::Write => writable,
        CommandType::Flush => offered(Flag::SEND_FLUSH),
        CommandType::Trim => writable && offered(Flag::SEND_TRIM),
        CommandType::Cache => offered(Flag::SEND_CACHE),
        CommandType::WriteZeroes => writable && offered(Flag::SEND_WRITE_ZEROES),
        CommandType::BlockStatus => !client.negotiated().contexts.is_empty(),
    };
    Some(if allowed { kind } else { CommandType::Read })
}

fn random_flags(rng: &mut Rng, kind: CommandType, offered: TransmissionFlags) -> CommandFlags {
    use TransmissionFlags as Offer;
    let mut flags = CommandFlags::empty();
    let mut maybe = |flag, needs: TransmissionFlags| {
        if offered.contains(needs) && rng.one_in(3) {
            flags |= flag;
        }
    };
    match kind {
        CommandType::Read => maybe(CommandFlags::DF, Offer::SEND_DF),
        CommandType::Write | CommandType::Trim => maybe(CommandFlags::FUA, Offer::SEND_FUA),
        CommandType::WriteZeroes => {
            maybe(CommandFlags::FUA, Offer::SEND_FUA);
            maybe(CommandFlags::NO_HOLE, Offer::empty());
            maybe(CommandFlags::FAST_ZERO, Offer::SEND_FAST_ZERO);
        }
        CommandType::BlockStatus => maybe(CommandFlags::REQ_ONE, Offer::empty()),
        CommandType::Flush | CommandType::Cache => {}
    }
    flags
}
