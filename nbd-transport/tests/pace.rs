//! How often a client reads while the server answers many commands.

use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::time::{Duration, Instant};

use nbd_proto::io::IoMode;
use nbd_proto::{ClientConfig, Command, Direction, HeaderStyle, Machine, Phase, Table};
use nbd_sim::memory_server::{MemoryServer, MemoryStream};
use nbd_transport::Handshake;

/// Reads that bring little are so far apart.
const SPACING: Duration = Duration::from_micros(10);

const AWAITED: usize = 64;

/// Gives so many bytes to a read, and takes down when each came and went.
struct Dribble {
    stream: MemoryStream,
    most: usize,
    reads: Vec<(Instant, Instant)>,
}

impl Read for Dribble {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let begin = Instant::now();
        let length = buffer.len().min(self.most);
        let result = self.stream.read(&mut buffer[..length]);
        self.reads.push((begin, Instant::now()));
        result
    }

    fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let first = buffers.iter_mut().find(|buffer| !buffer.is_empty());
        self.read(first.ok_or(ErrorKind::InvalidInput)?)
    }
}

/// Has 64 commands answered, so many at a time; the time between one read and the next.
fn gaps(at_a_time: usize) -> Vec<Duration> {
    let mut stream = MemoryStream::new(MemoryServer::new(vec![0; 4096]));
    let mut handshake = Handshake::new(ClientConfig::new()).expect("sound names");
    while handshake.phase() != Phase::Established {
        handshake.drive(&mut stream, IoMode::Vectored).expect("a server that agrees");
    }
    let (mut client, mut link) = handshake.finish().expect("it is established");
    let mut sink = Table::<Vec<u8>>::new();
    for _ in 0..AWAITED {
        client.submit(Command::cache(0, 512)).expect("a sound command");
    }
    while client.get_direction().contains(Direction::WRITE) {
        link.write(&mut client, &mut stream, &sink, IoMode::Vectored).expect("room");
    }
    let reply = match client.negotiated().headers {
        HeaderStyle::Simple => 16,
        HeaderStyle::Structured => 20,
        HeaderStyle::Extended => 32,
    };
    let mut stream = Dribble { stream, most: at_a_time * reply, reads: Vec::new() };
    while client.in_flight() > 0 {
        link.read(&mut client, &mut stream, &mut sink, IoMode::Vectored).expect("replies");
    }
    assert_eq!(stream.reads.len(), AWAITED / at_a_time);
    stream.reads.windows(2).map(|pair| pair[1].0 - pair[0].1).collect()
}

/// On a busy machine a read may take so long that it seems to have waited, but hardly one in
/// each of so many rounds.
#[test]
fn replies_that_come_one_by_one_are_let_gather() {
    // One of the last eight is no longer little.
    let apart = || gaps(1)[..AWAITED - 8].iter().all(|gap| *gap >= SPACING);
    assert!((0..100).any(|_| apart()));
}

/// On a busy machine any gap may be long, but hardly each.
#[test]
fn replies_that_come_together_are_not_held_up() {
    let hasty = || gaps(8).into_iter().any(|gap| gap < SPACING);
    assert!((0..100).any(|_| hasty()));
}
