//! The log by itself, with a server that is a list of what was sent to it.

mod room;

use super::{Place, Reconnect, RecoveryError, ReplayLog};
use nbd_proto::CommandType;
use nbd_proto::Errno;
use nbd_proto::{Command, RequestId};
use nbd_proto::{CommandError, SubmitError};
use nbd_proto::{CommandFlags, TransmissionFlags as Flags};
use nbd_proto::{ExportInfo, Negotiated};

const KEEP: Reconnect = Reconnect::new().keep_unflushed(1000);
const FORGET: Reconnect = Reconnect::new();

fn facts(flags: Flags) -> Negotiated {
    Negotiated::new(ExportInfo::new(1 << 20, Flags::HAS_FLAGS | flags))
}

/// A log and what is on its way.
struct Desk {
    log: ReplayLog<u32, u64>,
    facts: Negotiated,
    cookies: u64,
    under_way: Vec<(RequestId, Command)>,
}

impl Desk {
    fn new(policy: Reconnect) -> Self {
        Self::on(policy, facts(Flags::SEND_FLUSH | Flags::SEND_FUA))
    }

    fn on(policy: Reconnect, facts: Negotiated) -> Self {
        let log = ReplayLog::new(&policy, &facts, 64).unwrap();
        Self { log, facts, cookies: 0, under_way: Vec::new() }
    }

    fn submit(&mut self, token: u32, command: Command) -> Place {
        let payload = (command.kind == CommandType::Write).then_some(u64::from(token));
        self.log.submit(token, command, payload).unwrap()
    }

    /// Sends everything that is due; returns it as offsets, `u64::MAX` for a flush.
    fn send(&mut self) -> Vec<u64> {
        let mut sent = Vec::new();
        while let Some((place, command)) = self.log.due() {
            let id = RequestId::from_cookie(self.cookies);
            self.cookies += 1;
            self.log.sent(place, id);
            self.under_way.push((id, command));
            let flush = command.kind == CommandType::Flush;
            sent.push(if flush { u64::MAX } else { command.offset });
        }
        sent
    }

    /// The answer to the request that was sent as the n-th of those under way.
    fn answer(&mut self, n: usize, result: Result<(), CommandError>) -> Option<u32> {
        let (id, _) = self.under_way.remove(n);
        let told = self.log.completed(id, result);
        assert!(told.is_none_or(|(_, told)| told == result));
        told.map(|(token, _)| token)
    }

    fn succeed(&mut self, n: usize) -> Option<u32> {
        self.answer(n, Ok(()))
    }

    /// The server answers so that it is shutting down, and the client says so.
    fn shut_down(&mut self, n: usize) {
        assert_eq!(self.answer(n, Err(CommandError::Server(Errno::Shutdown))), None);
        self.log.drain();
    }

    fn lose(&mut self) {
        for (id, _) in self.under_way.drain(..) {
            let told = self.log.completed(id, Err(CommandError::ConnectionLost));
            assert_eq!(told, None);
        }
        self.log.lost();
    }

    fn reconnect(&mut self) {
        self.lose();
        assert_eq!(self.log.due(), None);
        self.log.resume(&self.facts.clone()).unwrap();
    }

    /// A write that was acknowledged.
    fn written(&mut self, token: u32, command: Command) {
        self.submit(token, command);
        assert_eq!(self.send(), [command.offset]);
        assert_eq!(self.succeed(self.under_way.len() - 1), Some(token));
    }
}

const FLUSH: u64 = u64::MAX;
const IO: Result<(), CommandError> = Err(CommandError::Server(Errno::Io));

#[test]
fn without_a_loss_everything_goes_at_once_and_in_order() {
    let mut desk = Desk::new(FORGET);
    for (token, command) in
        [Command::write(0, 10), Command::read(0, 10), Command::trim(10, 5), Command::flush()]
            .into_iter()
            .enumerate()
    {
        desk.submit(token as u32, command);
    }
    assert_eq!(desk.send(), [0, 0, 10, FLUSH]);
    assert_eq!(desk.succeed(2), Some(2));
    assert_eq!(desk.answer(0, IO), Some(0));
    assert_eq!(desk.succeed(0), Some(1));
    assert_eq!(desk.succeed(0), Some(3));
    assert!(desk.log.is_idle());
}

