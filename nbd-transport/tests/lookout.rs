//! How long a client stays awake for a server that answers soon, and that it sleeps else.

use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::time::{Duration, Instant};

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Client, ClientConfig, Command, Direction, Machine, Phase, Table};
use nbd_sim::memory_server::{MemoryServer, MemoryStream};
use nbd_transport::{Handshake, Link};

/// So long it is looked whether something comes.
const AWAKE: Duration = Duration::from_micros(20);

/// More replies than are few.
const MANY: usize = 9;

/// Bytes of a large reply.
const LARGE: u32 = 32 << 10;

/// Has nothing to read so many times.
struct Late {
    stream: MemoryStream,
    late: usize,
    reads: usize,
}

impl Read for Late {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.late > 0 {
            self.late -= 1;
            return Err(ErrorKind::WouldBlock.into());
        }
        self.stream.read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let first = buffers.iter_mut().find(|buffer| !buffer.is_empty());
        self.read(first.ok_or(ErrorKind::InvalidInput)?)
    }
}

/// A client, and what its server sends when.
struct Session {
    client: Client,
    link: Link,
    io: Late,
    buffers: Table<Vec<u8>>,
}

impl Session {
    fn new() -> Self {
        let mut stream = MemoryStream::new(MemoryServer::new(vec![0; LARGE as usize]));
        let mut handshake = Handshake::new(ClientConfig::new()).expect("sound names");
        while handshake.phase() != Phase::Established {
            handshake.drive(&mut stream, IoMode::Vectored).expect("a server that agrees");
        }
        let (client, link) = handshake.finish().expect("it is established");
        let io = Late { stream, late: 0, reads: 0 };
        Self { client, link, io, buffers: Table::new() }
    }

    /// Sends a command, which is answered at once.
    fn ask(&mut self, command: Command) {
        let id = self.client.submit(command).expect("a sound command");
        self.buffers.insert(id, vec![0; command.length as usize]);
        while self.client.get_direction().contains(Direction::WRITE) {
            let (client, stream) = (&mut self.client, &mut self.io.stream);
            self.link.write(client, stream, &self.buffers, IoMode::Vectored).expect("room");
        }
    }

    /// Waits for the reply, of which nothing is to be seen for so many looks. What came of it,
    /// and how many looks there were.
    fn wait(&mut self, late: usize) -> (Option<Progress>, usize) {
        (self.io.late, self.io.reads) = (late, 0);
        let (client, io, sink) = (&mut self.client, &mut self.io, &mut self.buffers);
        let read = self.link.read_soon(client, io, sink, IoMode::Vectored);
        (read.expect("replies"), self.io.reads)
    }
}

#[test]
fn what_comes_within_the_moment_is_taken_in() {
    // On a busy machine the moment may be over after any look.
    let in_time = || {
        let mut session = Session::new();
        session.ask(Command::flush());
        let (read, looks) = session.wait(2);
        assert!(looks <= 3);
        read.is_some() && looks == 3 && session.client.in_flight() == 0
    };
    assert!((0..100).any(|_| in_time()));
}

#[test]
fn nothing_in_time_is_nothing() {
    let mut session = Session::new();
    session.ask(Command::flush());
    let begin = Instant::now();
    let (read, looks) = session.wait(usize::MAX);
    assert!(begin.elapsed() >= AWAKE);
    assert_eq!(read, None);
    assert!((1..=9).contains(&looks), "{looks}");
    // The next time is not worth it; then it is again.
    assert_eq!(session.wait(0), (None, 0));
    assert_eq!(session.client.in_flight(), 1);
    assert_eq!(session.wait(0).1, 1);
    assert_eq!(session.client.in_flight(), 0);
}

#[test]
fn nobody_looks_for_what_is_not_due() {
    let mut session = Session::new();
    assert_eq!(session.wait(0), (None, 0));
    // It has not been in vain: of the next reply it is known nothing either.
    session.ask(Command::flush());
    assert_eq!(session.wait(0).1, 1);
}

#[test]
fn a_slow_server_is_looked_out_for_less_and_less() {
    let mut session = Session::new();
    session.ask(Command::flush());
    let mut omitted = || (0..).take_while(|_| session.wait(usize::MAX).1 == 0).count();
    assert_eq!([(); 8].map(|()| omitted()), [0, 1, 3, 7, 15, 31, 63, 63]);
}

#[test]
fn many_small_replies_are_let_gather() {
    let mut session = Session::new();
    for _ in 0..MANY {
        session.ask(Command::flush());
    }
    assert_eq!(session.wait(0), (None, 0));
}

#[test]
fn many_large_replies_are_looked_out_for() {
    let mut session = Session::new();
    for _ in 0..2 * MANY {
        session.ask(Command::read(0, LARGE));
    }
    // It takes some of them to know that they are.
    assert_eq!(session.wait(0), (None, 0));
    let Session { client, link, io, buffers } = &mut session;
    while client.in_flight() > MANY {
        link.read(client, io, buffers, IoMode::Vectored).expect("replies");
    }
    assert_eq!(session.wait(0).1, 1);
}
