//! How a session ends, and what is told of it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use nbd_proto::{Command, CommandFlags, Disconnect};
use nbd_session::replay::Reconnect;
use nbd_session::{ConnectOptions, Error, ErrorKind, Limit, Request, State, Target};
use nbd_sim::memory_server::MemoryServer;

use nbd_sim::rig::{Rig, options, server};

fn leave(rig: &mut Rig) {
    rig.session.disconnect(Disconnect::AfterReplies, Limit::Default, rig.now);
    rig.turn();
}

#[test]
fn a_goodbye_waits_for_replies_and_for_the_server() {
    let mut rig = Rig::ready(options());
    rig.server(|server| server.withhold());
    let read = rig.submit(Command::read(0, 512));
    leave(&mut rig);
    assert_eq!(rig.session.state(), State::Disconnecting);
    assert!(rig.try_submit(Command::flush(), Limit::Default).is_err());
    rig.server(MemoryServer::release);
    rig.turn();
    assert_eq!(rig.outcomes(), [(read, true)]);
    assert!(rig.session.is_over(), "{:?}", rig.session);
    assert!(rig.session.farewell().is_ok() && rig.session.error().is_none());
    assert_eq!(rig.steps, ["connect 1", "close 1"]);
}

/// Who is refused at the front of the line holds up no goodbye.
#[test]
fn a_goodbye_does_not_wait_for_who_was_refused() {
    for lent in [None, Some(&[0; 10][..])] {
        let mut rig = Rig::ready(options().max_in_flight(1));
        rig.server(|server| server.withhold());
        let read = rig.submit(Command::read(0, 512));
        let ticket = rig.session.wait_for_room(Limit::Default, rig.now);
        leave(&mut rig);
        rig.server(MemoryServer::release);
        rig.turn();
        assert_eq!(rig.outcomes(), [(read, true)]);
        assert_eq!(rig.session.next_admission(), Some(ticket));
        let refused = match lent {
            // Beyond the end.
            None => {
                let request = Request::new(Command::read(1 << 60, 512)).ticket(ticket);
                rig.session.submit_request(request, rig.now)
            }
            // With a buffer that is too short.
            lent => {
                let request = Request::new(Command::read(0, 512)).ticket(ticket);
                rig.session.submit_lent(request, lent, rig.now)
            }
        };
        refused.unwrap_err();
        rig.turn();
        assert!(rig.session.is_over(), "{:?}", rig.session);
    }
}

#[test]
fn a_connection_that_died_is_no_good_end() {
    let mut rig = Rig::ready(options());
    let write = rig.submit(Command::write(0, 512));
    rig.turn();
    assert_eq!(rig.outcomes(), [(write, true)]);
    rig.server(MemoryServer::hang_up);
    rig.turn();
    assert!(rig.session.is_over());
    leave(&mut rig);
    let error = rig.session.farewell().expect_err("the write was not flushed");
    assert!(error.is_closed(), "{error}");
    assert!(rig.session.error().is_some());
}

/// What the server has acknowledged is promised, whether or not the caller has looked.
#[test]
fn nor_is_one_with_an_answer_that_was_not_taken() {
    for (command, at_risk) in [
        (Command::write(0, 512), true),
        (Command::trim(0, 512), true),
        (Command::write(0, 512).with(CommandFlags::FUA), false),
        (Command::read(0, 512), false),
    ] {
        let mut rig = Rig::ready(options());
        let id = rig.submit(command);
        rig.turn();
        assert_eq!(rig.session.has_unflushed(), at_risk, "{command}");
        rig.server(MemoryServer::hang_up);
        rig.turn();
        leave(&mut rig);
        assert_eq!(rig.session.farewell().is_err(), at_risk, "{command}");
        assert_eq!(rig.outcomes(), [(id, true)]);
    }
}

#[test]
fn one_that_died_idle_is_an_error_until_the_end_is_asked_for() {
    let mut rig = Rig::ready(options());
    assert!(rig.session.error().is_none());
    rig.server(MemoryServer::hang_up);
    rig.turn();
    assert!(rig.session.error().is_some_and(Error::is_closed));
    leave(&mut rig);
    assert!(rig.session.farewell().is_ok() && rig.session.error().is_none());
}

#[test]
fn nor_is_one_with_a_write_under_way() {
    let mut rig = Rig::ready(options());
    rig.server(|server| server.withhold());
    let write = rig.submit(Command::write(0, 512));
    rig.turn();
    rig.server(MemoryServer::hang_up);
    rig.turn();
    leave(&mut rig);
    assert!(rig.session.farewell().is_err());
    assert_eq!(rig.outcomes(), [(write, false)]);
}

#[test]
fn what_was_flushed_is_safe_whatever_comes() {
    for submit_flush_first in [false, true] {
        let mut rig = Rig::ready(options());
        if submit_flush_first {
            // It does not cover what is acknowledged after it was submitted.
            rig.server(|server| server.withhold());
            rig.submit(Command::flush());
            rig.submit(Command::write(0, 512));
            rig.turn();
            rig.server(MemoryServer::release);
        } else {
            rig.submit(Command::write(0, 512));
            rig.turn();
            rig.completions();
            rig.submit(Command::flush());
        }
        rig.turn();
        assert!(rig.completions().iter().all(|done| done.result.is_ok()));
        rig.server(MemoryServer::hang_up);
        rig.turn();
        assert_eq!(rig.session.farewell().is_err(), submit_flush_first);
    }
}

#[test]
fn a_server_that_does_not_close_is_not_waited_for_long() {
    let mut rig = Rig::ready(options());
    rig.limited().brings = 0;
    leave(&mut rig);
    rig.sleep(4.0);
    assert_eq!(rig.steps, ["connect 1", "shutdown 1"]);
    assert!(!rig.session.is_over());
    rig.sleep(2.0);
    assert!(rig.session.is_over() && rig.session.farewell().is_ok());
}