#[test]
fn changes_of_the_same_bytes_go_one_after_another() {
    let mut desk = Desk::new(FORGET);
    desk.submit(1, Command::write(0, 10));
    desk.submit(2, Command::write_zeroes(9, 10));
    desk.submit(3, Command::trim(18, 2));
    desk.submit(4, Command::write(30, 1));
    assert_eq!(desk.send(), [0, 30]);
    desk.answer(0, IO);
    assert_eq!(desk.send(), [9]);
    desk.succeed(1);
    assert_eq!(desk.send(), [18]);
}

#[test]
fn what_was_not_answered_is_sent_again_and_nothing_else() {
    let mut desk = Desk::new(FORGET);
    desk.submit(1, Command::read(0, 10));
    desk.submit(2, Command::write(20, 10));
    desk.submit(3, Command::cache(40, 10));
    desk.send();
    desk.succeed(0);
    desk.reconnect();
    assert_eq!(desk.send(), [20, 40]);
    desk.reconnect();
    assert_eq!(desk.send(), [20, 40]);
    assert_eq!((desk.succeed(0), desk.succeed(0)), (Some(2), Some(3)));
    assert!(desk.log.is_idle());
}

#[test]
fn after_a_loss_readers_wait_for_what_may_have_been_seen() {
    let mut desk = Desk::new(FORGET);
    desk.submit(1, Command::read(0, 10));
    desk.submit(2, Command::write(0, 10));
    desk.send();
    desk.submit(3, Command::block_status(5, 10));
    desk.submit(4, Command::read(10, 10));
    assert_eq!(desk.send(), [5, 10], "on one connection there is nothing to wait for");
    desk.reconnect();
    desk.submit(5, Command::read(9, 1));
    // The read that came before the write need not wait.
    assert_eq!(desk.send(), [0, 0, 10]);
    desk.succeed(1);
    assert_eq!(desk.send(), [5, 9]);
    // One that was never sent has not been seen.
    desk.lose();
    desk.submit(6, Command::write(100, 10));
    desk.submit(7, Command::read(100, 10));
    desk.log.resume(&desk.facts).unwrap();
    assert!(desk.send().ends_with(&[100, 100]));
}

#[test]
fn acknowledged_writes_are_put_back_first_and_in_order() {
    let mut desk = Desk::new(KEEP);
    desk.written(1, Command::write(0, 10));
    desk.written(2, Command::write(5, 10));
    desk.written(3, Command::trim(50, 10));
    desk.submit(4, Command::write(5, 1));
    desk.submit(5, Command::read(14, 1));
    desk.submit(6, Command::flush());
    desk.submit(7, Command::read(70, 1));
    desk.send();
    for _ in 0..2 {
        desk.reconnect();
        assert_eq!(desk.send(), [0, 50, 70]);
        assert_eq!(desk.succeed(0), None);
        assert_eq!(desk.send(), [5]);
    }
    let (id, _) = *desk.under_way.last().unwrap();
    assert_eq!((desk.log.caller(id), desk.log.payload(id)), (None, Some(&2)));
    assert_eq!(desk.succeed(2), None);
    assert_eq!(desk.send(), [5, 14]);
    assert_eq!(desk.succeed(0), None);
    assert_eq!(desk.send(), [FLUSH]);
}

#[test]
fn a_flush_releases_what_was_acknowledged_before_it_was_sent() {
    let mut desk = Desk::new(KEEP);
    desk.written(1, Command::write(0, 10));
    desk.submit(2, Command::flush());
    desk.send();
    desk.written(3, Command::write(20, 10));
    desk.submit(4, Command::flush());
    desk.send();
    assert_eq!(desk.succeed(0), Some(2));
    assert_eq!(desk.answer(0, IO), Some(4));
    desk.reconnect();
    assert_eq!(desk.send(), [20]);
    // A flush whose answer is lost releases nothing.
    desk.submit(5, Command::flush());
    assert_eq!(desk.send(), []);
    desk.succeed(0);
    assert_eq!(desk.send(), [FLUSH]);
    desk.reconnect();
    assert_eq!(desk.send(), [20]);
    desk.succeed(0);
    assert_eq!(desk.send(), [FLUSH]);
    desk.succeed(0);
    desk.reconnect();
    assert_eq!(desk.send(), []);
}

