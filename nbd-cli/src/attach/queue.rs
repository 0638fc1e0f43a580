//! One socket at whose other end the kernel sends requests.
//!
//! The kernel begins with the first request: nobody negotiates with it.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nbd_client_mio::proto::io::{IoMode, Progress};
use nbd_client_mio::proto::{
    Buffers, Command, CommandType, Direction, Errno, ExportInfo, Limits, Machine, Negotiated,
    RequestId, Server, ServerConfig, ServerEvent, ServerNegotiation, TransmissionFlags,
};
use nbd_client_mio::transport::SocketIo;
use nbd_client_mio::{BufferPool, PooledBuffer};

use super::arrivals::Arrivals;

/// More than the kernel has under way in one queue.
pub(super) const IN_FLIGHT: u32 = 256;

/// The longest request that the kernel can be told to send, in bytes.
const LONGEST: u32 = 32 << 20;

/// No offset is beyond it: the kernel knows the size, which may grow.
const ENDLESS: u64 = i64::MAX as u64;

/// A socket, and what is known of the requests that came from it.
#[derive(Debug)]
pub(super) struct Queue {
    socket: UnixStream,
    server: Server,
    /// The payload of requests, by their names here.
    buffers: Buffers<PooledBuffer>,
    readable: bool,
    writable: bool,
    over: bool,
}

impl Queue {
    /// Answers on this socket for an export with such abilities.
    pub(super) fn new(socket: UnixStream, flags: TransmissionFlags) -> Option<Self> {
        let limits = Limits::default().max_in_flight(IN_FLIGHT).max_payload(LONGEST);
        let facts = Negotiated::new(ExportInfo::new(ENDLESS, flags));
        let agreed = ServerNegotiation::agreed(ServerConfig::new().limits(limits), facts);
        let server = agreed.finish().ok()?;
        let buffers = Buffers::new();
        Some(Self { socket, server, buffers, readable: true, writable: true, over: false })
    }

    pub(super) fn register(&self, registry: &Registry, token: Token) -> std::io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&self.socket.as_raw_fd()), token, interest)
    }

    /// Notes what the poller told: of each readiness once.
    pub(super) fn handle_event(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_error();
        // Nobody hears an answer any more: what is under way is not waited for.
        self.over |= event.is_write_closed();
    }

    /// Whether the kernel has left.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// Whether there may be something to do at once.
    pub(super) fn needs_drive(&self) -> bool {
        let direction = self.server.get_direction();
        !self.over
            && (self.readable && direction.contains(Direction::READ)
                || self.writable && direction.contains(Direction::WRITE))
    }

    /// Takes in what has come.
    pub(super) fn receive(&mut self, memory: &BufferPool) {
        if self.over || !self.readable {
            return;
        }
        let mut io = SocketIo::non_blocking(self.socket.as_fd());
        let mut arrivals = Arrivals { buffers: &mut self.buffers, memory };
        match self.server.notify_read(&mut io, &mut arrivals, IoMode::Vectored) {
            Ok(Progress::More) => {}
            // Where it takes no more for now, nobody tells a second time that there is some.
            Ok(Progress::Blocked) => {
                self.readable = !self.server.get_direction().contains(Direction::READ);
            }
            Ok(Progress::Closed) => self.readable = false,
            Err(_) => self.over = true,
        }
    }

    /// The next request, with the payload of a write or room for that of a read.
    pub(super) fn next_request(
        &mut self,
        memory: &BufferPool,
    ) -> Option<(RequestId, Command, Option<PooledBuffer>)> {
        loop {
            match self.server.poll_event()? {
                ServerEvent::Request { id, command } => {
                    let buffer = match command.kind {
                        CommandType::Read => Some(memory.buffer(command.length as usize)),
                        CommandType::Write => self.buffers.remove(id),
                        CommandType::Flush
                        | CommandType::Trim
                        | CommandType::WriteZeroes
                        | CommandType::Cache
                        | CommandType::BlockStatus => None,
                    };
                    return Some((id, command, buffer));
                }
                ServerEvent::Replied { id } => {
                    self.buffers.remove(id);
                    self.readable |= self.server.has_buffered();
                }
                ServerEvent::Disconnected { .. } => self.over = true,
            }
        }
    }

    /// Answers a request.
    pub(super) fn answer(
        &mut self,
        id: RequestId,
        command: &Command,
        buffer: Option<PooledBuffer>,
        result: Result<(), Errno>,
    ) {
        // One that the kernel does not wait for any more is no loss.
        let _ = match (result, buffer) {
            (Ok(()), Some(buffer)) if command.kind == CommandType::Read => {
                self.buffers.insert(id, buffer);
                self.server.reply_data(id)
            }
            (result, _) => self.server.reply(id, result),
        };
    }

    /// Sends what is due.
    pub(super) fn send(&mut self) {
        if self.over || !self.writable {
            return;
        }
        let mut io = SocketIo::non_blocking(self.socket.as_fd());
        match self.server.notify_write(&mut io, &self.buffers, IoMode::Vectored) {
            Ok(Progress::Blocked) => {
                self.writable = !self.server.get_direction().contains(Direction::WRITE);
            }
            Ok(Progress::More) => {}
            Ok(Progress::Closed) | Err(_) => self.over = true,
        }
    }
}
