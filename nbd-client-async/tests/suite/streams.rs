//! Streams that do what they like.

use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::support::{CurrentThread, Host, LONG, OnSmol, is_timeout};
use futures_io::{AsyncRead, AsyncWrite};
use nbd_client_async::Client;

/// An export of zeroes behind an oldstyle handshake with simple replies, in memory.
struct Memory {
    out: Vec<u8>,
    requests: Vec<u8>,
    reader: Option<Waker>,
    over: bool,
    calls: usize,
    fault: Fault,
    at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Nothing read, nothing written.
    Zero,
    /// More than there was room for.
    Lie,
    Error(ErrorKind),
    /// From that call on, and never otherwise again.
    ErrorForEver(ErrorKind),
    /// A wake, and nothing done.
    Idle,
    Panic,
    /// One byte at a time, all along.
    Drip,
}

impl Memory {
    fn new(fault: Fault, at: usize) -> Self {
        let mut out = Vec::new();
        out.extend(b"NBDMAGIC");
        out.extend(0x0000_4202_8186_1253_u64.to_be_bytes());
        out.extend((1_u64 << 20).to_be_bytes());
        // Has flags, and flush.
        out.extend(5_u32.to_be_bytes());
        out.extend([0; 124]);
        Self { out, requests: Vec::new(), reader: None, over: false, calls: 0, fault, at }
    }

    fn trip(&mut self, cx: &Context<'_>, room: usize) -> Option<Poll<io::Result<usize>>> {
        self.calls += 1;
        let now = self.calls == self.at;
        match self.fault {
            Fault::Zero if now => Some(Poll::Ready(Ok(0))),
            Fault::Lie if now => Some(Poll::Ready(Ok(room + 1))),
            Fault::Error(kind) if now => Some(Poll::Ready(Err(kind.into()))),
            Fault::ErrorForEver(kind) if self.calls >= self.at => {
                Some(Poll::Ready(Err(kind.into())))
            }
            Fault::Idle if now => {
                cx.waker().wake_by_ref();
                Some(Poll::Pending)
            }
            Fault::Panic if now => panic!("the stream panics"),
            _ => None,
        }
    }

    fn answer(&mut self) {
        while let Some(request) = self.requests.get(..28) {
            let length = u32::from_be_bytes(request[24..28].try_into().unwrap());
            let (kind, cookie) = (request[7], request[8..16].to_vec());
            self.requests.drain(..28);
            if kind == 2 {
                self.over = true;
                break;
            }
            self.out.extend(0x6744_6698_u32.to_be_bytes());
            self.out.extend([0; 4]);
            self.out.extend(cookie);
            if kind == 0 {
                self.out.extend(vec![0; length as usize]);
            }
        }
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl AsyncRead for Memory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(fault) = self.trip(cx, buf.len()) {
            return fault;
        }
        let most = if self.fault == Fault::Drip { 1 } else { buf.len() };
        let n = self.out.len().min(most);
        if n == 0 && !self.over {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        buf[..n].copy_from_slice(&self.out[..n]);
        self.out.drain(..n);
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Memory {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(fault) = self.trip(cx, buf.len()) {
            return fault;
        }
        let n = if self.fault == Fault::Drip { 1 } else { buf.len() };
        self.requests.extend(&buf[..n]);
        self.answer();
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.trip(cx, 0) {
            Some(Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            Some(Poll::Pending) => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.over = true;
        self.answer();
        Poll::Ready(Ok(()))
    }
}

/// What is lost with the stream is waited for no longer than this.
const SHORT: Duration = Duration::from_millis(300);

/// Whether a stream at fault may leave the client waiting for what never comes: after a broken
/// pipe there may still be something to read.
const fn is_waited_for(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::Error(ErrorKind::BrokenPipe)
            | Fault::ErrorForEver(ErrorKind::BrokenPipe | ErrorKind::Interrupted)
    )
}

/// Connects, reads, disconnects. Every step ends, well or in an error.
async fn session<H: Host>(fault: Fault, at: usize) -> Result<(), nbd_client_async::Error> {
    let builder = H::builder().timeout(if is_waited_for(fault) { SHORT } else { LONG });
    let client = builder.connect_stream(Memory::new(fault, at)).await?;
    let tasks: Vec<_> = (0..4u64)
        .map(|index| {
            let client: Client = client.clone();
            H::spawn(async move { client.read_at(index * 512, 512).await })
        })
        .collect();
    let mut result = Ok(());
    for task in tasks {
        match task.await {
            Ok(data) => assert_eq!(data, vec![0; 512], "{fault:?} at call {at}"),
            Err(error) => result = Err(error),
        }
    }
    let flushed = client.flush().await;
    result.and(flushed).and(client.disconnect().await)
}

fn every_call<H: Host>(fault: Fault, harmless: bool) {
    for at in 1..24 {
        let result = H::run(session::<H>(fault, at));
        assert!(result.is_ok() || !harmless, "{fault:?} at call {at}: {result:?}");
        if let (Err(error), false) = (result, is_waited_for(fault)) {
            assert!(!is_timeout(&Err::<(), _>(error)), "{fault:?} at call {at}");
        }
    }
}

fn on_both(fault: Fault, harmless: bool) {
    every_call::<CurrentThread>(fault, harmless);
    every_call::<OnSmol>(fault, harmless);
}

#[test]
fn a_stream_that_behaves_serves() {
    on_both(Fault::None, true);
}

#[test]
fn idleness_and_interruption_are_no_errors() {
    on_both(Fault::Idle, true);
    on_both(Fault::Error(ErrorKind::Interrupted), true);
    on_both(Fault::Drip, true);
}

#[test]
fn nothing_read_or_written_is_an_end() {
    on_both(Fault::Zero, false);
}

#[test]
fn lies_about_counts_are_an_end() {
    on_both(Fault::Lie, false);
}

#[test]
fn errors_of_every_kind_are_an_end() {
    for kind in [
        ErrorKind::BrokenPipe,
        ErrorKind::ConnectionReset,
        ErrorKind::UnexpectedEof,
        ErrorKind::WouldBlock,
        ErrorKind::TimedOut,
        ErrorKind::Other,
    ] {
        on_both(Fault::Error(kind), false);
        on_both(Fault::ErrorForEver(kind), false);
    }
}

#[test]
fn endless_interruption_ends_in_a_timeout() {
    let interrupted = Fault::ErrorForEver(ErrorKind::Interrupted);
    let result = CurrentThread::run(session::<CurrentThread>(interrupted, 6));
    assert!(is_timeout(&result), "{result:?}");
}

/// A panic in the driver's task ends that task only; one in the caller's is the caller's.
#[test]
fn a_panic_reaches_nobody_who_waits_elsewhere() {
    for at in 1..16 {
        // On this runtime a panic of a task is caught, and only the connection ends.
        let run = || CurrentThread::run(session::<CurrentThread>(Fault::Panic, at));
        let result = catch_unwind(AssertUnwindSafe(run));
        assert!(!matches!(result, Ok(Err(nbd_client_async::Error::TimedOut { .. }))), "{at}");
    }
}

#[test]
fn a_stream_that_turns_silent_ends_in_a_timeout() {
    struct Silent;
    impl AsyncRead for Silent {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }
    impl AsyncWrite for Silent {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }
    let builder = OnSmol::builder().timeout(Duration::from_millis(50));
    let result = OnSmol::run(async { builder.connect_stream(Silent).await });
    assert!(is_timeout(&result), "{result:?}");
}
