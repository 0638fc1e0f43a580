//! A write that shares its data with a session that keeps it costs no memory: nothing is
//! allocated for it, so nothing is copied.
//!
//! This is a test binary of its own with one test in it: the allocator counts for the whole
//! process.

use std::alloc::System;
use std::time::Duration;

use bytes::Bytes;
use mio::{Events, Interest, Poll, Token};
use nbd_client_mio::proto::Command;
use nbd_client_mio::session::Session;
use nbd_client_mio::session::replay::Reconnect;
use nbd_client_mio::{Completion, ConnectOptions, Connection, Request};
use nbd_sim::peer::Server;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LENGTH: usize = 4096;
const DEPTH: usize = 16;

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(120);

struct Disk {
    poll: Poll,
    events: Events,
    connection: Connection<Vec<u8>>,
}

impl Disk {
    /// Drives it, waiting in between, until that is true of it.
    fn drive_until(&mut self, done: impl Fn(&Session) -> bool) {
        let Self { poll, events, connection } = self;
        while !done(connection.session()) {
            connection.drive(poll.registry()).unwrap();
            if connection.needs_drive() || done(connection.session()) {
                continue;
            }
            poll.poll(events, Some(LONG)).unwrap();
            assert!(!events.is_empty(), "the server does not answer");
            events.iter().for_each(|event| connection.handle_event(event));
        }
    }

    /// The next command that is finished, and went well.
    fn wait(&mut self) -> Completion<Vec<u8>> {
        self.drive_until(Session::has_completed);
        let done = self.connection.next_completion().unwrap();
        assert!(done.result.is_ok(), "{done:?}");
        done
    }

    fn write_all(&mut self, payloads: &[Bytes]) {
        for (payload, number) in payloads.iter().zip(0..) {
            let command = Command::write(number * LENGTH as u64, LENGTH as u32);
            let request = Request::new(command).payload(payload.clone());
            self.connection.submit_request(request, None).unwrap();
        }
        payloads.iter().for_each(|_| drop(self.wait()));
    }

    fn flush(&mut self) {
        self.connection.submit(Command::flush(), None).unwrap();
        self.wait();
    }
}

#[test]
fn shared_writes_allocate_nothing() {
    let server = Server::nbdkit(&["memory", "1M"]).start().unwrap();
    let policy = Reconnect::new().keep_unflushed(1 << 20);
    let options = ConnectOptions::new().uri(&server.uri()).unwrap().reconnect(policy);
    let poll = Poll::new().unwrap();
    let mut connection = Connection::connect(options).unwrap();
    poll.registry().register(&mut connection, Token(0), Interest::READABLE).unwrap();
    let mut disk = Disk { poll, events: Events::with_capacity(16), connection };
    disk.drive_until(|session| session.negotiated().is_some());

    // Alike in length to the command that it goes with, as any buffer.
    let request = Request::new(Command::write(0, 512)).payload(Bytes::from_static(b"short"));
    assert!(disk.connection.submit_request(request, None).is_err());

    let payloads: Vec<_> =
        (0..DEPTH).map(|number| Bytes::from(vec![number as u8; LENGTH])).collect();
    // Tables grow to what they need: until so much is kept that the session flushes by itself.
    (0..64).for_each(|_| disk.write_all(&payloads));
    disk.flush();
    let before = ALLOCATOR.stats();
    (0..64).for_each(|_| disk.write_all(&payloads));
    let after = ALLOCATOR.stats();
    let times = after.allocations + after.reallocations - before.allocations - before.reallocations;
    // With a server that is slow to flush a table may still grow, a few times in all.
    assert!(times <= 16, "{times} allocations for {} writes", 64 * DEPTH);
    // What is kept is that very memory, until it is flushed.
    assert!(!payloads.iter().all(Bytes::is_unique));
    disk.flush();
    assert!(payloads.iter().all(Bytes::is_unique));

    for (payload, number) in payloads.iter().zip(0..) {
        disk.connection.read(vec![0; LENGTH], number * LENGTH as u64).unwrap();
        assert_eq!(disk.wait().buffer.unwrap(), payload[..]);
    }
}
