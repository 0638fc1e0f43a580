//! Acknowledged writes that no flush has made durable, and the room for them.

use std::collections::VecDeque;
use std::mem;

use nbd_proto::Command;
use nbd_proto::CommandType;

/// Commands kept at most, so that putting them back takes no noticeable time.
const MAX_KEPT: usize = 4096;

/// A command that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Unflushed<P> {
    /// Its number among all commands.
    pub(super) seq: u64,
    pub(super) command: Command,
    pub(super) payload: Option<P>,
    /// How many had been acknowledged before it, itself included.
    pub(super) stamp: u64,
}

/// How much commands take up.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    bytes: u64,
    commands: usize,
}

impl Room {
    fn add(&mut self, command: &Command) {
        self.bytes = self.bytes.saturating_add(payload_len(command));
        self.commands = self.commands.saturating_add(1);
    }

    fn subtract(&mut self, command: &Command) {
        let bytes = payload_len(command);
        debug_assert!(self.commands > 0 && self.bytes >= bytes, "room is given back once");
        self.bytes = self.bytes.saturating_sub(bytes);
        self.commands = self.commands.saturating_sub(1);
    }
}

/// Where acknowledged commands stand until a flush. Room is taken when a write is sent, so
/// that there is some when it is acknowledged.
#[derive(Clone, Debug)]
pub(super) struct UnflushedWrites<P> {
    bytes: u64,
    /// By what is kept and what is under way.
    taken: Room,
    /// By what is kept.
    used: Room,
    /// In the order in which they were acknowledged.
    kept: VecDeque<Unflushed<P>>,
}

impl<P> UnflushedWrites<P> {
    /// Room for so many bytes of payload.
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, taken: Room::default(), used: Room::default(), kept: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether a command can be sent and then kept. Alone, any can.
    pub(super) fn has_room(&self, command: &Command) -> bool {
        self.taken.commands == 0
            || self.taken.commands < MAX_KEPT
                && self.taken.bytes.saturating_add(payload_len(command)) <= self.bytes
    }

    /// Whether half of the room is used, so that a flush is due.
    pub(super) fn is_crowded(&self) -> bool {
        self.used.commands >= MAX_KEPT / 2 || self.used.bytes >= self.bytes.div_ceil(2)
    }

    /// A command is being sent.
    pub(super) fn take_room(&mut self, command: &Command) {
        self.taken.add(command);
    }

    /// A command failed, or is durable.
    pub(super) fn give_back_room(&mut self, command: &Command) {
        self.taken.subtract(command);
    }

    /// A command that has room was acknowledged.
    pub(super) fn keep(&mut self, kept: Unflushed<P>) {
        self.used.add(&kept.command);
        self.kept.push_back(kept);
    }

    /// A flush has made everything durable that was acknowledged up to then.
    pub(super) fn release(&mut self, stamp: u64) {
        while self.kept.front().is_some_and(|kept| kept.stamp <= stamp)
            && let Some(kept) = self.kept.pop_front()
        {
            self.used.subtract(&kept.command);
            self.taken.subtract(&kept.command);
        }
    }

    /// Everything kept is to be sent again; it goes on taking up its room.
    pub(super) fn unpack(&mut self) -> VecDeque<Unflushed<P>> {
        self.used = Room::default();
        mem::take(&mut self.kept)
    }
}

fn payload_len(command: &Command) -> u64 {
    if command.kind == CommandType::Write { command.length } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(unflushed: &mut UnflushedWrites<()>, seq: u64, command: Command) {
        assert!(unflushed.has_room(&command), "{seq}");
        unflushed.take_room(&command);
        unflushed.keep(Unflushed { seq, command, payload: None, stamp: seq });
    }

    #[test]
    fn a_flush_makes_room_and_crowds_no_more() {
        let mut unflushed = UnflushedWrites::new(8192);
        for seq in 1..=2 {
            keep(&mut unflushed, seq, Command::write(0, 4096));
        }
        assert!(unflushed.is_crowded() && !unflushed.has_room(&Command::write(0, 1)));
        unflushed.release(2);
        assert!(!unflushed.is_crowded() && unflushed.is_empty());
        keep(&mut unflushed, 3, Command::write(0, 4095));
        assert!(!unflushed.is_crowded(), "less than half is used");
        assert!(
            unflushed.has_room(&Command::write(0, 4097))
                && !unflushed.has_room(&Command::write(0, 4098))
        );
    }

    #[test]
    fn commands_without_payload_are_counted() {
        let mut unflushed = UnflushedWrites::new(8192);
        for seq in 1..=MAX_KEPT as u64 {
            assert_eq!(unflushed.is_crowded(), seq > MAX_KEPT as u64 / 2, "{seq}");
            keep(&mut unflushed, seq, Command::trim(0, 4096));
        }
        assert!(!unflushed.has_room(&Command::trim(0, 4096)));
        unflushed.release(MAX_KEPT as u64 - 1);
        assert!(!unflushed.is_crowded() && !unflushed.is_empty());
        assert!(unflushed.has_room(&Command::trim(0, 4096)));
    }

    #[test]
    fn one_command_alone_always_has_room() {
        let mut unflushed = UnflushedWrites::<()>::new(10);
        assert!(unflushed.has_room(&Command::write(0, 11)));
        unflushed.take_room(&Command::write(0, 11));
        assert!(!unflushed.has_room(&Command::trim(0, 1)));
        unflushed.give_back_room(&Command::write(0, 11));
        assert!(unflushed.has_room(&Command::write(0, 11)));
    }

    #[test]
    fn what_is_unpacked_keeps_its_room_but_no_flush_is_due_for_it() {
        let mut unflushed = UnflushedWrites::new(8192);
        keep(&mut unflushed, 1, Command::write(0, 8192));
        assert_eq!(unflushed.unpack().len(), 1);
        assert!(!unflushed.is_crowded() && unflushed.is_empty());
        assert!(!unflushed.has_room(&Command::write(0, 1)));
    }
}
