//! Every case runs on every runtime.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use nbd_client_async::{Client, ConnectOptions, Connector, Error, Runtime, Sleep, Watched};
use nbd_client_futures::async_std::AsyncStd;
use nbd_client_futures::smol::Smol;
use nbd_client_tokio::Tokio;
use nbd_sim::peer::Server;

/// A running task; dropping it may or may not end it.
pub(crate) type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Longer than anything takes that goes well.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A runtime to run cases on.
pub(crate) trait Host: 'static {
    type Runtime: Runtime + Clone + Default;

    /// Whether the driver runs beside its callers, not in turn with them.
    const PARALLEL: bool = true;

    fn run<T>(case: impl Future<Output = T>) -> T;
    fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Task<T>;

    fn on(options: ConnectOptions) -> Connector<Self::Runtime> {
        Connector::new(options)
    }

    fn to(options: ConnectOptions, uri: &str) -> Connector<Self::Runtime> {
        Self::on(options.uri(uri).expect("a sound URI"))
    }

    fn connect(server: &Server) -> impl Future<Output = Client> + Send {
        async { Self::to(options(), &server.uri()).connect().await.expect("connect") }
    }

    /// Waits until the condition holds.
    fn until(mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
        let end = Instant::now() + LONG;
        async move {
            while !holds() {
                assert!(Instant::now() < end, "waited in vain");
                Self::pause(Duration::from_millis(1)).await;
            }
        }
    }

    fn pause(time: Duration) -> impl Future<Output = ()> + Send {
        let sleep = Self::Runtime::default().sleep_until(Instant::now() + time);
        async { sleep.await.expect("a runtime with timers") }
    }
}

/// A runtime whose timers go off when a test says so, and never by themselves.
#[derive(Clone, Default)]
pub(crate) struct ByHand<R> {
    inner: R,
    timers: Arc<Mutex<Vec<Timer>>>,
}

/// When it is to go off, and who is told.
type Timer = (Instant, oneshot::Sender<()>);

impl<R> ByHand<R> {
    /// Lets the next timer go off, and says what time it is then. `None` where there is none.
    pub(crate) fn pass(&self) -> Option<Instant> {
        let mut timers = self.timers.lock().expect("no panic");
        timers.retain(|(_, tell)| !tell.is_canceled());
        let next = (0..timers.len()).min_by_key(|index| timers[*index].0)?;
        let (at, tell) = timers.swap_remove(next);
        tell.send(()).is_ok().then_some(at)
    }
}

impl<R: Runtime> Runtime for ByHand<R> {
    fn spawn(&self, task: nbd_client_async::Task) -> io::Result<()> {
        self.inner.spawn(task)
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        let (tell, told) = oneshot::channel();
        self.timers.lock().expect("no panic").push((at, tell));
        Box::pin(async { told.await.map_err(io::Error::other) })
    }

    fn watch(&self, socket: OwnedFd) -> io::Result<Box<dyn Watched>> {
        self.inner.watch(socket)
    }
}

pub(crate) struct CurrentThread;
pub(crate) struct MultiThread;
pub(crate) struct OnSmol;
pub(crate) struct OnAsyncStd;

fn tokio_spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Task<T> {
    let task = tokio::spawn(work);
    Box::pin(async move { task.await.expect("the task did not panic") })
}

impl Host for CurrentThread {
    type Runtime = Tokio;
    const PARALLEL: bool = false;

    fn run<T>(case: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(case)
    }

    fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        tokio_spawn(work)
    }
}

impl Host for MultiThread {
    type Runtime = Tokio;

    fn run<T>(case: impl Future<Output = T>) -> T {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(case)
    }

    fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        tokio_spawn(work)
    }
}

impl Host for OnSmol {
    type Runtime = Smol;

    fn run<T>(case: impl Future<Output = T>) -> T {
        smol::block_on(case)
    }

    fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        Box::pin(smol::spawn(work))
    }
}

impl Host for OnAsyncStd {
    type Runtime = AsyncStd;

    fn run<T>(case: impl Future<Output = T>) -> T {
        async_std::task::block_on(case)
    }

    fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        Box::pin(async_std::task::spawn(work))
    }
}

/// Makes tests of cases: each on each runtime.
macro_rules! on_every_runtime {
    ($($case:ident),* $(,)?) => {
        on_every_runtime!(@ tokio_current_thread CurrentThread $($case)*);
        on_every_runtime!(@ tokio_multi_thread MultiThread $($case)*);
        on_every_runtime!(@ on_smol OnSmol $($case)*);
        on_every_runtime!(@ on_async_std OnAsyncStd $($case)*);
    };
    (@ $module:ident $host:ident $($case:ident)*) => {
        mod $module {
            use crate::support::{$host, Host};
            $(#[test]
            fn $case() {
                $host::run(super::$case::<$host>());
            })*
        }
    };
}

pub(crate) fn nbdkit(args: &[&str]) -> Server {
    Server::nbdkit(args).start().expect("nbdkit")
}

pub(crate) use on_every_runtime;

/// Polls a future once.
pub(crate) async fn once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

pub(crate) fn is_timeout<T>(result: &Result<T, Error>) -> bool {
    result.as_ref().is_err_and(Error::is_timeout)
}

/// Limits that nothing reaches which goes well.
pub(crate) fn options() -> ConnectOptions {
    let options = ConnectOptions::new().connect_timeout(LONG).request_timeout(LONG);
    options.meta_context("base:allocation")
}

/// Why a lost connection was not made again.
pub(crate) fn cause(error: &Error) -> &Error {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
    source.unwrap_or_else(|| panic!("it has no cause: {error}"))
}
