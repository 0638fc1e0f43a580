//! What compio does for a connection.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use futures_channel::oneshot::channel;
use futures_util::future::select;
use nbd_client_async::{Adopted, BlockingWork, Runtime, Sleep, Task, Watched};

use crate::stream::Stream;
use crate::thread::{current, spawn};
use crate::watched::Descriptor;

/// The compio runtime in whose context a connection is made.
///
/// ```
/// use nbd_client_compio::{Compio, ConnectOptions, Connector};
///
/// // The same as `Connector::new(…)`.
/// let connector = Connector::on(Compio, ConnectOptions::new());
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a name for a runtime: it holds nothing")]
pub struct Compio;

impl Runtime for Compio {
    fn spawn(&self, task: Task) -> io::Result<()> {
        spawn(task)
    }

    fn spawn_blocking(&self, work: BlockingWork) -> io::Result<()> {
        current()?.spawn_blocking(work).detach();
        Ok(())
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        // compio's own timer stays with its thread.
        let (mut tell, told) = channel();
        let spawned = spawn(async move {
            let sleep = Box::pin(compio::time::sleep_until(at));
            select(sleep, tell.cancellation()).await;
            // Nobody may be waiting any more.
            let _ = tell.send(());
        });
        Box::pin(async move {
            spawned?;
            told.await.map_err(io::Error::other)
        })
    }

    fn watch(&self, socket: OwnedFd) -> io::Result<Box<dyn Watched>> {
        current()?;
        Ok(Box::new(Descriptor::new(socket)))
    }

    fn adopt(&self, socket: OwnedFd) -> io::Result<Adopted> {
        current()?;
        Ok(Adopted::stream(Stream::new(socket)?))
    }
}
