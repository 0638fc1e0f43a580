//! Deadlines, and connections that are idle.

mod support;

use std::net::TcpStream;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use mio::{Token, Waker};
use nbd_client_mio::proto::{ClientConfig, Command, CommandFlags, Limits};
use nbd_client_mio::session::Connect;
use nbd_client_mio::transport::{Endpoint, Stream, TcpKeepAlive};
use nbd_client_mio::{ConnectOptions, Connection, Error, Limit, State};
use nbd_sim::peer::Server;
use nbd_sim::rng::noise;
use rustix::net::sockopt::socket_keepalive;
use support::Loop;

const TIMEOUT: Duration = Duration::from_millis(200);

fn nbdkit(args: &[&str]) -> Server {
    Server::nbdkit(args).start().expect("nbdkit")
}

fn is_late(result: &Result<(), Error>) -> bool {
    // To the millisecond: what was set is what is told.
    matches!(result, Err(error) if error.is_timeout() && error.to_string().contains("200ms"))
}

fn waker(this: &Loop) -> Waker {
    Waker::new(this.poll.registry(), Token(usize::MAX)).unwrap()
}

#[test]
fn deadlines_come_when_they_are_told() {
    // One thread takes requests in turn.
    let server = nbdkit(&["-t", "1", "memory", "64M"]);
    let mut this = Loop::new();
    let single = this.ready(&ConnectOptions::new(), &server.uri());
    server.stop().unwrap();
    let disk = this.disk(single);
    disk.set_request_timeout(TIMEOUT);
    let before = Instant::now();
    let id = disk.read(vec![5; 512], 0).unwrap();
    disk.set_request_timeout(None);
    let deadline = disk.next_deadline().unwrap();
    assert!(deadline >= before + TIMEOUT && deadline <= Instant::now() + TIMEOUT);
    disk.handle_timeout(deadline - Duration::from_nanos(1));
    assert!(disk.next_completion().is_none());
    disk.handle_timeout(deadline);
    let done = disk.next_completion().unwrap();
    assert!(is_late(&done.result), "{:?}", done.result);
    assert_eq!((done.id, done.buffer), (id, Some(vec![5; 512])));
    // One that is partly sent keeps its buffer, and one without a deadline goes on.
    let data = noise(8 << 20, 1);
    let disk = this.disk(single);
    disk.set_request_timeout(TIMEOUT);
    disk.write(data.clone(), 0, CommandFlags::empty()).unwrap();
    disk.set_request_timeout(None);
    let patient = disk.read(vec![1; 512], 16 << 20).unwrap();
    let done = this.next();
    assert!(is_late(&done.result), "{:?}", done.result);
    assert_eq!(done.buffer, None);
    server.cont().unwrap();
    let done = this.next();
    assert_eq!((done.id, done.result.is_ok()), (patient, true));
    this.disk(single).read(vec![0; 8 << 20], 0).unwrap();
    assert!(this.next().buffer.unwrap() == data, "sent to its end");
    assert!(this.errors.is_empty(), "{:?}", this.errors);
}

#[test]
fn who_waits_in_line_has_a_deadline_too() {
    let server = nbdkit(&["memory", "1M"]);
    let mut this = Loop::new();
    let waker = Arc::new(waker(&this));
    let limits = ClientConfig::new().limits(Limits::default().max_in_flight(2));
    let token = this.ready(&ConnectOptions::new().config(limits), &server.uri());
    this.disk(token).set_request_timeout(TIMEOUT);
    let submitter = this.disk(token).submitter(waker);
    server.stop().unwrap();
    let (sender, receiver) = mpsc::channel();
    let start = Instant::now();
    for _ in 0..5 {
        let sender = sender.clone();
        let on_done = move |outcome| sender.send(outcome).unwrap();
        submitter.submit(Command::read(0, 512), Some(vec![5; 512]), on_done).unwrap();
    }
    let (mut sent, mut unsent) = (0, 0);
    this.until("all are answered", |_| {
        for outcome in receiver.try_iter() {
            assert!(start.elapsed() >= TIMEOUT);
            match outcome {
                Ok(done) => {
                    assert!(is_late(&done.result), "{:?}", done.result);
                    sent += 1;
                }
                Err(rejected) => {
                    assert!(rejected.error.to_string().contains("200ms"), "{rejected}");
                    assert!(is_late(&Err(rejected.error)));
                    assert_eq!(rejected.buffer, Some(vec![5; 512]));
                    unsent += 1;
                }
            }
        }
        sent + unsent == 5
    });
    assert_eq!((sent, unsent), (2, 3));
    server.cont().unwrap();
    this.until("room", |this| !this.disk(token).session().is_full());
    this.disk(token).set_request_timeout(None);
    this.disk(token).read(vec![1; 512], 0).unwrap();
    this.next().result.unwrap();
}

