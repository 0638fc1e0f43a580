//! A connection that is driven without polling leaves its poller, and is back in time.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::{Events, Interest, Poll, Token};
use nbd_client_mio::session::Connect;
use nbd_client_mio::transport::{Connection as Transport, Stream};
use nbd_client_mio::{ConnectOptions, Connection, Event, Limit, Reconnect, State};

/// More drives in a row than it takes to leave.
const MANY: usize = 200;

/// So many, as src/registration.rs has it.
const ENOUGH: usize = 64;

const LONG: Option<Duration> = Some(Duration::from_secs(60));

/// A connection, and the server's end of it, whose every reply is the test's to send.
struct Stage {
    poll: Poll,
    disk: Connection<Vec<u8>>,
    server: UnixStream,
    /// How the poller knows the client's socket.
    watched: String,
}

impl Stage {
    /// With two reads in flight, so that there is always one to answer.
    fn new() -> Self {
        let (client, server) = pair();
        let watched = format!("tfd: {:8} ", client.as_fd().as_raw_fd());
        let transport = Transport::from(Stream::Unix(client));
        let disk = Connection::connect_over(ConnectOptions::new(), transport);
        Self::with(disk.expect("a connection"), server, watched)
    }

    fn with(mut disk: Connection<Vec<u8>>, server: UnixStream, watched: String) -> Self {
        let poll = Poll::new().expect("a poll");
        poll.registry().register(&mut disk, Token(0), Interest::READABLE).expect("registration");
        let mut this = Self { poll, disk, server, watched };
        while this.drive() != State::Ready {}
        this.disk.read(vec![0; 512], 0).expect("room");
        this.disk.read(vec![0; 512], 0).expect("room");
        this.drive();
        this
    }

    fn drive(&mut self) -> State {
        self.disk.drive(self.poll.registry()).expect("a sound server")
    }

    /// Does all that can be done without waiting.
    fn settle(&mut self) {
        while self.disk.needs_drive() {
            self.drive();
        }
    }

    /// The server answers the oldest read.
    fn reply(&mut self) {
        let mut request = [0; 28];
        self.server.read_exact(&mut request).expect("a request");
        let mut reply = b"\x67\x44\x66\x98\x00\x00\x00\x00".to_vec();
        reply.extend(&request[8..16]);
        reply.extend([0xab; 512]);
        self.server.write_all(&reply).expect("room");
    }

    fn take(&mut self) {
        let done = self.disk.next_completion().expect("an answer");
        done.result.expect("success");
        assert_eq!(done.buffer.expect("the buffer"), [0xab; 512]);
    }

    /// A reply, and the next read with it.
    fn step(&mut self) {
        self.reply();
        self.drive();
        self.take();
        self.disk.read(vec![0; 512], 0).expect("room");
    }

    /// Drives without polling until the connection has left.
    fn away() -> Self {
        let mut this = Self::new();
        assert!(this.is_watched());
        (0..MANY).for_each(|_| this.step());
        assert!(!this.is_watched());
        this
    }

    fn poll(&mut self, timeout: Option<Duration>) -> bool {
        let mut events = Events::with_capacity(8);
        self.poll.poll(&mut events, timeout).expect("a poll");
        events.iter().for_each(|event| self.disk.handle_event(event));
        !events.is_empty()
    }

    /// What the kernel says.
    fn is_watched(&self) -> bool {
        let path = format!("/proc/self/fdinfo/{}", self.poll.as_raw_fd());
        fs::read_to_string(path).expect("the poller").contains(&self.watched)
    }
}

/// A socket, and that of a server which has greeted.
fn pair() -> (UnixStream, UnixStream) {
    let (client, mut server) = UnixStream::pair().expect("sockets");
    let mut greeting = b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53".to_vec();
    greeting.extend((1_u64 << 20).to_be_bytes());
    greeting.extend([0, 0, 0, 1]);
    greeting.extend([0; 124]);
    server.write_all(&greeting).expect("room");
    client.set_nonblocking(true).expect("a socket");
    (client, server)
}

