//! To the first address that answers: "Happy Eyeballs", RFC 8305.
//!
//! ```text
//!   time     0 ms        250 ms       500 ms
//!   v6 #1    SYN ─────────────────────────────▶ (silent)
//!   v4 #1                SYN ── connected: the winner, the others are closed
//!   v6 #2                             never started
//! ```
//!
//! An attempt that fails starts the next at once. A single address is a race of one.

use super::error::Attempt;
use super::target::{Started, Target};
use rustix::io::Errno;
use rustix::net::getpeername;
use socket2::Socket;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long an attempt runs alone (RFC 8305 section 5, "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);

/// The pauses between two tries of a server whose backlog is full.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How the addresses of a host are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AddressOrder {
    /// Alternating between IPv6 and IPv4, the next one 250 ms after the one before it, and at once
    /// when that fails; the first to answer is taken ("Happy Eyeballs", RFC 8305). Several
    /// descriptors may be waited for at a time.
    #[default]
    Race,
    /// In the order of the resolver, the next one only when the one before it has failed. There is
    /// never more than one descriptor to wait for.
    OneByOne,
}

#[derive(Debug)]
pub(super) struct Race {
    order: AddressOrder,
    queue: VecDeque<Target>,
    /// When the next one starts, though others have not failed.
    next_start: Option<Instant>,
    pending: Vec<Pending>,
    failed: Vec<Attempt>,
    /// How many sockets have been waited for.
    started: u32,
}

#[derive(Debug)]
struct Pending {
    target: Target,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Connecting { id: u32, socket: Socket },
    Busy { again: Instant, pause: Duration },
}

pub(super) enum Outcome {
    Pending,
    Connected(Socket),
    Failed,
}

impl Race {
    pub(super) fn new(targets: impl IntoIterator<Item = Target>, order: AddressOrder) -> Self {
        let queue = match order {
            AddressOrder::Race => interleave(targets),
            AddressOrder::OneByOne => once_each(targets),
        };
        let (pending, failed) = (Vec::new(), Vec::new());
        Self { order, queue, next_start: None, pending, failed, started: 0 }
    }

    pub(super) const fn started(&self) -> u32 {
        self.started
    }

    pub(super) fn into_failed(self) -> Vec<Attempt> {
        self.failed
    }

    /// The sockets that become writable.
    pub(super) fn connecting(&self) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.pending.iter().filter_map(|pending| match &pending.kind {
            Kind::Connecting { id, socket } => Some((*id, socket.as_fd())),
            Kind::Busy { .. } => None,
        })
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let start = self.next_start.filter(|_| !self.queue.is_empty());
        let again = self.pending.iter().filter_map(|pending| match pending.kind {
            Kind::Connecting { .. } => None,
            Kind::Busy { again, .. } => Some(again),
        });
        start.into_iter().chain(again).min()
    }

    pub(super) fn advance(&mut self, now: Instant) -> Outcome {
        for pending in std::mem::take(&mut self.pending) {
            if let Some(winner) = self.look(pending, now) {
                return Outcome::Connected(winner);
            }
        }
        while self.pending.is_empty() || self.next_start.is_some_and(|at| at <= now) {
            let Some(target) = self.queue.pop_front() else { break };
            self.next_start = match self.order {
                AddressOrder::Race => now.checked_add(STAGGER),
                AddressOrder::OneByOne => None,
            };
            if let Some(winner) = self.start(target, FIRST_PAUSE, now) {
                return Outcome::Connected(winner);
            }
        }
        if self.pending.is_empty() { Outcome::Failed } else { Outcome::Pending }
    }

    /// What has become of one that was under way.
    fn look(&mut self, Pending { target, kind }: Pending, now: Instant) -> Option<Socket> {
        match kind {
            Kind::Connecting { id, socket } => match outcome(&socket) {
                Ok(true) => return Some(socket),
                Ok(false) => {
                    self.pending.push(Pending { target, kind: Kind::Connecting { id, socket } });
                }
                Err(error) => self.fail(target, error, now),
            },
            Kind::Busy { again, pause } if now < again => {
                self.pending.push(Pending { target, kind: Kind::Busy { again, pause } });
            }
            Kind::Busy { pause, .. } => {
                return self.start(target, LONGEST_PAUSE.min(pause * 2), now);
            }
        }
        None
    }

    fn start(&mut self, target: Target, pause: Duration, now: Instant) -> Option<Socket> {
        let kind = match target.connect() {
            Ok(Started::Connected(socket)) => return Some(socket),
            Ok(Started::InProgress(socket)) => {
                let id = self.started;
                self.started += 1;
                Kind::Connecting { id, socket }
            }
            Ok(Started::Busy) => Kind::Busy { again: now + pause, pause },
            Err(error) => {
                self.fail(target, error, now);
                return None;
            }
        };
        self.pending.push(Pending { target, kind });
        None
    }

    /// The next one starts at once.
    fn fail(&mut self, target: Target, error: io::Error, now: Instant) {
        self.failed.push(target.failed(error));
        self.next_start = Some(now);
    }
}

/// Whether a connect in progress has succeeded, or not ended.
fn outcome(socket: &Socket) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match getpeername(socket) {
        Ok(_) => Ok(true),
        Err(Errno::NOTCONN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn once_each(targets: impl IntoIterator<Item = Target>) -> VecDeque<Target> {
    let mut queue = VecDeque::new();
    for target in targets {
        if !queue.contains(&target) {
            queue.push_back(target);
        }
    }
    queue
}

/// Alternates between the families, beginning with that of the first address (RFC 8305
/// section 4).
fn interleave(targets: impl IntoIterator<Item = Target>) -> VecDeque<Target> {
    let queue = once_each(targets);
    let first_is_v6 = queue.front().is_some_and(Target::is_ipv6);
    let (preferred, others): (Vec<_>, Vec<_>) =
        queue.into_iter().partition(|target| target.is_ipv6() == first_is_v6);
    let mut others = others.into_iter();
    let mut mixed: VecDeque<_> =
        preferred.into_iter().flat_map(|one| [Some(one), others.next()]).flatten().collect();
    mixed.extend(others);
    mixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn targets(texts: &[&str]) -> Vec<Target> {
        let parse = |text: &&str| Target::tcp(text.parse::<SocketAddr>().unwrap());
        texts.iter().map(parse).collect()
    }

    #[test]
    fn families_alternate_beginning_with_the_systems_preference() {
        let given = targets(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]);
        let wanted = targets(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]);
        assert_eq!(interleave(given), wanted);
        let given = targets(&["1.1.1.1:1", "[::1]:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(interleave(given), targets(&["1.1.1.1:1", "[::1]:1", "[::2]:1", "[::3]:1"]));
    }

    #[test]
    fn repeated_addresses_are_tried_once() {
        for order in [AddressOrder::Race, AddressOrder::OneByOne] {
            let race = Race::new(targets(&["1.1.1.1:1", "1.1.1.1:1", "[::1]:1"]), order);
            assert_eq!(race.queue, targets(&["1.1.1.1:1", "[::1]:1"]));
            assert!(Race::new([], order).queue.is_empty());
        }
    }

    #[test]
    fn one_by_one_keeps_the_resolvers_order() {
        let given = ["[::1]:1", "[::2]:1", "1.1.1.1:1"];
        assert_eq!(Race::new(targets(&given), AddressOrder::OneByOne).queue, targets(&given));
    }
}
