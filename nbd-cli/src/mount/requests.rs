//! Requests on their way to the server: many at a time, each answered when it is done.

use std::io;
use std::ops::Range;
use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fuser::{Errno, ReplyData, ReplyEmpty, ReplyWrite};
use mio::{Events, Poll, Registry, Waker};
use nbd_client_mio::Error;
use nbd_client_mio::proto::{Command, CommandType, Extent};
use nbd_client_mio::session::{BufferPool, Event, PooledBuffer};

use super::blocks::Sharing;
use crate::connections::{Connections, Done, Servers, wait};
use crate::failure::in_words;
use crate::output;

/// Requests under way at a time; others wait.
pub(super) const IN_FLIGHT: u32 = 256;

/// After a request the next one is likely: so long nobody waits for the server where nothing is
/// under way.
const NAP: Duration = Duration::from_millis(100);

/// What the server is asked for, with the data of a write, and who is to be answered.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) buffer: Option<PooledBuffer>,
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
    pub(super) buffer: Option<PooledBuffer>,
    pub(super) extents: Vec<Extent>,
    pub(super) result: Result<(), Error>,
}

/// The connections to the server, for all threads that have requests and the one that waits for
/// the server while they have none.
///
/// Whoever has a request sends it at once, in its own thread, and takes what has come meanwhile.
/// Where nobody waits for the server it does so itself, until nothing is under way any more: then
/// no thread has to be woken for a request or a reply.
///
/// ```text
///   a request ──► sent ──► somebody waits already ──► back to the kernel for the next one
///                   └────► nobody does: waits, takes in replies, answers them, until all is done
/// ```
#[derive(Debug)]
pub(super) struct Requests {
    core: Mutex<Core>,
    /// Told when fewer requests are under way than may be.
    room: Condvar,
    /// Tells the thread that serves that it is needed.
    needed: Condvar,
    waker: Waker,
    memory: BufferPool,
    /// What they are called, for what is said of them.
    servers: Servers,
}

#[derive(Debug)]
struct Core {
    /// None when all is over.
    connections: Option<Connections<Answer>>,
    registry: Registry,
    /// With whom it is who waits for the server; here when nobody does.
    watch: Option<Watch>,
    /// When whoever waits for the server looks at the time again.
    awake_at: Option<Instant>,
    /// Threads that wait for room.
    queueing: usize,
    /// Something was done since the thread that serves has looked.
    busy: bool,
    /// That thread sleeps until another has ceased to wait for the server.
    asleep: bool,
    /// Waiting for the server has failed.
    failure: Option<io::Error>,
    /// There will be no more requests.
    over: bool,
    /// What was said of servers since one was connected to.
    told: Vec<String>,
}

/// What it takes to wait for the server.
#[derive(Debug)]
struct Watch {
    poll: Poll,
    events: Events,
}

impl Requests {
    pub(super) fn new(
        connections: Connections<Answer>,
        poll: Poll,
        waker: Waker,
        memory: BufferPool,
        servers: Servers,
    ) -> io::Result<Self> {
        let core = Core {
            connections: Some(connections),
            registry: poll.registry().try_clone()?,
            watch: Some(Watch { poll, events: Events::with_capacity(64) }),
            awake_at: None,
            queueing: 0,
            busy: false,
            asleep: false,
            failure: None,
            over: false,
            told: Vec::new(),
        };
        let (core, room, needed) = (Mutex::new(core), Condvar::new(), Condvar::new());
        Ok(Self { core, room, needed, waker, memory, servers })
    }

    /// Carries out a job, as soon as there is room for it. When all is over nobody does, and the
    /// kernel is told so when the job is dropped.
    pub(super) fn send(&self, job: Job) {
        let mut core = self.lock();
        while core.in_flight() >= IN_FLIGHT as usize {
            core.queueing += 1;
            core = self.room.wait(core).unwrap_or_else(PoisonError::into_inner);
            core.queueing -= 1;
        }
        let Some(connections) = &mut core.connections else { return };
        let Job { command, buffer, answer } = job;
        // Whoever waits for its own job has others to do.
        let may_wait = !matches!(answer, Answer::Thread(_));
        let buffer = match command.kind {
            CommandType::Read => Some(self.memory.buffer(command.length as usize)),
            _ => buffer,
        };
        connections.submit(Some(answer), command, buffer);
        let mut core = self.drive(core);
        core.busy = true;
        match core.watch.take() {
            Some(watch) if core.in_flight() > 0 && may_wait => self.attend(core, watch),
            Some(watch) => {
                core.watch = Some(watch);
                if core.in_flight() > 0 {
                    self.needed.notify_one();
                }
            }
            None => {
                let deadline = core.connections.as_ref().and_then(Connections::next_deadline);
                if deadline.is_some_and(|at| core.awake_at.is_none_or(|awake| at < awake)) {
                    // A poll that cannot be woken has failed, and all is over.
                    let _ = self.waker.wake();
                }
            }
        }
    }

