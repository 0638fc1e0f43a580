//! Acknowledged writes that no flush has made durable, and the room for them.

use alloc::collections::BTreeMap;
use core::mem;

use crate::types::Command;
use crate::wire::request::CommandType;

/// Commands kept at most, so that putting them back takes no noticeable time.
const MAX_KEPT: usize = 4096;

/// A command that was acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Kept<P> {
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
        self.bytes = self.bytes.saturating_sub(payload_len(command));
        self.commands = self.commands.saturating_sub(1);
    }
}

/// Where acknowledged commands stand until a flush. Room is taken when a write is sent, so
/// that there is some when it is acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Shelf<P> {
    bytes: u64,
    /// By what is kept and what is under way.
    taken: Room,
    /// By what is kept.
    used: Room,
    kept: BTreeMap<u64, Kept<P>>,
}

impl<P> Shelf<P> {
    /// Room for so many bytes of payload.
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, taken: Room::default(), used: Room::default(), kept: BTreeMap::new() }
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
    pub(super) fn keep(&mut self, seq: u64, kept: Kept<P>) {
        self.used.add(&kept.command);
        self.kept.insert(seq, kept);
    }

    /// A flush has made everything durable that was acknowledged up to then.
    pub(super) fn release(&mut self, stamp: u64) {
        self.kept.retain(|_, kept| {
            let stays = kept.stamp > stamp;
            if !stays {
                self.used.subtract(&kept.command);
                self.taken.subtract(&kept.command);
            }
            stays
        });
    }

    /// Everything kept is to be sent again; it goes on taking up its room.
    pub(super) fn unpack(&mut self) -> BTreeMap<u64, Kept<P>> {
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

    fn keep(shelf: &mut Shelf<()>, seq: u64, command: Command) {
        assert!(shelf.has_room(&command), "{seq}");
        shelf.take_room(&command);
        shelf.keep(seq, Kept { command, payload: None, stamp: seq });
    }

    #[test]
    fn a_flush_makes_room_and_crowds_no_more() {
        let mut shelf = Shelf::new(8192);
        for seq in 1..=2 {
            keep(&mut shelf, seq, Command::write(0, 4096));
        }
        assert!(shelf.is_crowded() && !shelf.has_room(&Command::write(0, 1)));
        shelf.release(2);
        assert!(!shelf.is_crowded() && shelf.is_empty());
        keep(&mut shelf, 3, Command::write(0, 4095));
        assert!(!shelf.is_crowded(), "less than half is used");
        assert!(
            shelf.has_room(&Command::write(0, 4097)) && !shelf.has_room(&Command::write(0, 4098))
        );
    }

    #[test]
    fn commands_without_payload_are_counted() {
        let mut shelf = Shelf::new(8192);
        for seq in 1..=MAX_KEPT as u64 {
            assert_eq!(shelf.is_crowded(), seq > MAX_KEPT as u64 / 2, "{seq}");
            keep(&mut shelf, seq, Command::trim(0, 4096));
        }
        assert!(!shelf.has_room(&Command::trim(0, 4096)));
        shelf.release(MAX_KEPT as u64 - 1);
        assert!(!shelf.is_crowded() && !shelf.is_empty());
        assert!(shelf.has_room(&Command::trim(0, 4096)));
    }

    #[test]
    fn one_command_alone_always_has_room() {
        let mut shelf = Shelf::<()>::new(10);
        assert!(shelf.has_room(&Command::write(0, 11)));
        shelf.take_room(&Command::write(0, 11));
        assert!(!shelf.has_room(&Command::trim(0, 1)));
        shelf.give_back_room(&Command::write(0, 11));
        assert!(shelf.has_room(&Command::write(0, 11)));
    }

    #[test]
    fn what_is_unpacked_keeps_its_room_but_no_flush_is_due_for_it() {
        let mut shelf = Shelf::new(8192);
        keep(&mut shelf, 1, Command::write(0, 8192));
        assert_eq!(shelf.unpack().len(), 1);
        assert!(!shelf.is_crowded() && shelf.is_empty());
        assert!(!shelf.has_room(&Command::write(0, 1)));
    }
}
