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
struct Harness {
    log: ReplayLog<u32, u64>,
    facts: Negotiated,
    cookies: u64,
    under_way: Vec<(RequestId, Command)>,
}

impl Harness {
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
    let mut harness = Harness::new(FORGET);
    for (token, command) in
        [Command::write(0, 10), Command::read(0, 10), Command::trim(10, 5), Command::flush()]
            .into_iter()
            .enumerate()
    {
        harness.submit(token as u32, command);
    }
    assert_eq!(harness.send(), [0, 0, 10, FLUSH]);
    assert_eq!(harness.succeed(2), Some(2));
    assert_eq!(harness.answer(0, IO), Some(0));
    assert_eq!(harness.succeed(0), Some(1));
    assert_eq!(harness.succeed(0), Some(3));
    assert!(harness.log.is_idle());
}

#[test]
fn changes_of_the_same_bytes_go_one_after_another() {
    let mut harness = Harness::new(FORGET);
    harness.submit(1, Command::write(0, 10));
    harness.submit(2, Command::write_zeroes(9, 10));
    harness.submit(3, Command::trim(18, 2));
    harness.submit(4, Command::write(30, 1));
    assert_eq!(harness.send(), [0, 30]);
    harness.answer(0, IO);
    assert_eq!(harness.send(), [9]);
    harness.succeed(1);
    assert_eq!(harness.send(), [18]);
}

#[test]
fn what_was_not_answered_is_sent_again_and_nothing_else() {
    let mut harness = Harness::new(FORGET);
    harness.submit(1, Command::read(0, 10));
    harness.submit(2, Command::write(20, 10));
    harness.submit(3, Command::cache(40, 10));
    harness.send();
    harness.succeed(0);
    harness.reconnect();
    assert_eq!(harness.send(), [20, 40]);
    harness.reconnect();
    assert_eq!(harness.send(), [20, 40]);
    assert_eq!((harness.succeed(0), harness.succeed(0)), (Some(2), Some(3)));
    assert!(harness.log.is_idle());
}

#[test]
fn after_a_loss_readers_wait_for_what_may_have_been_seen() {
    let mut harness = Harness::new(FORGET);
    harness.submit(1, Command::read(0, 10));
    harness.submit(2, Command::write(0, 10));
    harness.send();
    harness.submit(3, Command::block_status(5, 10));
    harness.submit(4, Command::read(10, 10));
    assert_eq!(harness.send(), [5, 10], "on one connection there is nothing to wait for");
    harness.reconnect();
    harness.submit(5, Command::read(9, 1));
    // The read that came before the write need not wait.
    assert_eq!(harness.send(), [0, 0, 10]);
    harness.succeed(1);
    assert_eq!(harness.send(), [5, 9]);
    // One that was never sent has not been seen.
    harness.lose();
    harness.submit(6, Command::write(100, 10));
    harness.submit(7, Command::read(100, 10));
    harness.log.resume(&harness.facts).unwrap();
    assert!(harness.send().ends_with(&[100, 100]));
}

#[test]
fn acknowledged_writes_are_put_back_first_and_in_order() {
    let mut harness = Harness::new(KEEP);
    harness.written(1, Command::write(0, 10));
    harness.written(2, Command::write(5, 10));
    harness.written(3, Command::trim(50, 10));
    harness.submit(4, Command::write(5, 1));
    harness.submit(5, Command::read(14, 1));
    harness.submit(6, Command::flush());
    harness.submit(7, Command::read(70, 1));
    harness.send();
    for _ in 0..2 {
        harness.reconnect();
        assert_eq!(harness.send(), [0, 50, 70]);
        assert_eq!(harness.succeed(0), None);
        assert_eq!(harness.send(), [5]);
    }
    let (id, _) = *harness.under_way.last().unwrap();
    assert_eq!((harness.log.caller(id), harness.log.payload(id)), (None, Some(&2)));
    assert_eq!(harness.succeed(2), None);
    assert_eq!(harness.send(), [5, 14]);
    assert_eq!(harness.succeed(0), None);
    assert_eq!(harness.send(), [FLUSH]);
}

