//! Where a connection stands.

use std::fmt;

/// Where a connection stands. A connection that is still to be made is a
/// [`Builder`](crate::Builder); one whose export is to be chosen is
/// [`Options`](crate::Options); afterwards it is a [`Client`](crate::Client).
///
/// ```text
///   Builder ──► Connecting ◄──► Negotiating ──► Ready ◄──► Processing ◄──► Reconnecting
///                   └───────────────┴────────────┴─────► Closed, Dead ◄─────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// An option is under way: its call ended in a timeout, and its answer may still
    /// come.
    Connecting,
    /// The server waits for the caller to choose.
    Negotiating,
    /// Commands are accepted, and no message is half sent or half received. Replies may
    /// be due.
    Ready,
    /// Commands are accepted, and a message is partly sent, waits to be sent, or is
    /// partly received.
    Processing,
    /// The connection is lost. The next call that waits makes it again; see
    /// [`Builder::reconnect`](crate::Builder::reconnect).
    Reconnecting,
    /// No more commands; the end has been asked for.
    Disconnecting,
    /// Over, by agreement.
    Closed,
    /// Over, by a fault.
    Dead,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::Negotiating => "negotiating",
            Self::Ready => "ready",
            Self::Processing => "processing",
            Self::Reconnecting => "reconnecting",
            Self::Disconnecting => "disconnecting",
            Self::Closed => "closed",
            Self::Dead => "dead",
        })
    }
}

impl State {
    pub(crate) fn of(core: &nbd_proto::Client) -> Self {
        if core.is_closed() {
            return if core.error().is_some() { Self::Dead } else { Self::Closed };
        }
        if core.is_disconnecting() {
            Self::Disconnecting
        } else if core.is_processing() {
            Self::Processing
        } else {
            Self::Ready
        }
    }
}
