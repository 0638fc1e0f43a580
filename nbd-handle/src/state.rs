//! What a handle is doing, also for those who do not hold its lock.

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering};

use nbd_proto::Direction;

/// What a handle is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(clippy::exhaustive_enums, reason = "the states of libnbd")]
pub enum State {
    /// Nothing has been connected to.
    Created,
    /// On its way to a server, or waiting for its answer to an option.
    Connecting,
    /// Option mode: the caller chooses what comes next.
    Negotiating,
    /// Commands are accepted, and nothing waits to be sent.
    Ready,
    /// Commands are accepted, and some of what was submitted waits to be sent.
    Processing,
    /// The connection ended in error.
    Dead,
    /// The connection ended in good order.
    Closed,
}

impl State {
    const ALL: [Self; 7] = [
        Self::Created,
        Self::Connecting,
        Self::Negotiating,
        Self::Ready,
        Self::Processing,
        Self::Dead,
        Self::Closed,
    ];

    /// Whether commands are accepted.
    #[must_use]
    pub const fn is_connected(self) -> bool {
        matches!(self, Self::Ready | Self::Processing)
    }

    /// Whether it is over.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Dead | Self::Closed)
    }

    /// In words, for messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Connecting => "connecting",
            Self::Negotiating => "negotiating",
            Self::Ready => "ready",
            Self::Processing => "processing",
            Self::Dead => "dead",
            Self::Closed => "closed",
        }
    }
}

/// What is known of a handle without its lock, such as from one of its own callbacks. It is as
/// the last call that held the lock left it.
#[derive(Debug, Default)]
pub struct Published {
    state: AtomicU8,
    direction: AtomicU8,
    in_flight: AtomicI32,
    private_data: AtomicUsize,
}

impl Published {
    pub(crate) fn publish(&self, state: State, direction: Direction, in_flight: i32) {
        self.state.store(state as u8, Ordering::Release);
        self.direction.store(direction.bits(), Ordering::Release);
        self.in_flight.store(in_flight, Ordering::Release);
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        let number = usize::from(self.state.load(Ordering::Acquire));
        State::ALL.get(number).copied().unwrap_or(State::Dead)
    }

    /// What to wait for on its descriptor: 1 to read, 2 to write, 3 both, 0 neither.
    #[must_use]
    pub fn direction(&self) -> u8 {
        self.direction.load(Ordering::Acquire)
    }

    /// Commands that were not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> i32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// A word of the caller's.
    #[must_use]
    pub fn private_data(&self) -> usize {
        self.private_data.load(Ordering::Acquire)
    }

    /// Puts another word of the caller's in its place, and returns the one before.
    pub fn set_private_data(&self, data: usize) -> usize {
        self.private_data.swap(data, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_published_as_itself() {
        let published = Published::default();
        assert_eq!(published.state(), State::Created);
        for state in State::ALL {
            published.publish(state, Direction::WRITE, 3);
            assert_eq!(published.state(), state);
        }
        assert_eq!((published.direction(), published.in_flight()), (2, 3));
        assert_eq!((published.set_private_data(7), published.private_data()), (0, 7));
    }
}
