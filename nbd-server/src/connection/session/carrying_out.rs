//! Requests on their way to the export and back.

use std::io::Write;
use std::mem;
use std::time::{Duration, Instant};

use nbd_proto::{Command, CommandType, Errno, Machine, RequestId};

use super::{Execute, Session};
use crate::connection::ConnectionError;
use crate::connection::buffers::NoMemory;
use crate::connection::job::{EXTENT_SIZE, Job, Outcome, most_extents};
use crate::connection::placement::Placement;
use crate::export::{Abilities, AnyExport, Attempt, Export};

/// Replies are sent when they hold this many bytes more, even when there are
/// requests left to answer: the client can use them meanwhile.
const BURST: usize = 512 << 10;

impl Session {
    /// Takes in what was carried out elsewhere.
    pub(super) fn collect(&mut self, now: Instant) -> Result<(), ConnectionError> {
        if self.elsewhere == 0 {
            return Ok(());
        }
        let mut done = mem::take(&mut self.done);
        self.mailbox.take(&mut done);
        self.elsewhere -= done.len();
        for job in done.drain(..) {
            self.placement.learn(job.command, job.took);
            self.reply(job, now)?;
        }
        self.done = done;
        Ok(())
    }

    /// Carries out the requests that have arrived and sends the replies, as far as
    /// the client takes them.
    pub(super) fn answer_all<T>(
        &mut self,
        io: &mut T,
        now: Instant,
        execute: &dyn Execute,
    ) -> Result<(), ConnectionError>
    where
        T: Write + ?Sized,
    {
        loop {
            self.take_events()?;
            if self.waiting.is_empty() && self.server.has_buffered() {
                // Requests that were read while there was no slot for them.
                self.server.received(0, &mut self.buffers)?;
                self.take_events()?;
            }
            let begin = !self.waiting.is_empty() && !self.is_full();
            if begin {
                self.begin_burst(now, execute)?;
            }
            self.send(io)?;
            let more = self.waiting.is_empty() && self.server.has_buffered();
            if self.short || !(begin || more) {
                return Ok(());
            }
        }
    }

    fn begin_burst(&mut self, now: Instant, execute: &dyn Execute) -> Result<(), ConnectionError> {
        let enough = self.buffers.in_use() + BURST;
        self.short = false;
        while let Some((id, command)) = self.waiting.pop_front() {
            if !self.begin(id, command, now, execute)? {
                self.waiting.push_front((id, command));
                self.short = true;
                break;
            }
            if self.buffers.in_use() >= enough {
                break;
            }
        }
        Ok(())
    }

    /// Carries a request out, or has it carried out elsewhere. False when there is no memory for
    /// it now.
    fn begin(
        &mut self,
        id: RequestId,
        command: Command,
        now: Instant,
        execute: &dyn Execute,
    ) -> Result<bool, ConnectionError> {
        let contexts = self.contexts(id, command);
        let buffer = match command.kind {
            CommandType::Read => {
                let len = usize::try_from(command.length).unwrap_or(usize::MAX);
                let allocated = match &self.opened.export {
                    AnyExport::Blocking(_) => self.buffers.allocate(len, now),
                    AnyExport::Async(_) => Ok(self.buffers.reserve(len, now)),
                };
                match allocated {
                    Ok(Some(buffer)) => Some(buffer),
                    Ok(None) => return Ok(false),
                    Err(NoMemory) => {
                        self.replies.push_back((id, now));
                        let reason = "the server has no memory";
                        self.tell_failure(&command, Errno::NoMem, reason);
                        self.server.reply_error(id, Errno::NoMem, reason)?;
                        return Ok(true);
                    }
                }
            }
            CommandType::Write => self.buffers.take(id),
            CommandType::Flush
            | CommandType::Trim
            | CommandType::WriteZeroes
            | CommandType::Cache => None,
            // The extents have to go somewhere, and leave when the client takes them.
            CommandType::BlockStatus => {
                let most = most_extents(&command) * EXTENT_SIZE * contexts.len();
                let Some(room) = self.buffers.reserve(most, now) else { return Ok(false) };
                Some(room)
            }
        };
        let mut job = Job {
            id,
            command,
            buffer,
            size: self.server.export().size,
            in_parts: self.in_parts,
            contexts,
            outcome: Outcome::Done,
            took: Duration::ZERO,
        };
        if let AnyExport::Blocking(export) = &self.opened.export
            && is_done_on_the_spot(&mut job, &**export, self.abilities, &mut self.placement)
        {
            self.reply(job, now)?;
            return Ok(true);
        }
        match execute.execute(job, self.queue, &self.opened.export, &self.mailbox) {
            Ok(()) => self.elsewhere += 1,
            Err(mut job) => {
                match &self.opened.export {
                    AnyExport::Blocking(export) if self.placement.is_alone() => job.run(&**export),
                    AnyExport::Blocking(_) | AnyExport::Async(_) => job.refuse(),
                }
                self.reply(*job, now)?;
            }
        }
        Ok(true)
    }

    /// The meta contexts a block status asks for, with their names.
    fn contexts(&self, id: RequestId, command: Command) -> Vec<(nbd_proto::ContextId, String)> {
        if command.kind != CommandType::BlockStatus {
            return Vec::new();
        }
        let granted = &self.server.negotiated().contexts;
        let name = |id: nbd_proto::ContextId| {
            granted
                .iter()
                .find(|context| context.id == id)
                .map(|context| (id, context.name.clone()))
        };
        self.server.contexts(id).into_iter().filter_map(name).collect()
    }
}

/// Carries a request out if that takes no waiting, as far as the export knows.
fn is_done_on_the_spot(
    job: &mut Job,
    export: &dyn Export,
    abilities: Abilities,
    placement: &mut Placement,
) -> bool {
    let attempt = if abilities.contains(Abilities::NEVER_WAITS) {
        Attempt::Unknown
    } else {
        job.attempt(export)
    };
    match attempt {
        Attempt::Done => true,
        Attempt::WouldWait => false,
        Attempt::Unknown if placement.is_on_the_spot(abilities, job.command) => {
            job.run(export);
            placement.learn(job.command, job.took);
            true
        }
        Attempt::Unknown => false,
    }
}
