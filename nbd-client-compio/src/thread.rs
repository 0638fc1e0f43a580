//! The runtime of the thread that something is called in.

use std::future::Future;
use std::io;

use compio::runtime::Runtime as Current;

/// The runtime of this thread.
pub(crate) fn current() -> io::Result<Current> {
    Current::try_current().ok_or_else(|| io::Error::other("there is no compio runtime here"))
}

/// Starts a task on this thread's runtime, which ends by itself.
pub(crate) fn spawn(task: impl Future<Output = ()> + 'static) -> io::Result<()> {
    current()?.spawn(task).detach();
    Ok(())
}
