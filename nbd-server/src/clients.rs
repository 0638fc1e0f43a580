//! Who is there: who has said nothing yet, who negotiates, who has chosen an export, who lingers;
//! and how all are told that the server stops.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// The clients of a server.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    present: Mutex<Present>,
    left: Condvar,
    stop_by: OnceLock<Instant>,
    random: RandomState,
}

/// How far a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// It has been told that it is over, before it chose an export, and may not have noticed.
    Lingering,
    /// Nothing has come from it.
    Silent,
    /// It negotiates.
    Talking,
    /// It has chosen an export.
    Settled,
    /// It is on its way out, and counts for nothing.
    Leaving,
}

#[derive(Debug, Default)]
struct Present {
    /// By stage, and by age in each.
    clients: BTreeMap<(Stage, u64), Client>,
    counts: [usize; 5],
    /// How many there have been.
    taken_in: u64,
}

/// A client, as others know it.
#[derive(Debug)]
struct Client {
    waker: Waker,
    displaced: Arc<AtomicBool>,
}

/// The place of a client, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    clients: Arc<Clients>,
    number: u64,
    /// Unless it was displaced.
    stage: Stage,
    displaced: Arc<AtomicBool>,
}

impl Clients {
    /// Takes a client in, which is woken with the waker for its number. When `max_handshakes`
    /// others have not chosen an export, one of them is displaced: the oldest that lingers, or
    /// else the oldest that has said nothing, or else any of them.
    pub(crate) fn admit(
        self: &Arc<Self>,
        waker: impl FnOnce(u64) -> Waker,
        max_handshakes: usize,
    ) -> Place {
        let mut present = self.present();
        if present.undecided() >= max_handshakes.max(1) {
            self.displace_one_of(&mut present);
        }
        self.enter(&mut present, Stage::Silent, waker)
    }

    /// Takes a client in that has chosen an export already, when fewer than `max_connections`
    /// have.
    ///
    /// # Errors
    /// How many have.
    pub(crate) fn admit_settled(
        self: &Arc<Self>,
        waker: Waker,
        max_connections: usize,
    ) -> Result<Place, usize> {
        let mut place = self.enter(&mut self.present(), Stage::Talking, |_| waker);
        place.settle(max_connections).map(|()| place)
    }

    /// A place for something that has to end before the server has.
    pub(crate) fn track(self: &Arc<Self>) -> Place {
        self.enter(&mut self.present(), Stage::Leaving, |_| Waker::noop().clone())
    }

    fn enter(
        self: &Arc<Self>,
        present: &mut Present,
        stage: Stage,
        waker: impl FnOnce(u64) -> Waker,
    ) -> Place {
        let number = present.taken_in;
        present.taken_in += 1;
        let displaced = Arc::new(AtomicBool::new(false));
        let client = Client { waker: waker(number), displaced: Arc::clone(&displaced) };
        present.insert(stage, number, client);
        Place { clients: Arc::clone(self), number, stage, displaced }
    }

    /// Makes room where the system is short of it: one that has not chosen an export gives way.
    /// False when there is none.
    pub(crate) fn displace_one(&self) -> bool {
        self.displace_one_of(&mut self.present())
    }

    fn displace_one_of(&self, present: &mut Present) -> bool {
        let random = self.random.hash_one(present.taken_in);
        let idle =
            || present.first_of(Stage::Lingering).or_else(|| present.first_of(Stage::Silent));
        let Some((stage, number)) = idle().or_else(|| {
            // Who comes in great numbers and says a little must not know who gives way.
            let (_, first) = present.first_of(Stage::Talking)?;
            let from = first + random % (present.taken_in - first);
            present.first_from(Stage::Talking, from).or(Some((Stage::Talking, first)))
        }) else {
            return false;
        };
        if let Some(client) = present.shift(number, stage, Stage::Leaving) {
            client.displaced.store(true, Ordering::Release);
            client.waker.wake_by_ref();
        }
        true
    }

    /// Tells all to come to an end within `grace`.
    pub(crate) fn stop(&self, grace: Duration) {
        self.stop_by.get_or_init(|| Instant::now() + grace);
        for client in self.present().clients.values() {
            client.waker.wake_by_ref();
        }
    }

    /// Until when clients are answered, once the server stops.
    pub(crate) fn stop_by(&self) -> Option<Instant> {
        self.stop_by.get().copied()
    }

