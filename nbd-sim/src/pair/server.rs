//! The application that answers: it reorders, cuts, leaves out zeroes and fails.

use nbd_proto::{
    Buffers, Command, CommandType, Discard, Error, Negotiated, RequestId, Server, ServerEvent,
    ServerNegotiation, ServerPhase,
};

use super::Check;
use super::answer::Job;
use super::client::protocol;
use super::handshake::{is_sending, steer_server};
use super::plan::{Fault, Plan};
use crate::arrivals::Arrivals;
use crate::disk::Disk;
use crate::link::Link;
use crate::rng::Rng;

/// Where the connection is.
enum Life {
    Haggling(Box<ServerNegotiation>),
    Serving(Box<Server>),
    /// The machine is done; its last bytes are still to go out.
    Leaving,
    Over,
}

/// The server's end of a session.
pub(super) struct ServerSide {
    pub(super) link: Link,
    life: Life,
    rng: Rng,
    disk: Disk,
    /// Payload of requests in work, both ways.
    memory: Buffers<Vec<u8>>,
    jobs: Vec<Job>,
}

impl ServerSide {
    pub(super) fn new(plan: &Plan, link: Link, rng: Rng) -> Self {
        let negotiation = if plan.oldstyle {
            ServerNegotiation::oldstyle(plan.server.clone(), plan.export.clone())
        } else {
            ServerNegotiation::new(plan.server.clone())
        };
        Self {
            link,
            life: Life::Haggling(Box::new(negotiation)),
            rng,
            disk: plan.disk.clone(),
            memory: Buffers::new(),
            jobs: Vec::new(),
        }
    }

    /// What was agreed on, while in the data phase.
    pub(super) fn agreed(&self) -> Option<&Negotiated> {
        match &self.life {
            Life::Serving(server) => Some(server.negotiated()),
            Life::Haggling(_) | Life::Leaving | Life::Over => None,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.life, Life::Over)
    }

    pub(super) fn state(&self) -> String {
        match &self.life {
            Life::Haggling(negotiation) => format!("{negotiation:?}"),
            Life::Serving(server) => format!("{server:?} with {} jobs", self.jobs.len()),
            Life::Leaving => "leaving".to_owned(),
            Life::Over => "over".to_owned(),
        }
    }

    /// Waits no longer.
    pub(super) fn hang_up(&mut self) {
        self.life = Life::Over;
        self.link.close();
    }

    pub(super) fn step(&mut self, plan: &Plan) -> Check {
        match std::mem::replace(&mut self.life, Life::Over) {
            Life::Haggling(negotiation) => self.haggle(plan, negotiation),
            Life::Serving(server) => self.serve(plan, server),
            Life::Leaving => {
                self.leave();
                Ok(())
            }
            Life::Over => Ok(()),
        }
    }

    fn leave(&mut self) {
        if self.link.flush().is_ok() && !self.link.is_flushed() {
            self.life = Life::Leaving;
        } else {
            self.link.close();
        }
    }

    fn haggle(&mut self, plan: &Plan, mut negotiation: Box<ServerNegotiation>) -> Check {
        let result = self.negotiate(plan, &mut negotiation);
        if let Err(error) = result {
            let _ = self.link.write(&mut *negotiation, &Discard);
            self.link.close();
            let known =
                matches!(error, Error::Misbehaved(_) | Error::Invalid(_) | Error::Incompatible(_));
            return if known {
                Ok(())
            } else {
                Err(format!("the server's negotiation failed: {error:?}"))
            };
        }
        if negotiation.phase() == ServerPhase::Closed && !is_sending(&*negotiation) {
            self.leave();
            return Ok(());
        }
        self.life = match negotiation.finish() {
            Ok(server) => Life::Serving(Box::new(server)),
            Err(unfinished) => Life::Haggling(unfinished),
        };
        Ok(())
    }

    fn negotiate(&mut self, plan: &Plan, negotiation: &mut ServerNegotiation) -> Result<(), Error> {
        steer_server(negotiation, &plan.export, &mut self.rng)?;
        protocol(self.link.write(negotiation, &Discard))?;
        protocol(self.link.read(negotiation, &mut Discard))
    }

    fn serve(&mut self, plan: &Plan, mut server: Box<Server>) -> Check {
        for _ in 0..self.rng.below(4) {
            self.answer_one(&mut server)?;
        }
        let result = protocol(self.link.write(&mut *server, &self.memory)).and_then(|()| {
            let mut sink = Arrivals(&mut self.memory);
            protocol(self.link.read(&mut *server, &mut sink))
        });
        if let (Fault::None, Err(error)) = (plan.fault, result) {
            return Err(format!("the server died without a fault: {error:?}"));
        }
        while let Some(event) = server.poll_event() {
            match event {
                ServerEvent::Request { id, command } => {
                    let job = self.take(plan, &server, id, command)?;
                    self.jobs.push(job);
                }
                ServerEvent::Replied { id } => {
                    self.memory.remove(id);
                }
                ServerEvent::Disconnected { .. } => {
                    self.leave();
                    return Ok(());
                }
            }
        }
        self.life = Life::Serving(server);
        Ok(())
    }

    /// Does what is asked and plans the answer.
    fn take(
        &mut self,
        plan: &Plan,
        server: &Server,
        id: RequestId,
        command: Command,
    ) -> Result<Job, String> {
        let written = self.memory.remove(id).unwrap_or_default();
        if self.rng.one_in(plan.fail_one_in) {
            return Ok(Job::failing(id, &mut self.rng, server, command));
        }
        let start = command.offset as usize;
        let range = start..start + command.length as usize;
        let disk = self.disk.bytes_mut();
        if range.end > disk.len() {
            return Err(format!("{command:?} is beyond the end of the disk"));
        }
        match command.kind {
            CommandType::Read => {
                let data = disk[range].to_vec();
                let job = Job::reading(id, &mut self.rng, server, command, &data);
                self.memory.insert(id, data);
                return Ok(job);
            }
            CommandType::Write => {
                if written.len() != range.len() {
                    return Err(format!("{command:?} came with {} bytes", written.len()));
                }
                disk[range].copy_from_slice(&written);
            }
            CommandType::WriteZeroes => disk[range].fill(0),
            CommandType::Trim if self.rng.one_in(2) => disk[range].fill(0),
            CommandType::BlockStatus => {
                return Ok(Job::mapping(id, &mut self.rng, server, command, &self.disk));
            }
            CommandType::Trim | CommandType::Flush | CommandType::Cache => {}
        }
        Ok(Job::done(id))
    }

    /// Sends one piece of one answer, whichever.
    fn answer_one(&mut self, server: &mut Server) -> Check {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let index = self.rng.below(self.jobs.len());
        let finished = self.jobs[index]
            .send_next(server)
            .map_err(|error| format!("{:?} not accepted: {error}", self.jobs[index]))?;
        if finished {
            self.jobs.swap_remove(index);
        }
        Ok(())
    }
}
