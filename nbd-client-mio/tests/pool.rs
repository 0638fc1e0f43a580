//! Several connections to one export, in one loop.

use std::io::ErrorKind;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use nbd_client_mio::proto::Command;
use nbd_client_mio::session::replay::Reconnect;
use nbd_client_mio::{Completion, ConnectOptions, Connection, Limit, Pool, Rejected, State};
use nbd_sim::peer::Server;

type Told = Receiver<Result<Completion<Vec<u8>>, Rejected<Vec<u8>>>>;

/// Tokens before this one are somebody else's.
const FIRST: usize = 7;

struct Loop {
    poll: Poll,
    events: Events,
    pool: Pool<Vec<u8>>,
}

impl Loop {
    fn new(options: ConnectOptions, server: &Server, size: usize) -> Self {
        let options = options.uri(&server.uri()).expect("a URI");
        Self {
            poll: Poll::new().expect("a poll"),
            events: Events::with_capacity(8),
            pool: Pool::connect(options, size, Token(FIRST)).expect("a pool"),
        }
    }

    fn turn(&mut self, until: Instant) {
        let connections = self.pool.connections();
        let next = connections.iter().filter_map(Connection::next_deadline).min();
        let until = next.map_or(until, |next| next.min(until));
        let left = until.saturating_duration_since(Instant::now());
        let busy = connections.iter().any(Connection::needs_drive);
        match self.poll.poll(&mut self.events, Some(if busy { Duration::ZERO } else { left })) {
            // A process that was stopped and goes on sees its calls interrupted.
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            polled => polled.unwrap(),
        }
        for event in &self.events {
            if let Some(connection) = self.pool.connections().get_mut(event.token().0 - FIRST) {
                connection.handle_event(event);
            }
        }
        self.pool.drive(self.poll.registry()).unwrap();
        let now = Instant::now();
        for connection in self.pool.connections() {
            if connection.next_deadline().is_some_and(|at| at <= now) {
                connection.handle_timeout(now);
            }
        }
    }

    fn until(&mut self, what: &str, mut happened: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !happened(self) {
            assert!(Instant::now() < end, "never came: {what}; {:?}", self.pool);
            self.turn(end);
        }
    }

    fn submit(&mut self, command: Command, buffer: Option<Vec<u8>>) -> Told {
        let (tell, told) = channel();
        self.pool.submit(command, buffer, move |done| drop(tell.send(done)));
        told
    }

    fn finish(&mut self, told: &Told) -> Result<Completion<Vec<u8>>, Rejected<Vec<u8>>> {
        let mut outcome = None;
        self.until("an outcome", |_| {
            outcome = told.try_recv().ok();
            outcome.is_some()
        });
        outcome.unwrap()
    }

    /// What each connection has sent.
    fn sent(&mut self) -> Vec<u64> {
        let stats = |disk: &Connection<Vec<u8>>| disk.session().stats().wire.messages_sent;
        self.pool.connections().iter().map(stats).collect()
    }

    fn unflushed(&mut self) -> usize {
        let connections = self.pool.connections().iter();
        connections.filter(|disk| disk.session().has_unflushed()).count()
    }
}

fn write(index: u64) -> (Command, Option<Vec<u8>>) {
    (Command::write(index * 512, 512), Some(vec![index as u8 + 1; 512]))
}

#[test]
fn one_flush_covers_the_writes_of_all_connections() {
    let server = Server::nbdkit(&["memory", "1M"]).start().expect("nbdkit");
    let mut this = Loop::new(ConnectOptions::new(), &server, 2);
    // Before there is any connection.
    let (command, buffer) = write(0);
    let first = this.submit(command, buffer);
    this.finish(&first).unwrap();
    this.until("both", |this| this.pool.members().alive() == 2);
    let told: Vec<_> = (0..8)
        .map(|index| {
            let (command, buffer) = write(index);
            this.submit(command, buffer)
        })
        .collect();
    for told in &told {
        this.finish(told).unwrap();
    }
    assert_eq!(this.unflushed(), 2, "both were written to");
    let flush = this.submit(Command::flush(), None);
    this.finish(&flush).unwrap();
    assert_eq!(this.unflushed(), 0);
    for index in 0..8 {
        let told = this.submit(Command::read(index * 512, 512), Some(vec![0; 512]));
        let done = this.finish(&told).unwrap();
        assert_eq!(done.buffer.unwrap(), [index as u8 + 1; 512]);
    }
    this.pool.disconnect(Limit::Default);
    this.until("the end", |this| {
        this.pool.connections().iter().all(|disk| disk.state() == State::Closed)
    });
    this.turn(Instant::now());
    this.pool.members().farewell().unwrap();
    let late = this.submit(Command::read(0, 512), Some(vec![9; 512]));
    let rejected = this.finish(&late).unwrap_err();
    assert_eq!(rejected.buffer.unwrap(), [9; 512]);
}

