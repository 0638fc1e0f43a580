//! The runtimes that the asynchronous adapters run on.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use compio::driver::{DriverType, ProactorBuilder};
use nbd_client_async::Runtime;
use nbd_client_compio::Compio;
use nbd_client_futures::async_std::AsyncStd;
use nbd_client_futures::smol::Smol;
use nbd_client_tokio::Tokio;
use tokio::sync::oneshot;

/// A task that has been started.
pub(crate) type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A runtime.
pub(crate) trait Host: Clone + 'static {
    type Runtime: Runtime + Clone + Default;

    /// Runs a future to its end on this thread.
    fn block_on<T>(&self, work: impl Future<Output = T>) -> T;

    /// Starts a task.
    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T>;
}

/// Lets other tasks run once, where there is one thread for all.
pub(crate) async fn pause() {
    let mut first = true;
    poll_fn(|cx| {
        if std::mem::take(&mut first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

/// Dropped after the last handle of a connection, it lets the connection's own task say goodbye:
/// where there is one thread for all, that task has no turn otherwise before the next case, and
/// a server that is asked to end meanwhile waits for its client.
pub(crate) struct LastTurns<H: Host>(pub(crate) H);

impl<H: Host> Drop for LastTurns<H> {
    fn drop(&mut self) {
        for _ in 0..8 {
            self.0.block_on(pause());
        }
    }
}

#[derive(Clone)]
pub(crate) struct CurrentThread(Arc<tokio::runtime::Runtime>);

impl CurrentThread {
    pub(crate) fn new() -> Self {
        Self(build(&mut tokio::runtime::Builder::new_current_thread()))
    }
}

#[derive(Clone)]
pub(crate) struct MultiThread(Arc<tokio::runtime::Runtime>);

impl MultiThread {
    pub(crate) fn new() -> Self {
        Self(build(tokio::runtime::Builder::new_multi_thread().worker_threads(2)))
    }
}

fn build(builder: &mut tokio::runtime::Builder) -> Arc<tokio::runtime::Runtime> {
    Arc::new(builder.enable_all().build().expect("a runtime is made"))
}

fn spawn_on<T: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    work: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    let task = runtime.spawn(work);
    Box::pin(async move { task.await.expect("the task ends by itself") })
}

impl Host for CurrentThread {
    type Runtime = Tokio;

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.block_on(work)
    }

    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        spawn_on(&self.0, work)
    }
}

impl Host for MultiThread {
    type Runtime = Tokio;

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.block_on(work)
    }

    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        spawn_on(&self.0, work)
    }
}

#[derive(Clone)]
pub(crate) struct OnAsyncStd;

impl Host for OnAsyncStd {
    type Runtime = AsyncStd;

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        async_std::task::block_on(work)
    }

    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        Box::pin(async_std::task::spawn(work))
    }
}

#[derive(Clone)]
pub(crate) struct OnSmol;

impl Host for OnSmol {
    type Runtime = Smol;

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        smol::block_on(work)
    }

    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        Box::pin(smol::spawn(work))
    }
}

#[derive(Clone)]
pub(crate) struct OnCompio(compio::runtime::Runtime);

impl OnCompio {
    /// Whatever the system has: io_uring, where it is not refused.
    pub(crate) fn new() -> Self {
        Self(compio::runtime::Runtime::new().expect("a runtime is made"))
    }

    /// What is left where io_uring is refused.
    pub(crate) fn polling() -> Self {
        let mut proactor = ProactorBuilder::new();
        proactor.driver_type(DriverType::Poll);
        let runtime = compio::runtime::Runtime::builder().with_proactor(proactor).build();
        Self(runtime.expect("a runtime is made"))
    }
}

impl Host for OnCompio {
    type Runtime = Compio;

    fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.block_on(work)
    }

    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let (tell, told) = oneshot::channel();
        let task = self.0.spawn(async move {
            // Nobody may be waiting any more.
            let _ = tell.send(work.await);
        });
        task.detach();
        Box::pin(async move { told.await.expect("the task ends by itself") })
    }
}
