//! A session over TLS whose bytes are damaged on the way.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Buffers, Command, Direction, Discard, PayloadSource, RequestId, TlsPolicy, part};
use nbd_session::replay::Reconnect;
use nbd_session::{ConnectOptions, ErrorKind, Limit, Session, Step};
use nbd_sim::pipe::{End, Schedule, pipe};
use nbd_sim::rng::Rng;
use nbd_transport::Endpoint;
use nbd_transport::tls::{TlsAcceptor, TlsConnector};

use crate::memory::{Served, backends};
use nbd_sim::peer::pki::Pki;

const READS: u64 = 8;
const LENGTH: u32 = 64 << 10;

/// Reads a disk of zeroes through connections of which the first ones have a bit flipped each.
/// Returns the session, and how many reads went well.
fn read_all(
    acceptor: &TlsAcceptor,
    connector: &TlsConnector,
    reconnect: Option<Reconnect>,
    flips: &[(u64, u8)],
) -> (Session, u64) {
    let mut rng = Rng::new(1);
    let host = Endpoint::Tcp { host: "localhost".to_owned(), port: 10809 };
    let options = ConnectOptions::new()
        .endpoint(host)
        .tls_connector(TlsPolicy::Require, connector.clone())
        .silence(Duration::from_secs(30))
        .reconnect(reconnect);
    let mut now = Instant::now();
    let mut session = Session::new(options, 3, now).expect("sound options");
    let mut buffers: Buffers<Vec<u8>> = Buffers::new();
    let mut ends: Option<(End, Served)> = None;
    let mut submitted = false;
    let (mut done, mut good) = (0, 0);
    let mut idle = 0;
    while !session.is_over() && done < READS {
        while let Some(step) = session.next_step() {
            match step {
                Step::Connect(connect) => {
                    let mut damaged = Schedule::SMOOTH;
                    damaged.flip = flips.get(connect.generation as usize - 1).copied();
                    let (end, far) = pipe(&mut rng, Schedule::SMOOTH, damaged);
                    ends = Some((end, Served::new(far, acceptor.clone())));
                    session.connected(connect.generation, Ok(IoMode::Vectored), now);
                }
                Step::Close { .. } => ends = None,
                _ => {}
            }
        }
        if session.is_ready() && !submitted {
            submitted = true;
            for at in 0..READS {
                let command = Command::read(at * u64::from(LENGTH), LENGTH);
                let id = session.submit(command, Limit::Never, now).expect("it fits");
                buffers.insert(id, vec![1; LENGTH as usize]);
            }
        }
        let before = session.stats().wire;
        if let Some((end, served)) = &mut ends {
            while session.direction().contains(Direction::WRITE)
                && session.write(end, &mut buffers, now) == Progress::More
            {}
            if session.direction().contains(Direction::READ) {
                session.read(end, &mut buffers, now);
            }
            // It is told of what is wrong, and ends.
            let _ = served.turn();
        }
        while let Some(completion) = session.next_completion() {
            let data = buffers.remove(completion.id).expect("it has a buffer");
            done += 1;
            if completion.result.is_ok() {
                good += 1;
                assert!(data.iter().all(|byte| *byte == 0), "damaged data were taken for sound");
            }
        }
        // The length of a record may have grown, and the rest of it never comes.
        idle = if session.stats().wire == before { idle + 1 } else { 0 };
        if idle > 10
            && let Some(at) = session.next_deadline()
        {
            now = now.max(at);
            session.handle_timeout(now);
            idle = 0;
        }
    }
    while session.next_completion().is_some() {}
    (session, good)
}

#[test]
fn a_bad_record_is_a_lost_connection_and_never_data() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let mut rng = Rng::new(11);
        for _ in 0..12 {
            let flip = (20_000 + rng.below(400_000) as u64, 1 << rng.below(8));
            let (session, good) = read_all(&acceptor, &connector, Some(Reconnect::new()), &[flip]);
            assert_eq!(good, READS, "{flip:?}: {session:?}");
            assert_eq!(session.stats().connections, 2, "{flip:?}");
            assert!(session.tls_info().is_some());
            let (session, good) = read_all(&acceptor, &connector, None, &[flip]);
            let end = session.end().expect("it is over");
            assert!(good < READS);
            let kinds = [ErrorKind::Tls, ErrorKind::TimedOut];
            assert!(kinds.contains(&end.kind()), "{flip:?}: {end}");
        }
    }
}

