//! What comes soon is taken in before the runtime is asked to wait for it.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Instant;

use futures_io::{AsyncRead, AsyncWrite};
use nbd_client_async::{Builder, Driver, OsSocket, Runtime, Sleep};
use nbd_client_futures::smol::Smol;

use crate::support::{LONG, nbdkit};

/// A runtime that never says when there is something to read, once it is deaf. Its one task is
/// polled by hand.
#[derive(Clone, Default)]
struct Deaf {
    deaf: Arc<AtomicBool>,
    driver: Arc<Mutex<Option<Driver>>>,
}

impl Runtime for Deaf {
    fn spawn(&self, driver: Driver) -> io::Result<()> {
        *self.driver.lock().expect("no panic") = Some(driver);
        Ok(())
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Smol.sleep_until(at)
    }

    fn adopt(&self, socket: OwnedFd) -> io::Result<Box<dyn OsSocket>> {
        Ok(Box::new(Ear { socket: Smol.adopt(socket)?, deaf: Arc::clone(&self.deaf) }))
    }
}

struct Ear {
    socket: Box<dyn OsSocket>,
    deaf: Arc<AtomicBool>,
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsyncRead for Ear {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.as_mut().poll_read_vectored(cx, &mut [IoSliceMut::new(buf)])
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.deaf.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut *self.socket).poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for Ear {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.socket).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket).poll_close(cx)
    }
}

#[test]
fn a_reply_is_taken_in_without_the_runtime() {
    let server = nbdkit(&["memory", "1M"]);
    let runtime = Deaf::default();
    let builder = Builder::on(runtime.clone());
    let client = smol::block_on(builder.connect_uri(&server.uri())).expect("connect");
    let driver = runtime.driver.lock().expect("no panic").take();
    let mut driver = pin!(driver.expect("there is one"));
    runtime.deaf.store(true, Ordering::Relaxed);
    let cx = &mut Context::from_waker(Waker::noop());
    let end = Instant::now() + LONG;
    for _ in 0..100 {
        let mut read = pin!(client.read_at(0, 4096));
        // A moment may pass in vain, and then some turns without one.
        let data = loop {
            assert!(driver.as_mut().poll(cx).is_pending());
            if let Poll::Ready(data) = read.as_mut().poll(cx) {
                break data;
            }
            assert!(Instant::now() < end);
            thread::yield_now();
        };
        assert_eq!(data.expect("a sound server"), [0; 4096][..]);
    }
}
