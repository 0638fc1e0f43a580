//! The application that asks.

use std::collections::BTreeMap;
use std::ops::Range;

use nbd_proto::io::DriveError;
use nbd_proto::{
    Client, Command, CommandError, CommandType, ContextId, Discard, Disconnect, Error, Event,
    Machine, Negotiated, Negotiation, OptionCode, PeerIncompatible, Phase, RefusalCode, RequestId,
    SubmitError,
};

use super::buffers::{Buffer, Buffers};
use super::commands::{payload_len, random_command};
use super::handshake::steer_client;
use super::outcome;
use super::plan::{Fault, Plan};
use super::{Check, Report};
use crate::disk::Model;
use crate::link::Link;
use crate::rng::Rng;

/// Where the connection is.
enum Life {
    Haggling(Box<Negotiation>),
    Talking(Box<Client>),
    Over,
}

/// A command in flight: its range, and whether that may change under a reader.
#[derive(Debug, Clone)]
struct Lock {
    range: Range<usize>,
    changes: bool,
}

/// The client's end of a session.
pub(super) struct ClientSide {
    pub(super) link: Link,
    life: Life,
    rng: Rng,
    model: Model,
    buffers: Buffers,
    /// Commands that were submitted and neither completed nor abandoned.
    open: BTreeMap<RequestId, Lock>,
    /// The abandoned write whose data is still being sent.
    leaving: Option<RequestId>,
    left: bool,
    report: Report,
}

impl ClientSide {
    pub(super) fn new(plan: &Plan, link: Link, mut rng: Rng) -> Self {
        let negotiation = Negotiation::new(plan.client.clone()).expect("the plan's names are fine");
        Self {
            link,
            life: Life::Haggling(Box::new(negotiation)),
            model: Model::new(&plan.disk),
            buffers: Buffers::new(rng.fork()),
            rng,
            open: BTreeMap::new(),
            left: false,
            leaving: None,
            report: Report::default(),
        }
    }

    /// What was agreed on, while in the data phase.
    pub(super) fn agreed(&self) -> Option<&Negotiated> {
        match &self.life {
            Life::Talking(client) => Some(client.negotiated()),
            Life::Haggling(_) | Life::Over => None,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.life, Life::Over)
    }

    pub(super) fn state(&self) -> String {
        match &self.life {
            Life::Haggling(negotiation) => format!("{negotiation:?}"),
            Life::Talking(client) => format!("{client:?}"),
            Life::Over => "over".to_owned(),
        }
    }

    pub(super) fn step(&mut self, plan: &Plan) -> Check {
        match std::mem::replace(&mut self.life, Life::Over) {
            Life::Haggling(negotiation) => self.haggle(plan, negotiation),
            Life::Talking(client) => self.talk(plan, client),
            Life::Over => Ok(()),
        }
    }

    fn haggle(&mut self, plan: &Plan, mut negotiation: Box<Negotiation>) -> Check {
        let result = self.negotiate(&mut negotiation);
        while negotiation.poll_event().is_some() {}
        match result {
            Ok(()) if negotiation.phase() == Phase::Established => match negotiation.finish() {
                Ok(client) => {
                    self.report.headers = Some(client.negotiated().headers);
                    self.life = Life::Talking(Box::new(client));
                }
                Err(unfinished) => self.life = Life::Haggling(unfinished),
            },
            Ok(()) => self.life = Life::Haggling(negotiation),
            Err(error) => {
                if matches!(plan.fault, Fault::None) && !has_reason(&error) {
                    return Err(format!("negotiation failed without a fault: {error:?}"));
                }
                // The last word, as far as it goes.
                let _ = self.link.write(&mut *negotiation, &Discard);
                self.link.close();
            }
        }
        Ok(())
    }

    fn negotiate(&mut self, negotiation: &mut Negotiation) -> Result<(), Error> {
        steer_client(negotiation, &mut self.rng)?;
        let wrote = self.link.write(negotiation, &Discard);
        protocol(wrote)?;
        protocol(self.link.read(negotiation, &mut Discard))
    }