#[test]
fn a_handshake_that_is_damaged_is_tried_again_after_a_loss() {
    let pki = Pki::new();
    let (acceptor, connector) = &backends(&pki)[0];
    // Among what is encrypted already: the server's certificate.
    for at in (400..1000).step_by(100) {
        let flips = [(50_000, 1), (at, 4)];
        let (session, good) = read_all(acceptor, connector, Some(Reconnect::new()), &flips);
        assert_eq!(good, READS, "{at}: {session:?}");
        assert_eq!(session.generation(), 3, "{at}");
    }
}

/// A stream that takes no more than it has room for.
struct Narrow {
    end: End,
    room: usize,
    /// It is there, and has no turn.
    _served: Served,
}

impl Write for Narrow {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match buf.len().min(self.room) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => {
                let count = self.end.write(&buf[..count])?;
                self.room -= count;
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A session over TLS that is ready, and its stream, whose other end answers nothing any more.
fn ready(acceptor: &TlsAcceptor, connector: &TlsConnector, now: Instant) -> (Session, Narrow) {
    let options = ConnectOptions::new()
        .endpoint(Endpoint::Tcp { host: "localhost".to_owned(), port: 10809 })
        .tls_connector(TlsPolicy::Require, connector.clone())
        .silence(Duration::from_secs(30));
    let mut session = Session::new(options, 3, now).expect("sound options");
    let (mut end, far) = pipe(&mut Rng::new(1), Schedule::SMOOTH, Schedule::SMOOTH);
    let mut served = Served::new(far, acceptor.clone());
    while !session.is_ready() {
        if let Some(Step::Connect(connect)) = session.next_step() {
            session.connected(connect.generation, Ok(IoMode::Vectored), now);
        }
        if session.direction().contains(Direction::WRITE) {
            session.write(&mut end, &mut Discard, now);
        }
        session.read(&mut end, &mut Discard, now);
        served.turn().expect("a sound client");
    }
    (session, Narrow { end, room: usize::MAX, _served: served })
}

fn submit(session: &mut Session, command: Command, now: Instant) {
    session.submit(command, Limit::Never, now).expect("it fits");
}

/// Writes zeroes, as far as there is room.
struct Zeroes(Vec<u8>);

impl PayloadSource for Zeroes {
    fn bytes(&self, _: RequestId, at: usize, len: usize) -> &[u8] {
        part(&self.0, at, len)
    }
}

fn write(session: &mut Session, stream: &mut Narrow, now: Instant) {
    let mut zeroes = Zeroes(vec![0; 256 << 10]);
    while session.direction().contains(Direction::WRITE)
        && session.write(stream, &mut zeroes, now) == Progress::More
    {}
}

#[test]
fn what_the_transport_takes_is_a_sign_of_life_and_what_is_encrypted_none() {
    let pki = Pki::new();
    let second = Duration::from_secs(1);
    for (acceptor, connector) in backends(&pki) {
        let mut now = Instant::now();
        let (mut session, mut stream) = ready(&acceptor, &connector, now);
        // All of it is encrypted at once, and leaves in 20 minutes.
        stream.room = 1000;
        submit(&mut session, Command::write(0, 64 << 10), now);
        for _ in 0..60 {
            write(&mut session, &mut stream, now);
            assert_eq!(session.next_deadline(), Some(now + 30 * second));
            now += 20 * second;
            stream.room = 1100;
        }
        // A flush of which no byte has left is no reason to wait.
        let (mut session, mut stream) = ready(&acceptor, &connector, now);
        submit(&mut session, Command::write(0, 512), now);
        write(&mut session, &mut stream, now);
        stream.room = 0;
        submit(&mut session, Command::flush(), now);
        write(&mut session, &mut stream, now + 10 * second);
        assert_eq!(session.next_deadline(), Some(now + 30 * second));
        stream.room = usize::MAX;
        write(&mut session, &mut stream, now + 20 * second);
        assert_eq!(session.next_deadline(), None);
    }
}
