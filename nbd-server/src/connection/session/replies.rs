//! What is sent, and what has been.

use std::io::Write;
use std::time::Instant;

use nbd_proto::io::{IoMode, Progress};
use nbd_proto::{
    ApiMisuse, Command, CommandFlags, Direction, Errno, Error, PeerMisbehaved, ServerEvent,
};

use super::Session;
use crate::connection::ConnectionError;
use crate::connection::job::{EXTENT_SIZE, Job, Outcome};
use crate::event::Event;
use crate::export::ExtentKind;

impl Session {
    /// Queues the reply to a request.
    pub(super) fn reply(&mut self, job: Job, now: Instant) -> Result<(), ApiMisuse> {
        let Job { id, command, buffer, outcome, .. } = job;
        if let Outcome::Failed { errno, reason } = &outcome {
            self.tell_failure(&command, *errno, reason);
        }
        if self.server.is_closed() {
            // There is nobody to reply to.
            return Ok(());
        }
        self.replies.push_back((id, now));
        match buffer {
            Some(buffer) if matches!(outcome, Outcome::Data | Outcome::Parts(_)) => {
                self.buffers.put(id, buffer);
            }
            Some(buffer) => self.buffers.keep(buffer),
            None => {}
        }
        match outcome {
            Outcome::Done => self.server.reply(id, Ok(())),
            Outcome::Data => self.server.reply_data(id),
            Outcome::Failed { errno, reason } => self.server.reply_error(id, errno, &reason),
            Outcome::Parts(parts) => {
                let (mut at, len) = (0, command.length as usize);
                for part in &parts {
                    let length = part.length as usize;
                    let last = at + length == len;
                    match part.kind {
                        ExtentKind::Data => self.server.send_data(id, at, length, last)?,
                        ExtentKind::Hole | ExtentKind::Zero => {
                            self.server.send_hole(id, at, length, last)?;
                        }
                    }
                    at += length;
                }
                Ok(())
            }
            Outcome::Extents(all) => {
                let weight = all.iter().map(|(_, extents)| extents.len() * EXTENT_SIZE).sum();
                self.buffers.charge(id, weight);
                let count = all.len();
                for (i, (context, extents)) in all.into_iter().enumerate() {
                    let sent = self.server.send_extents(id, context, &extents, i + 1 == count);
                    if sent.is_err() {
                        let reason = "the export has told nothing of its extents";
                        self.tell_failure(&command, Errno::Io, reason);
                        return self.server.reply_error(id, Errno::Io, reason);
                    }
                }
                Ok(())
            }
        }
    }

    /// Tells of a request that has failed. That zeroing is not fast is an answer.
    pub(super) fn tell_failure(&self, command: &Command, errno: Errno, reason: &str) {
        if errno == Errno::NotSup && command.flags.contains(CommandFlags::FAST_ZERO) {
            return;
        }
        self.shared.tell(&Event::RequestFailed {
            peer: &self.peer,
            export: &self.opened.name,
            command,
            errno,
            reason,
        });
    }

    /// Sends what is due, as far as the client takes it.
    pub(super) fn send<T: Write + ?Sized>(&mut self, io: &mut T) -> Result<(), ConnectionError> {
        while self.link.direction(&self.server).contains(Direction::WRITE) {
            let progress =
                self.link.write(&mut self.server, io, &self.buffers, IoMode::Vectored)?;
            self.take_events()?;
            if progress != Progress::More {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn take_events(&mut self) -> Result<(), ConnectionError> {
        while let Some(event) = self.server.poll_event() {
            match event {
                ServerEvent::Request { id, command } => {
                    self.buffers.arrived(id);
                    self.waiting.push_back((id, command));
                }
                ServerEvent::Replied { id } => {
                    self.buffers.arrived(id);
                    self.buffers.give_back(id);
                    if self.replies.front().is_some_and(|(front, _)| *front == id) {
                        self.replies.pop_front();
                    } else {
                        // Refused by the machine itself, or overtaken by one that was.
                        self.replies.retain(|(queued, _)| *queued != id);
                    }
                }
                ServerEvent::Disconnected { error: None } => {}
                ServerEvent::Disconnected {
                    error: Some(Error::Misbehaved(PeerMisbehaved::Closed)),
                } => return Err(ConnectionError::Gone),
                ServerEvent::Disconnected { error: Some(error) } => return Err(error.into()),
            }
        }
        Ok(())
    }
}
