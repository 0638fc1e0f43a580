//! What there is to know of a device at work: told by the thread that serves it, which waits for
//! nobody, and looked at by another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// How the connections to the server are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Health {
    /// Requests are answered.
    #[default]
    Connected,
    /// Requests wait for a server.
    Reconnecting,
    /// They fail.
    Failed,
}

/// What has happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) health: Health,
    /// How often a connection was made again.
    pub(super) reconnects: u64,
    /// What was the matter last.
    pub(super) trouble: Option<String>,
    /// Where there are several servers, those that are connected to.
    pub(super) in_use: Vec<String>,
    /// The size of the export in bytes, which may grow.
    pub(super) size: u64,
    /// The device is no more.
    pub(super) over: bool,
}

/// The news, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Status {
    news: Mutex<News>,
    changed: Condvar,
}

impl Status {
    pub(super) fn change(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news());
        self.changed.notify_all();
    }

    /// Waits until there is something else to tell than that.
    pub(super) fn wait(&self, known: &News) -> News {
        let waited = self.changed.wait_while(self.news(), |news| news == known);
        waited.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