/// Reads are tried on the other one, writes are not, and a flush does not lie.
#[test]
fn a_connection_that_dies_takes_its_writes_with_it() {
    let mut server = Server::nbdkit(&["memory", "1M"]).start().expect("nbdkit");
    let mut this = Loop::new(ConnectOptions::new(), &server, 2);
    this.until("both", |this| this.pool.members().alive() == 2);
    for index in 0..4 {
        let (command, buffer) = write(index);
        let told = this.submit(command, buffer);
        this.finish(&told).unwrap();
    }
    server.kill();
    let told = this.submit(Command::read(0, 512), Some(vec![9; 512]));
    let rejected = this.finish(&told).unwrap_err();
    assert_eq!(rejected.buffer.expect("it comes back").len(), 512);
    assert_eq!(this.pool.members().alive(), 0, "it was tried on both");
    let (command, buffer) = write(1);
    let told = this.submit(command, buffer);
    assert!(this.finish(&told).unwrap_err().buffer.is_some());
    let flush = this.submit(Command::flush(), None);
    this.finish(&flush).unwrap_err();
}

#[test]
fn a_pool_outlives_its_server() {
    let mut server = Server::nbdkit(&["memory", "1M"]).start().expect("nbdkit");
    let policy = Reconnect::new().first_delay(Duration::from_millis(2));
    let mut this = Loop::new(ConnectOptions::new().reconnect(policy), &server, 3);
    this.until("all three", |this| this.pool.members().alive() == 3);
    let before = this.sent();
    for round in 0..3 {
        server.kill();
        server.start_again().expect("nbdkit");
        let told: Vec<_> = (0..6)
            .map(|index| {
                let (command, buffer) = write(index);
                this.submit(command, buffer)
            })
            .collect();
        for told in &told {
            this.finish(told).unwrap();
        }
        assert_eq!(this.pool.members().alive(), 3, "round {round}");
        let flush = this.submit(Command::flush(), None);
        this.finish(&flush).unwrap();
    }
    let after = this.sent();
    assert!(after.iter().zip(&before).all(|(after, before)| after > before), "{after:?}");
}

#[test]
fn a_server_that_cannot_be_reached_is_told_to_every_call() {
    let options = ConnectOptions::new().uri("nbd+unix:///?socket=/nonexistent/socket").unwrap();
    let mut poll = Poll::new().expect("a poll");
    let mut pool = Pool::<Vec<u8>>::connect(options, 4, Token(0)).expect("a pool");
    let (tell, told) = channel();
    let early = tell.clone();
    pool.submit(Command::read(0, 512), Some(vec![0; 512]), move |done| drop(early.send(done)));
    let mut events = Events::with_capacity(8);
    while pool.drive(poll.registry()).unwrap() != State::Closed {
        if !pool.connections().iter().any(Connection::needs_drive) {
            poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
            events.iter().for_each(|event| pool.connections()[event.token().0].handle_event(event));
        }
    }
    pool.submit(Command::flush(), None, move |done| drop(tell.send(done)));
    for _ in 0..9 {
        pool.drive(poll.registry()).unwrap();
    }
    for _ in 0..2 {
        let error = told.try_recv().expect("it is told").unwrap_err().error;
        assert!(error.is_connect(), "{error:?}");
    }
    assert_eq!(pool.connections().len(), 1, "no others are tried");
}