    /// Waits for the server as long as anything is under way.
    fn attend<'a>(&'a self, mut core: MutexGuard<'a, Core>, mut watch: Watch) {
        while core.in_flight() > 0 {
            core = match self.wait(core, &mut watch) {
                Ok(core) => self.drive(core),
                Err(error) => {
                    core = self.lock();
                    core.failure = Some(error);
                    self.needed.notify_one();
                    break;
                }
            };
        }
        core.watch = Some(watch);
        if std::mem::take(&mut core.asleep) {
            self.needed.notify_one();
        }
    }

    /// As [`Servers::compare`], with the first connection. To be called before there are jobs.
    pub(super) fn compare(&self, limit: Option<Duration>) -> crate::failure::Result<()> {
        let core = self.lock();
        let first = core.connections.as_ref().and_then(|connections| connections.iter().next());
        first.map_or(Ok(()), |first| self.servers.compare(first.session(), limit))
    }

    /// Says that there will be no more jobs.
    pub(super) fn end(&self) -> io::Result<()> {
        self.lock().over = true;
        self.needed.notify_one();
        self.waker.wake()
    }

    /// Waits for the server while nobody else does, and answers, until there are no more jobs;
    /// and takes leave of it.
    ///
    /// # Errors
    /// When it is not certain that everything which was acknowledged is safe.
    pub(super) fn run(&self) -> Result<(), Error> {
        let served = self.serve();
        let mut core = self.lock();
        let (connections, watch) = (core.connections.take(), core.watch.take());
        drop(core);
        self.room.notify_all();
        let (Some(mut connections), Some(mut watch)) = (connections, watch) else { return served };
        let Watch { poll, events } = &mut watch;
        served.and_then(|()| connections.leave(poll, events))
    }

    fn serve(&self) -> Result<(), Error> {
        let mut core = self.lock();
        loop {
            core = self.drive(core);
            if let Some(failure) = core.failure.take() {
                return Err(failure.into());
            }
            let idle = core.in_flight() == 0;
            if core.connections.is_none() || core.over && idle && core.watch.is_some() {
                return Ok(());
            }
            let busy = std::mem::take(&mut core.busy);
            match core.watch.take() {
                Some(mut watch) if !idle || !busy => {
                    core = self.wait(core, &mut watch)?;
                    core.watch = Some(watch);
                }
                // The next request will have somebody to wait for its reply.
                Some(watch) => {
                    core.watch = Some(watch);
                    let napped = self.needed.wait_timeout(core, NAP);
                    core = napped.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    core.asleep = true;
                    core = self.needed.wait(core).unwrap_or_else(PoisonError::into_inner);
                    core.asleep = false;
                }
            }
        }
    }

    /// Waits for the server, once.
    fn wait<'a>(
        &'a self,
        mut core: MutexGuard<'a, Core>,
        watch: &mut Watch,
    ) -> io::Result<MutexGuard<'a, Core>> {
        // Where nothing is due any more the old time will do: the next request, which makes
        // something due, has nobody to wake then.
        let (now, due) =
            (Instant::now(), core.connections.as_ref().and_then(Connections::next_deadline));
        core.awake_at = due.or_else(|| core.awake_at.filter(|at| *at > now));
        let left = core.awake_at.map(|at| at.saturating_duration_since(now));
        drop(core);
        wait(&mut watch.poll, &mut watch.events, left)?;
        let mut core = self.lock();
        if let Some(connections) = &mut core.connections {
            // That of the waker is nobody's there.
            watch.events.iter().for_each(|event| connections.handle_event(event));
            connections.handle_timeout(Instant::now());
        }
        Ok(core)
    }

    /// Moves what can be moved and answers what is done, until nothing is left to do at once.
    fn drive<'a>(&'a self, mut core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        let mut all_done = Vec::new();
        loop {
            let Core { connections: Some(connections), registry, told, .. } = &mut *core else {
                return core;
            };
            // When the server is lost for good every job is answered so.
            connections.drive(registry);
            self.tell(connections, told);
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
            let is_crowded = core.queueing > 0;
            drop(core);
            if is_crowded {
                self.room.notify_all();
            }
            all_done.drain(..).for_each(answer);
            core = self.lock();
            if !again {
                return core;
            }
        }
    }

    /// Says what happens to the servers. While none can be connected to, each cause is told once.
    fn tell(&self, connections: &mut Connections<Answer>, told: &mut Vec<String>) {
        while let Some((event, server)) = connections.next_event() {
            let name = self.servers.name_at(server.as_ref()).unwrap_or_else(|| self.servers.name());
            let line = match event {
                Event::Lost { cause } | Event::GaveUp { cause } => {
                    format!("{name}: {}", in_words(&cause))
                }
                Event::Failed { cause, .. } => {
                    let line = format!("{name}: {}", in_words(&cause));
                    if told.contains(&line) {
                        continue;
                    }
                    told.push(line.clone());
                    line
                }
                Event::Reconnected { .. } => {
                    told.clear();
                    format!("{name}: connected again")
                }
                _ => continue,
            };
            output::mention(&format!("nbd: {line}\n"));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells whoever waits for it; then its memory is free for others.
fn answer(done: Done<Answer>) {
    let Done { owner, buffer, extents, result, .. } = done;
    match (owner, result) {
        (None, _) => {}
        (Some(Answer::Thread(thread)), result) => {
            let extents = extents.into_iter().map(|(_, extent)| extent).collect();
            // It waits for nothing else.
            let _ = thread.send(Outcome { buffer, extents, result });
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
}

impl Core {
    fn in_flight(&self) -> usize {
        self.connections.as_ref().map_or(0, Connections::in_flight)
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
