//! What becomes of a driver that miscounts, a source that runs dry and a stream that fails.

use std::io::{self, ErrorKind, Read, Write};

use nbd_proto::io::{DriveError, IoMode, Progress};
use nbd_proto::{
    ApiMisuse, Buffers, Client, ClientConfig, Command, CommandError, ContextId, Direction, Discard,
    Errno, Error, ErrorReport, Extent, Machine, Negotiation, PayloadSink, PayloadSource, ReadChunk,
    ReadInto, RequestId, WriteFrom, part_mut,
};
use nbd_sim::hostile::bytes::{cookie, granted, greeting, simple};

fn client() -> Client {
    let config = ClientConfig::new().structured_replies(false);
    let mut negotiation = Negotiation::new(config).unwrap();
    for burst in [greeting(3), granted()] {
        negotiation.feed(&burst, &mut Discard).unwrap();
        negotiation.drain(&mut Vec::new(), &Discard).unwrap();
    }
    negotiation.finish().unwrap()
}

/// A client with a write of 64 KiB that is not sent, and its data.
fn writing() -> (Client, RequestId, Buffers<Vec<u8>>) {
    let (mut client, mut table) = (client(), Buffers::new());
    let id = client.submit(Command::write(0, 64 << 10)).unwrap();
    table.insert(id, vec![7; 64 << 10]);
    (client, id, table)
}

/// More bytes than were offered have not come or gone: the driver is in error, and nobody
/// knows where in the stream it is.
#[test]
fn a_driver_that_miscounts_has_lost_its_place() {
    let mut client = client();
    let offered = client.recv_bufs(&mut Discard).len();
    let error = Error::from(ApiMisuse::ReceivedTooMuch);
    assert_eq!(client.received(offered + 1, &mut Discard), Err(error.clone()));
    assert_eq!(client.error(), Some(&error));

    let (mut client, id, _) = writing();
    let error = Error::from(ApiMisuse::SentTooMuch);
    assert_eq!(client.sent(28 + (64 << 10) + 1), Err(error.clone()));
    assert_eq!(client.error(), Some(&error));
    assert_eq!(client.take(id).unwrap().1, Err(CommandError::ConnectionLost));
}

/// Gives the first half and then nothing.
struct Half;

impl PayloadSource for Half {
    fn bytes(&self, _id: RequestId, at: usize, _len: usize) -> &[u8] {
        if at == 0 { &[7; 32 << 10] } else { &[] }
    }
}

/// What was begun must be ended; half a payload is not sent and then left.
#[test]
fn a_source_that_runs_dry_is_missed() {
    let (mut client, _, table) = writing();
    let missing = Err(ApiMisuse::PayloadMissing.into());
    assert_eq!(client.drain(&mut Vec::new(), &Half), missing);
    // It was only asked for, not sent: there is no harm yet.
    assert_eq!(client.drain(&mut Vec::new(), &table), Ok(28 + (64 << 10)));
}

/// Gives all it has, whatever is asked for.
struct Generous;

impl PayloadSource for Generous {
    fn bytes(&self, _id: RequestId, _at: usize, _len: usize) -> &[u8] {
        &[7; 100 << 10]
    }
}

/// Nothing that is not of the payload goes out: it would be read as a request.
#[test]
fn a_source_that_gives_too_much_is_not_taken_at_its_word() {
    let (mut client, _, _) = writing();
    client.sent(28 + 1000).unwrap();
    assert_eq!(client.drain(&mut Vec::new(), &Generous), Ok((64 << 10) - 1000));
    assert!(!client.get_direction().contains(Direction::WRITE));
}

/// Takes or gives no more than that at once, and then fails so.
struct Stream {
    step: usize,
    calls: usize,
    failure: Option<ErrorKind>,
    moved: Vec<u8>,
}

impl Stream {
    fn turn(&mut self) -> io::Result<usize> {
        match (self.calls.checked_sub(1), self.failure) {
            (Some(left), _) => self.calls = left,
            (None, Some(kind)) => return Err(kind.into()),
            (None, None) => return Ok(0),
        }
        Ok(self.step)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.turn()?.min(bytes.len());
        self.moved.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.turn()?.min(bytes.len()).min(self.moved.len());
        bytes[..n].copy_from_slice(&self.moved[..n]);
        self.moved.drain(..n);
        Ok(n)
    }
}

fn kind(result: Result<Progress, DriveError>) -> Result<Progress, ErrorKind> {
    result.map_err(|error| io::Error::from(error).kind())
}

#[test]
fn a_stream_that_fails_says_how() {
    let cases = [
        (None, Err(ErrorKind::WriteZero), Ok(Progress::Closed)),
        (Some(ErrorKind::WouldBlock), Ok(Progress::Blocked), Ok(Progress::Blocked)),
        (Some(ErrorKind::BrokenPipe), Ok(Progress::Closed), Err(ErrorKind::BrokenPipe)),
        (Some(ErrorKind::ConnectionReset), Ok(Progress::Closed), Err(ErrorKind::ConnectionReset)),
        (
            Some(ErrorKind::ConnectionAborted),
            Ok(Progress::Closed),
            Err(ErrorKind::ConnectionAborted),
        ),
        (Some(ErrorKind::NotConnected), Ok(Progress::Closed), Err(ErrorKind::NotConnected)),
        (Some(ErrorKind::TimedOut), Err(ErrorKind::TimedOut), Err(ErrorKind::TimedOut)),
    ];
    for mode in [IoMode::Vectored, IoMode::Single] {
        for (failure, writing_ends, reading_ends) in cases {
            let stream = || Stream { step: 1, calls: 2, failure, moved: Vec::new() };
            let (mut client, _, table) = writing();
            let seen = kind(client.notify_write(&mut stream(), &table, mode));
            assert_eq!(seen, writing_ends, "{mode:?}, {failure:?}");
            // Half a header is in: the end of the stream is none that was agreed on.
            let mut stream = Stream { step: 16, calls: 0, ..stream() };
            let mut idle = self::client();
            let seen = kind(idle.notify_read(&mut stream, &mut Discard, mode));
            assert_eq!(seen, reading_ends, "{mode:?}, {failure:?}");
        }
    }
    // What the machine finds wrong comes out the same way.
    let mut stream = Stream { step: 16, calls: 1, failure: None, moved: vec![0xff; 16] };
    let error = client().notify_read(&mut stream, &mut Discard, IoMode::Vectored).unwrap_err();
    assert!(matches!(error, DriveError::Protocol(_)), "{error}");
}

