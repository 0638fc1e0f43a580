//! Streams that do what they like.

use std::io::{self, ErrorKind, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_io::{AsyncRead, AsyncWrite};
use nbd_client_async::{Client, ConnectOptions, Connector, Error};
use nbd_client_tokio::Tokio;
use nbd_sim::memory_server::{MemoryServer, MemoryStream};
use nbd_sim::rng::noise;
use nbd_sim::trouble::{Call, Mischief, Plan, Trouble, plans};

use crate::support::{
    ByHand, CurrentThread, Host, MultiThread, OnAsyncStd, OnSmol, is_timeout, once, options,
};

/// What is on the disk.
static DISK: LazyLock<Bytes> = LazyLock::new(|| noise(1 << 20, 9).into());

/// A sound server in memory, behind a stream that gets into trouble at one call.
struct Stream {
    inner: MemoryStream,
    trouble: Trouble,
    quirk: Quirk,
    calls: usize,
}

/// What no error tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quirk {
    None,
    /// One byte at a time, all along.
    Drip,
    /// A wake, and nothing done, at that call.
    Idle(usize),
    /// At that call.
    Panic(usize),
    /// Nothing is ever read any more once nothing can be written.
    Silent,
}

impl Stream {
    fn new(trouble: &Trouble, quirk: Quirk) -> Self {
        let inner = MemoryStream::new(MemoryServer::new(DISK.to_vec()));
        Self { inner, trouble: trouble.clone(), quirk, calls: 0 }
    }

    /// What comes of a call that does not go through.
    fn strike(
        &mut self,
        cx: &Context<'_>,
        call: Call,
        offered: usize,
    ) -> Option<Poll<io::Result<usize>>> {
        self.calls += 1;
        if self.quirk == Quirk::Idle(self.calls) {
            cx.waker().wake_by_ref();
            return Some(Poll::Pending);
        }
        assert_ne!(self.quirk, Quirk::Panic(self.calls), "the stream panics");
        let struck = self.trouble.strike(call, offered);
        if self.trouble.has_broken() && self.quirk != Quirk::Silent {
            self.inner.with(MemoryServer::hang_up);
        }
        struck.map(Poll::Ready)
    }

