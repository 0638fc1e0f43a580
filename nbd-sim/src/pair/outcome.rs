//! What a completion says about the disk, and whether it can be true.

use nbd_proto::{Client, Command, CommandError, CommandFlags, CommandType};

use super::Check;
use super::buffers::Buffer;
use crate::disk::Model;

/// A command succeeded: checks what it returned and learns from what it did.
pub(super) fn succeeded(model: &mut Model, client: &Client, buffer: &Buffer) -> Check {
    let command = buffer.command;
    let offset = command.offset as usize;
    let range = offset..offset + command.length as usize;
    match command.kind {
        CommandType::Read => match model.contradiction(offset, buffer.payload()) {
            Some(at) => return Err(format!("{command:?} returned a wrong byte at {at}")),
            None => return Ok(()),
        },
        CommandType::Write => model.write(offset, buffer.payload()),
        CommandType::WriteZeroes => model.write(offset, &vec![0; range.len()]),
        CommandType::Trim => model.forget(range),
        CommandType::BlockStatus => return check_extents(model, client, buffer),
        CommandType::Flush | CommandType::Cache => {}
    }
    Ok(())
}

/// A command failed: what it may have done is unknown.
pub(super) fn failed(model: &mut Model, command: Command, error: CommandError) {
    if !command.kind.modifies() {
        return;
    }
    let start = command.offset as usize;
    let range = start..start + command.length as usize;
    match error {
        CommandError::Server(_) => model.forget(range),
        _ => model.give_up(range),
    }
}

fn check_extents(model: &Model, client: &Client, buffer: &Buffer) -> Check {
    let command = buffer.command;
    if buffer.extents.is_empty() {
        return Err(format!("{command:?} succeeded without an extent"));
    }
    let allocation = client.context("base:allocation");
    let end = command.offset + command.length;
    let mut reached: Vec<(_, u64)> = Vec::new();
    for (context, extent) in &buffer.extents {
        let known = reached.iter().position(|(id, _)| id == context);
        let index = known.unwrap_or_else(|| {
            reached.push((*context, command.offset));
            reached.len() - 1
        });
        let start = reached[index].1;
        reached[index].1 = start + extent.length;
        if start >= end {
            return Err(format!("{command:?} returned an extent beyond its end"));
        }
        if command.flags.contains(CommandFlags::REQ_ONE) && known.is_some() {
            return Err(format!("{command:?} returned more than one extent"));
        }
        let inside = start as usize..end.min(start + extent.length) as usize;
        if Some(*context) == allocation
            && extent.is_zero()
            && let Some(at) = model.nonzero(inside)
        {
            return Err(format!("{command:?} calls byte {at} zero, which it is not"));
        }
    }
    Ok(())
}
