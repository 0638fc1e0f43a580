//! How long a client stays awake for a server that answers soon, and that it sleeps else.

use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::time::{Duration, Instant};

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Client, ClientConfig, Command, Direction, Machine, Phase, Table};
use nbd_sim::memory_server::{MemoryServer, MemoryStream};
use nbd_transport::{Handshake, Link};

/// So long it is looked whether something comes.
const AWAKE: Duration = Duration::from_micros(20);

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
}

impl Session {
    fn new() -> Self {
        let mut stream = MemoryStream::new(MemoryServer::new(vec![0; 4096]));
        let mut handshake = Handshake::new(ClientConfig::new()).expect("sound names");
        while handshake.phase() != Phase::Established {
            handshake.drive(&mut stream, IoMode::Vectored).expect("a server that agrees");
        }
        let (client, link) = handshake.finish().expect("it is established");
        Self { client, link, io: Late { stream, late: 0, reads: 0 } }
    }

    /// Sends a command, which is answered at once.
    fn ask(&mut self) {
        self.client.submit(Command::flush()).expect("a sound command");
        while self.client.get_direction().contains(Direction::WRITE) {
            let (sink, stream) = (Table::<Vec<u8>>::new(), &mut self.io.stream);
            self.link.write(&mut self.client, stream, &sink, IoMode::Vectored).expect("room");
        }
    }

    /// Waits for the reply, of which nothing is to be seen for so many looks. What came of it,
    /// and how many looks there were.
    fn wait(&mut self, late: usize) -> (Option<Progress>, usize) {
        (self.io.late, self.io.reads) = (late, 0);
        let mut sink = Table::<Vec<u8>>::new();
        let read = self.link.read_soon(&mut self.client, &mut self.io, &mut sink, IoMode::Vectored);
        (read.expect("replies"), self.io.reads)
    }
}

#[test]
fn what_comes_within_the_moment_is_taken_in() {
    // On a busy machine the moment may be over after any look.
    let in_time = || {
        let mut session = Session::new();
        session.ask();
        let (read, looks) = session.wait(2);
        assert!(looks <= 3);
        read.is_some() && looks == 3 && session.client.in_flight() == 0
    };
    assert!((0..100).any(|_| in_time()));
}

#[test]
fn nothing_in_time_is_nothing() {
    let mut session = Session::new();
    session.ask();
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
    session.ask();
    assert_eq!(session.wait(0).1, 1);
}
