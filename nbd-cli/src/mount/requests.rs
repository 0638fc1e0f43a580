//! Requests on their way to the server: many at a time, each answered when it is done.

use std::io;
use std::ops::Range;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fuser::{Errno, ReplyData, ReplyEmpty, ReplyWrite};
use mio::{Events, Poll, Registry, Waker};
use nbd_client_mio::Error;
use nbd_client_mio::proto::{Command, CommandType, Extent};
use nbd_client_mio::session::Event;

use super::blocks::Sharing;
use crate::connections::{Buffer, Connections, Done, Spare, wait};
use crate::failure::in_words;
use crate::output;

/// Requests under way at a time; others wait.
pub(super) const IN_FLIGHT: u32 = 256;

/// What the server is asked for, with the data of a write, and who is to be answered.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) buffer: Option<Buffer>,
    pub(super) answer: Answer,
}

/// Who is to be answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// The kernel, with this part of what is read.
    Read { reply: ReplyData, part: Range<usize> },
    /// The kernel, with how many bytes were written.
    Written { reply: ReplyWrite, count: u32, sharing: Option<Sharing> },
    /// The kernel.
    Done(ReplyEmpty),
    /// A thread that waits.
    Thread(SyncSender<Outcome>),
}

/// What a thread is told.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) buffer: Option<Buffer>,
    pub(super) extents: Vec<Extent>,
    pub(super) result: Result<(), Error>,
}

/// Buffers that nobody uses, for all threads.
#[derive(Clone, Debug)]
pub(super) struct Buffers(Arc<Mutex<Spare>>);

impl Buffers {
    /// Where so many bytes of what is written are kept.
    pub(super) fn new(kept: usize) -> Self {
        Self(Arc::new(Mutex::new(Spare::new(kept))))
    }

    pub(super) fn take(&self, length: usize) -> Buffer {
        self.lock().take(length)
    }

