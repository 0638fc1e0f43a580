//! Where a request is carried out: on the spot, or where it may wait.

use std::time::Duration;

use nbd_proto::{Command, CommandType};

/// So many requests of a kind in a row must have been quick before the next is carried out on
/// the spot.
const PROOF: u8 = 8;

/// What is quick, whatever the length: less than it costs to hand a request over and back.
const QUICK: Duration = Duration::from_micros(40);

/// What else a request with payload may take, in bytes a nanosecond.
const BYTES_PER_NANO: u64 = 1;

/// How quick an export has been lately, by kind of request.
///
/// One that answers from memory is asked on the spot; one that waits for a disk or a network
/// is asked elsewhere, so that other requests of the client go on meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    streaks: [u8; 4],
}

impl Placement {
    /// Nothing is done on the spot until it has been quick: for a task that shares its thread.
    #[cfg(any(feature = "tokio", test, fuzzing))]
    pub(crate) const fn cautious() -> Self {
        Self { streaks: [0; 4] }
    }

    /// Everything is done on the spot until it has been slow: for a thread that serves one
    /// client.
    pub(crate) const fn hopeful() -> Self {
        Self { streaks: [PROOF; 4] }
    }

    /// Whether a request is to be carried out on the spot.
    pub(crate) const fn is_quick(&self, kind: CommandType) -> bool {
        self.streaks[class(kind)] >= PROOF
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
        CommandType::Flush => 2,
        CommandType::Trim
        | CommandType::WriteZeroes
        | CommandType::Cache
        | CommandType::BlockStatus => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_been_quick_is_done_on_the_spot_until_it_is_slow() {
        let mut placement = Placement::hopeful();
        let read = Command::read(0, 4096);
        assert!(placement.is_quick(CommandType::Read));
        placement.learn(read, Duration::from_millis(1));
        for _ in 0..PROOF {
            assert!(!placement.is_quick(CommandType::Read));
            placement.learn(read, Duration::from_micros(2));
        }
        assert!(placement.is_quick(CommandType::Read));
        placement.learn(Command::flush(), Duration::from_millis(1));
        assert!(placement.is_quick(CommandType::Read));
        assert!(!placement.is_quick(CommandType::Flush));
    }

    #[test]
    fn a_long_request_may_take_longer() {
        let mut placement = Placement::hopeful();
        placement.learn(Command::write(0, 4 << 20), Duration::from_millis(2));
        assert!(placement.is_quick(CommandType::Write));
    }
}
