//! With `busy_poll`, what comes soon is taken in before the runtime is asked to wait for it.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nbd_client_async::{Connector, IoCall, Runtime, Sleep, Task, Watched};
use nbd_client_futures::smol::Smol;

use crate::support::{LONG, nbdkit, options};

/// A runtime that never says when there is something to read, once it is deaf. Its one task is
/// polled by hand.
#[derive(Clone, Default)]
struct Deaf {
    deaf: Arc<AtomicBool>,
    driver: Arc<Mutex<Option<Task>>>,
}

impl Runtime for Deaf {
    fn spawn(&self, task: Task) -> io::Result<()> {
        *self.driver.lock().expect("no panic") = Some(task);
        Ok(())
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Smol.sleep_until(at)
    }

    fn watch(&self, socket: OwnedFd) -> io::Result<Box<dyn Watched>> {
        Ok(Box::new(Ear { socket: Smol.watch(socket)?, deaf: Arc::clone(&self.deaf) }))
    }
}

struct Ear {
    socket: Box<dyn Watched>,
    deaf: Arc<AtomicBool>,
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Watched for Ear {
    fn poll_read_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
        if self.deaf.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        self.socket.poll_read_io(cx, io)
    }

    fn poll_write_io(&mut self, cx: &mut Context<'_>, io: IoCall<'_>) -> Poll<io::Result<usize>> {
        self.socket.poll_write_io(cx, io)
    }
}

/// The driver, and what it serves, on a runtime that has just become deaf.
fn deaf(busy_poll: Option<Duration>, uri: &str) -> (Task, nbd_client_async::Client) {
    let runtime = Deaf::default();
    let options = options().busy_poll(busy_poll).uri(uri).expect("a sound URI");
    let connector = Connector::on(runtime.clone(), options);
    let client = smol::block_on(connector.connect()).expect("connect");
    let driver = runtime.driver.lock().expect("no panic").take().expect("there is one");
    runtime.deaf.store(true, Ordering::Relaxed);
    (driver, client)
}

#[test]
fn a_reply_is_taken_in_without_the_runtime() {
    let server = nbdkit(&["memory", "1M"]);
    let (driver, client) = deaf(Some(Duration::from_millis(5)), &server.uri());
    let mut driver = pin!(driver);
    let cx = &mut Context::from_waker(Waker::noop());
    let end = Instant::now() + LONG;
    for _ in 0..100 {
        let mut read = pin!(client.read(0, 4096));
        // A moment may pass in vain, on a busy machine.
        let data = loop {
            assert!(driver.as_mut().poll(cx).is_pending());
            if let Poll::Ready(data) = read.as_mut().poll(cx) {
                break data;
            }
            assert!(Instant::now() < end);
        };
        assert_eq!(data.expect("a sound server"), [0; 4096][..]);
    }
}

#[test]
fn without_it_nobody_spins() {
    let server = nbdkit(&["memory", "1M"]);
    let (driver, client) = deaf(None, &server.uri());
    let mut driver = pin!(driver);
    let cx = &mut Context::from_waker(Waker::noop());
    let mut read = pin!(client.read(0, 4096));
    for _ in 0..100 {
        assert!(read.as_mut().poll(cx).is_pending());
        assert!(driver.as_mut().poll(cx).is_pending(), "the runtime has said nothing");
    }
}
