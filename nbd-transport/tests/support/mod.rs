//! Deadlines for tests, and what proves that a connection reached a server.

use nbd_transport::{Connection, Stream};
use std::io::Read;
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