#[test]
fn a_flush_releases_what_was_acknowledged_before_it_was_sent() {
    let mut harness = Harness::new(KEEP);
    harness.written(1, Command::write(0, 10));
    harness.submit(2, Command::flush());
    harness.send();
    harness.written(3, Command::write(20, 10));
    harness.submit(4, Command::flush());
    harness.send();
    assert_eq!(harness.succeed(0), Some(2));
    assert_eq!(harness.answer(0, IO), Some(4));
    harness.reconnect();
    assert_eq!(harness.send(), [20]);
    // A flush whose answer is lost releases nothing.
    harness.submit(5, Command::flush());
    assert_eq!(harness.send(), []);
    harness.succeed(0);
    assert_eq!(harness.send(), [FLUSH]);
    harness.reconnect();
    assert_eq!(harness.send(), [20]);
    harness.succeed(0);
    assert_eq!(harness.send(), [FLUSH]);
    harness.succeed(0);
    harness.reconnect();
    assert_eq!(harness.send(), []);
}

#[test]
fn a_durable_write_is_kept_only_to_follow_an_older_one() {
    let mut harness = Harness::new(KEEP);
    harness.written(1, Command::write(0, 10).with(CommandFlags::FUA));
    harness.reconnect();
    assert_eq!(harness.send(), []);
    harness.written(2, Command::write(0, 10));
    harness.written(3, Command::write(0, 5).with(CommandFlags::FUA));
    harness.reconnect();
    assert_eq!(harness.send(), [0]);
    harness.succeed(0);
    assert_eq!(harness.under_way, []);
    assert_eq!(harness.send(), [0]);
    assert!(harness.under_way[0].1.flags.contains(CommandFlags::FUA));
}

/// What waits for two goes when both are gone, whichever way, and not before.
#[test]
fn who_waits_for_several_waits_for_all_of_them() {
    for cancelled in [false, true] {
        let mut harness = Harness::new(FORGET);
        harness.submit(1, Command::write(0, 10));
        let second = harness.submit(2, Command::write(20, 10));
        harness.submit(3, Command::write(5, 20));
        harness.submit(4, Command::write(24, 1));
        // It is about other bytes than any.
        harness.submit(5, Command::write(50, 1));
        assert_eq!(harness.send(), [0, 20, 50]);
        if cancelled {
            harness.log.cancel(second);
            harness.under_way.remove(1);
        } else {
            harness.succeed(1);
        }
        assert_eq!(harness.send(), []);
        harness.succeed(0);
        assert_eq!(harness.send(), [5]);
        harness.succeed(1);
        assert_eq!(harness.send(), [24]);
    }
    // One in the middle is given up before it was sent: the last waits for the first no less.
    let mut harness = Harness::new(FORGET);
    harness.submit(1, Command::write(0, 10));
    let second = harness.submit(2, Command::write(5, 10));
    harness.submit(3, Command::write(9, 10));
    assert_eq!(harness.send(), [0]);
    harness.log.cancel(second);
    assert_eq!(harness.send(), []);
    harness.succeed(0);
    assert_eq!(harness.send(), [9]);
}

#[test]
fn a_command_that_changes_nothing_lets_nobody_go() {
    let mut harness = Harness::new(FORGET);
    harness.submit(1, Command::read(0, 10));
    harness.submit(2, Command::write(0, 10));
    harness.submit(3, Command::write(0, 10));
    assert_eq!(harness.send(), [0, 0]);
    harness.succeed(0);
    assert_eq!(harness.send(), []);
}

#[test]
fn a_journal_knows_whether_there_is_a_connection() {
    let mut harness = Harness::new(FORGET);
    assert!(!harness.log.is_lost());
    harness.submit(1, Command::read(0, 10));
    harness.send();
    harness.shut_down(0);
    assert!(harness.log.is_drained() && !harness.log.is_lost());
    harness.lose();
    assert!(harness.log.is_lost() && !harness.log.is_drained());
    harness.log.resume(&harness.facts).unwrap();
    assert!(!harness.log.is_lost());
}

