//! How a session ends, and what is told of it.

use std::time::Duration;

use nbd_proto::{Command, Disconnect};
use nbd_session::{Limit, State};
use nbd_sim::memory_server::MemoryServer;

use crate::rig::{Rig, options};

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
    assert!(rig.session.farewell().is_ok());
    assert_eq!(rig.steps, ["connect 1", "close 1"]);
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
    rig.limited().dead = true;
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