/// What is closed has left the poller by itself, and its number may be that of the next socket.
#[test]
fn one_that_is_lost_as_it_leaves_does_no_harm_to_the_next() {
    let ((first, server), (second, next)) = (pair(), pair());
    let mut clients = vec![second, first];
    let dial = move |_: &Connect| Ok(Stream::Unix(clients.pop().expect("one loss")).into());
    let options =
        ConnectOptions::new().reconnect(Reconnect::new().first_delay(Duration::from_nanos(1)));
    let disk = Connection::connect_with(options, dial).expect("a connection");
    let mut this = Stage::with(disk, server, String::new());
    (1..ENOUGH).for_each(|_| this.step());
    let mut request = [0; 28];
    this.server.read_exact(&mut request).expect("a request");
    // Half an answer, behind which the same drive finds the end.
    let mut reply = b"\x67\x44\x66\x98\x00\x00\x00\x00".to_vec();
    reply.extend(&request[8..16]);
    reply.extend([0xab; 100]);
    this.server.write_all(&reply).expect("room");
    this.server.shutdown(Shutdown::Both).expect("a socket");
    this.drive();
    assert_ne!(this.disk.state(), State::Ready);
    this.server = next;
    while this.disk.state() != State::Ready || this.disk.needs_drive() {
        let next = this.disk.next_deadline().filter(|_| !this.disk.needs_drive());
        let left =
            next.map_or(Duration::ZERO, |next| next.saturating_duration_since(Instant::now()));
        this.poll(Some(left));
        this.disk.handle_timeout(Instant::now());
        this.drive();
    }
    (0..2).for_each(|_| this.reply());
    while this.disk.session().completed() < 2 {
        assert!(this.poll(LONG), "the replies are told");
        this.settle();
    }
    (0..2).for_each(|_| this.take());
    let events: Vec<_> = std::iter::from_fn(|| this.disk.next_event()).collect();
    assert!(matches!(events[..], [Event::Lost { .. }, Event::Reconnected { .. }]), "{events:?}");
}

#[test]
fn a_drive_without_a_reply_has_the_connection_watched_again() {
    let mut this = Stage::away();
    this.settle();
    assert!(this.is_watched());
    this.reply();
    assert!(this.poll(LONG), "the reply is told");
    this.drive();
    this.take();
}

#[test]
fn it_wants_to_be_driven_for_as_long_as_it_is_not_watched() {
    let mut this = Stage::away();
    this.reply();
    this.drive();
    this.take();
    assert!(!this.is_watched());
    assert!(this.disk.needs_drive(), "though nothing was submitted");
}

#[test]
fn who_polls_between_drives_is_told_of_every_reply() {
    let mut this = Stage::new();
    for _ in 0..MANY {
        this.reply();
        assert!(this.poll(LONG));
        this.drive();
        this.take();
        this.disk.read(vec![0; 512], 0).expect("room");
    }
    assert!(this.is_watched());
}

#[test]
fn the_caller_may_register_it_anew_or_not_at_all() {
    let mut this = Stage::away();
    let registry = this.poll.registry().try_clone().expect("a registry");
    this.disk.reregister(&registry, Token(1), Interest::READABLE).expect("registration");
    assert!(this.is_watched());
    (0..MANY).for_each(|_| this.step());
    assert!(!this.is_watched());
    this.disk.deregister(&registry).expect("nothing to be done");
    (0..MANY).for_each(|_| this.step());
    this.settle();
    assert!(!this.is_watched(), "for good");
    this.disk.register(&registry, Token(2), Interest::READABLE).expect("registration");
    this.reply();
    assert!(this.poll(LONG));
}

#[test]
fn it_ends_in_good_order_from_there() {
    let mut this = Stage::away();
    this.disk.disconnect(Limit::Default);
    this.settle();
    assert!(this.is_watched());
    this.reply();
    this.reply();
    assert!(this.poll(LONG));
    this.settle();
    let mut request = [0; 28];
    this.server.read_exact(&mut request).expect("a request");
    assert_eq!(request[6..8], [0, 2], "the disconnect");
    this.server.shutdown(Shutdown::Both).expect("a socket");
    assert!(this.poll(LONG), "the end is told");
    assert_eq!(this.drive(), State::Closed);
    this.take();
    this.take();
}
