//! What happens in a server, for logs and metrics.

use std::fmt;
use std::io;

use nbd_proto::{Command, Errno};

use crate::connection::ConnectionError;
use crate::peer::Peer;

/// Something that has happened. Displayed it is a line for a log.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A client has connected.
    Connected {
        /// The client.
        peer: &'a Peer,
    },
    /// A client has chosen an export.
    Opened {
        /// The client.
        peer: &'a Peer,
        /// The name of the export.
        export: &'a str,
        /// Whether the client may not change it.
        read_only: bool,
    },
    /// A client was refused an export: as many use one as may. It may ask again.
    TurnedAway {
        /// The client.
        peer: &'a Peer,
        /// How many others use an export.
        connections: usize,
    },
    /// A client was refused an export that it asked for, or the list of them, by what
    /// [`Exports`](crate::Exports) say. It may ask again.
    Refused {
        /// The client.
        peer: &'a Peer,
        /// The name that it asked for, empty for the default; none for the list.
        export: Option<&'a str>,
        /// Why.
        error: &'a io::Error,
    },
    /// A request has failed: the export has an error, panics, or tells nothing of its extents, or
    /// the server has no thread or no memory for it. Its client is told as well. Told from the thread that serves the client,
    /// before the reply leaves.
    RequestFailed {
        /// The client.
        peer: &'a Peer,
        /// The name of the export.
        export: &'a str,
        /// What was asked of it.
        command: &'a Command,
        /// The number that the client gets.
        errno: Errno,
        /// What the export says.
        reason: &'a str,
    },
    /// A connection is over.
    Closed {
        /// The client.
        peer: &'a Peer,
        /// Why, if it ended before its time.
        error: Option<&'a ConnectionError>,
    },
    /// Nobody can be taken in at the moment; it is tried again.
    AcceptFailed {
        /// Why.
        error: &'a io::Error,
    },
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected { peer } => write!(f, "{peer} has connected"),
            Self::Opened { peer, export, read_only } => {
                let how = if *read_only { ", read-only" } else { "" };
                write!(f, "{peer} uses export {export:?}{how}")
            }
            Self::TurnedAway { peer, connections } => {
                write!(f, "{peer} was refused: {connections} clients use an export, as many as may")
            }
            Self::Refused { peer, export: Some(export), error } => {
                write!(f, "{peer} was refused export {export:?}: {error}")
            }
            Self::Refused { peer, export: None, error } => {
                write!(f, "{peer} was refused the list of exports: {error}")
            }
            Self::RequestFailed { peer, export, command, errno: _, reason } => {
                write!(f, "{command} of export {export:?} for {peer} has failed: {reason}")
            }
            Self::Closed { peer, error: None } => write!(f, "{peer} has left"),
            Self::Closed { peer, error: Some(error) } => {
                write!(f, "the connection of {peer} has ended: {error}")
            }
            Self::AcceptFailed { error } => {
                write!(f, "nobody can be taken in at the moment: {error}")
            }
        }
    }
}

/// Is told of events, from the thread in which they happen, which waits for it.
pub(crate) type Observer = Box<dyn Fn(&Event<'_>) + Send + Sync>;

#[cfg(feature = "tracing")]
impl Event<'_> {
    /// Tells subscribers of the crate tracing.
    pub(crate) fn trace(&self) {
        match self {
            Self::Connected { peer } => tracing::debug!(%peer, "a client has connected"),
            Self::Opened { peer, export, read_only } => {
                tracing::info!(%peer, export, read_only, "a client has chosen an export");
            }
            Self::TurnedAway { peer, connections } => {
                tracing::warn!(%peer, connections, "a client was refused, there are too many");
            }
            Self::Refused { peer, export, error } => {
                tracing::warn!(%peer, export, %error, "a client was refused");
            }
            Self::RequestFailed { peer, export, command, errno, reason } => {
                tracing::warn!(%peer, export, %command, %errno, reason, "a request has failed");
            }
            Self::Closed { peer, error: None } => tracing::debug!(%peer, "a client has left"),
            Self::Closed { peer, error: Some(error) } => {
                tracing::warn!(%peer, %error, "a connection has ended before its time");
            }
            Self::AcceptFailed { error } => {
                tracing::error!(%error, "nobody can be taken in at the moment");
            }
        }
    }
}
