//! Streams of other kinds: bytes that are handed over, and streams that break.

use std::io::{self, ErrorKind as IoErrorKind, Read, Write};

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{Buffers, Command, Direction};
use nbd_session::replay::Reconnect;
use nbd_session::{Limit, Received, Session, Step};

use nbd_sim::rig::{Rig, options, server};

/// Reads and writes by buffers that are handed over whole, as rings of the kernel do.
#[test]
fn bytes_may_be_handed_over() {
    for mode in [IoMode::Single, IoMode::Vectored] {
        let now = std::time::Instant::now();
        let mut session = Session::new(options(), 1, now).unwrap();
        let mut far = server(1 << 20);
        let mut buffers: Buffers<Vec<u8>> = Buffers::new();
        let turn = |session: &mut Session, buffers: &mut Buffers<Vec<u8>>, far: &mut _| {
            let far: &mut nbd_sim::memory_server::MemoryStream = far;
            while let Some(step) = session.next_step() {
                if let Step::Connect(connect) = step {
                    session.connected(connect.generation, Ok(mode), now);
                }
            }
            let mut out = Vec::new();
            while session.direction().contains(Direction::WRITE)
                && session.write(&mut out, buffers, now) == Progress::More
            {}
            far.write_all(&out).unwrap();
            let mut piece = [0; 1000];
            while let Ok(n) = far.read(&mut piece) {
                let mut received = Received::new(&piece[..n]);
                while !received.rest().is_empty() {
                    session.read(&mut received, buffers, now);
                }
                if n == 0 {
                    session.read(&mut io::empty(), buffers, now);
                    break;
                }
            }
        };
        while !session.is_ready() {
            turn(&mut session, &mut buffers, &mut far);
        }
        let put = session.submit(Command::write(4096, 64 << 10), Limit::Default, now).unwrap();
        buffers.insert(put, vec![3; 64 << 10]);
        turn(&mut session, &mut buffers, &mut far);
        let get = session.submit(Command::read(0, 128 << 10), Limit::Default, now).unwrap();
        buffers.insert(get, vec![0; 128 << 10]);
        turn(&mut session, &mut buffers, &mut far);
        assert!(session.take(put).unwrap().result.is_ok());
        assert!(session.take(get).unwrap().result.is_ok());
        let data = buffers.remove(get).unwrap();
        assert_eq!((data[4095], data[4096], data[4096 + 65535]), (0xee, 3, 3));
        far.with(nbd_sim::memory_server::MemoryServer::hang_up);
        turn(&mut session, &mut buffers, &mut far);
        assert!(session.is_over());
    }
}

/// Fails as a descriptor does that somebody else has closed.
struct Closed;

impl Read for Closed {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(9))
    }
}

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(9))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_descriptor_that_was_closed_is_a_lost_connection() {
    for reading in [false, true] {
        for lasting in [false, true] {
            let policy = lasting.then(Reconnect::new);
            let mut rig = Rig::ready(options().reconnect(policy));
            let id = rig.submit(Command::read(0, 512));
            let progress = if reading {
                rig.session.read(&mut Closed, &mut rig.buffers, rig.now)
            } else {
                rig.session.write(&mut Closed, &mut rig.buffers, rig.now)
            };
            assert_eq!(progress, Progress::Closed);
            rig.sleep(1.0);
            assert_eq!(rig.outcomes(), [(id, lasting)]);
            if !lasting {
                assert_eq!(rig.session.end().unwrap().errno(), 9);
            }
            // Late events do no harm.
            rig.session.read(&mut Closed, &mut rig.buffers, rig.now);
            rig.sleep(1.0);
        }
    }
}

#[test]
fn what_the_adapter_finds_broken_is_lost_too() {
    let mut rig = Rig::ready(options());
    let id = rig.submit(Command::read(0, 512));
    rig.session.fail(io::Error::from(IoErrorKind::ConnectionReset), rig.now);
    assert_eq!(rig.outcomes(), [(id, false)]);
    assert!(rig.session.end().unwrap().is_closed());
    // Once is enough.
    rig.session.fail(nbd_session::Error::stopped(), rig.now);
    assert!(rig.session.end().unwrap().is_closed());
}

#[test]
fn sessions_go_anywhere() {
    const fn goes_anywhere<T: Send + Sync + 'static>() {}
    goes_anywhere::<Session>();
    goes_anywhere::<nbd_session::Error>();
    goes_anywhere::<nbd_session::Completion>();
}