#[test]
fn a_flush_tells_that_writes_may_be_lost_and_the_next_does_not() {
    // Nothing is lost that was flushed, or durable by itself.
    let mut harness = Harness::new(FORGET);
    harness.written(1, Command::write(0, 10));
    harness.submit(2, Command::flush());
    harness.send();
    harness.succeed(0);
    harness.written(3, Command::write(0, 10).with(CommandFlags::FUA));
    harness.submit(4, Command::flush());
    harness.send();
    harness.reconnect();
    assert_eq!(harness.send(), [FLUSH]);
    assert_eq!(harness.succeed(0), Some(4));
    // Those under way are told.
    harness.written(5, Command::write(0, 10));
    harness.submit(6, Command::flush());
    harness.submit(7, Command::flush());
    harness.send();
    harness.reconnect();
    let lost = RecoveryError::UnflushedLost;
    assert_eq!(harness.log.poll_failed(), Some((6, lost.clone())));
    assert_eq!(harness.log.poll_failed(), Some((7, lost.clone())));
    harness.submit(8, Command::flush());
    assert_eq!(harness.send(), [FLUSH]);
    assert_eq!(harness.succeed(0), Some(8));
    // Or else the next, once, however often the connection is lost.
    harness.written(9, Command::write(0, 10));
    harness.reconnect();
    harness.reconnect();
    harness.submit(10, Command::flush());
    assert_eq!(harness.log.poll_failed(), Some((10, lost)));
    harness.submit(11, Command::flush());
    assert_eq!((harness.send(), harness.log.poll_failed()), (vec![FLUSH], None));
}

#[test]
fn a_flush_sent_before_the_write_does_not_cover_it() {
    let mut harness = Harness::new(FORGET);
    harness.submit(1, Command::flush());
    harness.send();
    harness.written(2, Command::write(0, 10));
    assert_eq!(harness.succeed(0), Some(1));
    harness.reconnect();
    harness.submit(3, Command::flush());
    assert_eq!(harness.log.poll_failed(), Some((3, RecoveryError::UnflushedLost)));
}

#[test]
fn an_earlier_flush_takes_nothing_back_from_a_later_one() {
    let mut harness = Harness::new(FORGET);
    harness.submit(1, Command::flush());
    harness.send();
    harness.written(2, Command::write(0, 10));
    harness.submit(3, Command::flush());
    harness.send();
    assert_eq!(harness.succeed(1), Some(3));
    assert_eq!(harness.succeed(0), Some(1));
    harness.reconnect();
    harness.submit(4, Command::flush());
    assert_eq!((harness.send(), harness.log.poll_failed()), (vec![FLUSH], None));
}

/// A place is one command's: giving up a flush that failed at once gives up nothing else.
#[test]
fn a_flush_that_fails_at_once_has_a_place_of_its_own() {
    let mut harness = Harness::new(FORGET);
    harness.written(1, Command::write(0, 10));
    harness.reconnect();
    let write = harness.submit(2, Command::write(20, 10));
    let flush = harness.submit(3, Command::flush());
    assert_eq!(harness.log.poll_failed(), Some((3, RecoveryError::UnflushedLost)));
    let read = harness.submit(4, Command::read(40, 10));
    assert!(write < flush && flush < read);
    harness.log.cancel(flush);
    assert_eq!(harness.send(), [20, 40]);
}

/// What could have been sent before the loss, and was not, may have to wait after it.
#[test]
fn a_flush_in_line_waits_for_what_is_put_back() {
    let mut harness = Harness::new(KEEP);
    harness.written(1, Command::write(0, 10));
    harness.submit(2, Command::flush());
    harness.reconnect();
    assert_eq!(harness.send(), [0]);
    assert_eq!(harness.succeed(0), None);
    assert_eq!(harness.send(), [FLUSH]);
    assert_eq!(harness.succeed(0), Some(2));
}

#[test]
fn a_server_that_shuts_down_is_waited_for_and_then_left() {
    let mut harness = Harness::new(FORGET);
    harness.submit(1, Command::write(0, 10));
    harness.submit(2, Command::read(20, 10));
    harness.send();
    harness.shut_down(0);
    harness.submit(3, Command::read(40, 10));
    assert_eq!(harness.send(), []);
    assert!(!harness.log.is_drained());
    assert_eq!(harness.succeed(0), Some(2));
    assert!(harness.log.is_drained());
    harness.reconnect();
    assert!(!harness.log.is_drained());
    assert_eq!(harness.send(), [0, 40]);
}