    fn most(&self, offered: usize) -> usize {
        if self.quirk == Quirk::Drip { offered.min(1) } else { offered }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(struck) = self.strike(cx, Call::Read, buf.len()) {
            return struck;
        }
        // Whatever comes from now on wakes.
        self.inner.wake_reader(cx.waker());
        let most = self.most(buf.len());
        match self.inner.read(&mut buf[..most]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(struck) = self.strike(cx, Call::Write, buf.len()) {
            return struck;
        }
        let most = self.most(buf.len());
        Poll::Ready(self.inner.write(&buf[..most]))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.strike(cx, Call::Flush, 0).unwrap_or(Poll::Ready(Ok(0))).map_ok(drop)
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.with(MemoryServer::hang_up);
        Poll::Ready(Ok(()))
    }
}

/// Reads and writes side by side, then flushes. What is read is true.
async fn talk<H: Host>(client: &Client) -> Vec<Result<(), Error>> {
    let reads = [(0, 512), (100_000, 70_000), (200_000, 1), (400_000, 4096)].map(|(at, length)| {
        let client = client.clone();
        H::spawn(async move {
            let read = client.read(at as u64, length).await?;
            assert!(read == DISK[at..at + length], "wrong data");
            Ok(())
        })
    });
    let writes = [(600_000, 70_000), (700_000, 1)].map(|(at, length)| {
        let client = client.clone();
        H::spawn(async move { Ok(client.write_all_at(noise(length, at), at).await?) })
    });
    let mut results = Vec::new();
    for task in reads.into_iter().chain(writes) {
        results.push(task.await);
    }
    results.push(client.flush().await);
    results
}

/// Connects, talks, disconnects; also tells how many calls were made before the end.
async fn session<H: Host>(
    trouble: &Trouble,
    quirk: Quirk,
) -> Result<[usize; 3], Vec<Result<(), Error>>> {
    let connected = H::on(options()).connect_over(Stream::new(trouble, quirk)).await;
    let client = connected.map_err(|error| vec![Err(error)])?;
    let results = talk::<H>(&client).await;
    let calls = [Call::Read, Call::Write, Call::Flush].map(|call| trouble.calls(call));
    let failed = results.iter().any(Result::is_err);
    if failed {
        // Nothing is sent any more, and why is told again and again.
        let mut results = results;
        // A stream that takes no more may still bring something, and its end.
        H::until(|| client.is_closed()).await;
        results.push(client.read_exact_at(vec![0; 512], 0).await.0);
        results.push(client.write_all_at(vec![0; 512], 0).await.map_err(Error::from));
        results.push(client.fail_when_full().read(0, 512).await.map(drop));
        let later = results.iter().rev().take(3);
        assert!(later.into_iter().all(Result::is_err), "{results:?}");
        let ended = client.clone().disconnect().await;
        // Of reads that failed everybody knows; what was acknowledged and not flushed may be
        // lost.
        let unflushed = results.iter().skip(4).take(2).any(Result::is_ok);
        assert!(ended.is_err() || !unflushed, "{ended:?} after {results:?}, {client:?}");
        return Err(results);
    }
    // How abrupt the end is does not matter where the stream is to blame.
    match client.disconnect().await {
        Ok(()) => Ok(calls),
        Err(error) => Err(vec![Err(error)]),
    }
}

/// On a stream that says that it would block and not until when, nobody can wait.
fn is_harmless(plan: &Plan) -> bool {
    plan.is_harmless() && plan.mischief != Mischief::Error(ErrorKind::WouldBlock)
}

fn every_call<H: Host>() {
    let count = Trouble::none();
    let before_the_end = H::run(session::<H>(&count, Quirk::None)).expect("no trouble");
    let kinds = [Call::Read, Call::Write, Call::Flush];
    let interrupted = Mischief::Error(ErrorKind::Interrupted);
    for plan in plans(&count, &kinds) {
        if plan.lasting && plan.mischief == interrupted {
            continue;
        }
        let trouble = Trouble::new(plan);
        match H::run(session::<H>(&trouble, Quirk::None)) {
            Ok(_) => {
                let place = kinds.iter().position(|call| *call == plan.call).expect("one of them");
                // Where tasks and driver take turns, each session is like the other. The last
                // call may come after the last reply.
                let due = !H::PARALLEL && plan.nth < before_the_end[place];
                assert!(is_harmless(&plan) || !due, "{plan:?} went unnoticed");
            }
            Err(results) => {
                assert!(trouble.has_struck() && !is_harmless(&plan), "{plan:?}: {results:?}");
                for error in results.iter().filter_map(|result| result.as_ref().err()) {
                    assert!(plan.explains(error), "{plan:?}: {error:?} of {results:?}");
                }
            }
        }
    }
}

#[test]
fn trouble_at_every_call_on_tokio_current_thread() {
    every_call::<CurrentThread>();
}

#[test]
fn trouble_at_every_call_on_tokio_multi_thread() {
    every_call::<MultiThread>();
}

#[test]
fn trouble_at_every_call_on_smol() {
    every_call::<OnSmol>();
}

#[test]
fn trouble_at_every_call_on_async_std() {
    every_call::<OnAsyncStd>();
}

#[test]
fn idleness_is_no_error() {
    let none = Trouble::none();
    CurrentThread::run(session::<CurrentThread>(&none, Quirk::Drip)).expect("bytes come");
    for at in 1..24 {
        CurrentThread::run(session::<CurrentThread>(&none, Quirk::Idle(at))).expect("it goes on");
        OnSmol::run(session::<OnSmol>(&none, Quirk::Idle(at))).expect("it goes on");
    }
}

#[test]
fn endless_interruption_ends_in_a_timeout() {
    let mischief = Mischief::Error(ErrorKind::Interrupted);
    let trouble = Trouble::new(Plan { call: Call::Read, nth: 5, mischief, lasting: true });
    let stream = Stream::new(&trouble, Quirk::None);
    let clock = ByHand::<Tokio>::default();
    let result = CurrentThread::run(async {
        let connector = Connector::on(clock.clone(), options());
        let session = CurrentThread::spawn(async move {
            let client = connector.connect_over(stream).await?;
            client.read(0, 512).await
        });
        CurrentThread::until(|| trouble.calls(Call::Read) > 5).await;
        let _time = CurrentThread::spawn(async move {
            CurrentThread::until(|| {
                let _ = clock.pass();
                false
            })
            .await;
        });
        session.await
    });
    assert!(is_timeout(&result) && trouble.calls(Call::Read) > 5, "{result:?}");
}

/// A panic in the driver's task ends that task only; one in the caller's is the caller's.
#[test]
fn a_panic_reaches_nobody_who_waits_elsewhere() {
    let none = Trouble::none();
    let mut told = 0;
    for at in 1..16 {
        // On this runtime a panic of a task is caught, and only the connection ends.
        let run = || CurrentThread::run(session::<CurrentThread>(&none, Quirk::Panic(at)));
        let Ok(Err(results)) = catch_unwind(AssertUnwindSafe(run)) else { continue };
        assert!(results.iter().all(|result| !is_timeout(result)), "{at}: {results:?}");
        told += 1;
    }
    assert!(told > 0, "every panic was the caller's");
}

/// What was sent before may still be answered, so that is waited for, but not for ever.
#[test]
fn a_broken_stream_that_never_ends_is_given_up() {
    let mischief = Mischief::Error(ErrorKind::BrokenPipe);
    CurrentThread::run(async {
        let trouble = Trouble::none();
        let stream = Stream::new(&trouble, Quirk::Silent);
        let server = stream.inner.clone();
        // How long that is, is the only limit of time.
        let clock = ByHand::<Tokio>::default();
        let connector = Connector::on(clock.clone(), ConnectOptions::new());
        let client = connector.connect_over(stream).await.expect("connect");
        server.with(MemoryServer::withhold);
        let mut sent = Box::pin(client.read(0, 512));
        let mut unanswered = Box::pin(client.read(512, 512));
        assert!(once(&mut sent).await.is_pending() && once(&mut unanswered).await.is_pending());
        CurrentThread::until(|| server.with(|server| server.withheld() == 2)).await;
        let next = trouble.calls(Call::Write) + 1;
        trouble.plan(Plan { call: Call::Write, nth: next, mischief, lasting: true });
        let mut unsent = Box::pin(client.read(1024, 512));
        assert!(once(&mut unsent).await.is_pending());
        CurrentThread::until(|| trouble.has_struck()).await;
        server.with(|server| server.answer(1));
        assert!(sent.await.expect("an answer") == DISK[..512]);
        assert!(once(&mut unanswered).await.is_pending() && once(&mut unsent).await.is_pending());
        CurrentThread::until(|| clock.pass().is_some()).await;
        for lost in [unanswered.await, unsent.await] {
            let error = lost.expect_err("no answer");
            assert!(error.is_closed(), "{error:?}");
        }
    });
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
    let options = options().connect_timeout(Duration::from_millis(50));
    let result = OnSmol::run(async { OnSmol::on(options).connect_over(Silent).await });
    assert!(is_timeout(&result), "{result:?}");
}
