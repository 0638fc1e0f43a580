//! Where a request is carried out: on the spot, or where it may wait.
//!
//! | the export has | in a thread of the client's own | in a task |
//! |---|---|---|
//! | `NEVER_WAITS` | on the spot | on the spot |
//! | `RARELY_WAITS` | on the spot while the like has been quick, and never a flush | elsewhere |
//! | neither | elsewhere | elsewhere |
//!
//! What is carried out on the spot holds up the other requests of its client, and in a task those
//! of other clients too. That calls have been quick says nothing about the next one, so an export
//! has to ask for it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use nbd_proto::{Command, CommandFlags, CommandType};

use crate::export::Abilities;

/// So many requests of a kind in a row must have been quick before the next is carried out on
/// the spot, where an export rarely waits.
const PROOF: u8 = 8;

/// What is quick, whatever the length: less than it costs to hand a request over and back.
const QUICK: Duration = Duration::from_micros(40);

/// What else a request with payload may take, in bytes a nanosecond.
const BYTES_PER_NANO: u64 = 1;

/// The longest request that is carried out on the spot, in bytes. A longer one takes its time
/// even in memory.
pub(crate) const LONGEST: u64 = 4 << 20;

/// The queue for what concerns an export, by its name. Those of two exports may come into one,
/// which costs them a part of their shares.
pub(crate) fn queue_of(export: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    export.hash(&mut hasher);
    hasher.finish()
}

/// Where the requests of one connection are carried out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    /// The connection has a thread of its own.
    alone: bool,
    streaks: [u8; 4],
}

impl Placement {
    /// For a task, which shares its thread with others.
    #[cfg(any(feature = "tokio", test, fuzzing))]
    pub(crate) const fn in_task() -> Self {
        Self { alone: false, streaks: [0; 4] }
    }

    /// For a thread that serves one client.
    pub(crate) const fn in_thread() -> Self {
        Self { alone: true, streaks: [0; 4] }
    }

    /// Whether nobody but its client is held up by a request on the spot.
    pub(crate) const fn is_alone(&self) -> bool {
        self.alone
    }

    /// Whether a request is to be carried out on the spot.
    pub(crate) const fn is_on_the_spot(&self, abilities: Abilities, command: Command) -> bool {
        if command.length > LONGEST {
            return false;
        }
        if abilities.contains(Abilities::NEVER_WAITS) {
            return true;
        }
        // What has to be safe is waited for.
        let syncs =
            matches!(command.kind, CommandType::Flush) || command.flags.contains(CommandFlags::FUA);
        let rarely = abilities.contains(Abilities::RARELY_WAITS);
        self.alone && rarely && !syncs && self.streaks[class(command.kind)] >= PROOF
    }

    /// A request took so long.
    pub(crate) fn learn(&mut self, command: Command, took: Duration) {
        let streak = &mut self.streaks[class(command.kind)];
        let payload = match command.kind {
            CommandType::Read | CommandType::Write => command.length,
            CommandType::Flush
            | CommandType::Trim
            | CommandType::WriteZeroes
            | CommandType::Cache
            | CommandType::BlockStatus => 0,
        };
        let quick = QUICK + Duration::from_nanos(payload / BYTES_PER_NANO);
        *streak = if took <= quick { streak.saturating_add(1) } else { 0 };
    }
}

const fn class(kind: CommandType) -> usize {
    match kind {
        CommandType::Read => 0,
        CommandType::Write => 1,
        CommandType::BlockStatus => 2,
        CommandType::Flush | CommandType::Trim | CommandType::WriteZeroes | CommandType::Cache => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Command = Command::read(0, 4096);

    fn proven(mut placement: Placement) -> Placement {
        for command in [READ, Command::write(0, 4096), Command::flush()] {
            (0..PROOF).for_each(|_| placement.learn(command, Duration::from_micros(2)));
        }
        placement
    }

    #[test]
    fn what_says_nothing_is_done_elsewhere_however_quick_it_has_been() {
        for placement in [Placement::in_task(), Placement::in_thread()].map(proven) {
            assert!(!placement.is_on_the_spot(Abilities::WRITE, READ));
        }
    }

    #[test]
    fn what_never_waits_is_done_on_the_spot_unless_it_is_long() {
        for placement in [Placement::in_task(), Placement::in_thread()] {
            let on_the_spot = |command| placement.is_on_the_spot(Abilities::NEVER_WAITS, command);
            assert!(on_the_spot(READ) && on_the_spot(Command::flush()));
            assert!(on_the_spot(Command::trim(0, LONGEST)));
            assert!(!on_the_spot(Command::trim(0, LONGEST + 1)));
        }
    }

    #[test]
    fn what_rarely_waits_is_done_on_the_spot_in_a_thread_while_it_is_quick() {
        let rarely = Abilities::RARELY_WAITS;
        assert!(!Placement::in_thread().is_on_the_spot(rarely, READ));
        assert!(!proven(Placement::in_task()).is_on_the_spot(rarely, READ));
        let mut placement = proven(Placement::in_thread());
        let write = Command::write(0, 4096);
        assert!(placement.is_on_the_spot(rarely, READ) && placement.is_on_the_spot(rarely, write));
        assert!(!placement.is_on_the_spot(rarely, Command::flush()));
        assert!(!placement.is_on_the_spot(rarely, write.with(CommandFlags::FUA)));
        placement.learn(READ, Duration::from_millis(1));
        assert!(!placement.is_on_the_spot(rarely, READ));
        assert!(placement.is_on_the_spot(rarely, write));
    }

    #[test]
    fn a_long_request_may_take_longer() {
        let mut placement = proven(Placement::in_thread());
        placement.learn(Command::write(0, 4 << 20), Duration::from_millis(2));
        assert!(placement.is_on_the_spot(Abilities::RARELY_WAITS, Command::write(0, 4096)));
    }
}
