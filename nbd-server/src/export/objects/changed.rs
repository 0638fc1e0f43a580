//! Objects that differ from storage, in memory.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard as StdMutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex, MutexGuard};

/// What an object holds.
#[derive(Clone, Debug, Default)]
pub(super) enum Content {
    /// What storage has of it.
    #[default]
    Stored,
    /// These bytes, which storage does not have yet.
    Changed(Bytes),
    /// Nothing: it is to be deleted.
    Absent,
}

impl Content {
    /// Changes a part of an object of so many bytes. It must not be only in storage, unless all
    /// of it is changed.
    pub(super) fn change(&mut self, object_size: usize, at: usize, new: &[u8]) {
        let mut bytes = match std::mem::take(self) {
            // Whoever else has these bytes, who puts or sends them, keeps them as they are.
            Self::Changed(bytes) => {
                bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]))
            }
            Self::Stored | Self::Absent => BytesMut::zeroed(object_size),
        };
        bytes[at..at + new.len()].copy_from_slice(new);
        *self = Self::Changed(bytes.freeze());
    }

    /// Whether nothing has changed since it was `before`, which still holds its bytes.
    pub(super) fn is_same(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Changed(now), Self::Changed(before)) => now.as_ptr() == before.as_ptr(),
            (Self::Absent, Self::Absent) | (Self::Stored, Self::Stored) => true,
            _ => false,
        }
    }
}

/// An object that has changed, or is about to.
#[derive(Debug, Default)]
pub(super) struct Object {
    content: Mutex<Content>,
    putting: Mutex<()>,
}

impl Object {
    /// What it holds. Whoever has to fetch the object for that keeps others waiting meanwhile.
    pub(super) async fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().await
    }

    /// Waits for the turn to put it.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.putting.lock().await
    }
}

/// Objects that differ from storage, and those that somebody is at.
#[derive(Debug, Default)]
pub(super) struct Changed {
    objects: StdMutex<BTreeMap<u64, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    object: Arc<Object>,
    users: usize,
}

impl Changed {
    /// An object, if it is here.
    pub(super) fn find(&self, number: u64) -> Option<Held<'_>> {
        let mut objects = self.lock();
        let entry = objects.get_mut(&number)?;
        entry.users += 1;
        Some(Held { changed: self, number, object: Arc::clone(&entry.object) })
    }

    /// An object that is going to be changed.
    pub(super) fn hold(&self, number: u64) -> Held<'_> {
        let mut objects = self.lock();
        let entry = objects.entry(number).or_default();
        entry.users += 1;
        Held { changed: self, number, object: Arc::clone(&entry.object) }
    }

    /// The numbers of all.
    pub(super) fn all(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }

    /// The numbers of half of them, if there are as many as this.
    pub(super) fn half_of(&self, most: usize) -> Option<Vec<u64>> {
        let objects = self.lock();
        let half = objects.len().div_ceil(2);
        (objects.len() >= most).then(|| objects.keys().take(half).copied().collect())
    }

    fn lock(&self) -> StdMutexGuard<'_, BTreeMap<u64, Entry>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object in use. It stays here as long as it is, or differs from storage.
#[derive(Debug)]
pub(super) struct Held<'a> {
    changed: &'a Changed,
    number: u64,
    object: Arc<Object>,
}

impl Deref for Held<'_> {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.object
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut objects = self.changed.lock();
        let Some(entry) = objects.get_mut(&self.number) else { return };
        entry.users -= 1;
        // Locked by nobody then.
        let is_stored =
            || self.object.content.try_lock().is_ok_and(|it| matches!(*it, Content::Stored));
        if entry.users == 0 && is_stored() {
            objects.remove(&self.number);
        }
    }
}
