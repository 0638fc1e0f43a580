//! What a server is told before it starts, and what all its connections share.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nbd_proto::{Limits as MachineLimits, ServerConfig, TlsPolicy};
use nbd_transport::tls::TlsAcceptor;

use crate::connection::budget::Budget;
use crate::event::{Event, Observer};
use crate::exports::Exports;
use crate::peer::Peer;

/// Requests of one connection that are read before the first is replied to.
const IN_FLIGHT: u32 = 256;

/// The largest request that is taken whatever the limits are, in bytes.
const LEAST_PAYLOAD: u32 = 64 << 10;

/// Bounds for what clients can make a server hold, and for how long.
///
/// ```
/// use nbd_server::{Limits, MemoryExport, Server};
///
/// let mut limits = Limits::default();
/// limits.max_memory = 64 << 20;
/// limits.max_payload = 8 << 20;
/// let server = Server::new(MemoryExport::new(1 << 30)).limits(limits);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Most clients at a time that use an export (default 4096). Others may look what there is,
    /// and are refused when they choose.
    pub max_connections: usize,
    /// Most clients at a time that have not chosen an export (default 4096). They cost little.
    /// When there are more, the oldest that has said nothing is cut, or any if all have, so that
    /// newcomers are served. Those who are being told why TLS has failed count, too, and go first.
    pub max_handshakes: usize,
    /// Longest payload of one request, in bytes (default 32 MiB). Clients are told. Less than
    /// 64 KiB counts as that.
    pub max_payload: u32,
    /// Most bytes of payload that all clients together hold (default 256 MiB). Less than four
    /// times [`max_payload`](Self::max_payload) counts as that. Each client has 128 KiB whatever
    /// the others hold. What exports hold themselves is not in it. Lists of exports that clients
    /// have not taken may hold as much again.
    pub max_memory: usize,
    /// How long a client may take over each message of the negotiation, and ten times as long
    /// over all of it (default 30 s).
    pub handshake_timeout: Duration,
    /// How long a client may neither send nor take anything in the middle of a request
    /// (default 2 min).
    pub stall_timeout: Duration,
    /// How long clients have to take their last replies when the server stops, and exports to come
    /// back from their last requests (default 5 s).
    pub stop_timeout: Duration,
    /// Most threads in which requests wait for their export (default 128), and as many for clients
    /// that wait for what [`Exports`] tell. No export has more than half of those that the others
    /// leave, so that one that hangs leaves some to the others: one export alone has half of
    /// them, and carries out so many requests at a time.
    pub max_workers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_handshakes: 4096,
            max_payload: 32 << 20,
            max_memory: 256 << 20,
            handshake_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(120),
            stop_timeout: Duration::from_secs(5),
            max_workers: 128,
        }
    }
}

/// Whether clients get TLS, and with which credentials.
#[derive(Debug, Default)]
pub(crate) struct Tls {
    policy: TlsPolicy,
    acceptor: RwLock<Option<TlsAcceptor>>,
}

impl Tls {
    pub(crate) const fn new(policy: TlsPolicy, acceptor: TlsAcceptor) -> Self {
        Self { policy, acceptor: RwLock::new(Some(acceptor)) }
    }

    /// Whether URIs lead to TLS.
    pub(crate) fn is_offered(&self) -> bool {
        self.policy != TlsPolicy::Disable
    }

    /// The credentials of the moment.
    pub(crate) fn acceptor(&self) -> Option<TlsAcceptor> {
        self.acceptor.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on newcomers get these.
    pub(crate) fn replace(&self, acceptor: TlsAcceptor) {
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = Some(acceptor);
    }
}

/// What all connections of a server share.
pub(crate) struct Shared {
    pub(crate) exports: Arc<dyn Exports>,
    pub(crate) limits: Limits,
    pub(crate) tls: Tls,
    /// How long a thread looks for a request before it sleeps.
    pub(crate) busy_poll: Option<Duration>,
    pub(crate) budget: Arc<Budget>,
    /// Bytes of lists that clients have not taken.
    lists: AtomicUsize,
    observer: Option<Observer>,
}

/// Bytes of a list that its client has not taken, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct ListInFlight {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for ListInFlight {
    fn drop(&mut self) {
        self.shared.lists.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Shared {
    pub(crate) fn new(
        exports: Arc<dyn Exports>,
        mut limits: Limits,
        tls: Tls,
        observer: Option<Observer>,
    ) -> Self {
        limits.max_payload = limits.max_payload.max(LEAST_PAYLOAD);
        let least = (limits.max_payload as usize).saturating_mul(4);
        limits.max_memory = limits.max_memory.max(least);
        let budget = Budget::new(limits.max_memory);
        Self { exports, limits, tls, busy_poll: None, budget, lists: AtomicUsize::new(0), observer }
    }

    /// Counts a list that is to be sent.
    ///
    /// # Errors
    /// When others have not taken theirs, and all together would hold too much.
    pub(crate) fn begin_list(self: &Arc<Self>, bytes: usize) -> io::Result<ListInFlight> {
        let before = self.lists.fetch_add(bytes, Ordering::Relaxed);
        // From here on it is given back.
        let list = ListInFlight { shared: Arc::clone(self), bytes };
        if before > 0 && before.saturating_add(bytes) > self.limits.max_memory {
            let busy = "too many clients have not taken their lists of exports; ask again";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, busy));
        }
        Ok(list)
    }

    /// What each connection is negotiated with.
    pub(crate) fn protocol(&self) -> ServerConfig {
        let limits =
            MachineLimits::default().max_payload(self.limits.max_payload).max_in_flight(IN_FLIGHT);
        ServerConfig::new().limits(limits).tls(self.tls.policy)
    }

    /// Tells that as many use an export as may.
    pub(crate) fn too_many_connections(&self, peer: &Peer, connections: usize) -> io::Error {
        self.tell(&Event::TurnedAway { peer, connections });
        let text = format!("there are {connections} clients already, as many as there may be");
        io::Error::new(io::ErrorKind::QuotaExceeded, text)
    }

    /// Something has happened.
    pub(crate) fn tell(&self, event: &Event<'_>) {
        #[cfg(feature = "tracing")]
        event.trace();
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("limits", &self.limits)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}
