//! A sound server without a socket: bytes in, bytes out, over a disk in memory.
//!
//! ```text
//!   client ── write ─► MemoryStream ── take ─► MemoryServer ── disk
//!          ◄─ read ──               ◄─ unsent ─     │
//!                                                withheld: read, not answered yet
//! ```

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use nbd_proto::{
    ApiMisuse, Buffers, Command, CommandType, Discard, Errno, Error, ExportInfo, Extent, Machine,
    Question, RequestId, Server, ServerConfig, ServerEvent, ServerNegotiation, ServerPhase,
    TransmissionFlags,
};

use crate::arrivals::Arrivals;

/// The server.
#[derive(Debug)]
pub struct MemoryServer {
    life: Life,
    disk: Vec<u8>,
    /// Payload of requests in work, both ways.
    buffers: Buffers<Vec<u8>>,
    unsent: Vec<u8>,
    withholds: fn(CommandType) -> bool,
    withheld: Vec<(RequestId, Command)>,
    requests: Vec<Command>,
    /// How every change of the disk fails.
    fault: Option<Errno>,
}

#[derive(Debug)]
enum Life {
    Negotiating(Box<ServerNegotiation>),
    Serving(Box<Server>),
    Over,
}

impl MemoryServer {
    /// Serves a disk that can be written, under any name.
    #[must_use]
    pub fn new(disk: Vec<u8>) -> Self {
        let negotiation = ServerNegotiation::new(ServerConfig::new());
        let mut this = Self {
            life: Life::Negotiating(Box::new(negotiation)),
            disk,
            buffers: Buffers::new(),
            unsent: Vec::new(),
            withholds: |_| false,
            withheld: Vec::new(),
            requests: Vec::new(),
            fault: None,
        };
        // The server speaks first.
        this.take(&[]);
        this
    }

    /// What is on the disk.
    #[must_use]
    pub fn disk(&self) -> &[u8] {
        &self.disk
    }

    /// Every request of the data phase, in the order in which they came.
    #[must_use]
    pub fn requests(&self) -> &[Command] {
        &self.requests
    }

    /// How many requests were read and not answered.
    #[must_use]
    pub fn withheld(&self) -> usize {
        self.withheld.len()
    }

    /// From now on nothing can be changed on the disk.
    pub fn fail_changes(&mut self, errno: Errno) {
        self.fault = Some(errno);
    }

    /// From now on requests are read and not answered.
    pub fn withhold(&mut self) {
        self.withholds = |_| true;
    }

    /// From now on flushes are read and not answered; all else is.
    pub fn withhold_flushes(&mut self) {
        self.withholds = |kind| kind == CommandType::Flush;
    }

    /// Answers the first `count` of what was withheld; goes on withholding.
    pub fn answer(&mut self, count: usize) {
        let rest = self.withheld.split_off(count.min(self.withheld.len()));
        let due = mem::replace(&mut self.withheld, rest);
        self.with_server(|this, server| {
            due.into_iter().try_for_each(|(id, command)| this.carry_out(server, id, command))
        });
        self.take(&[]);
    }

    /// Answers everything, now and from now on.
    pub fn release(&mut self) {
        self.withholds = |_| false;
        self.answer(usize::MAX);
    }

    /// Whether the negotiation is over, and requests are taken.
    #[must_use]
    pub const fn is_serving(&self) -> bool {
        matches!(self.life, Life::Serving(_))
    }

