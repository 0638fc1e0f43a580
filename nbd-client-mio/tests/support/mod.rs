//! A loop as a program would write it, and data to tell places apart.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use nbd_client_mio::{Completion, ConnectOptions, Connection, Error, State};

pub(crate) type Disk = Connection<Vec<u8>>;

/// Many connections on one poll.
pub(crate) struct Loop {
    pub poll: Poll,
    events: Events,
    pub disks: BTreeMap<usize, Disk>,
    pub done: Vec<(usize, Completion<Vec<u8>>)>,
    pub errors: Vec<(usize, Error)>,
    /// Turns of the loop, to show that it does not spin.
    pub turns: usize,
}

impl Loop {
    pub(crate) fn new() -> Self {
        Self {
            poll: Poll::new().unwrap(),
            events: Events::with_capacity(16),
            disks: BTreeMap::new(),
            done: Vec::new(),
            errors: Vec::new(),
            turns: 0,
        }
    }

    /// Adds a connection and returns its token.
    pub(crate) fn add(&mut self, mut disk: Disk) -> usize {
        let token = self.disks.len();
        self.poll.registry().register(&mut disk, Token(token), Interest::READABLE).unwrap();
        self.disks.insert(token, disk);
        token
    }

    pub(crate) fn connect(&mut self, options: &ConnectOptions, uri: &str) -> usize {
        let disk = Connection::connect(options.clone().uri(uri).unwrap()).unwrap();
        self.add(disk)
    }

    /// One turn: polls, drives what wants it, and takes completions.
    pub(crate) fn turn(&mut self, until: Instant) {
        self.turns += 1;
        let busy = self.disks.values().any(Disk::needs_drive);
        let next = self.disks.values().filter_map(Disk::next_deadline).min();
        let until = next.map_or(until, |next| next.min(until));
        let left = until.saturating_duration_since(Instant::now());
        let wait = if busy { Duration::ZERO } else { left };
        match self.poll.poll(&mut self.events, Some(wait)) {
            // A process that was stopped and goes on sees its calls interrupted.
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            polled => polled.unwrap(),
        }
        for event in &self.events {
            if let Some(disk) = self.disks.get_mut(&event.token().0) {
                disk.handle_event(event);
            }
        }
        let registry = self.poll.registry();
        for (token, disk) in &mut self.disks {
            // What has come before the deadline counts, however late it is looked at.
            let drive = |disk: &mut Disk| match disk.needs_drive() {
                true => disk.drive(registry).map(drop),
                false => Ok(()),
            };
            let now = Instant::now();
            let driven = drive(disk).and_then(|()| {
                if disk.next_deadline().is_some_and(|at| at <= now) {
                    disk.handle_timeout(now);
                }
                drive(disk)
            });
            self.errors.extend(driven.err().map(|error| (*token, error)));
            while let Some(completion) = disk.next_completion() {
                self.done.push((*token, completion));
            }
        }
    }

    /// Turns until `happened`, for at most a minute.
    pub(crate) fn until(&mut self, what: &str, mut happened: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !happened(self) {
            assert!(Instant::now() < end, "never came: {what}; {:?}", self.disks);
            self.turn(end);
        }
    }

    /// Waits until all connections are in one state.
    pub(crate) fn all(&mut self, state: State) {
        self.until(&format!("{state:?}"), |this| {
            this.disks.values().all(|disk| disk.state() == state)
        });
    }

    /// One connection, ready.
    pub(crate) fn ready(&mut self, options: &ConnectOptions, uri: &str) -> usize {
        let token = self.connect(options, uri);
        self.until("ready", |this| this.disk(token).state() == State::Ready);
        token
    }

    pub(crate) fn disk(&mut self, token: usize) -> &mut Disk {
        self.disks.get_mut(&token).unwrap()
    }

    /// The next completion of whichever connection.
    pub(crate) fn next(&mut self) -> Completion<Vec<u8>> {
        self.until("a completion", |this| !this.done.is_empty());
        self.done.remove(0).1
    }
}