/// A busy connection does not keep an event loop for itself: sixteen calls are enough.
#[test]
fn a_notification_ends() {
    for mode in [IoMode::Vectored, IoMode::Single] {
        let (mut client, id, mut table) = writing();
        let endless = || Stream { step: 1, calls: usize::MAX, failure: None, moved: Vec::new() };
        let mut stream = endless();
        assert_eq!(kind(client.notify_write(&mut stream, &table, mode)), Ok(Progress::More));
        assert_eq!(stream.moved.len(), 16, "{mode:?}");
        // All of it, in pieces as large as there are: a stream of single buffers gets the
        // large one from where it is.
        let mut stream = Stream { step: usize::MAX, ..endless() };
        assert_eq!(kind(client.notify_write(&mut stream, &table, mode)), Ok(Progress::Blocked));
        assert_eq!(stream.moved.len(), 12 + (64 << 10), "{mode:?}");
        let calls = usize::MAX - stream.calls;
        assert!(calls <= 2, "{calls} calls, {mode:?}");
        let mut stream = Stream { moved: simple(0, cookie(0), &[]), ..stream };
        client.notify_read(&mut stream, &mut table, mode).unwrap();
        assert_eq!(client.take(id).unwrap().1, Ok(()));
    }
}

/// A destination of three bytes at a time.
struct Scattered([u8; 8]);

impl PayloadSink for Scattered {
    fn region(&mut self, _id: RequestId, at: usize, len: usize) -> &mut [u8] {
        part_mut(&mut self.0, at, len.min(3))
    }
}

#[test]
fn zeroes_go_to_all_parts_of_a_destination() {
    let mut sink = Scattered([7; 8]);
    sink.zeroes(RequestId::from_cookie(1 << 32), 1, 6);
    assert_eq!(sink.0, [7, 0, 0, 0, 0, 0, 0, 7]);
}

/// A caller's slice is for one command; a sink behind a reference is the same sink.
#[test]
fn a_slice_is_lent_to_one_command() {
    let [own, other] = [1 << 32, 1 << 32 | 1].map(RequestId::from_cookie);
    let mut buffer = [7; 8];
    let source = WriteFrom { id: own, buffer: &buffer.clone() };
    assert_eq!((source.bytes(own, 2, 99), source.bytes(other, 2, 99)), (&[7; 6][..], &[][..]));
    let mut sink = ReadInto { id: own, buffer: &mut buffer };
    let sink = &mut &mut sink;
    assert_eq!((sink.region(own, 2, 3).len(), sink.region(other, 2, 3).len()), (3, 0));
    // As far as there is room, and nowhere else.
    PayloadSink::zeroes(sink, own, 5, 99);
    PayloadSink::zeroes(sink, other, 0, 8);
    assert_eq!(buffer, [7, 7, 7, 7, 7, 0, 0, 0]);
    let mut table = Buffers::default();
    table.insert(other, [0; 8]);
    assert!(table.get(own).is_none() && table.region(own, 0, 8).is_empty());
    assert_eq!(format!("{table:?}"), "Buffers { used: 1, slots: 2 }");
}

/// Writes down what it is told.
#[derive(Default)]
struct Told(Vec<String>);

impl PayloadSink for Told {
    fn region(&mut self, _id: RequestId, _at: usize, _len: usize) -> &mut [u8] {
        &mut []
    }

    fn zeroes(&mut self, _id: RequestId, at: usize, len: usize) {
        self.0.push(format!("{len} zeroes at {at}"));
    }

    fn chunk(&mut self, _id: RequestId, chunk: ReadChunk) {
        self.0.push(format!("{} bytes at {}", chunk.length, chunk.at));
    }

    fn extent(&mut self, _id: RequestId, context: ContextId, extent: Extent) {
        self.0.push(format!("{} bytes of {} in {}", extent.length, extent.status, context.0));
    }

    fn error(&mut self, _id: RequestId, report: ErrorReport<'_>) {
        self.0.push(report.errno.to_string());
    }
}

#[test]
fn a_sink_behind_a_reference_is_told_all() {
    fn tell<S: PayloadSink>(mut sink: S) {
        let id = RequestId::from_cookie(1 << 32);
        sink.zeroes(id, 1, 2);
        sink.chunk(id, ReadChunk { at: 3, length: 4, hole: false });
        sink.extent(id, ContextId(5), Extent { length: 6, status: 7 });
        sink.error(id, ErrorReport { errno: Errno::Io, offset: None, message: b"" });
    }
    let (mut plain, mut lent) = (Told::default(), Told::default());
    tell(&mut lent);
    assert_eq!(lent.0[..3], ["2 zeroes at 1", "4 bytes at 3", "6 bytes of 7 in 5"]);
    tell(&mut &mut plain);
    assert_eq!(lent.0, plain.0);
    assert_eq!(lent.0.len(), 4);
}
