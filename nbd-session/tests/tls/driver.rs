//! A client over a real socket.

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{
    Client, ClientConfig, Command, Direction, Discard, Disconnect, Event, Machine, ReadInto,
    TlsPolicy,
};
use nbd_session::{Handshake, Link, LinkError};
use nbd_transport::SocketIo;
use nbd_transport::tls::{TlsConfig, TlsConnector, TlsInfo};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// Longer than anything here takes, so that a hang is a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// A client in its data phase.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) link: Link,
    pub(crate) socket: OwnedFd,
}

/// TLS is required.
pub(crate) fn require() -> ClientConfig {
    ClientConfig::new().tls(TlsPolicy::Require)
}

/// The connector of a sound configuration.
pub(crate) fn connector(config: TlsConfig) -> TlsConnector {
    config.connector().unwrap_or_else(|error| panic!("{error}"))
}

/// Negotiates over a connected socket.
pub(crate) fn negotiate(
    socket: impl Into<OwnedFd>,
    config: ClientConfig,
    connector: TlsConnector,
    host: Option<&str>,
) -> Result<Session, LinkError> {
    let socket = socket.into();
    let mut handshake = Handshake::with_tls(config, connector, host).expect("the names are sound");
    loop {
        let mut io = SocketIo::non_blocking(socket.as_fd());
        let direction = handshake.drive(&mut io, IoMode::Vectored)?;
        if direction.is_empty() {
            let (client, link) = handshake.finish().expect("the server has agreed");
            return Ok(Session { client, link, socket });
        }
        wait(&socket, direction);
    }
}

/// The error of a negotiation that must fail, in words.
pub(crate) fn refusal(
    socket: impl Into<OwnedFd>,
    connector: TlsConnector,
    host: Option<&str>,
) -> String {
    match negotiate(socket, require(), connector, host) {
        Ok(session) => panic!("accepted with {:?}", session.link.tls_info()),
        Err(error) => error.to_string(),
    }
}

pub(crate) fn wait(socket: &OwnedFd, direction: Direction) {
    let mut events = PollFlags::empty();
    events.set(PollFlags::IN, direction.contains(Direction::READ));
    events.set(PollFlags::OUT, direction.contains(Direction::WRITE));
    let limit = Timespec::try_from(LIMIT).expect("it is short");
    let ready = poll(&mut [PollFd::new(socket, events)], Some(&limit)).expect("poll works");
    assert_eq!(ready, 1, "nothing happened for {LIMIT:?}");
}

impl Session {
    pub(crate) fn info(&self) -> &TlsInfo {
        self.link.tls_info().expect("TLS is in use")
    }

    /// Reads from the export.
    pub(crate) fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, LinkError> {
        let id = self.client.submit(Command::read(offset, len)).expect("a read can be sent");
        let mut data = vec![0xEE; len as usize];
        while self.client.completed() == 0 {
            self.turn(&mut ReadInto { id, buffer: &mut data })?;
        }
        match self.client.poll_event() {
            Some(Event::Completed { result: Ok(()), .. }) => Ok(data),
            other => panic!("{other:?}"),
        }
    }

    /// Disconnects and waits for the server to do so too.
    pub(crate) fn disconnect(mut self) -> Result<(), LinkError> {
        self.client.disconnect(Disconnect::AfterReplies);
        while !self.client.is_closed() {
            self.turn(&mut Discard)?;
        }
        Ok(())
    }

    fn turn<S: nbd_proto::PayloadSink>(&mut self, sink: &mut S) -> Result<(), LinkError> {
        let Self { client, link, socket } = self;
        let mut io = SocketIo::non_blocking(socket.as_fd());
        while link.direction(client).contains(Direction::WRITE)
            && link.write(client, &mut io, &Discard, IoMode::Vectored)? == Progress::More
        {}
        let before = client.stats().bytes_received;
        if link.direction(client).contains(Direction::READ)
            && link.read(client, &mut io, sink, IoMode::Vectored)? == Progress::Blocked
            && client.stats().bytes_received == before
        {
            wait(socket, link.direction(client));
        }
        Ok(())
    }
}