#[test]
fn a_durable_write_is_kept_only_to_follow_an_older_one() {
    let mut desk = Desk::new(KEEP);
    desk.written(1, Command::write(0, 10).with(CommandFlags::FUA));
    desk.reconnect();
    assert_eq!(desk.send(), []);
    desk.written(2, Command::write(0, 10));
    desk.written(3, Command::write(0, 5).with(CommandFlags::FUA));
    desk.reconnect();
    assert_eq!(desk.send(), [0]);
    desk.succeed(0);
    assert_eq!(desk.under_way, []);
    assert_eq!(desk.send(), [0]);
    assert!(desk.under_way[0].1.flags.contains(CommandFlags::FUA));
}

/// What waits for two goes when both are gone, whichever way, and not before.
#[test]
fn who_waits_for_several_waits_for_all_of_them() {
    for cancelled in [false, true] {
        let mut desk = Desk::new(FORGET);
        desk.submit(1, Command::write(0, 10));
        let second = desk.submit(2, Command::write(20, 10));
        desk.submit(3, Command::write(5, 20));
        desk.submit(4, Command::write(24, 1));
        // It is about other bytes than any.
        desk.submit(5, Command::write(50, 1));
        assert_eq!(desk.send(), [0, 20, 50]);
        if cancelled {
            desk.log.cancel(second);
            desk.under_way.remove(1);
        } else {
            desk.succeed(1);
        }
        assert_eq!(desk.send(), []);
        desk.succeed(0);
        assert_eq!(desk.send(), [5]);
        desk.succeed(1);
        assert_eq!(desk.send(), [24]);
    }
    // One in the middle is given up before it was sent: the last waits for the first no less.
    let mut desk = Desk::new(FORGET);
    desk.submit(1, Command::write(0, 10));
    let second = desk.submit(2, Command::write(5, 10));
    desk.submit(3, Command::write(9, 10));
    assert_eq!(desk.send(), [0]);
    desk.log.cancel(second);
    assert_eq!(desk.send(), []);
    desk.succeed(0);
    assert_eq!(desk.send(), [9]);
}

#[test]
fn a_command_that_changes_nothing_lets_nobody_go() {
    let mut desk = Desk::new(FORGET);
    desk.submit(1, Command::read(0, 10));
    desk.submit(2, Command::write(0, 10));
    desk.submit(3, Command::write(0, 10));
    assert_eq!(desk.send(), [0, 0]);
    desk.succeed(0);
    assert_eq!(desk.send(), []);
}

#[test]
fn a_journal_knows_whether_there_is_a_connection() {
    let mut desk = Desk::new(FORGET);
    assert!(!desk.log.is_lost());
    desk.submit(1, Command::read(0, 10));
    desk.send();
    desk.shut_down(0);
    assert!(desk.log.is_drained() && !desk.log.is_lost());
    desk.lose();
    assert!(desk.log.is_lost() && !desk.log.is_drained());
    desk.log.resume(&desk.facts).unwrap();
    assert!(!desk.log.is_lost());
}

