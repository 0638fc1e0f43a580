//! An adapter that waits for nothing: the shortest there is, and a guide to longer ones.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::time::{Duration, Instant};

use crate::memory_server::{MemoryServer, MemoryStream};
use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{
    Buffers, Command, Direction, PayloadSink, PayloadSource, RequestId, part, part_mut,
};
use nbd_session::{
    Completion, Connect, ConnectOptions, Error, Limit, Session, Step, Target, Withdrawn,
};

/// What connects, stream by stream.
pub type Dialler = Box<dyn FnMut(&Connect) -> Option<Result<MemoryStream, Error>>>;

/// A session and everything around it.
pub struct Rig {
    /// The session.
    pub session: Session,
    /// So late it is.
    pub now: Instant,
    /// When it began.
    pub start: Instant,
    /// What is read into and written from.
    pub buffers: Buffers<Vec<u8>>,
    /// The stream there is, and the connection's generation.
    pub stream: Option<(u64, Limited)>,
    dial: Dialler,
    /// Steps, in words.
    pub steps: Vec<String>,
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rig").field("session", &self.session).finish_non_exhaustive()
    }
}

/// A stream that takes so many bytes, and brings none while it is dead.
#[derive(Debug)]
pub struct Limited {
    /// The server.
    pub stream: MemoryStream,
    /// How many bytes it takes.
    pub room: usize,
    /// How many bytes it brings.
    pub brings: usize,
}

impl Read for Limited {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_vectored(&mut [IoSliceMut::new(buf)])
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if self.brings == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = match bufs.iter_mut().find(|buf| !buf.is_empty()) {
            _ if self.brings == usize::MAX => return self.stream.read_vectored(bufs),
            Some(first) => {
                let most = first.len().min(self.brings);
                self.stream.read(&mut first[..most])?
            }
            None => 0,
        };
        self.brings -= n;
        Ok(n)
    }
}

