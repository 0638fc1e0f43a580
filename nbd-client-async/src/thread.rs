//! What cannot be done without blocking, done in a thread.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::Builder;

/// Runs `work` in a thread of its own. Dropping the future does not stop the work; its
/// result is then dropped where it was made.
pub(crate) fn in_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<InThread<T>> {
    let desk = Arc::new(Mutex::new(Desk::default()));
    let clerk = Clerk(Arc::clone(&desk));
    Builder::new().name(name.to_owned()).spawn(move || {
        let result = work();
        clerk.with(|desk| desk.result = Some(result));
    })?;
    Ok(InThread(desk))
}

/// Where the result is put down and picked up.
struct Desk<T> {
    result: Option<T>,
    waker: Option<Waker>,
    /// The thread is over.
    over: bool,
}

impl<T> Default for Desk<T> {
    fn default() -> Self {
        Self { result: None, waker: None, over: false }
    }
}

struct Clerk<T>(Arc<Mutex<Desk<T>>>);

impl<T> Clerk<T> {
    fn with<R>(&self, change: impl FnOnce(&mut Desk<T>) -> R) -> R {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Drop for Clerk<T> {
    fn drop(&mut self) {
        // Even when the work panicked somebody waits.
        let waker = self.with(|desk| {
            desk.over = true;
            desk.waker.take()
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The result of [`in_thread`], or `None` if the thread panicked.
pub(crate) struct InThread<T>(Arc<Mutex<Desk<T>>>);

impl<T> Future for InThread<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut desk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if desk.over {
            return Poll::Ready(desk.result.take());
        }
        desk.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
