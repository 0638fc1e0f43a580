//! A server at work: one thread that takes clients in, and one for each client.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nbd_proto::{Limits, ServerConfig, TlsPolicy};
use rustix::event::{PollFd, PollFlags};

use super::connection::serve;
use super::export::{Export, MAX_PAYLOAD};
use super::listener::Listener;
use super::log::Log;
use super::tls::Tls;
use super::transport::{Transport, wait_for};

/// How long clients have to take their last replies when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// How long after that they may take to say so.
const LATE: Duration = Duration::from_secs(2);

/// A thread of a client needs little: payload is not kept on the stack.
const STACK: usize = 256 << 10;

/// Requests of one connection that are read before the first is replied to.
const IN_FLIGHT: u32 = 256;

/// How long to wait before trying again when the system is short of something.
const SHORTAGE: Duration = Duration::from_millis(100);

/// What all threads of a server know.
pub(super) struct Shared {
    pub(super) export: Export,
    pub(super) config: ServerConfig,
    /// Nothing when connections stay in clear.
    pub(super) tls: Option<Tls>,
    log: Log,
    /// Closed at its other end when the server stops, which wakes everybody who
    /// polls it.
    pub(super) stop: PipeReader,
    deadline: OnceLock<Instant>,
    connections: Mutex<usize>,
    ended: Condvar,
}

impl Shared {
    pub(super) fn new(export: Export, tls: Option<Tls>, log: Log, stop: PipeReader) -> Self {
        let limits = Limits::default().max_payload(MAX_PAYLOAD).max_in_flight(IN_FLIGHT);
        let policy = tls.as_ref().map_or(TlsPolicy::Disable, |tls| tls.policy);
        Self {
            export,
            config: ServerConfig::new().limits(limits).tls(policy),
            tls,
            log,
            stop,
            deadline: OnceLock::new(),
            connections: Mutex::new(0),
            ended: Condvar::new(),
        }
    }

    /// When the connections of a stopping server are cut.
    pub(super) fn deadline(&self) -> Instant {
        *self.deadline.get_or_init(|| Instant::now() + GRACE)
    }

    fn connections(&self) -> MutexGuard<'_, usize> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that takes clients until it is stopped or dropped.
pub(crate) struct Running {
    uri: String,
    shared: Arc<Shared>,
    /// Dropped to stop.
    alive: Option<PipeWriter>,
    acceptor: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts to serve `export` to at most `max_connections` clients at a time,
    /// in clear unless `tls` is given.
    ///
    /// # Errors
    ///
    /// When the export's name cannot be part of a URI, and when the system is
    /// short of threads or descriptors.
    pub(crate) fn start(
        listener: Listener,
        export: Export,
        max_connections: usize,
        tls: Option<Tls>,
        log: Log,
    ) -> io::Result<Self> {
        let uri = listener.uri(&export.name, tls.is_some())?;
        let (stop, alive) = io::pipe()?;
        let shared = Arc::new(Shared::new(export, tls, log, stop));
        let acceptor = Acceptor { listener, shared: Arc::clone(&shared), max_connections };
        let acceptor =
            thread::Builder::new().name("accept".to_owned()).spawn(move || acceptor.run())?;
        Ok(Self { uri, shared, alive: Some(alive), acceptor: Some(acceptor) })
    }

    /// The URI to connect to.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// Takes no more clients, lets the others have the replies to what they
    /// have asked, for at most five seconds, and flushes the store.
    ///
    /// # Errors
    ///
    /// When the store cannot be flushed.
    pub(crate) fn stop(mut self) -> io::Result<()> {
        self.wind_down();
        let flushed = self.shared.export.store.flush();
        self.shared.log.finish();
        flushed
    }

    fn wind_down(&mut self) {
        let deadline = self.shared.deadline();
        self.alive = None;
        if let Some(acceptor) = self.acceptor.take() {
            // A panic has been reported by the thread itself.
            let _ = acceptor.join();
        }
        // The threads cut their connections themselves. On a busy machine they may come to
        // that a little late; only one that is stuck in the store is not waited for.
        for grace in [deadline.saturating_duration_since(Instant::now()), LATE] {
            let _unused =
                self.shared
                    .ended
                    .wait_timeout_while(self.shared.connections(), grace, |active| *active > 0);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.alive.is_some() {
            self.wind_down();
        }
    }
}

/// Takes clients in.
struct Acceptor {
    listener: Listener,
    shared: Arc<Shared>,
    max_connections: usize,
}

impl Acceptor {
    fn run(self) {
        loop {
            let mut fds = [
                PollFd::new(&self.shared.stop, PollFlags::IN),
                PollFd::new(&self.listener, PollFlags::IN),
            ];
            let waited = wait_for(&mut fds, None);
            if !fds[0].revents().is_empty() {
                return;
            }
            let taken = waited.and_then(|()| self.take_in());
            if let Err(error) = taken {
                self.shared.log.line(&format!("cannot take a client in: {error}"));
                // What the system is short of may be there a little later.
                let mut stop = [PollFd::new(&self.shared.stop, PollFlags::IN)];
                let _ = wait_for(&mut stop, Some(Instant::now() + SHORTAGE));
            }
        }
    }

    fn take_in(&self) -> io::Result<()> {
        let (socket, client) = match self.listener.accept() {
            Ok(accepted) => accepted,
            // Those who were there have gone again.
            Err(error) if is_passing(error.kind()) => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(place) = Place::take(&self.shared, self.max_connections) else {
            self.shared.log.line(&format!(
                "{client}: turned away, there are {} connections already",
                self.max_connections
            ));
            return Ok(());
        };
        thread::Builder::new()
            .name("connection".to_owned())
            .stack_size(STACK)
            .spawn(move || attend(socket, &client, &place))
            .map(drop)
    }
}

fn is_passing(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
    )
}

/// Serves one client and says in the log if that ended badly.
fn attend(socket: OwnedFd, client: &str, place: &Place) {
    if let Err(fault) = serve(Transport::plain(socket), &place.shared) {
        place.shared.log.line(&format!("{client}: {fault}"));
    }
}

/// One of the connections that may be there at a time; given back however its
/// thread ends.
struct Place {
    shared: Arc<Shared>,
}

impl Place {
    fn take(shared: &Arc<Shared>, max: usize) -> Option<Self> {
        let mut connections = shared.connections();
        if *connections >= max {
            return None;
        }
        *connections += 1;
        Some(Self { shared: Arc::clone(shared) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.shared.connections() -= 1;
        self.shared.ended.notify_all();
    }
}