    pub(super) fn give_back(&self, buffer: Option<Buffer>) {
        if let Some(buffer) = buffer {
            self.lock().give_back(buffer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Spare> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections to the server, for all threads that have requests and the one that waits for
/// the server.
///
/// Whoever has a request sends it at once, in its own thread, and takes what has come meanwhile;
/// so nobody has to be woken for a request, and only one thread for a reply.
#[derive(Debug)]
pub(super) struct Requests {
    core: Mutex<Core>,
    /// Told when fewer requests are under way than may be.
    room: Condvar,
    waker: Waker,
    buffers: Buffers,
    /// What the server is called, for what is said of it.
    server: String,
}

#[derive(Debug)]
struct Core {
    /// None when all is over.
    connections: Option<Connections<Answer>>,
    registry: Registry,
    /// When the thread that waits for the server looks at the time again.
    awake_at: Option<Instant>,
    /// There will be no more requests.
    over: bool,
}

impl Requests {
    pub(super) fn new(
        connections: Connections<Answer>,
        poll: &Poll,
        waker: Waker,
        buffers: Buffers,
        server: String,
    ) -> io::Result<Self> {
        let registry = poll.registry().try_clone()?;
        let connections = Some(connections);
        let core = Mutex::new(Core { connections, registry, awake_at: None, over: false });
        Ok(Self { core, room: Condvar::new(), waker, buffers, server })
    }

    /// Carries out a job, as soon as there is room for it. When all is over nobody does, and the
    /// kernel is told so when the job is dropped.
    pub(super) fn send(&self, job: Job) {
        let is_full = |core: &mut Core| {
            let connections = core.connections.as_ref();
            connections.is_some_and(|all| all.in_flight() >= IN_FLIGHT as usize)
        };
        let waited = self.room.wait_while(self.lock(), is_full);
        let mut core = waited.unwrap_or_else(PoisonError::into_inner);
        let Some(connections) = &mut core.connections else { return };
        let Job { command, buffer, answer } = job;
        let mut spare = self.buffers.lock();
        let buffer = match command.kind {
            CommandType::Read => Some(spare.take(command.length as usize)),
            _ => buffer,
        };
        connections.submit(Some(answer), command, buffer, &mut spare);
        drop(spare);
        let core = self.drive(core);
        let deadline = core.connections.as_ref().and_then(Connections::next_deadline);
        if deadline.is_some_and(|at| core.awake_at.is_none_or(|awake| at < awake)) {
            // A poll that cannot be woken has failed, and all is over.
            let _ = self.waker.wake();
        }
    }

    /// Says that there will be no more jobs.
    pub(super) fn end(&self) -> io::Result<()> {
        self.lock().over = true;
        self.waker.wake()
    }

    /// Waits for the server and answers, until there are no more jobs, and takes leave of it.
    ///
    /// # Errors
    /// When it is not certain that everything which was acknowledged is safe.
    pub(super) fn run(&self, mut poll: Poll) -> Result<(), Error> {
        let mut events = Events::with_capacity(64);
        let served = self.serve(&mut poll, &mut events);
        let left = self.lock().connections.take();
        self.room.notify_all();
        let Some(mut connections) = left else { return served };
        served.and_then(|()| connections.leave(&mut self.buffers.lock(), &mut poll, &mut events))
    }

    fn serve(&self, poll: &mut Poll, events: &mut Events) -> Result<(), Error> {
        loop {
            let mut core = self.drive(self.lock());
            let Some(connections) = &core.connections else { return Ok(()) };
            if core.over && connections.in_flight() == 0 {
                return Ok(());
            }
            // Where nothing is due any more the old time will do: the next request, which makes
            // something due, has nobody to wake then.
            let (now, due) = (Instant::now(), connections.next_deadline());
            core.awake_at = due.or_else(|| core.awake_at.filter(|at| *at > now));
            let left = core.awake_at.map(|at| at.saturating_duration_since(now));
            drop(core);
            wait(poll, events, left)?;
            let mut core = self.lock();
            if let Some(connections) = &mut core.connections {
                // That of the waker is nobody's there.
                events.iter().for_each(|event| connections.handle_event(event));
                connections.handle_timeout(Instant::now());
            }
        }
    }

    /// Moves what can be moved and answers what is done, until nothing is left to do at once.
    fn drive<'a>(&'a self, mut core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        let mut all_done = Vec::new();
        loop {
            let Core { connections: Some(connections), registry, .. } = &mut *core else {
                return core;
            };
            // When the server is lost for good every job is answered so.
            connections.drive(registry);
            self.tell(connections);
            while let Some(done) = connections.next_done() {
                all_done.push(done);
            }
            let again = connections.needs_drive();
            if all_done.is_empty() {
                if again {
                    continue;
                }
                return core;
            }
            // Others may go on while these are answered.
            drop(core);
            self.room.notify_all();
            all_done.drain(..).for_each(|done| self.answer(done));
            core = self.lock();
        }
    }

    fn answer(&self, done: Done<Answer>) {
        let Done { owner, buffer, extents, result, .. } = done;
        match (owner, result) {
            (None, _) => {}
            (Some(Answer::Thread(thread)), result) => {
                let extents = extents.into_iter().map(|(_, extent)| extent).collect();
                // It waits for nothing else.
                let _ = thread.send(Outcome { buffer, extents, result });
                return;
            }
            (Some(Answer::Read { reply, part }), Ok(())) => {
                let bytes = buffer.as_ref().and_then(|buffer| buffer.as_ref().get(part));
                reply.data(bytes.unwrap_or_default());
            }
            (Some(Answer::Written { reply, count, sharing }), Ok(())) => {
                drop(sharing);
                reply.written(count);
            }
            (Some(Answer::Done(reply)), Ok(())) => reply.ok(),
            (Some(answer), Err(error)) => answer.fail(errno(&error)),
        }
        self.buffers.give_back(buffer);
    }

    /// Says what happens to the server.
    fn tell(&self, connections: &mut Connections<Answer>) {
        while let Some(event) = connections.next_event() {
            let told = match event {
                Event::Lost { cause } | Event::GaveUp { cause } => in_words(&cause),
                Event::Reconnected { .. } => "connected again".to_owned(),
                _ => continue,
            };
            output::mention(&format!("nbd: {}: {told}\n", self.server));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    fn fail(self, errno: Errno) {
        match self {
            Self::Read { reply, .. } => reply.error(errno),
            Self::Written { reply, sharing, .. } => {
                drop(sharing);
                reply.error(errno);
            }
            Self::Done(reply) => reply.error(errno),
            // It is told in its own way.
            Self::Thread(_) => {}
        }
    }
}

/// The system's number for an error.
pub(super) fn errno(error: &Error) -> Errno {
    Errno::from_i32(error.errno())
}
