//! How long a session goes on trying: patience is for one outage, and what goes well ends an
//! outage.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use nbd_proto::Command;
use nbd_session::replay::Reconnect;
use nbd_session::{ConnectOptions, State};
use nbd_sim::memory_server::MemoryServer;

use nbd_sim::rig::{Rig, options, server};

const PATIENCE: Duration = Duration::from_secs(10);

fn patient() -> ConnectOptions {
    let policy = Reconnect::new().max_delay(Duration::from_secs(1)).give_up_after(PATIENCE);
    options().reconnect(policy)
}

/// With a server that is there while the flag is set, as it is now.
fn sometimes() -> (Rig, Rc<Cell<bool>>) {
    let there = Rc::new(Cell::new(true));
    let flag = Rc::clone(&there);
    let dial = move |_: &_| match flag.get() {
        true => Some(Ok(server(1 << 20))),
        false => Some(Err(std::io::Error::from(ErrorKind::ConnectionRefused).into())),
    };
    let mut rig = Rig::dialling(patient(), Box::new(dial));
    rig.turn();
    (rig, there)
}

/// Outages of seven seconds each, one after the other, for far longer than patience lasts.
#[test]
fn patience_begins_anew_with_each_answer() {
    let (mut rig, there) = sometimes();
    for outage in 1..=5 {
        there.set(false);
        rig.server(MemoryServer::hang_up);
        rig.sleep(7.0);
        there.set(true);
        rig.sleep(2.0);
        let read = rig.submit(Command::read(0, 512));
        rig.turn();
        assert_eq!(rig.outcomes(), [(read, true)], "outage {outage}");
    }
}

/// Connections on which nothing is ever answered are no progress, however many there are.
#[test]
fn a_connection_alone_does_not_renew_patience() {
    let (mut rig, _) = sometimes();
    let lost = rig.seconds();
    while !rig.session.is_over() {
        if rig.session.state() == State::Ready {
            rig.server(MemoryServer::hang_up);
        }
        rig.sleep(0.1);
    }
    let tried = rig.seconds() - lost;
    assert!((10.0..10.3).contains(&tried), "{tried} s");
    assert!(rig.session.stats().connections > 5, "{:?}", rig.session.stats());
    assert!(rig.session.end().is_some_and(|end| end.to_string().contains("not made again in 10s")));
}

/// What is asked at last, after a long time without a question, is not part of an outage of long
/// ago.
#[test]
fn an_outage_is_over_when_the_next_connection_has_lasted() {
    let (mut rig, there) = sometimes();
    rig.server(MemoryServer::hang_up);
    rig.sleep(2.0);
    assert_eq!(rig.session.state(), State::Ready);
    // As long as patience lasts, and longer.
    rig.sleep(60.0);
    there.set(false);
    rig.server(MemoryServer::withhold);
    let read = rig.submit(Command::read(0, 512));
    rig.turn();
    rig.server(MemoryServer::hang_up);
    rig.sleep(5.0);
    assert!(!rig.session.is_over(), "{:?}", rig.session);
    there.set(true);
    rig.sleep(2.0);
    assert_eq!(rig.outcomes(), [(read, true)]);
}

/// Nothing was asked of a connection, and it lasted: when it is lost after all, that is another
/// outage.
#[test]
fn a_connection_that_lasted_renews_patience() {
    let (mut rig, there) = sometimes();
    for _ in 0..3 {
        there.set(false);
        rig.server(MemoryServer::hang_up);
        rig.sleep(7.0);
        there.set(true);
        rig.sleep(PATIENCE.as_secs_f64() + 2.0);
        assert_eq!(rig.session.state(), State::Ready, "{:?}", rig.session);
    }
    assert_eq!(rig.session.stats().connections, 4);
}
