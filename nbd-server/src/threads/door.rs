//! What is put down for the thread that takes clients in.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use super::wait::Alarm;
use crate::connection::ConnectionError;
use crate::connection::handshake::Handshake;
use crate::pool::Work;

/// News for the thread that takes clients in, which it is woken for.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) alarm: Arc<Alarm>,
    /// None when nobody comes to look any more.
    news: Mutex<Option<Vec<News>>>,
}

/// What has happened elsewhere.
#[derive(Debug)]
pub(super) enum News {
    /// A client that nobody has to wait for at a listening socket.
    Arrived(OwnedFd, Box<Handshake>),
    /// The exports have been asked for a client.
    Answered(u64, Box<Handshake>, Result<(), ConnectionError>),
    /// A client has to be looked at.
    Woken(u64),
}

impl Door {
    pub(super) const fn new(alarm: Arc<Alarm>) -> Self {
        Self { alarm, news: Mutex::new(Some(Vec::new())) }
    }

    /// Wakes for something. When the thread is gone, so is the client.
    pub(super) fn put(&self, news: News) {
        if let Some(waiting) = &mut *self.news() {
            let first = waiting.is_empty();
            waiting.push(news);
            if first {
                self.alarm.wake_by_ref();
            }
        }
    }

    /// Takes everything.
    pub(super) fn take(&self) -> Vec<News> {
        self.news().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Nobody comes to look any more.
    pub(super) fn close(&self) {
        let left = self.news().take();
        // Clients that are dropped are done with elsewhere too, with no lock held here.
        drop(left);
    }

    /// What wakes for a client that negotiates.
    pub(super) fn waker(self: &Arc<Self>, number: u64) -> Waker {
        Waker::from(Arc::new(Knock { door: Arc::clone(self), number }))
    }

    fn news(&self) -> MutexGuard<'_, Option<Vec<News>>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes for one client.
struct Knock {
    door: Arc<Door>,
    number: u64,
}

impl Wake for Knock {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.door.put(News::Woken(self.number));
    }
}

/// A client that waits for what the exports say.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) number: u64,
    pub(super) handshake: Box<Handshake>,
    pub(super) door: Arc<Door>,
}

impl Work for Asking {
    fn run(self) {
        let Self { number, mut handshake, door } = self;
        let answered = handshake.answer();
        door.put(News::Answered(number, handshake, answered));
    }
}
