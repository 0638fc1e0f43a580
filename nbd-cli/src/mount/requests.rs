//! The thread that carries out requests: many at a time, each answered when it is done.

use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fuser::{Errno, ReplyData, ReplyEmpty, ReplyWrite};
use mio::{Events, Poll};
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

/// What the thread has.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) poll: Poll,
    pub(super) connections: Connections<Answer>,
    pub(super) buffers: Buffers,
    pub(super) jobs: Receiver<Job>,
    /// What the server is called, for what is said of it.
    pub(super) server: String,
}

/// Why no more jobs are taken for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// There are none.
    Idle,
    /// As many are under way as may be.
    Full,
    /// There will be none.
    Over,
}

impl Requests {
    /// Carries out jobs until nobody can send any, and takes leave of the server.
    ///
    /// # Errors
    /// When it is not certain that everything which was acknowledged is safe.
    pub(super) fn run(mut self) -> Result<(), Error> {
        let mut events = Events::with_capacity(64);
        loop {
            let pause = self.take_jobs();
            // When the server is lost for good every job is answered so.
            self.connections.drive(self.poll.registry());
            self.answer_all();
            self.tell();
            if pause == Pause::Over && self.connections.in_flight() == 0 {
                break;
            }
            self.wait(&mut events, pause)?;
        }
        let Self { mut poll, mut connections, buffers, .. } = self;
        connections.leave(&mut buffers.lock(), &mut poll, &mut events)
    }

    fn take_jobs(&mut self) -> Pause {
        while self.connections.in_flight() < IN_FLIGHT as usize {
            let Job { command, buffer, answer } = match self.jobs.try_recv() {
                Ok(job) => job,
                Err(TryRecvError::Empty) => return Pause::Idle,
                Err(TryRecvError::Disconnected) => return Pause::Over,
            };
            let mut spare = self.buffers.lock();
            let buffer = match command.kind {
                CommandType::Read => Some(spare.take(command.length as usize)),
                _ => buffer,
            };
            self.connections.submit(Some(answer), command, buffer, &mut spare);
        }
        Pause::Full
    }

    fn answer_all(&mut self) {
        while let Some(Done { owner, buffer, extents, result, .. }) = self.connections.next_done() {
            let result = match (owner, result) {
                (None, _) => Ok(()),
                (Some(Answer::Thread(thread)), result) => {
                    let extents = extents.into_iter().map(|(_, extent)| extent).collect();
                    // It waits for nothing else.
                    let _ = thread.send(Outcome { buffer, extents, result });
                    continue;
                }
                (Some(Answer::Read { reply, part }), Ok(())) => {
                    let bytes = buffer.as_ref().and_then(|buffer| buffer.as_ref().get(part));
                    reply.data(bytes.unwrap_or_default());
                    Ok(())
                }
                (Some(Answer::Written { reply, count, sharing }), Ok(())) => {
                    drop(sharing);
                    reply.written(count);
                    Ok(())
                }
                (Some(Answer::Done(reply)), Ok(())) => {
                    reply.ok();
                    Ok(())
                }
                (Some(answer), Err(error)) => Err((answer, error)),
            };
            if let Err((answer, error)) = result {
                answer.fail(errno(&error));
            }
            self.buffers.give_back(buffer);
        }
    }

    /// Says what happens to the server.
    fn tell(&mut self) {
        while let Some(event) = self.connections.next_event() {
            let told = match event {
                Event::Lost { cause } | Event::GaveUp { cause } => in_words(&cause),
                Event::Reconnected { .. } => "connected again".to_owned(),
                _ => continue,
            };
            output::mention(&format!("nbd: {}: {told}\n", self.server));
        }
    }

    fn wait(&mut self, events: &mut Events, pause: Pause) -> io::Result<()> {
        let has_room = self.connections.in_flight() < IN_FLIGHT as usize;
        let at_once = self.connections.needs_drive() || pause == Pause::Full && has_room;
        let left = match at_once {
            true => Some(Duration::ZERO),
            false => {
                let deadline = self.connections.next_deadline();
                deadline.map(|at| at.saturating_duration_since(Instant::now()))
            }
        };
        wait(&mut self.poll, events, left)?;
        // That of the waker is nobody's there.
        events.iter().for_each(|event| self.connections.handle_event(event));
        if !at_once {
            self.connections.handle_timeout(Instant::now());
        }
        Ok(())
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
