//! What is put down for the thread that takes clients in.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use super::wait::ThreadWaker;
use crate::connection::ConnectionError;
use crate::connection::handshake::Handshake;
use crate::pool::Work;

/// Messages for the thread that takes clients in, which it is woken for.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) thread_waker: Arc<ThreadWaker>,
    /// None when nobody comes to look any more.
    messages: Mutex<Option<Vec<Message>>>,
}

/// What has happened elsewhere.
#[derive(Debug)]
pub(super) enum Message {
    /// A client that nobody has to wait for at a listening socket.
    Arrived(OwnedFd, Box<Handshake>),
    /// The exports have been asked for a client.
    Answered(u64, Box<Handshake>, Result<(), ConnectionError>),
    /// A client has to be looked at.
    Woken(u64),
}

impl Inbox {
    pub(super) const fn new(thread_waker: Arc<ThreadWaker>) -> Self {
        Self { thread_waker, messages: Mutex::new(Some(Vec::new())) }
    }

    /// Wakes for something. When the thread is gone, so is the client.
    pub(super) fn put(&self, message: Message) {
        if let Some(waiting) = &mut *self.messages() {
            let first = waiting.is_empty();
            waiting.push(message);
            if first {
                self.thread_waker.wake_by_ref();
            }
        }
    }

    /// Takes everything.
    pub(super) fn take(&self) -> Vec<Message> {
        self.messages().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Nobody comes to look any more.
    pub(super) fn close(&self) {
        let left = self.messages().take();
        // Clients that are dropped are done with elsewhere too, with no lock held here.
        drop(left);
    }

    /// What wakes for a client that negotiates.
    pub(super) fn waker(self: &Arc<Self>, number: u64) -> Waker {
        Waker::from(Arc::new(InboxWaker { inbox: Arc::clone(self), number }))
    }

    fn messages(&self) -> MutexGuard<'_, Option<Vec<Message>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes for one client.
struct InboxWaker {
    inbox: Arc<Inbox>,
    number: u64,
}

impl Wake for InboxWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.inbox.put(Message::Woken(self.number));
    }
}

/// A client that waits for what the exports say.
#[derive(Debug)]
pub(super) struct ExportsQuery {
    pub(super) number: u64,
    pub(super) handshake: Box<Handshake>,
    pub(super) inbox: Arc<Inbox>,
}

impl Work for ExportsQuery {
    fn queue(&self) -> u64 {
        self.handshake.queue()
    }

    fn run(self) {
        let Self { number, mut handshake, inbox } = self;
        let answered = handshake.answer();
        inbox.put(Message::Answered(number, handshake, answered));
    }
}
