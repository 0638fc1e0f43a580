//! Other people's code, which may use the client itself: timers, wakers, and what a caller's
//! memory does when it is let go. None of it runs while the connection is locked: here each asks
//! the client something, and would never come back.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_client_async::{Client, Connector, Runtime, Sleep, State, Task, Watched};
use nbd_client_futures::smol::Smol;

use crate::support::{Host, LONG, OnSmol, is_timeout, nbdkit, options};

/// Asks the client something, once there is one.
#[derive(Clone, Default)]
struct Curious {
    client: Arc<OnceLock<Client>>,
    asked: Arc<AtomicUsize>,
}

impl Curious {
    fn ask(&self) {
        if let Some(client) = self.client.get() {
            let _ = client.in_flight();
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often it has asked, from now on.
    fn count(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    /// One that counts for itself.
    fn apart(&self) -> Self {
        Self { client: Arc::clone(&self.client), asked: Arc::default() }
    }

    /// A waker that asks, and how often it has: timers count for themselves.
    fn waker(&self) -> (Waker, Self) {
        let apart = self.apart();
        (Waker::from(Arc::new(CuriousWaker(apart.clone()))), apart)
    }
}

struct CuriousWaker(Curious);

impl Wake for CuriousWaker {
    fn wake(self: Arc<Self>) {
        self.0.ask();
    }
}

impl Drop for CuriousWaker {
    fn drop(&mut self) {
        self.0.ask();
    }
}

struct CuriousTimer(Sleep, Curious);

impl Future for CuriousTimer {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.1.ask();
        self.0.as_mut().poll(cx)
    }
}

impl Drop for CuriousTimer {
    fn drop(&mut self) {
        self.1.ask();
    }
}

struct CuriousMemory(Vec<u8>, Curious);

impl AsRef<[u8]> for CuriousMemory {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for CuriousMemory {
    fn drop(&mut self) {
        self.1.ask();
    }
}

impl Runtime for Curious {
    fn spawn(&self, task: Task) -> io::Result<()> {
        Smol.spawn(task)
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Box::pin(CuriousTimer(Smol.sleep_until(at), self.clone()))
    }

    fn watch(&self, socket: OwnedFd) -> io::Result<Box<dyn Watched>> {
        Smol.watch(socket)
    }
}

/// Runs a case in a thread, which hangs where the code of others runs under the lock.
fn run<F: Future<Output = ()>>(case: impl FnOnce(Curious, Client) -> F + Send + 'static) {
    let (tell, told) = mpsc::channel();
    let thread = thread::spawn(move || {
        let curious = Curious::default();
        smol::block_on(async {
            let server = nbdkit(&["memory", "32M"]);
            let options = options().uri(&server.uri()).expect("a sound URI");
            let connector = Connector::on(curious.clone(), options);
            let client = connector.connect().await.expect("connect");
            assert!(curious.client.set(client.clone()).is_ok());
            server.stop().expect("stop");
            case(curious, client).await;
            server.cont().expect("cont");
        });
        tell.send(()).expect("somebody waits");
    });
    match told.recv_timeout(LONG) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it runs under the lock"),
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => thread.join().expect("no panic"),
    }
}

#[test]
fn timers() {
    run(async |curious, client| {
        let hasty = client.with_timeout(Some(Duration::from_millis(20)));
        assert!(is_timeout(&hasty.read(0, 512).await));
        assert!(curious.count() > 1, "it is polled, and dropped");
    });
}

#[test]
fn wakers_of_calls() {
    run(async |curious, client| {
        let ((first, replaced), (second, woken)) = (curious.waker(), curious.waker());
        let hasty = client.with_timeout(Some(Duration::from_millis(20)));
        let mut read = Box::pin(hasty.read(0, 512));
        assert!(read.as_mut().poll(&mut Context::from_waker(&first)).is_pending());
        drop(first);
        // Unless the time was over by then, this lets go of the other one.
        let _ = read.as_mut().poll(&mut Context::from_waker(&second));
        OnSmol::until(|| replaced.asked.load(Ordering::Relaxed) > 0).await;
        drop((read, second));
        assert!(woken.count() > 0);
        let mut dropped = Box::pin(client.read(0, 512));
        let (waker, asked) = curious.waker();
        assert!(dropped.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        assert_eq!(asked.count(), 0);
        drop(dropped);
        assert_eq!(asked.count(), 1, "the waker went with it");
    });
}

/// Nothing is left of somebody who waited for another state and gave up.
#[test]
fn wakers_of_those_who_watch() {
    run(async |curious, client| {
        for _ in 0..100 {
            let mut change = Box::pin(client.state_change(State::Ready));
            let (waker, asked) = curious.waker();
            assert!(change.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            drop(waker);
            assert_eq!(asked.count(), 0);
            drop(change);
            assert_eq!(asked.count(), 1, "the waker went with it");
        }
    });
}

#[test]
fn memory_that_is_written_from() {
    run(async |curious, client| {
        // More than a socket takes, so that it is half sent, and one behind it.
        let asked = curious.apart();
        let memory = |length| Bytes::from_owner(CuriousMemory(vec![1; length], asked.clone()));
        let mut half = Box::pin(client.write_all_at(memory(16 << 20), 0));
        let mut unsent = Box::pin(client.write_all_at(memory(512), 0));
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(half.as_mut().poll(cx).is_pending() && unsent.as_mut().poll(cx).is_pending());
        assert_eq!(asked.count(), 0);
        drop(unsent);
        drop(half);
        // The rest goes with the connection, at the latest.
        let end = client.with_timeout(Some(Duration::from_millis(20))).disconnect().await;
        assert!(end.is_err());
        OnSmol::until(|| asked.asked.load(Ordering::Relaxed) >= 2).await;
    });
}