#[test]
fn a_flush_tells_that_writes_may_be_lost_and_the_next_does_not() {
    // Nothing is lost that was flushed, or durable by itself.
    let mut desk = Desk::new(FORGET);
    desk.written(1, Command::write(0, 10));
    desk.submit(2, Command::flush());
    desk.send();
    desk.succeed(0);
    desk.written(3, Command::write(0, 10).with(CommandFlags::FUA));
    desk.submit(4, Command::flush());
    desk.send();
    desk.reconnect();
    assert_eq!(desk.send(), [FLUSH]);
    assert_eq!(desk.succeed(0), Some(4));
    // Those under way are told.
    desk.written(5, Command::write(0, 10));
    desk.submit(6, Command::flush());
    desk.submit(7, Command::flush());
    desk.send();
    desk.reconnect();
    let lost = RecoveryError::UnflushedLost;
    assert_eq!(desk.log.poll_failed(), Some((6, lost.clone())));
    assert_eq!(desk.log.poll_failed(), Some((7, lost.clone())));
    desk.submit(8, Command::flush());
    assert_eq!(desk.send(), [FLUSH]);
    assert_eq!(desk.succeed(0), Some(8));
    // Or else the next, once, however often the connection is lost.
    desk.written(9, Command::write(0, 10));
    desk.reconnect();
    desk.reconnect();
    desk.submit(10, Command::flush());
    assert_eq!(desk.log.poll_failed(), Some((10, lost)));
    desk.submit(11, Command::flush());
    assert_eq!((desk.send(), desk.log.poll_failed()), (vec![FLUSH], None));
}

#[test]
fn a_flush_sent_before_the_write_does_not_cover_it() {
    let mut desk = Desk::new(FORGET);
    desk.submit(1, Command::flush());
    desk.send();
    desk.written(2, Command::write(0, 10));
    assert_eq!(desk.succeed(0), Some(1));
    desk.reconnect();
    desk.submit(3, Command::flush());
    assert_eq!(desk.log.poll_failed(), Some((3, RecoveryError::UnflushedLost)));
}

#[test]
fn an_earlier_flush_takes_nothing_back_from_a_later_one() {
    let mut desk = Desk::new(FORGET);
    desk.submit(1, Command::flush());
    desk.send();
    desk.written(2, Command::write(0, 10));
    desk.submit(3, Command::flush());
    desk.send();
    assert_eq!(desk.succeed(1), Some(3));
    assert_eq!(desk.succeed(0), Some(1));
    desk.reconnect();
    desk.submit(4, Command::flush());
    assert_eq!((desk.send(), desk.log.poll_failed()), (vec![FLUSH], None));
}

/// A place is one command's: giving up a flush that failed at once gives up nothing else.
#[test]
fn a_flush_that_fails_at_once_has_a_place_of_its_own() {
    let mut desk = Desk::new(FORGET);
    desk.written(1, Command::write(0, 10));
    desk.reconnect();
    let write = desk.submit(2, Command::write(20, 10));
    let flush = desk.submit(3, Command::flush());
    assert_eq!(desk.log.poll_failed(), Some((3, RecoveryError::UnflushedLost)));
    let read = desk.submit(4, Command::read(40, 10));
    assert!(write < flush && flush < read);
    desk.log.cancel(flush);
    assert_eq!(desk.send(), [20, 40]);
}

/// What could have been sent before the loss, and was not, may have to wait after it.
#[test]
fn a_flush_in_line_waits_for_what_is_put_back() {
    let mut desk = Desk::new(KEEP);
    desk.written(1, Command::write(0, 10));
    desk.submit(2, Command::flush());
    desk.reconnect();
    assert_eq!(desk.send(), [0]);
    assert_eq!(desk.succeed(0), None);
    assert_eq!(desk.send(), [FLUSH]);
    assert_eq!(desk.succeed(0), Some(2));
}

#[test]
fn a_server_that_shuts_down_is_waited_for_and_then_left() {
    let mut desk = Desk::new(FORGET);
    desk.submit(1, Command::write(0, 10));
    desk.submit(2, Command::read(20, 10));
    desk.send();
    desk.shut_down(0);
    desk.submit(3, Command::read(40, 10));
    assert_eq!(desk.send(), []);
    assert!(!desk.log.is_drained());
    assert_eq!(desk.succeed(0), Some(2));
    assert!(desk.log.is_drained());
    desk.reconnect();
    assert!(!desk.log.is_drained());
    assert_eq!(desk.send(), [0, 40]);
}

