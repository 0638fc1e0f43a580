//! The server's silence, and ours.

use std::time::Duration;

use nbd_proto::{Command, Direction};
use nbd_session::{Limit, Outgoing};
use nbd_sim::memory_server::MemoryServer;

use nbd_sim::rig::{Rig, options, server};

const LIMIT: Duration = Duration::from_secs(30);

/// How long it takes until the session is over, in seconds.
fn dies_after(rig: &mut Rig) -> Option<u64> {
    let start = rig.seconds();
    for _ in 0..1000 {
        let Some(at) = rig.session.next_deadline() else { break };
        rig.now = rig.now.max(at);
        rig.turn();
    }
    rig.session.is_over().then(|| (rig.seconds() - start).round() as u64)
}

#[test]
fn a_server_that_owes_and_brings_nothing_is_lost() {
    let mut rig = Rig::ready(options().silence(LIMIT));
    rig.sleep(100.0);
    assert!(!rig.session.is_over(), "nothing is owed");
    rig.server(|server| server.withhold());
    rig.submit(Command::read(0, 512));
    rig.turn();
    assert_eq!(dies_after(&mut rig), Some(30));
    let end = rig.session.end().expect("it is over");
    assert!(end.is_timeout() && end.to_string().contains("no answer from the server for 30s"));
}

#[test]
fn a_flush_may_take_as_long_as_it_likes() {
    for command in [Command::flush(), Command::trim(0, 512), Command::cache(0, 512)] {
        let mut rig = Rig::ready(options().silence(LIMIT));
        rig.server(|server| server.withhold());
        rig.submit(Command::read(0, 512));
        rig.sleep(20.0);
        rig.submit(command);
        rig.sleep(1000.0);
        assert!(!rig.session.is_over(), "{command}");
        // When it is done, the read is owed alone: from now on.
        rig.server(|server| {
            server.answer(2);
            server.withhold();
        });
        rig.turn();
        rig.completions();
        rig.submit(Command::read(0, 512));
        assert_eq!(dies_after(&mut rig), Some(30), "{command}");
    }
}

#[test]
fn a_flush_that_cannot_leave_is_no_reason_to_wait() {
    for command in [Command::flush(), Command::trim(0, 512), Command::cache(0, 512)] {
        let mut rig = Rig::ready(options().silence(LIMIT));
        rig.server(|server| server.withhold());
        rig.submit(Command::read(0, 512));
        rig.turn();
        // Nothing comes, and nothing leaves: callers give up, and ask anew.
        rig.limited().room = 0;
        let start = rig.seconds();
        while !rig.session.is_over() && rig.seconds() - start < 100.0 {
            let limit = Limit::within(Duration::from_secs(5), rig.now);
            rig.try_submit(command, limit).unwrap();
            rig.sleep(5.0);
        }
        assert_eq!((rig.seconds() - start).round(), 30.0, "{command}");
    }
}

#[test]
fn what_comes_in_time_counts_from_when_it_is_seen() {
    let mut rig = Rig::ready(options().silence(LIMIT));
    rig.server(|server| server.withhold());
    for _ in 0..3 {
        rig.submit(Command::read(0, 512));
    }
    rig.sleep(29.0);
    rig.server(|server| server.answer(1));
    rig.sleep(29.0);
    assert!(!rig.session.is_over());
    rig.server(|server| server.answer(1));
    rig.turn();
    assert_eq!(dies_after(&mut rig), Some(30));
}

#[test]
fn who_stood_still_does_not_blame_the_server() {
    let mut rig = Rig::ready(options().silence(LIMIT));
    rig.server(|server| server.withhold());
    rig.submit(Command::read(0, 512));
    rig.turn();
    // The answer is there, but nobody looked.
    rig.server(MemoryServer::release);
    rig.now += Duration::from_secs(3600);
    rig.turn();
    assert!(!rig.session.is_over());
    assert_eq!(rig.outcomes().len(), 1);
}