#[test]
fn a_goodbye_has_a_limit() {
    let mut rig = Rig::ready(options());
    rig.server(|server| server.withhold());
    let read = rig.submit(Command::read(0, 512));
    let limit = Limit::within(Duration::from_secs(1), rig.now);
    rig.session.disconnect(Disconnect::AfterReplies, limit, rig.now);
    rig.sleep(2.0);
    assert!(rig.session.farewell().expect_err("it took too long").is_timeout());
    assert_eq!(rig.outcomes(), [(read, false)]);
}

#[test]
fn who_is_not_connected_yet_need_not_say_goodbye() {
    let mut rig = Rig::dialling(options(), Box::new(|_| None));
    rig.turn();
    leave(&mut rig);
    assert!(rig.session.is_over() && rig.session.farewell().is_ok());
    assert_eq!(rig.steps, ["connect 1", "close 1"]);
}

#[test]
fn nobody_waits_for_ever_for_a_goodbye_that_nobody_waits_for() {
    let mut rig = Rig::ready(options());
    rig.server(|server| server.withhold());
    let read = rig.submit(Command::read(0, 512));
    rig.turn();
    let _ = rig.withdraw(read);
    // Asked for without a limit, and then left alone.
    rig.session.disconnect(Disconnect::AfterReplies, Limit::Never, rig.now);
    rig.session.release(rig.now);
    rig.sleep(4.0);
    assert!(!rig.session.is_over(), "the reply may come");
    rig.sleep(2.0);
    assert!(rig.session.is_over(), "{:?}", rig.session);
    assert_eq!(rig.steps, ["connect 1", "close 1"]);

    let mut rig = Rig::ready(options());
    rig.session.release(rig.now);
    rig.turn();
    assert!(rig.session.is_over() && rig.session.farewell().is_ok());
}

#[test]
fn what_is_kept_is_put_back_before_a_session_that_nobody_holds_ends() {
    let there = Rc::new(Cell::new(true));
    let answers = Rc::clone(&there);
    let dial = move |_: &_| {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused).into();
        Some(answers.get().then(|| server(1 << 20)).ok_or_else(refused))
    };
    let policy = Reconnect::new().keep_unflushed(1 << 20);
    let mut rig = Rig::dialling(options().reconnect(policy), Box::new(dial));
    rig.turn();
    let request = Request::new(Command::write(0, 512)).payload(Bytes::from(vec![7; 512]));
    rig.session.submit_request(request, rig.now).expect("it can be submitted");
    rig.turn();
    assert_eq!(rig.completions().len(), 1);
    there.set(false);
    rig.server(MemoryServer::hang_up);
    rig.turn();
    rig.session.release(rig.now);
    rig.sleep(20.0);
    assert!(!rig.session.is_over(), "what was acknowledged is not there again");
    there.set(true);
    rig.sleep(100.0);
    assert!(rig.session.is_over() && rig.session.farewell().is_ok(), "{:?}", rig.session);
    assert!(rig.session.stats().connections == 2);
}

#[test]
fn one_that_is_stopped_tells_everybody_and_begins_nothing() {
    // Wherever it is: connecting to the first of two, ready, or between two connections.
    for moment in 0..3 {
        let options = ConnectOptions::new().target(Target::Dialler).target(Target::Dialler);
        let options = options.reconnect(Reconnect::new());
        let silent = moment == 0;
        let dial = move |_: &_| (!silent).then(|| Ok(server(1 << 20)));
        let mut rig = Rig::dialling(options, Box::new(dial));
        rig.turn();
        let mut waiting = None;
        if moment > 0 {
            rig.server(|server| server.withhold());
            waiting = Some(rig.submit(Command::write(0, 512)));
            rig.turn();
        }
        if moment == 2 {
            rig.server(MemoryServer::hang_up);
            rig.turn();
            assert_eq!(rig.session.state(), State::Reconnecting);
        }
        rig.session.stop(Error::stopped(), rig.now);
        let steps = rig.steps.len();
        rig.sleep(600.0);
        let stopped = |error: &Error| error.kind() == ErrorKind::Stopped;
        assert!(rig.session.end().is_some_and(stopped), "{:?}", rig.session);
        assert!(rig.steps[steps..].iter().all(|step| step.starts_with("close")), "{:?}", rig.steps);
        let told: Vec<_> =
            rig.completions().into_iter().map(|done| (done.id, done.result)).collect();
        assert_eq!(told.len(), usize::from(waiting.is_some()));
        assert!(told.iter().all(|(_, result)| result.as_ref().is_err_and(stopped)), "{told:?}");
        assert_eq!(rig.session.farewell().is_err(), waiting.is_some());
        assert!(rig.try_submit(Command::flush(), Limit::Default).is_err_and(|e| stopped(&e)));
    }
}

#[test]
fn a_stream_that_takes_nothing_more_still_brings_answers_for_a_while() {
    let mut rig = Rig::ready(options());
    rig.server(|server| server.withhold());
    let answered = rig.submit(Command::read(0, 512));
    let lost = rig.submit(Command::read(512, 512));
    rig.turn();
    rig.session.stop_sending(rig.now);
    let refused = rig.try_submit(Command::flush(), Limit::Default);
    assert!(refused.is_err_and(|error| error.is_closed()));
    rig.server(|server| server.answer(1));
    rig.sleep(1.0);
    assert_eq!(rig.outcomes(), [(answered, true)]);
    rig.sleep(5.0);
    assert_eq!(rig.outcomes(), [(lost, false)]);
    assert!(rig.session.is_over());
}
