//! A server that carries requests out in any order, at any time, or not at all.

use nbd_proto::{
    Buffers, Command, CommandFlags, CommandType, Discard, Errno, Error, ExportInfo, Question,
    RequestId, Server, ServerConfig, ServerEvent, ServerNegotiation,
};

use super::Check;
use super::disk::VolatileDisk;
use crate::arrivals::Arrivals;
use crate::link::Link;
use crate::rng::Rng;

enum Life {
    Haggling(Box<ServerNegotiation>),
    Serving(Box<Server>),
    Over,
}

/// The server's end of one connection.
pub(crate) struct ServerSide {
    link: Link,
    life: Life,
    export: ExportInfo,
    pending: Vec<(RequestId, Command)>,
    /// Carried out, or not, and to be answered later.
    answers: Vec<(RequestId, Command, Result<(), Errno>)>,
    memory: Buffers<Vec<u8>>,
    /// Whoever asks is told so.
    pub(crate) shutting_down: bool,
    /// One request in so many fails; 0 for none.
    fail_one_in: usize,
    /// Cancelled commands are still about, so that changes may overlap.
    pub(crate) lenient: bool,
}

impl ServerSide {
    pub(crate) fn new(
        link: Link,
        config: ServerConfig,
        export: ExportInfo,
        fail_one_in: usize,
    ) -> Self {
        Self {
            link,
            life: Life::Haggling(Box::new(ServerNegotiation::new(config))),
            export,
            pending: Vec::new(),
            answers: Vec::new(),
            memory: Buffers::new(),
            shutting_down: false,
            fail_one_in,
            lenient: false,
        }
    }

    pub(crate) fn step(&mut self, rng: &mut Rng, disk: &mut VolatileDisk) -> Check {
        match std::mem::replace(&mut self.life, Life::Over) {
            Life::Haggling(mut negotiation) => {
                if self.haggle(&mut negotiation).is_err() {
                    self.link.close();
                    return Ok(());
                }
                self.life = match negotiation.finish() {
                    Ok(server) => Life::Serving(Box::new(server)),
                    Err(unfinished) => Life::Haggling(unfinished),
                };
                Ok(())
            }
            Life::Serving(server) => self.serve(rng, disk, server),
            Life::Over => Ok(()),
        }
    }

    fn haggle(&mut self, negotiation: &mut ServerNegotiation) -> Result<(), Error> {
        if let Some(Question::Go(_) | Question::ExportName(_)) = negotiation.question() {
            negotiation.describe(self.export.clone())?;
        }
        let wrote = self.link.write(negotiation, &Discard);
        wrote.and_then(|()| self.link.read(negotiation, &mut Discard)).map_err(
            |error| match error {
                nbd_proto::io::DriveError::Protocol(error) => error,
                nbd_proto::io::DriveError::Io(_) => nbd_proto::PeerMisbehaved::Closed.into(),
            },
        )
    }

    fn serve(&mut self, rng: &mut Rng, disk: &mut VolatileDisk, mut server: Box<Server>) -> Check {
        while !self.pending.is_empty() && rng.one_in(2) {
            let (id, command) = self.pending.swap_remove(rng.below(self.pending.len()));
            let result = self.decide(rng, disk, id, command);
            self.answers.push((id, command, result));
        }
        while !self.answers.is_empty() && rng.one_in(2) {
            let (id, command, result) = self.answers.swap_remove(rng.below(self.answers.len()));
            let sent = match (command.kind, result) {
                (CommandType::Read, Ok(())) => server.reply_data(id),
                _ => server.reply(id, result),
            };
            sent.map_err(|error| format!("{command:?} not answered: {error}"))?;
        }
        let wrote = self.link.write(&mut *server, &self.memory);
        let mut sink = Arrivals(&mut self.memory);
        // An end shows as an event.
        let _ = wrote.and_then(|()| self.link.read(&mut *server, &mut sink));
        while let Some(event) = server.poll_event() {
            match event {
                ServerEvent::Request { id, command } => {
                    self.check_alone(&command)?;
                    self.pending.push((id, command));
                }
                ServerEvent::Replied { id } => drop(self.memory.remove(id)),
                ServerEvent::Disconnected { .. } => {
                    self.link.close();
                    return Ok(());
                }
            }
        }
        self.life = Life::Serving(server);
        Ok(())
    }

    /// The client promised never to have two changes of the same bytes here.
    fn check_alone(&self, command: &Command) -> Check {
        let end = |command: &Command| command.offset + command.length;
        let answered = self.answers.iter().map(|(_, command, _)| command);
        let mut others = self.pending.iter().map(|(_, command)| command).chain(answered);
        let clash = others.find(|other| {
            other.kind.modifies() && command.offset < end(other) && other.offset < end(command)
        });
        match clash {
            Some(other) if command.kind.modifies() && !self.lenient => {
                Err(format!("{command:?} was sent while {other:?} was under way"))
            }
            _ => Ok(()),
        }
    }

    fn decide(
        &mut self,
        rng: &mut Rng,
        disk: &mut VolatileDisk,
        id: RequestId,
        command: Command,
    ) -> Result<(), Errno> {
        if self.shutting_down {
            return Err(Errno::Shutdown);
        }
        let fails = rng.one_in(self.fail_one_in);
        if !fails || rng.one_in(2) {
            self.carry_out(rng, disk, id, command);
        }
        if fails { Err(Errno::Io) } else { Ok(()) }
    }

    fn carry_out(
        &mut self,
        rng: &mut Rng,
        disk: &mut VolatileDisk,
        id: RequestId,
        command: Command,
    ) {
        let (at, length) = (command.offset as usize, command.length as usize);
        let durable = command.flags.contains(CommandFlags::FUA);
        match command.kind {
            CommandType::Read => {
                self.memory.insert(id, disk.read(at..at + length).to_vec());
            }
            CommandType::Write => {
                disk.change(at, self.memory.remove(id).unwrap_or_default(), durable);
            }
            CommandType::WriteZeroes => disk.change(at, vec![0; length], durable),
            CommandType::Trim if rng.one_in(2) => disk.change(at, vec![0; length], durable),
            CommandType::Flush => disk.flush(),
            CommandType::Trim | CommandType::Cache | CommandType::BlockStatus => {}
        }
    }

    /// The connection is gone. What had arrived is carried out, or is not.
    pub(crate) fn leave(mut self, rng: &mut Rng, disk: &mut VolatileDisk) {
        let mut pending = std::mem::take(&mut self.pending);
        rng.shuffle(&mut pending);
        for (id, command) in pending {
            if rng.one_in(2) {
                self.carry_out(rng, disk, id, command);
            }
        }
    }
}
