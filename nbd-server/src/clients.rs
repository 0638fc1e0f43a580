//! Who is there: how many clients, which of them have chosen an export, and how all are told
//! that the server stops.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::config::Limits;

/// The clients of a server.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    /// By age.
    present: Mutex<BTreeMap<u64, Arc<Client>>>,
    left: Condvar,
    stop_by: OnceLock<Instant>,
}

/// A client, as others know it.
#[derive(Debug)]
struct Client {
    waker: Waker,
    established: AtomicBool,
    displaced: AtomicBool,
}

/// The place of a client, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    clients: Arc<Clients>,
    number: u64,
    client: Arc<Client>,
}

impl Clients {
    /// Takes a client in, which is woken with `waker`. When there are too many that have not
    /// chosen an export, the one that has taken longest is displaced.
    ///
    /// # Errors
    /// How many there are, when that is too many.
    pub(crate) fn admit(self: &Arc<Self>, waker: Waker, limits: &Limits) -> Result<Place, usize> {
        let mut present = self.present();
        let staying = || present.values().filter(|client| !client.is_displaced());
        let count = staying().count();
        if count >= limits.max_connections {
            return Err(count);
        }
        let undecided = || staying().filter(|client| !client.is_established());
        if undecided().count() >= limits.max_handshakes
            && let Some(oldest) = undecided().next()
        {
            oldest.displaced.store(true, Ordering::Release);
            oldest.waker.wake_by_ref();
        }
        let client = Arc::new(Client {
            waker,
            established: AtomicBool::new(false),
            displaced: AtomicBool::new(false),
        });
        let number = present.last_key_value().map_or(0, |(last, _)| last + 1);
        present.insert(number, Arc::clone(&client));
        drop(present);
        Ok(Place { clients: Arc::clone(self), number, client })
    }

    /// Tells all to come to an end within `grace`.
    pub(crate) fn stop(&self, grace: Duration) {
        self.stop_by.get_or_init(|| Instant::now() + grace);
        for client in self.present().values() {
            client.waker.wake_by_ref();
        }
    }

    /// Until when clients are answered, once the server stops.
    pub(crate) fn stop_by(&self) -> Option<Instant> {
        self.stop_by.get().copied()
    }

    /// Waits until all have left, `limit` at most. Tells whether they have.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let (present, _) = self
            .left
            .wait_timeout_while(self.present(), limit, |present| !present.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        present.is_empty()
    }

    fn present(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn is_established(&self) -> bool {
        self.established.load(Ordering::Acquire)
    }

    fn is_displaced(&self) -> bool {
        self.displaced.load(Ordering::Acquire)
    }
}

impl Place {
    /// The client has chosen an export. False when it was displaced before.
    pub(crate) fn establish(&self) -> bool {
        // Under the lock, so that nobody displaces it meanwhile.
        let _present = self.clients.present();
        self.client.established.store(true, Ordering::Release);
        !self.client.is_displaced()
    }

    /// Whether others have come that were quicker to choose an export.
    pub(crate) fn is_displaced(&self) -> bool {
        self.client.is_displaced()
    }

    /// Until when the client is answered, once the server stops.
    pub(crate) fn stop_by(&self) -> Option<Instant> {
        self.clients.stop_by()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.present().remove(&self.number);
        self.clients.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, handshakes: usize) -> Limits {
        Limits { max_connections: connections, max_handshakes: handshakes, ..Limits::default() }
    }

    #[test]
    fn newcomers_displace_who_has_chosen_nothing_and_nobody_else() {
        let clients = Arc::new(Clients::default());
        let limits = limits(10, 2);
        let admit = || clients.admit(Waker::noop().clone(), &limits).unwrap();
        let settled = admit();
        assert!(settled.establish());
        let [oldest, older, newcomer] = [admit(), admit(), admit()];
        assert!(oldest.is_displaced() && !older.is_displaced() && !newcomer.is_displaced());
        assert!(!oldest.establish());
        let _another = admit();
        assert!(older.is_displaced() && !settled.is_displaced());
    }

    #[test]
    fn the_limit_counts_those_who_stay() {
        let clients = Arc::new(Clients::default());
        let limits = limits(2, 1);
        let admit = || clients.admit(Waker::noop().clone(), &limits);
        let first = admit().unwrap();
        let _second = admit().unwrap();
        assert!(first.is_displaced());
        let third = admit().unwrap();
        assert!(third.establish());
        let fourth = admit().unwrap();
        assert!(fourth.establish());
        assert_eq!(admit().unwrap_err(), 2);
        drop(fourth);
        assert!(admit().is_ok());
        assert!(!clients.wait(Duration::ZERO));
    }
}