#[test]
fn cancelled_commands_are_not_sent_again_and_hold_nobody_up() {
    let mut harness = Harness::new(FORGET);
    let first = harness.submit(1, Command::write(0, 10));
    let second = harness.submit(2, Command::write(0, 10));
    harness.submit(3, Command::write(0, 10));
    harness.send();
    harness.log.cancel(second);
    harness.log.cancel(first);
    harness.log.cancel(first);
    assert_eq!(harness.send(), [0]);
    let late = harness.under_way.remove(0).0;
    assert_eq!(harness.log.completed(late, Ok(())), None);
    harness.reconnect();
    assert_eq!(harness.send(), [0]);
    assert_eq!(harness.succeed(0), Some(3));
    assert!(harness.log.is_idle());
}

#[test]
fn an_acknowledged_write_that_cannot_be_put_back_ends_it() {
    let mut harness = Harness::new(KEEP);
    let command = Command::write(0, 10);
    harness.written(1, command);
    harness.reconnect();
    harness.submit(2, Command::read(0, 10));
    assert_eq!(harness.send(), [0]);
    assert_eq!(harness.answer(0, IO), None);
    let fault = RecoveryError::ReplayFailed { command, errno: Errno::Io };
    assert_eq!(harness.log.fault(), Some(&fault));
    assert_eq!(harness.send(), [], "what was there before is not to be read");
}

/// What the client will not take is as bad as what the server will not do.
#[test]
fn what_is_refused_fails_for_whoever_it_was() {
    let refuse = |harness: &mut Harness| {
        let (place, _) = harness.log.due().unwrap();
        harness.log.refused(place, SubmitError::Unsupported)
    };
    let errno = SubmitError::Unsupported.errno();
    let mut harness = Harness::new(KEEP);
    harness.submit(1, Command::read(0, 10));
    assert_eq!(refuse(&mut harness), Some(1));
    assert!(harness.log.is_idle());
    // A flush of the log's own: for whoever waits for room.
    harness.submit(2, Command::write(0, 1000));
    harness.submit(3, Command::write(2000, 1));
    assert_eq!(harness.send(), [0]);
    harness.succeed(0);
    assert_eq!(refuse(&mut harness), None);
    let failed = RecoveryError::CannotFlush(errno);
    assert_eq!(harness.log.poll_failed(), Some((3, failed)));
    // A write that was acknowledged, and cannot be put back.
    harness.reconnect();
    assert_eq!(refuse(&mut harness), None);
    let fault = RecoveryError::ReplayFailed { command: Command::write(0, 1000), errno };
    assert_eq!(harness.log.fault(), Some(&fault));
}

#[test]
fn a_server_without_flush_is_asked_for_durable_writes() {
    let mut harness = Harness::on(KEEP, facts(Flags::SEND_FUA));
    harness.submit(1, Command::write(0, 2000));
    harness.submit(2, Command::read(5000, 10));
    assert_eq!(harness.send(), [0, 5000]);
    assert_eq!(harness.under_way[0].1.flags, CommandFlags::FUA);
    assert_eq!(harness.under_way[1].1.flags, CommandFlags::empty());
    harness.succeed(0);
    harness.reconnect();
    assert_eq!(harness.send(), [5000]);
}

#[test]
fn what_cannot_be_kept_is_not_promised() {
    let log = |policy, flags| ReplayLog::<u32, u64>::new(&policy, &facts(flags), 1).map(drop);
    assert_eq!(log(KEEP, Flags::empty()), Err(RecoveryError::CannotKeep));
    assert_eq!(log(KEEP, Flags::READ_ONLY), Ok(()));
    assert_eq!(log(FORGET, Flags::empty()), Ok(()));
}

/// Who was told that nothing can be changed has made no provision for it.
#[test]
fn an_export_that_is_writable_by_now_is_read_only_all_the_same() {
    let mut log = ReplayLog::<u32, u64>::new(&KEEP, &facts(Flags::READ_ONLY), 2).unwrap();
    log.lost();
    log.resume(&facts(Flags::SEND_FLUSH)).unwrap();
    assert_eq!(log.submit(1, Command::write(0, 1), Some(0)), Err(SubmitError::ReadOnly));
    assert!(log.submit(2, Command::read(0, 1), None).is_ok());
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
