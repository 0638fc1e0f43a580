//! Servers whose harm lies in what they do with their socket, and cannot be told as
//! bytes: they do not read, close too early, or answer too soon.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use nbd_proto::{Command, CommandError, Errno, Error, PeerMisbehaved};

use super::bytes::simple;
use super::{Case, DATA, Failure, Form, Outcome, Played, talking};

const MIB: u64 = 1 << 20;

/// One of these servers.
#[derive(Debug)]
pub struct Scene {
    /// How the connection is made, and what is asked over it.
    pub case: Case,
    /// What the server does once it has negotiated.
    pub(super) act: fn(&mut UnixStream) -> io::Result<()>,
    /// Whether a client came to the end that it owes its user.
    pub ends_well: fn(&Played) -> bool,
}

/// Every scene there is.
pub fn scenes() -> Vec<Scene> {
    let reads = (0..16).map(|_| Command::read(0, MIB as u32));
    let writes = (0..16).map(|_| Command::write(0, MIB as u32));
    let both: Vec<_> = reads.zip(writes).flat_map(|(read, write)| [read, write]).collect();
    let write = [Command::write(0, MIB as u32); 8];
    let scene = |id, commands: &[Command], act, ends_well| {
        let case = talking(id, Form::Simple, commands, Vec::new(), Outcome::Lives(Vec::new()));
        Scene { case, act, ends_well }
    };
    vec![
        scene("X51-reset", &write[..1], reset, |played| {
            lost(&played.answers[0]) && played.usable.as_ref().is_some_and(lost)
        }),
        scene("X63", &write, refuse_too_soon, |played| {
            played.answers.iter().all(no_space) && played.usable == Some(Ok(()))
        }),
        scene("X64", &write, refuse_and_close, |played| {
            let (first, rest) = played.answers.split_first().expect("eight writes");
            (no_space(first) || lost(first))
                && rest.iter().all(lost)
                && played.usable.as_ref().is_some_and(lost)
        }),
        scene("X65", &both, serve_in_turn, |played| {
            played.answers.iter().all(Result::is_ok) && played.usable == Some(Ok(()))
        }),
        scene("X67-half-close", &[Command::read(0, 512)], half_close, |played| {
            let closed = Error::from(PeerMisbehaved::Closed);
            played.answers[0] == Err(Failure::Protocol(closed.clone()))
                && played.usable == Some(Err(Failure::Protocol(closed)))
        }),
    ]
}

fn no_space(answer: &Result<(), Failure>) -> bool {
    *answer == Err(Failure::Command(CommandError::Server(Errno::NoSpc)))
}

/// The connection is gone, whoever noticed first: the socket or the machine.
pub(super) fn lost(answer: &Result<(), Failure>) -> bool {
    let closed = [PeerMisbehaved::Closed, PeerMisbehaved::ClosedMidMessage];
    match answer {
        Err(Failure::Protocol(Error::Misbehaved(what))) => closed.contains(what),
        Err(Failure::Command(CommandError::ConnectionLost)) => true,
        // What comes after the news is not sent at all.
        Err(Failure::Io(_) | Failure::NotSent) => true,
        _ => false,
    }
}

/// One request at a time: nothing is read while a reply is written.
fn serve_in_turn(client: &mut UnixStream) -> io::Result<()> {
    loop {
        let request = Request::read(client)?;
        let payload = if request.kind == WRITE { request.length } else { 0 };
        io::copy(&mut Read::take(&mut *client, payload), &mut io::sink())?;
        let data = if request.kind == READ { request.length } else { 0 };
        client.write_all(&simple(0, request.cookie, &vec![DATA; data as usize]))?;
    }
}

/// Each write is refused before its payload is there.
fn refuse_too_soon(client: &mut UnixStream) -> io::Result<()> {
    loop {
        let request = Request::read(client)?;
        let error = if request.kind == WRITE { 28 } else { 0 };
        client.write_all(&simple(error, request.cookie, &[]))?;
        let payload = if request.kind == WRITE { request.length } else { 0 };
        io::copy(&mut Read::take(&mut *client, payload), &mut io::sink())?;
    }
}

fn refuse_and_close(client: &mut UnixStream) -> io::Result<()> {
    let request = Request::read(client)?;
    client.write_all(&simple(28, request.cookie, &[]))
}

/// The system resets a connection that is closed with bytes still unread.
fn reset(client: &mut UnixStream) -> io::Result<()> {
    Request::read(client).map(drop)
}

fn half_close(client: &mut UnixStream) -> io::Result<()> {
    Request::read(client)?;
    client.shutdown(Shutdown::Write)?;
    io::copy(client, &mut io::sink()).map(drop)
}

const READ: u16 = 0;
const WRITE: u16 = 1;

/// What matters of a request.
pub(super) struct Request {
    kind: u16,
    pub(super) cookie: u64,
    length: u64,
}

impl Request {
    pub(super) fn read(client: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; 28];
        client.read_exact(&mut header)?;
        let [.., a, b, c, d] = header;
        let cookie = header[8..].first_chunk().expect("28 bytes");
        Ok(Self {
            kind: u16::from_be_bytes([header[6], header[7]]),
            cookie: u64::from_be_bytes(*cookie),
            length: u64::from(u32::from_be_bytes([a, b, c, d])),
        })
    }

    #[cfg(feature = "adapters")]
    pub(super) const fn is_read(&self) -> bool {
        self.kind == READ
    }
}
