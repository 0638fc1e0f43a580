//! What a session asks its adapter to do.

use std::time::Instant;

use nbd_transport::tls::TlsConfig;
use nbd_transport::{Connection, Dial, TcpKeepAlive};

use crate::error::Error;
use crate::options::Target;

/// Something that an adapter is to do, told once by
/// [`Session::next_step`](crate::Session::next_step).
#[derive(Debug)]
#[non_exhaustive]
pub enum Step {
    /// Read credentials for TLS, with [`TlsConfig::connector`], which reads files. The outcome
    /// goes to [`Session::credentials`](crate::Session::credentials).
    Credentials(Box<TlsConfig>),
    /// Connect. The outcome goes to [`Session::connected`](crate::Session::connected).
    Connect(Connect),
    /// Send nothing more on this stream (`shutdown(2)` of the sending side), though more may
    /// come. It may fail; that changes nothing.
    Shutdown {
        /// Which connection.
        generation: u64,
    },
    /// Close this stream, or stop making it: it is of no use any more. The process that was
    /// started for it ends with it.
    Close {
        /// Which connection. What belongs to an older one is of no use either.
        generation: u64,
        /// To be sent before, as far as that goes without waiting; mostly empty.
        last_word: Vec<u8>,
    },
}

/// What is to be connected to, and until when.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Connect {
    /// Counts connections, from 1: to be given back with the outcome. An event loop that
    /// registers sockets goes by it, and not by the number of the descriptor, which is used
    /// again for the next connection.
    pub generation: u64,
    /// To what.
    pub target: Target,
    /// Until when, if there is a limit. The [dial](Self::dial) gives up then, with what it knows
    /// by that time; the session gives up by itself a moment later.
    pub by: Option<Instant>,
    /// What is [set](Self::prepare) on a socket of TCP.
    pub tcp_keep_alive: Option<TcpKeepAlive>,
}

impl Connect {
    /// The way to the endpoint in steps that never wait, where the target is one.
    #[must_use]
    pub fn dial(&self) -> Option<Dial> {
        match &self.target {
            // A program that fails to start is told apart from one that closes.
            Target::Endpoint(endpoint) => {
                Some(Dial::new(endpoint.clone()).await_greeting(true).until(self.by))
            }
            Target::Dialler | Target::Given => None,
        }
    }

    /// A connection with all that is to be set on its socket, wherever it is from.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn prepare(&self, connection: Connection) -> Result<Connection, Error> {
        if let Some(keep_alive) = self.tcp_keep_alive {
            connection.set_tcp_keep_alive(keep_alive)?;
        }
        Ok(connection)
    }
}
