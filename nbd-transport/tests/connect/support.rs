//! Deadlines for tests, and what proves that a connection reached a server.

use nbd_transport::{ConnectError, Connection, Endpoint, Stream};
use std::io::{Read, pipe};
use std::os::fd::AsFd;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes, so that a hang is a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A deadline far enough away for what must succeed.
pub(crate) fn soon() -> Option<Instant> {
    Some(Instant::now() + LIMIT)
}

/// A deadline for what must run into it.
pub(crate) fn shortly() -> Option<Instant> {
    Some(Instant::now() + Duration::from_millis(300))
}

/// Reads the start of the newstyle negotiation off `connection`.
pub(crate) fn assert_greets(connection: &mut Connection) {
    let mut greeting = [0; 18];
    match &mut connection.stream {
        Stream::Tcp(stream) => {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.read_exact(&mut greeting)
        }
        Stream::Unix(stream) => {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.read_exact(&mut greeting)
        }
        other => panic!("unexpected kind of stream: {other:?}"),
    }
    .expect("no greeting: is nbdkit installed?");
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
    assert_eq!(greeting[17] & 1, 1, "every server here speaks fixed newstyle");
}

/// Waits to connect to a server that never answers, until that is given up; and does not wait
/// at all when it has been given up before.
#[track_caller]
pub(crate) fn assert_given_up(endpoint: &Endpoint) {
    let given_up = |result| {
        let error: ConnectError = Result::expect_err(result, "nobody answers");
        assert!(matches!(error, ConnectError::GivenUp { .. }), "{error}");
        assert_eq!(error.errno(), 125);
    };
    for deadline in [None, soon()] {
        let (stopped, stop) = pipe().unwrap();
        let (sender, outcome) = channel();
        let (there, theirs) = (endpoint.clone(), stopped.try_clone().unwrap());
        thread::spawn(move || sender.send(there.connect_unless(theirs.as_fd(), deadline)));
        let early = outcome.recv_timeout(Duration::from_millis(100));
        assert!(matches!(early, Err(RecvTimeoutError::Timeout)), "it does not wait: {early:?}");
        drop(stop);
        given_up(outcome.recv_timeout(LIMIT / 2).expect("it still waits"));
        given_up(endpoint.connect_unless(stopped.as_fd(), deadline));
    }
}