    fn talk(&mut self, plan: &Plan, mut client: Box<Client>) -> Check {
        match self.rng.below(6) {
            0 | 1 => self.submit_some(plan, &mut client)?,
            2 => self.abandon_one(plan, &mut client)?,
            _ => {}
        }
        self.leave_in_time(plan, &mut client);
        let result = protocol(self.link.write(&mut *client, &self.buffers))
            .and_then(|()| protocol(self.link.read(&mut *client, &mut self.buffers)));
        if let Err(error) = result
            && matches!(plan.fault, Fault::None)
        {
            return Err(format!("the connection died without a fault: {error:?}"));
        }
        if let Some(what) = self.buffers.broken.take() {
            return Err(what);
        }
        self.check_books(&client)?;
        let busy = client.in_flight() + client.completed();
        if busy > plan.depth as usize {
            return Err(format!("{busy} commands in flight, {} allowed", plan.depth));
        }
        // Completions may be left lying for a while.
        let over = self.rng.one_in(2) && self.take_events(plan, &mut client)?;
        if !over {
            self.life = Life::Talking(client);
        }
        Ok(())
    }

    fn submit_some(&mut self, plan: &Plan, client: &mut Client) -> Check {
        while !self.left && (self.report.submitted as usize) < plan.leave_after {
            let Some(command) = random_command(&mut self.rng, client, plan) else {
                break;
            };
            if self.conflicts(&command) {
                // The model could not tell the outcome: another range another time.
                break;
            }
            match self.submit(client, command) {
                Ok(id) => {
                    self.report.submitted += 1;
                    let payload = payload_len(&command);
                    if client.command(id) != Some(command) {
                        return Err(format!("{id:?} is {:?}", client.command(id)));
                    }
                    let buffer = Buffer::new(command, payload, &mut self.rng);
                    self.buffers.insert(id, buffer);
                    if self.open.insert(id, lock_of(&command)).is_some() {
                        return Err(format!("{id:?} was given out twice"));
                    }
                }
                Err(SubmitError::Full) if client.is_full() => break,
                Err(SubmitError::Disconnecting | SubmitError::NotConnected) => break,
                Err(error) => return Err(format!("{command:?} not accepted: {error:?}")),
            }
            if self.rng.one_in(3) {
                break;
            }
        }
        Ok(())
    }

    fn submit(&mut self, client: &mut Client, command: Command) -> Result<RequestId, SubmitError> {
        let contexts = &client.negotiated().contexts;
        let filter: Vec<ContextId> =
            contexts.iter().map(|context| context.id).filter(|_| self.rng.one_in(2)).collect();
        if command.kind == CommandType::BlockStatus && !filter.is_empty() && self.rng.one_in(2) {
            match client.submit_filtered(command, &filter) {
                Err(SubmitError::NoFilter | SubmitError::UnsupportedFlag) => {}
                other => return other,
            }
        }
        client.submit(command)
    }

    /// Whether a command's outcome would depend on another one in flight.
    fn conflicts(&self, command: &Command) -> bool {
        let new = lock_of(command);
        self.open.values().any(|old| {
            (old.changes || new.changes)
                && old.range.start < new.range.end
                && new.range.start < old.range.end
        })
    }

    fn abandon_one(&mut self, plan: &Plan, client: &mut Client) -> Check {
        if !self.rng.one_in(plan.abandon_one_in) || self.open.is_empty() {
            return Ok(());
        }
        let index = self.rng.below(self.open.len());
        let Some((id, lock)) = self.open.iter().nth(index).map(|(id, l)| (*id, l.clone())) else {
            return Ok(());
        };
        self.open.remove(&id);
        self.report.abandoned += 1;
        let writes = self.buffers.is_write(id);
        let gone = client.abandon(id);
        if lock.changes {
            self.model.give_up(lock.range);
        }
        // A write's data is due until it is sent. Nothing else may be asked for again.
        if client.needs_payload(id) {
            if gone || !writes || self.leaving.replace(id).is_some() {
                return Err(format!("{id:?} is abandoned and needs a payload"));
            }
        } else {
            self.buffers.remove(id);
        }
        Ok(())
    }

    /// What the client says of what is under way is what is under way.
    fn check_books(&mut self, client: &Client) -> Check {
        if let Some(id) = self.leaving.take_if(|id| !client.needs_payload(*id)) {
            self.buffers.remove(id);
        }
        let outstanding = client.outstanding();
        if outstanding.all() != client.in_flight()
            || outstanding.wanted() + client.completed() != self.open.len()
        {
            return Err(format!("{outstanding:?}, {} open: {client:?}", self.open.len()));
        }
        Ok(())
    }

    fn leave_in_time(&mut self, plan: &Plan, client: &mut Client) {
        let asked = self.report.submitted as usize >= plan.leave_after;
        let waits = self.rng.one_in(3) && !self.open.is_empty();
        if asked && !self.left && !waits {
            client.disconnect(plan.disconnect);
            self.left = true;
        }
    }

