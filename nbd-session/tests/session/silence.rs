//! The server's silence, and ours.

use std::time::Duration;

use nbd_proto::Command;
use nbd_session::Limit;
use nbd_sim::memory_server::MemoryServer;

use crate::rig::{Rig, options};

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

#[test]
fn keep_alive_alone_judges_nothing_but_its_own_question() {
    let ten = Duration::from_secs(10);
    let mut rig = Rig::ready(options().keep_alive(ten));
    rig.server(|server| server.withhold());
    rig.submit(Command::read(0, 512));
    rig.sleep(1000.0);
    assert!(!rig.session.is_over(), "nobody has set a limit for reads");
    let mut rig = Rig::ready(options().keep_alive(ten));
    rig.turn();
    rig.server(|server| server.withhold());
    assert!(dies_after(&mut rig).is_some_and(|after| (10..=25).contains(&after)));
}

#[test]
fn a_clock_that_jumps_back_does_no_harm() {
    let mut rig = Rig::ready(options().silence(LIMIT).keep_alive(LIMIT));
    let limit = Limit::within(Duration::from_secs(10), rig.now + LIMIT);
    rig.now += LIMIT;
    rig.server(|server| server.withhold());
    let id = rig.try_submit(Command::read(0, 512), limit).unwrap();
    rig.turn();
    rig.now -= LIMIT / 2;
    rig.turn();
    rig.session.handle_timeout(rig.now);
    assert_eq!(rig.outcomes(), []);
    rig.server(MemoryServer::release);
    rig.turn();
    assert_eq!(rig.outcomes(), [(id, true)]);
}