#[test]
fn a_server_that_never_greets_and_one_that_never_closes() {
    // Connected to by the system; nobody accepts.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut this = Loop::new();
    let address = Endpoint::Address(silent.local_addr().unwrap());
    let start = Instant::now();
    let options = ConnectOptions::new().connect_timeout(TIMEOUT).endpoint(address);
    let token = this.add(Connection::connect(options).unwrap());
    this.until("an error", |this| !this.errors.is_empty());
    assert!(start.elapsed() >= TIMEOUT);
    let error = this.errors.remove(0).1;
    let told = error.to_string();
    assert!(error.is_timeout() && told.contains("not say anything within 200ms"), "{error}");
    assert_eq!(this.disk(token).state(), State::Closed);
    assert_eq!(this.disk(token).next_deadline(), None);

    let server = nbdkit(&["memory", "1M"]);
    let token = this.ready(&ConnectOptions::new(), &server.uri());
    this.disk(token).set_request_timeout(TIMEOUT);
    assert_eq!(this.disk(token).next_deadline(), None, "nothing is expected");
    server.stop().unwrap();
    this.disk(token).disconnect(Limit::Default);
    this.until("an error", |this| !this.errors.is_empty());
    let error = this.errors.remove(0).1;
    let told = "disconnecting took longer than 200ms";
    assert!(error.is_timeout() && error.to_string() == told, "{error}");
    assert_eq!(this.disk(token).state(), State::Closed);
    server.cont().unwrap();
}

/// Time passes by hand, and so no server is too slow to be alive.
#[test]
fn an_idle_connection_is_kept_alive() {
    const HOUR: Duration = Duration::from_secs(3600);
    // A chunk of one byte, behind its header and its offset.
    const ANSWER: u64 = 20 + 8 + 1;
    let server = nbdkit(&["memory", "1M"]);
    let empty = nbdkit(&["null", "0"]);
    let mut this = Loop::new();
    let options = ConnectOptions::new().keep_alive(HOUR);
    let token = this.connect(&options, &server.uri());
    let nothing = this.connect(&options, &empty.uri());
    this.all(State::Ready);
    let stats = |this: &mut Loop, token| *stats(this, token);
    let (before, idle) = (stats(&mut this, token), stats(&mut this, nothing));
    let mut last = None;
    for count in 1..=3 {
        // The first look finds that something was sent since the one before.
        while stats(&mut this, token).messages_sent < before.messages_sent + count {
            for token in [token, nothing] {
                let at = this.disk(token).next_deadline().unwrap();
                this.disk(token).handle_timeout(at);
            }
            this.turn(Instant::now());
            let at = this.disk(token).next_deadline().unwrap();
            assert!(last.replace(at).is_none_or(|last| at - last <= HOUR / 2));
        }
        this.until("an answer", |this| {
            stats(this, token).bytes_received == before.bytes_received + count * ANSWER
        });
    }
    assert!(this.errors.is_empty() && this.done.is_empty(), "nobody's business: {:?}", this.done);
    assert!(this.turns < 40, "{} turns", this.turns);

    server.stop().unwrap();
    this.until("an error", |this| {
        if let Some(at) = this.disk(token).next_deadline() {
            this.disk(token).handle_timeout(at);
        }
        !this.errors.is_empty()
    });
    let error = this.errors.remove(0).1;
    let told = format!("no answer from the server for {HOUR:?}");
    assert!(error.is_timeout() && error.to_string() == told, "{error}");
    assert_eq!(this.disk(token).state(), State::Closed);
    server.cont().unwrap();
    // There is nothing to ask an export of no bytes for.
    assert_eq!(stats(&mut this, nothing), idle);
    assert_eq!(this.disk(nothing).state(), State::Ready);
}

fn stats(this: &mut Loop, token: usize) -> &nbd_client_mio::proto::Stats {
    nbd_client_mio::proto::Machine::stats(this.disk(token).session().core().unwrap())
}

#[test]
fn a_vanished_peer_is_noticed_by_the_system() {
    let server = Server::nbdkit(&["memory", "1M"]).tcp().start().unwrap();
    let port = server.tcp_address().unwrap().port();
    let mut this = Loop::new();
    this.ready(&ConnectOptions::new(), &server.uri());
    assert_eq!(keep_alive_timers(port), 0);
    this.ready(&ConnectOptions::new().tcp_keep_alive(TcpKeepAlive::new()), &server.uri());
    // A byte that is not acknowledged yet has another timer.
    let end = Instant::now() + Duration::from_secs(60);
    while keep_alive_timers(port) != 1 {
        assert!(Instant::now() < end, "no timer");
    }
}

/// What callers hand over is watched as what is dialled.
#[test]
fn a_socket_of_the_callers_is_watched_by_the_system() {
    let server = Server::nbdkit(&["memory", "1M"]).tcp().start().unwrap();
    let address = server.tcp_address().unwrap();
    for watched in [true, false] {
        let mut this = Loop::new();
        let options = ConnectOptions::new().tcp_keep_alive(watched.then(TcpKeepAlive::new));
        let sockets = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        let [given, dialled] =
            sockets.each_ref().map(|socket| Stream::Tcp(socket.try_clone().unwrap()));
        // A server that the options name is the way back, and not asked before.
        let named = options.clone().uri(&server.uri()).unwrap();
        this.add(Connection::connect_over(named, given.into()).unwrap());
        let mut once = Some(dialled);
        let dial = move |_: &Connect| Ok(once.take().expect("one call").into());
        this.add(Connection::connect_with(options, dial).unwrap());
        this.all(State::Ready);
        for socket in sockets {
            assert_eq!(socket_keepalive(&socket).unwrap(), watched);
        }
    }
}

/// Connections to a port for which the system has a timer to send a probe.
fn keep_alive_timers(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = format!(":{port:04X}");
    let lines = table.lines().filter(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // The other end, the state "established", and the kind of timer.
        fields[2].ends_with(&ends) && fields[3] == "01" && fields[5].starts_with("02")
    });
    lines.count()
}
