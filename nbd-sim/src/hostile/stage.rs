//! Plays a script over a real socket.
//!
//! In memory the client speaks between the bursts of a script. So the server here
//! reads exactly what the client in memory has said before each burst, and then sends
//! it: neither side can overtake the other, and nothing depends on time.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use nbd_proto::HeaderStyle;

use super::bytes::{DONE, kind, simple, xchunk};
use super::{Case, Observed, Scene};
use crate::delivery::Delivery;

/// Where a scripted server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A TCP port; 0 is any that is free.
    Tcp(SocketAddr),
}

/// A scripted server that listens and waits for its one client.
#[derive(Debug)]
pub struct Stage {
    listener: Listener,
    address: Address,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Stage {
    /// Listens.
    ///
    /// # Errors
    /// Those of the system.
    pub fn at(address: Address) -> io::Result<Self> {
        Ok(match address {
            Address::Unix(path) => {
                let listener = Listener::Unix(UnixListener::bind(&path)?);
                Self { listener, address: Address::Unix(path) }
            }
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                let address = Address::Tcp(listener.local_addr()?);
                Self { listener: Listener::Tcp(listener), address }
            }
        })
    }

    /// Where this is.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The URI that leads here.
    #[must_use]
    pub fn uri(&self) -> String {
        match &self.address {
            Address::Unix(path) => format!("nbd+unix:///?socket={}", path.display()),
            Address::Tcp(address) => format!("nbd://{address}"),
        }
    }

    /// Plays a case to the next client and returns all that it sent, once it has left.
    /// `script` is what the client in memory made of the case. Whenever the client is expected to speak, it has `patience` to do so.
    ///
    /// # Errors
    /// Those of the system, and [`ErrorKind::WouldBlock`] or [`ErrorKind::TimedOut`] when
    /// the client says nothing and stays.
    pub fn play(self, case: &Case, script: &Observed, patience: Duration) -> io::Result<Vec<u8>> {
        let patience = Some(patience);
        match self.listener {
            Listener::Unix(listener) => {
                let mut client = listener.accept()?.0;
                client.set_read_timeout(patience)?;
                client.set_write_timeout(patience)?;
                case.perform(script, &mut client)
            }
            Listener::Tcp(listener) => {
                let mut client = listener.accept()?.0;
                client.set_nodelay(true)?;
                client.set_read_timeout(patience)?;
                client.set_write_timeout(patience)?;
                case.perform(script, &mut client)
            }
        }
    }
}

impl Scene {
    /// Negotiates with the client, then plays its own part.
    ///
    /// # Errors
    /// Those of the system.
    pub fn perform(&self, client: &mut UnixStream) -> io::Result<()> {
        let script = self.case.play(Delivery::Whole, None);
        let mut sent = Vec::new();
        for (burst, mark) in self.case.bursts.iter().zip(&script.marks) {
            read_until(client, &mut sent, *mark)?;
            client.write_all(burst)?;
        }
        match (self.act)(client) {
            Err(error) if has_left(&error) => Ok(()),
            result => result,
        }
    }
}

impl Case {
    /// Sends the script to a client; `script` is what the client in memory made of it.
    fn perform<S: Read + Write>(&self, script: &Observed, client: &mut S) -> io::Result<Vec<u8>> {
        let mut sent = Vec::new();
        match self.speak(script, client, &mut sent) {
            // A client may leave whenever it has heard enough.
            Err(error) if has_left(&error) => Ok(sent),
            result => result.map(|()| sent),
        }
    }

    fn speak<S: Read + Write>(
        &self,
        script: &Observed,
        client: &mut S,
        sent: &mut Vec<u8>,
    ) -> io::Result<()> {
        for (burst, mark) in self.bursts.iter().chain(&self.replies).zip(&script.marks) {
            read_until(client, sent, *mark)?;
            client.write_all(burst)?;
        }
        if self.closes {
            return Ok(());
        }
        if script.usable {
            // The last thing the client in memory did was to ask for a flush.
            read_until(client, sent, script.sent.len())?;
            client.write_all(&flushed(script, sent))?;
        }
        client.read_to_end(sent)?;
        Ok(())
    }
}

/// The reply to the flush that `sent` ends with.
fn flushed(script: &Observed, sent: &[u8]) -> Vec<u8> {
    let extended =
        script.negotiated.as_ref().is_some_and(|facts| facts.headers == HeaderStyle::Extended);
    let request = &sent[sent.len() - if extended { 32 } else { 28 }..];
    let cookie = request[8..].first_chunk().expect("more than that is left");
    let cookie = u64::from_be_bytes(*cookie);
    if extended { xchunk(DONE, kind::NONE, cookie, &[]) } else { simple(0, cookie, &[]) }
}

fn read_until<S: Read>(client: &mut S, sent: &mut Vec<u8>, length: usize) -> io::Result<()> {
    let missing = length.saturating_sub(sent.len()) as u64;
    if client.by_ref().take(missing).read_to_end(sent)? as u64 != missing {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Whether the other side is gone, which it may be whenever it has heard enough.
pub(super) fn has_left(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}