impl Write for Limited {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut sent = 0;
        for buf in bufs {
            let n = buf.len().min(self.room);
            self.room -= n;
            sent += self.stream.write(&buf[..n])?;
        }
        if sent == 0 && !bufs.iter().all(|buf| buf.is_empty()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Rig {
    /// With a server of 1 MiB for each connection.
    pub fn new(options: ConnectOptions) -> Self {
        Self::dialling(options, Box::new(|_| Some(Ok(server(1 << 20)))))
    }

    /// With connections that somebody makes.
    pub fn dialling(options: ConnectOptions, dial: Dialler) -> Self {
        let start = Instant::now();
        let session = Session::new(options, 7, start).expect("sound options");
        let buffers = Buffers::new();
        Self { session, now: start, start, buffers, stream: None, dial, steps: Vec::new() }
    }

    /// One that is ready.
    pub fn ready(options: ConnectOptions) -> Self {
        let mut rig = Self::new(options);
        rig.turn();
        assert!(rig.session.is_ready(), "{:?}", rig.session);
        rig
    }

    /// Works on the server of the stream there is.
    pub fn server<T>(&self, work: impl FnOnce(&mut MemoryServer) -> T) -> T {
        self.stream.as_ref().expect("it is connected").1.stream.with(work)
    }

    /// The stream there is.
    pub fn limited(&mut self) -> &mut Limited {
        &mut self.stream.as_mut().expect("it is connected").1
    }

    /// As much as goes without waiting.
    pub fn turn(&mut self) {
        let now = self.now;
        if self.session.next_deadline().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
        }
        loop {
            self.do_steps();
            let mut busy = false;
            let generation = self.session.generation();
            if let Some((of, stream)) = &mut self.stream
                && *of == generation
            {
                while self.session.direction().contains(Direction::WRITE)
                    && self.session.write(stream, &mut self.buffers, now) == Progress::More
                {
                }
                if self.session.direction().contains(Direction::READ) {
                    let before = self.session.stats().wire.bytes_received;
                    let progress = self.session.read(stream, &mut self.buffers, now);
                    busy = progress == Progress::More
                        || self.session.stats().wire.bytes_received > before;
                }
            }
            if !busy && !self.session.needs_drive() {
                break;
            }
        }
        while let Some(id) = self.session.next_released() {
            assert!(self.buffers.remove(id).is_some(), "{id:?} is released once");
        }
    }

    fn do_steps(&mut self) {
        while let Some(step) = self.session.next_step() {
            match step {
                Step::Connect(connect) => {
                    self.steps.push(format!("connect {}", connect.generation));
                    match (self.dial)(&connect) {
                        None => {}
                        Some(Err(error)) => {
                            self.session.connected(connect.generation, Err(error), self.now);
                        }
                        Some(Ok(stream)) => {
                            let limited = Limited { stream, room: usize::MAX, brings: usize::MAX };
                            self.stream = Some((connect.generation, limited));
                            let outcome = Ok(IoMode::Vectored);
                            self.session.connected(connect.generation, outcome, self.now);
                        }
                    }
                }
                Step::Close { generation, .. } => {
                    self.steps.push(format!("close {generation}"));
                    if let Some((of, stream)) = self.stream.take_if(|(of, _)| *of <= generation) {
                        let _ = of;
                        stream.stream.with(MemoryServer::hang_up);
                    }
                }
                Step::Shutdown { generation } => self.steps.push(format!("shutdown {generation}")),
                other => panic!("not expected: {other:?}"),
            }
        }
    }

    /// So many seconds later, or as soon as something is due.
    pub fn sleep(&mut self, seconds: f64) {
        let until = self.now + Duration::from_secs_f64(seconds);
        loop {
            self.turn();
            match self.session.next_deadline().filter(|at| *at <= until) {
                Some(at) => self.now = self.now.max(at),
                None => break,
            }
        }
        self.now = until;
        self.turn();
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    /// Submits a command, with a buffer.
    pub fn submit(&mut self, command: Command) -> RequestId {
        self.try_submit(command, Limit::Default).expect("it can be submitted")
    }

    /// Submits a command, with a buffer, if the session takes it.
    pub fn try_submit(&mut self, command: Command, limit: Limit) -> Result<RequestId, Error> {
        let id = self.session.submit(command, limit, self.now)?;
        self.lend(id, command);
        Ok(id)
    }

    /// A buffer for it. What is written is the low byte of the offset.
    pub fn lend(&mut self, id: RequestId, command: Command) {
        let fill = (command.offset >> 9) as u8;
        self.buffers.insert(id, vec![fill; command.length as usize]);
    }

    /// Takes what is finished, in order.
    pub fn completions(&mut self) -> Vec<Completion> {
        std::iter::from_fn(|| {
            let done = self.session.next_completion()?;
            if !done.held {
                self.buffers.remove(done.id);
            }
            Some(done)
        })
        .collect()
    }

    /// Takes what is finished, and whether that went well.
    pub fn outcomes(&mut self) -> Vec<(RequestId, bool)> {
        self.completions().into_iter().map(|done| (done.id, done.result.is_ok())).collect()
    }

    /// Withdraws a command, and its buffer if that is free.
    pub fn withdraw(&mut self, id: RequestId) -> Withdrawn {
        let withdrawn = self.session.withdraw(id, self.now);
        if withdrawn == Withdrawn::Free {
            self.buffers.remove(id);
        }
        withdrawn
    }

    /// The data that a read brought, before its completion is taken.
    pub fn data(&self, id: RequestId) -> &[u8] {
        self.buffers.get(id).expect("it has a buffer")
    }
}

/// Options that leave connecting to the rig.
pub fn options() -> ConnectOptions {
    ConnectOptions::new().target(Target::Dialler)
}

/// A server of so many bytes.
pub fn server(size: usize) -> MemoryStream {
    MemoryStream::new(MemoryServer::new(vec![0xee; size]))
}

/// One slice of a caller's.
#[derive(Debug)]
pub struct Lent<'a> {
    /// The command.
    pub id: RequestId,
    /// To read into.
    pub read: &'a mut [u8],
    /// To write from.
    pub write: &'a [u8],
}

impl PayloadSink for Lent<'_> {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        if id == self.id { part_mut(self.read, at, len) } else { &mut [] }
    }
}

impl PayloadSource for Lent<'_> {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        if id == self.id { part(self.write, at, len) } else { &[] }
    }
}