    /// Returns whether the connection is over.
    fn take_events(&mut self, plan: &Plan, client: &mut Client) -> Result<bool, String> {
        while let Some(event) = client.poll_event() {
            match event {
                Event::Completed { id, command, result } => {
                    self.completed(plan, client, id, command, result)?
                }
                Event::Anomaly(anomaly) => {
                    if matches!(plan.fault, Fault::None) {
                        return Err(format!("{anomaly:?} without a fault"));
                    }
                }
                Event::Disconnected { error } => {
                    if let (Fault::None, Some(error)) = (plan.fault, error) {
                        return Err(format!("disconnected without a fault: {error:?}"));
                    }
                    self.left = true;
                    self.link.close();
                    if client.poll_event().is_some() {
                        return Err("an event after the last one".to_owned());
                    }
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn completed(
        &mut self,
        plan: &Plan,
        client: &Client,
        id: RequestId,
        command: Command,
        result: Result<(), CommandError>,
    ) -> Check {
        if self.open.remove(&id).is_none() {
            return Err(format!("{id:?} completed but was not open"));
        }
        let buffer = self.buffers.remove(id);
        let buffer = buffer.ok_or_else(|| format!("{id:?} lost its buffer"))?;
        if buffer.command != command {
            return Err(format!("{id:?} was {:?}, not {command:?}", buffer.command));
        }
        if !buffer.is_intact() {
            return Err(format!("{command:?} touched bytes outside its buffer"));
        }
        self.report.holes += buffer.holes;
        self.report.extents += buffer.extents.len() as u64;
        match result {
            Ok(()) => {
                self.report.succeeded += 1;
                let flipped = matches!(plan.fault, Fault::Flip { .. });
                let outcome = outcome::succeeded(&mut self.model, client, &buffer);
                if flipped { Ok(()) } else { outcome }
            }
            Err(error) => {
                self.report.failed += 1;
                outcome::failed(&mut self.model, command, error);
                let lost = error == CommandError::ConnectionLost;
                let expected = match plan.fault {
                    Fault::None => {
                        matches!(error, CommandError::Server(_))
                            || lost && plan.disconnect == Disconnect::AbandonUnsent
                    }
                    Fault::End { .. } => matches!(error, CommandError::Server(_)) || lost,
                    Fault::Flip { .. } => true,
                };
                if expected {
                    Ok(())
                } else {
                    Err(format!("{command:?} failed without reason: {error:?}"))
                }
            }
        }
    }

    /// Waits no longer: the transport is closed and the machine is told so.
    pub(super) fn hang_up(&mut self, plan: &Plan) -> Check {
        match std::mem::replace(&mut self.life, Life::Over) {
            Life::Haggling(mut negotiation) => {
                let _ = negotiation.eof();
            }
            Life::Talking(mut client) => {
                // Whatever it says, every command must now complete.
                let _ = client.eof();
                if !self.take_events(plan, &mut client)? {
                    return Err(format!("still alive after the end: {client:?}"));
                }
            }
            Life::Over => {}
        }
        self.link.close();
        Ok(())
    }

    /// The last checks; what the session did.
    pub(super) fn finish(&self, plan: &Plan) -> Result<Report, String> {
        if let Some(id) = self.open.keys().next() {
            return Err(format!("{id:?} never completed"));
        }
        let whole = self.report.headers.is_some() && matches!(plan.fault, Fault::None);
        if whole && self.report.submitted != plan.leave_after as u64 {
            return Err(format!("only {} commands submitted", self.report.submitted));
        }
        Ok(self.report)
    }
}

/// Whether two sound sides may part like this: they do not agree about TLS.
fn has_reason(error: &Error) -> bool {
    match error {
        Error::Incompatible(PeerIncompatible::NoTls | PeerIncompatible::TlsWanted) => true,
        Error::Refused(refusal) => {
            refusal.option == OptionCode::StartTls || refusal.code == RefusalCode::TlsRequired
        }
        _ => false,
    }
}

fn lock_of(command: &Command) -> Lock {
    let start = command.offset as usize;
    Lock { range: start..start + command.length as usize, changes: command.kind.modifies() }
}

/// Errors of a pipe end a machine's life as the pipe's end does.
pub(super) fn protocol(result: Result<(), DriveError>) -> Result<(), Error> {
    match result {
        Err(DriveError::Protocol(error)) => Err(error),
        Err(DriveError::Io(_)) | Ok(()) => Ok(()),
    }
}
