//! Connections that are made again: by the session's way or the caller's, under one token.

mod support;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mio::{Events, Token};
use nbd_client_mio::proto::{Command, CommandFlags};
use nbd_client_mio::session::replay::Reconnect;
use nbd_client_mio::transport::{Connection as Transport, Stream};
use nbd_client_mio::{ConnectOptions, Connection, Error, State};
use nbd_sim::peer::Server;
use nbd_sim::rng::noise;
use rustix::io::fcntl_dupfd_cloexec;
use support::{Disk, Loop};

const POLICY: Reconnect =
    Reconnect::new().first_delay(Duration::from_millis(2)).max_delay(Duration::from_millis(50));

const NONE: CommandFlags = CommandFlags::empty();

/// No other test has as many descriptors open.
const NUMBER: i32 = 900;

fn lasting() -> ConnectOptions {
    ConnectOptions::new().reconnect(POLICY.keep_unflushed(1 << 20))
}

fn again(server: &mut Server) {
    server.kill();
    server.start_again().expect("nbdkit");
}

#[test]
fn a_server_that_is_started_again_makes_no_difference() {
    let mut server = Server::nbdkit(&["memory", "1M"]).start().expect("nbdkit");
    let mut this = Loop::new();
    let token = this.ready(&lasting(), &server.uri());
    for round in 0..5_u64 {
        let data = noise(4096, round + 1);
        this.disk(token).write(data.clone(), round << 12, NONE).unwrap();
        this.next().result.unwrap();
        again(&mut server);
        // Whatever the server has forgotten: the session has not.
        this.disk(token).read(vec![0; 4096], round << 12).unwrap();
        let done = this.next();
        done.result.unwrap();
        assert!(done.buffer.unwrap() == data);
    }
    assert_eq!(this.disk(token).session().stats().connections, 6);
    assert!(this.errors.is_empty(), "{:?}", this.errors);
    let lost = |event| matches!(event, nbd_client_mio::session::Event::Lost { .. });
    let events: Vec<_> = std::iter::from_fn(|| this.disk(token).next_event()).collect();
    assert_eq!(events.into_iter().filter(|event| lost(event.clone())).count(), 5);
}

/// Connects in its own way, each time to the same number of a descriptor.
fn by_hand(server: &Server, calls: &Arc<AtomicUsize>) -> Disk {
    let path = server.unix_path().expect("a Unix socket").to_owned();
    let calls = Arc::clone(calls);
    let dial = move |_: &nbd_client_mio::session::Connect| -> Result<Transport, Error> {
        calls.fetch_add(1, Ordering::Relaxed);
        let stream = UnixStream::connect(&path)?;
        let stream =
            UnixStream::from(fcntl_dupfd_cloexec(stream, NUMBER).map_err(std::io::Error::from)?);
        stream.set_nonblocking(true)?;
        Ok(Stream::Unix(stream).into())
    };
    // It is the only one to connect, whatever server the options name.
    Connection::connect_with(lasting().unix("/nobody"), dial).expect("a connection")
}

/// What the kernel says of a poller: the descriptors it watches, but for those of `mio`'s own.
fn watched(this: &Loop) -> Vec<String> {
    let path = format!("/proc/self/fdinfo/{}", this.poll.as_raw_fd());
    let text = fs::read_to_string(path).expect("the poller");
    text.lines().filter(|line| line.starts_with("tfd:")).map(str::to_owned).collect()
}

#[test]
fn a_number_that_is_used_again_is_watched_again() {
    let mut server = Server::nbdkit(&["memory", "1M"]).start().expect("nbdkit");
    let mut this = Loop::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let token = this.add(by_hand(&server, &calls));
    this.all(State::Ready);
    for round in 1..=5 {
        let entries = watched(&this);
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert!(entries[0].contains(&format!(" {NUMBER} ")), "{entries:?}");
        again(&mut server);
        // Nobody knows of the loss but the poller.
        this.until("the loss is told", |_| calls.load(Ordering::Relaxed) > round);
        this.all(State::Ready);
        this.disk(token).read(vec![0; 512], 0).unwrap();
        this.next().result.unwrap();
    }
}

#[test]
fn events_of_a_connection_that_is_gone_are_hints() {
    let mut server = Server::nbdkit(&["memory", "1M"]).start().expect("nbdkit");
    let mut this = Loop::new();
    let token = this.ready(&lasting(), &server.uri());
    again(&mut server);
    let mut old = Events::with_capacity(8);
    this.poll.poll(&mut old, Some(Duration::from_secs(60))).unwrap();
    assert!(old.iter().any(|event| event.token() == Token(token) && event.is_read_closed()));
    let generation = this.disk(token).session().generation();
    old.iter().for_each(|event| this.disk(token).handle_event(event));
    this.until("another connection", |this| {
        let disk = this.disk(token);
        disk.session().generation() > generation && disk.state() == State::Ready
    });
    for _ in 0..3 {
        // The hang-up was that of the one before.
        old.iter().for_each(|event| this.disk(token).handle_event(event));
        this.disk(token).submit(Command::read(0, 512), Some(vec![1; 512])).unwrap();
        let done = this.next();
        done.result.unwrap();
        assert_eq!(done.buffer.unwrap(), [0; 512]);
    }
    assert_eq!(this.disk(token).session().generation(), generation + 1);
}

#[test]
fn a_way_to_connect_that_leads_nowhere_is_tried_until_it_does() {
    let mut server = Server::nbdkit(&["memory", "1M"]).start().expect("nbdkit");
    let mut this = Loop::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let path = server.unix_path().expect("a Unix socket").to_owned();
    let counted = Arc::clone(&calls);
    let dial = move |_: &nbd_client_mio::session::Connect| -> Result<Transport, Error> {
        counted.fetch_add(1, Ordering::Relaxed);
        let stream = UnixStream::connect(&path)?;
        stream.set_nonblocking(true)?;
        Ok(Stream::Unix(stream).into())
    };
    let token = this.add(Connection::connect_with(lasting(), dial).unwrap());
    this.all(State::Ready);
    server.kill();
    this.until("many attempts", |_| calls.load(Ordering::Relaxed) > 5);
    server.start_again().expect("nbdkit");
    this.disk(token).read(vec![0; 512], 0).unwrap();
    this.next().result.unwrap();
}