    /// Waits until all have left, `limit` at most. Tells how many have not.
    pub(crate) fn wait(&self, limit: Duration) -> usize {
        let (present, _) = self
            .left
            .wait_timeout_while(self.present(), limit, |present| !present.clients.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        present.clients.len()
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a stop has come to, of which so many have not come to their end.
pub(crate) fn check_gone(clients: usize, requests: usize) -> io::Result<()> {
    if clients + requests == 0 {
        return Ok(());
    }
    let text = format!(
        "the server has stopped, and its exports have not come back: {clients} clients and \
         {requests} requests still wait"
    );
    Err(io::Error::new(io::ErrorKind::TimedOut, text))
}

impl Present {
    const fn undecided(&self) -> usize {
        self.counts[Stage::Lingering as usize]
            + self.counts[Stage::Silent as usize]
            + self.counts[Stage::Talking as usize]
    }

    fn insert(&mut self, stage: Stage, number: u64, client: Client) {
        self.counts[stage as usize] += 1;
        self.clients.insert((stage, number), client);
    }

    fn remove(&mut self, stage: Stage, number: u64) -> Option<Client> {
        let client = self.clients.remove(&(stage, number))?;
        self.counts[stage as usize] -= 1;
        Some(client)
    }

    fn shift(&mut self, number: u64, from: Stage, to: Stage) -> Option<&Client> {
        let client = self.remove(from, number)?;
        self.insert(to, number, client);
        self.clients.get(&(to, number))
    }

    fn first_of(&self, stage: Stage) -> Option<(Stage, u64)> {
        self.first_from(stage, 0)
    }

    fn first_from(&self, stage: Stage, number: u64) -> Option<(Stage, u64)> {
        self.clients.range((stage, number)..=(stage, u64::MAX)).next().map(|(key, _)| *key)
    }
}

impl Place {
    /// Which client it is.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Something has come from the client.
    pub(crate) fn talks(&mut self) {
        if self.stage == Stage::Silent {
            let clients = Arc::clone(&self.clients);
            self.shift(&mut clients.present(), Stage::Talking);
        }
    }

    /// The client has chosen an export. One that is displaced stays so.
    ///
    /// # Errors
    /// How many others have, when that is as many as may.
    pub(crate) fn settle(&mut self, max_connections: usize) -> Result<(), usize> {
        let clients = Arc::clone(&self.clients);
        let mut present = clients.present();
        let others = present.counts[Stage::Settled as usize];
        if self.stage != Stage::Settled && others >= max_connections {
            return Err(others);
        }
        self.shift(&mut present, Stage::Settled);
        Ok(())
    }

    /// It has chosen nothing after all.
    pub(crate) fn unsettle(&mut self) {
        let clients = Arc::clone(&self.clients);
        self.shift(&mut clients.present(), Stage::Talking);
    }

    /// It has been told that it is over, and may take a moment to notice.
    pub(crate) fn lingers(&mut self) {
        let clients = Arc::clone(&self.clients);
        self.shift(&mut clients.present(), Stage::Lingering);
    }

    fn shift(&mut self, present: &mut Present, to: Stage) {
        if !self.is_displaced() {
            present.shift(self.number, self.stage, to);
            self.stage = to;
        }
    }

    /// From now on the client is woken so.
    pub(crate) fn wake_with(&self, waker: Waker) {
        let mut present = self.clients.present();
        let key = (self.current_stage(), self.number);
        if let Some(client) = present.clients.get_mut(&key) {
            client.waker = waker;
        }
    }

    /// Whether it had to give way before it chose an export.
    pub(crate) fn is_displaced(&self) -> bool {
        self.displaced.load(Ordering::Acquire)
    }

    /// Until when the client is answered, once the server stops.
    pub(crate) fn stop_by(&self) -> Option<Instant> {
        self.clients.stop_by()
    }

    /// To be asked under the lock.
    fn current_stage(&self) -> Stage {
        if self.is_displaced() { Stage::Leaving } else { self.stage }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut present = self.clients.present();
        present.remove(self.current_stage(), self.number);
        drop(present);
        self.clients.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(clients: &Arc<Clients>, max_handshakes: usize) -> Place {
        clients.admit(|_| Waker::noop().clone(), max_handshakes)
    }

    #[test]
    fn who_has_said_nothing_gives_way_first_and_the_oldest_of_those() {
        let clients = Arc::new(Clients::default());
        let mut settled = admit(&clients, 3);
        settled.settle(10).unwrap();
        let [mut talking, oldest, older] = [0; 3].map(|_| admit(&clients, 3));
        talking.talks();
        let _newcomer = admit(&clients, 3);
        assert!(oldest.is_displaced() && !older.is_displaced() && !talking.is_displaced());
        let _another = admit(&clients, 3);
        assert!(older.is_displaced() && !talking.is_displaced() && !settled.is_displaced());
    }

    #[test]
    fn of_those_who_all_talk_any_may_give_way_and_nobody_who_has_settled() {
        let clients = Arc::new(Clients::default());
        let mut gone = std::collections::BTreeSet::new();
        let mut settled = admit(&clients, 4);
        settled.settle(10).unwrap();
        let mut talking: Vec<Place> = Vec::new();
        for _ in 0..400 {
            let mut place = admit(&clients, 4);
            place.talks();
            talking.push(place);
            gone.extend(talking.iter().position(Place::is_displaced));
            talking.retain(|place| !place.is_displaced());
            assert!(talking.len() <= 4);
        }
        assert!(gone.len() > 1, "always the same: {gone:?}");
        assert!(!settled.is_displaced());
    }

    #[test]
    fn exports_are_for_so_many_and_others_may_look() {
        let clients = Arc::new(Clients::default());
        let [mut first, mut second] = [0; 2].map(|_| admit(&clients, 1));
        assert!(first.is_displaced());
        first.settle(1).unwrap();
        second.settle(1).unwrap();
        let mut third = admit(&clients, 1);
        assert_eq!(third.settle(1), Err(1));
        second.unsettle();
        third.settle(1).unwrap();
        drop((first, second));
        assert_eq!(clients.wait(Duration::ZERO), 1);
        drop(third);
        let tracked = clients.track();
        assert_eq!(clients.wait(Duration::ZERO), 1);
        drop(tracked);
        assert_eq!(clients.wait(Duration::ZERO), 0);
        assert!(!clients.displace_one());
    }
}
