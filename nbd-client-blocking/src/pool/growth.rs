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
        let (shared, places) = (Arc::downgrade(shared), 1..shared.clients.len());
        let grow = trace::carried(move || {
            for index in places {
                // One that has no room for this one has none for the next.
                let Ok(client) = Client::connect_unless(&options, stop.as_fd()) else { return };
                let added = shared.upgrade().is_some_and(|shared| shared.add(index, client));
                if !added {
                    return;
                }
            }
        });
        thread::Builder::new().name("nbd-pool".to_owned()).spawn(grow).ok()?;
        Some(Self { _wanted })
    }
}