/// Tasks look at the clock before they have the lock, so the time that is told may be a little
/// older than what was told before; and a machine that was moved may tell any.
#[test]
fn a_clock_that_goes_back_ends_nothing() {
    for back in [Duration::from_micros(1), Duration::from_secs(20), Duration::from_secs(3600)] {
        let options = options().silence(LIMIT).keep_alive(LIMIT).request_timeout(4 * LIMIT);
        let mut rig = Rig::dialling(options, Box::new(|_| Some(Ok(server(1 << 20)))));
        let start = rig.now + Duration::from_secs(7200);
        rig.now = start;
        rig.turn();
        rig.server(MemoryServer::withhold);
        let read = rig.submit(Command::read(0, 512));
        rig.turn();
        rig.now = start - back;
        rig.turn();
        let write = rig.submit(Command::write(512, 512));
        rig.session.handle_timeout(rig.now);
        rig.turn();
        assert!(!rig.session.is_over() && rig.session.in_flight() == 2);
        rig.server(MemoryServer::release);
        rig.turn();
        assert_eq!(rig.outcomes(), [(read, true), (write, true)]);
        // What has a limit keeps it.
        rig.server(MemoryServer::withhold);
        rig.submit(Command::read(0, 512));
        rig.now = start;
        rig.turn();
        assert!(dies_after(&mut rig).is_some_and(|seconds| seconds <= 2 * 30), "{back:?}");
    }
}

#[test]
fn one_that_nobody_waits_for_is_owed_all_the_same() {
    let mut rig = Rig::ready(options().silence(LIMIT));
    rig.server(|server| server.withhold());
    let limit = Limit::within(Duration::from_secs(3), rig.now);
    rig.try_submit(Command::read(0, 512), limit).unwrap();
    rig.sleep(4.0);
    assert_eq!(rig.outcomes().len(), 1);
    assert_eq!(dies_after(&mut rig), Some(26));
}

#[test]
fn bytes_that_leave_after_there_was_no_room_are_a_sign_of_life() {
    let mut rig = Rig::ready(options().silence(LIMIT));
    rig.limited().room = 1000;
    rig.submit(Command::write(0, 64 << 10));
    for _ in 0..10 {
        rig.sleep(20.0);
        assert!(!rig.session.is_over());
        rig.limited().room = 1000;
        rig.turn();
    }
    assert_eq!(dies_after(&mut rig), Some(30));
}

/// Whoever asks the session to write without need learns nothing of the transport.
#[test]
fn a_write_with_nothing_due_says_nothing() {
    let mut rig = Rig::ready(options().silence(LIMIT));
    rig.server(|server| server.withhold());
    rig.submit(Command::read(0, 512));
    rig.turn();
    let (_, stream) = rig.stream.as_mut().expect("it is connected");
    rig.session.write(stream, &mut rig.buffers, rig.now);
    rig.sleep(20.0);
    rig.submit(Command::read(0, 512));
    rig.turn();
    assert_eq!(dies_after(&mut rig), Some(10));
}

/// As where an operation of the system's takes a moment, though there is room.
#[test]
fn no_room_for_a_moment_says_nothing() {
    let mut rig = Rig::ready(options().silence(LIMIT));
    rig.server(|server| server.withhold());
    rig.submit(Command::read(0, 512));
    for _ in 0..4 {
        rig.sleep(5.0);
        rig.limited().room = 0;
        rig.submit(Command::read(0, 512));
        rig.sleep(0.1);
        rig.limited().room = usize::MAX;
        rig.turn();
    }
    assert_eq!(dies_after(&mut rig), Some(10));
}

/// A buffer takes bytes whether or not anybody lives at the other end.
#[test]
fn of_a_buffer_counts_what_the_transport_takes() {
    let mut rig = Rig::ready(options().silence(LIMIT));
    let mut outgoing = Outgoing::new(64 << 10);
    rig.submit(Command::write(0, 48 << 10));
    rig.session.fill(&mut outgoing, &mut rig.buffers, rig.now);
    let after = |rig: &Rig| {
        let at = rig.session.next_deadline().expect("a write is owed");
        (at - rig.now).as_secs()
    };
    assert_eq!((rig.session.direction(), after(&rig)), (Direction::READ, 30));
    for _ in 0..10 {
        rig.session.sent(&mut outgoing, 0, rig.now);
        rig.now += Duration::from_secs(20);
        rig.session.sent(&mut outgoing, 1000, rig.now);
        assert_eq!(after(&rig), 30);
    }
    // What is in the buffer is no reason to wait, and what has left of it is.
    rig.submit(Command::flush());
    rig.session.fill(&mut outgoing, &mut rig.buffers, rig.now);
    assert_eq!(after(&rig), 30);
    rig.session.sent(&mut outgoing, 1000, rig.now);
    assert_eq!(rig.session.next_deadline(), None);
}

#[test]
fn an_idle_server_is_asked_for_something() {
    let minute = Duration::from_secs(60);
    let mut rig = Rig::ready(options().keep_alive(minute).silence(LIMIT));
    rig.sleep(600.0);
    let probes = rig.session.stats().probes;
    assert!((10..=11).contains(&probes), "{probes}");
    assert_eq!((rig.outcomes(), rig.session.in_flight()), (vec![], 0), "they are its own affair");
    // Its own answer does not come: that is silence.
    rig.server(|server| server.withhold());
    assert!(dies_after(&mut rig).is_some_and(|after| after <= 90));
}