#[test]
fn cancelled_commands_are_not_sent_again_and_hold_nobody_up() {
    let mut desk = Desk::new(FORGET);
    let first = desk.submit(1, Command::write(0, 10));
    let second = desk.submit(2, Command::write(0, 10));
    desk.submit(3, Command::write(0, 10));
    desk.send();
    desk.log.cancel(second);
    desk.log.cancel(first);
    desk.log.cancel(first);
    assert_eq!(desk.send(), [0]);
    let late = desk.under_way.remove(0).0;
    assert_eq!(desk.log.completed(late, Ok(())), None);
    desk.reconnect();
    assert_eq!(desk.send(), [0]);
    assert_eq!(desk.succeed(0), Some(3));
    assert!(desk.log.is_idle());
}

#[test]
fn an_acknowledged_write_that_cannot_be_put_back_ends_it() {
    let mut desk = Desk::new(KEEP);
    let command = Command::write(0, 10);
    desk.written(1, command);
    desk.reconnect();
    desk.submit(2, Command::read(0, 10));
    assert_eq!(desk.send(), [0]);
    assert_eq!(desk.answer(0, IO), None);
    let fault = RecoveryError::ReplayFailed { command, errno: Errno::Io };
    assert_eq!(desk.log.fault(), Some(&fault));
    assert_eq!(desk.send(), [], "what was there before is not to be read");
}

/// What the client will not take is as bad as what the server will not do.
#[test]
fn what_is_refused_fails_for_whoever_it_was() {
    let refuse = |desk: &mut Desk| {
        let (place, _) = desk.log.due().unwrap();
        desk.log.refused(place, SubmitError::Unsupported)
    };
    let errno = SubmitError::Unsupported.errno();
    let mut desk = Desk::new(KEEP);
    desk.submit(1, Command::read(0, 10));
    assert_eq!(refuse(&mut desk), Some(1));
    assert!(desk.log.is_idle());
    // A flush of the log's own: for whoever waits for room.
    desk.submit(2, Command::write(0, 1000));
    desk.submit(3, Command::write(2000, 1));
    assert_eq!(desk.send(), [0]);
    desk.succeed(0);
    assert_eq!(refuse(&mut desk), None);
    let failed = RecoveryError::CannotFlush(errno);
    assert_eq!(desk.log.poll_failed(), Some((3, failed)));
    // A write that was acknowledged, and cannot be put back.
    desk.reconnect();
    assert_eq!(refuse(&mut desk), None);
    let fault = RecoveryError::ReplayFailed { command: Command::write(0, 1000), errno };
    assert_eq!(desk.log.fault(), Some(&fault));
}

#[test]
fn a_server_without_flush_is_asked_for_durable_writes() {
    let mut desk = Desk::on(KEEP, facts(Flags::SEND_FUA));
    desk.submit(1, Command::write(0, 2000));
    desk.submit(2, Command::read(5000, 10));
    assert_eq!(desk.send(), [0, 5000]);
    assert_eq!(desk.under_way[0].1.flags, CommandFlags::FUA);
    assert_eq!(desk.under_way[1].1.flags, CommandFlags::empty());
    desk.succeed(0);
    desk.reconnect();
    assert_eq!(desk.send(), [5000]);
}

#[test]
fn what_cannot_be_kept_is_not_promised() {
    let log = |policy, flags| ReplayLog::<u32, u64>::new(&policy, &facts(flags), 1).map(drop);
    assert_eq!(log(KEEP, Flags::empty()), Err(RecoveryError::CannotKeep));
    assert_eq!(log(KEEP, Flags::READ_ONLY), Ok(()));
    assert_eq!(log(FORGET, Flags::empty()), Ok(()));
}

#[test]
fn the_number_of_callers_is_bounded() {
    let mut log = ReplayLog::<u32, u64>::new(&FORGET, &facts(Flags::empty()), 2).unwrap();
    for token in 0..2 {
        log.submit(token, Command::read(0, 1), None).unwrap();
    }
    assert!(log.is_full());
    assert_eq!(log.submit(2, Command::read(0, 1), None), Err(SubmitError::Full));
}
