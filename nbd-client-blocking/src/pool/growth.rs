//! Connections beyond the first, made beside the work.

use std::io::{PipeWriter, pipe};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use nbd_session::ConnectOptions;

use super::Shared;
use crate::client::Client;
use crate::trace;

/// A thread that makes them. Dropping this waits for nothing, and the thread sees it and ends.
#[derive(Debug)]
pub(super) struct Growth {
    /// The thread polls the other end, and so notices when this goes.
    _wanted: PipeWriter,
}

impl Growth {
    /// Begins to fill the places that have no connection. None are made when the system is
    /// short of something: one connection does all the work.
    pub(super) fn begin(shared: &Arc<Shared>, options: ConnectOptions) -> Option<Self> {
        let (stop, _wanted) = pipe().ok()?;
        let shared = Arc::downgrade(shared);
        let grow = trace::carried(move || {
            loop {
                let Some(number) = shared.upgrade().map(|it| it.state().members.len()) else {
                    return;
                };
                let made = Client::connect_unless(&options.for_member(number), stop.as_fd());
                let Some(shared) = shared.upgrade() else { return };
                // One that has no room for this one has none for the next.
                let Ok(client) = made else { return shared.state().members.no_room() };
                if !shared.add(client) {
                    return;
                }
            }
        });
        thread::Builder::new().name("nbd-pool".to_owned()).spawn(grow).ok()?;
        Some(Self { _wanted })
    }
}