    /// Whether the session has ended: once everything is sent, the stream ends.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.life, Life::Over)
    }

    /// What is to be sent; whoever sends some removes it.
    pub fn unsent(&mut self) -> &mut Vec<u8> {
        &mut self.unsent
    }

    /// The client sends no more, or the stream is broken.
    pub fn hang_up(&mut self) {
        self.life = Life::Over;
    }

    /// Takes bytes of the client's. A client that breaks a rule ends the session.
    pub fn take(&mut self, mut bytes: &[u8]) {
        loop {
            let taken = match mem::replace(&mut self.life, Life::Over) {
                Life::Negotiating(negotiation) => self.negotiate(negotiation, bytes),
                Life::Serving(server) => self.serve(server, bytes),
                Life::Over => return,
            };
            match taken {
                Ok(Some(n)) => bytes = &bytes[n..],
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Returns how much was taken, or `None` when nothing more can be done for now.
    fn negotiate(
        &mut self,
        mut negotiation: Box<ServerNegotiation>,
        bytes: &[u8],
    ) -> Result<Option<usize>, Error> {
        let taken = negotiation.feed(bytes, &mut Discard)?;
        let asked = negotiation.question().cloned();
        match &asked {
            Some(Question::Info(_) | Question::Go(_) | Question::ExportName(_)) => {
                negotiation.describe(self.export())?;
            }
            Some(Question::ListMetaContext(_) | Question::SetMetaContext(_)) => {
                match negotiation.send_context("base:allocation") {
                    // It is not what was asked for.
                    Ok(_) | Err(ApiMisuse::BadContext) => negotiation.acknowledge()?,
                    Err(error) => return Err(error.into()),
                }
            }
            Some(Question::List) => negotiation.acknowledge()?,
            None => {}
        }
        negotiation.drain(&mut self.unsent, &Discard)?;
        let closed = negotiation.phase() == ServerPhase::Closed;
        match negotiation.finish() {
            Ok(server) => {
                self.life = Life::Serving(Box::new(server));
                return Ok(Some(taken));
            }
            Err(_) if closed => return Ok(None),
            Err(negotiation) => self.life = Life::Negotiating(negotiation),
        }
        Ok((taken > 0 || asked.is_some()).then_some(taken))
    }

    fn export(&self) -> ExportInfo {
        let flags = TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_TRIM
            | TransmissionFlags::SEND_WRITE_ZEROES
            | TransmissionFlags::SEND_CACHE
            | TransmissionFlags::CAN_MULTI_CONN;
        ExportInfo::new(self.disk.len() as u64, flags)
    }

    fn serve(&mut self, mut server: Box<Server>, bytes: &[u8]) -> Result<Option<usize>, Error> {
        let taken = server.feed(bytes, &mut Arrivals(&mut self.buffers))?;
        let mut busy = taken > 0;
        while let Some(event) = server.poll_event() {
            busy = true;
            match event {
                ServerEvent::Request { id, command } => {
                    self.requests.push(command);
                    if (self.withholds)(command.kind) {
                        self.withheld.push((id, command));
                    } else {
                        self.carry_out(&mut server, id, command)?;
                    }
                }
                ServerEvent::Replied { id } => drop(self.buffers.remove(id)),
                ServerEvent::Disconnected { .. } => {
                    server.drain(&mut self.unsent, &self.buffers)?;
                    return Ok(None);
                }
            }
        }
        busy |= server.drain(&mut self.unsent, &self.buffers)? > 0;
        self.life = Life::Serving(server);
        Ok(busy.then_some(taken))
    }

    fn with_server(&mut self, work: impl FnOnce(&mut Self, &mut Server) -> Result<(), Error>) {
        if let Life::Serving(mut server) = mem::replace(&mut self.life, Life::Over)
            && work(self, &mut server).is_ok()
        {
            self.life = Life::Serving(server);
        }
    }

    /// The machine has made sure that the request is sound.
    fn carry_out(
        &mut self,
        server: &mut Server,
        id: RequestId,
        command: Command,
    ) -> Result<(), Error> {
        if let Some(errno) = self.fault.filter(|_| command.kind.modifies()) {
            self.buffers.remove(id);
            return Ok(server.reply(id, Err(errno))?);
        }
        let start = command.offset as usize;
        let range = start..start + command.length as usize;
        match command.kind {
            CommandType::Read => {
                self.buffers.insert(id, self.disk[range].to_vec());
                return Ok(server.reply_data(id)?);
            }
            CommandType::Write => {
                let data = self.buffers.remove(id).unwrap_or_default();
                self.disk[range].copy_from_slice(&data);
            }
            CommandType::WriteZeroes | CommandType::Trim => self.disk[range].fill(0),
            CommandType::BlockStatus => {
                let extent = Extent { length: command.length, status: 0 };
                for context in server.contexts(id) {
                    server.send_extents(id, context, &[extent], false)?;
                }
                return Ok(server.end_reply(id)?);
            }
            CommandType::Flush | CommandType::Cache => {}
        }
        Ok(server.reply(id, Ok(()))?)
    }
}

/// A stream to such a server. It takes everything at once, and would block when there is
/// nothing to read. Clones lead to the same server, to look at it.
#[derive(Clone, Debug)]
pub struct MemoryStream {
    far: Arc<Mutex<Far>>,
}

#[derive(Debug)]
struct Far {
    server: MemoryServer,
    reader: Option<Waker>,
}

impl MemoryStream {
    /// A stream to a server.
    #[must_use]
    pub fn new(server: MemoryServer) -> Self {
        Self { far: Arc::new(Mutex::new(Far { server, reader: None })) }
    }

    /// Does something with the server; whoever waits to read is woken if that concerns him.
    pub fn with<T>(&self, work: impl FnOnce(&mut MemoryServer) -> T) -> T {
        let mut far = self.lock();
        let result = work(&mut far.server);
        let due = !far.server.unsent.is_empty() || far.server.is_over();
        let waker = far.reader.take_if(|_| due);
        drop(far);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    /// Wakes this one once there is something to read.
    pub fn wake_reader(&self, waker: &Waker) {
        self.lock().reader = Some(waker.clone());
    }

    fn lock(&self) -> MutexGuard<'_, Far> {
        self.far.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for MemoryStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let server = &mut self.lock().server;
        if server.unsent.is_empty() && !server.is_over() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut rest = &server.unsent[..];
        let n = bufs.iter_mut().try_fold(0, |sum, buf| rest.read(buf).map(|n| sum + n))?;
        server.unsent.drain(..n);
        Ok(n)
    }
}

impl Write for MemoryStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.with(|server| server.take(buf));
        Ok(buf.len())
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        bufs.iter().try_fold(0, |sum, buf| self.write(buf).map(|n| sum + n))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