#[test]
fn an_abandoned_command_does_not_keep_from_asking() {
    let mut rig = Rig::ready(options().keep_alive(Duration::from_secs(10)));
    rig.server(|server| server.withhold());
    let id = rig.submit(Command::flush());
    rig.turn();
    let _ = rig.withdraw(id);
    rig.sleep(60.0);
    assert!(rig.session.stats().probes > 0);
}

const TEN: Duration = Duration::from_secs(10);

/// What a server that is asked every five seconds is given, with the look that finds it out.
const FOUND: std::ops::RangeInclusive<u64> = 10..=25;

fn is_found(rig: &mut Rig) -> bool {
    dies_after(rig).is_some_and(|after| FOUND.contains(&after))
}

#[test]
fn keep_alive_finds_out_who_answers_nothing() {
    let mut rig = Rig::ready(options().keep_alive(TEN));
    rig.turn();
    rig.server(|server| server.withhold());
    assert!(is_found(&mut rig), "nothing was under way");
    for command in [Command::read(0, 512), Command::write(0, 512)] {
        let mut rig = Rig::ready(options().keep_alive(TEN));
        rig.server(|server| server.withhold());
        rig.submit(command);
        rig.turn();
        assert!(is_found(&mut rig), "{command}");
        assert!(rig.session.end().is_some_and(|end| end.is_timeout()));
    }
}

/// Its answer cannot come before the question has left.
#[test]
fn keep_alive_does_not_end_a_write_that_takes_long_to_leave() {
    let mut rig = Rig::ready(options().keep_alive(TEN));
    rig.limited().room = 1000;
    rig.submit(Command::write(0, 64 << 10));
    for _ in 0..50 {
        rig.sleep(4.0);
        assert!(!rig.session.is_over(), "{:?}", rig.session);
        rig.limited().room = 1000;
        rig.turn();
    }
    assert!(is_found(&mut rig), "it takes nothing any more");
}

/// There is no room to ask for anything else: what was asked is the question.
#[test]
fn keep_alive_asks_nothing_where_all_room_is_taken() {
    let mut rig = Rig::ready(options().max_in_flight(1).keep_alive(TEN));
    rig.server(|server| server.withhold());
    rig.submit(Command::read(0, 512));
    rig.turn();
    assert!(is_found(&mut rig));
    assert_eq!(rig.session.stats().probes, 0);
}

#[test]
fn keep_alive_does_not_end_a_flush_that_takes_long() {
    for in_order in [true, false] {
        let mut rig = Rig::ready(options().keep_alive(TEN));
        rig.server(|server| if in_order { server.withhold() } else { server.withhold_flushes() });
        let flush = rig.submit(Command::flush());
        rig.sleep(1000.0);
        assert!(!rig.session.is_over(), "{:?}", rig.session);
        // Who answers the question is asked again.
        let probes = rig.session.stats().probes;
        assert!(if in_order { probes == 1 } else { probes > 90 }, "{probes}");
        rig.server(MemoryServer::release);
        rig.turn();
        assert_eq!(rig.completions().first().map(|done| done.id), Some(flush));
    }
}

/// It has answered other commands before a flush: if it does not any more, it is gone.
#[test]
fn keep_alive_finds_out_who_has_gone_during_a_flush() {
    for (again, limit) in [(true, None), (false, None), (true, Some(LIMIT))] {
        let mut rig = Rig::ready(options().keep_alive(TEN).silence(limit));
        rig.server(|server| server.withhold_flushes());
        rig.submit(Command::flush());
        rig.sleep(100.0);
        if again {
            rig.server(MemoryServer::release);
            rig.turn();
            assert_eq!(rig.outcomes().len(), 1);
            rig.submit(Command::flush());
        }
        rig.limited().brings = 0;
        let range = if limit.is_some() { 30..=45 } else { FOUND };
        let after = dies_after(&mut rig);
        assert!(after.is_some_and(|after| range.contains(&after)), "{again} {limit:?}: {after:?}");
    }
    // That it goes on with something during one says nothing about two.
    let mut rig = Rig::ready(options().keep_alive(TEN));
    rig.server(|server| server.withhold_flushes());
    rig.submit(Command::flush());
    rig.sleep(100.0);
    rig.submit(Command::flush());
    rig.limited().brings = 0;
    rig.sleep(1000.0);
    assert!(!rig.session.is_over());
}
