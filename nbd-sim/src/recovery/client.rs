//! The application, its journal and its machine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use nbd_proto::{
    Buffers, Client, Command, CommandError, CommandFlags, CommandType, Event, Machine, Negotiated,
    PayloadSink, PayloadSource, RequestId, TransmissionFlags, part, part_mut,
};
use nbd_session::replay::{Place, Reconnect, RecoveryError, ReplayLog};

use super::model::{Glance, Model};
use super::{Check, Report};
use crate::link::Link;
use crate::rng::Rng;

/// Longest range, in bytes: small enough for a small disk, and for much overlap.
const LONGEST: usize = 200;

type Data = Rc<[u8]>;

/// A command somebody waits for.
struct Call {
    command: Command,
    place: Place,
    buffer: Vec<u8>,
    data: Option<Data>,
    glances: Vec<Glance>,
    /// Writes acknowledged when it was submitted.
    stamp: u64,
}

impl Call {
    fn range(&self) -> Range<usize> {
        range(&self.command)
    }
}

fn range(command: &Command) -> Range<usize> {
    command.offset as usize..(command.offset + command.length) as usize
}

/// What survives a connection.
pub(super) struct App {
    rng: Rng,
    memory: Memory,
    pub(super) model: Model,
    pub(super) report: Report,
    flags: TransmissionFlags,
    size: usize,
    next: u64,
    /// Requests that were sent, by command: more than one is a repetition.
    sent: BTreeSet<Place>,
    /// Losses that no flush has told of.
    untold: u64,
    pub(super) cancel_one_in: usize,
    pub(super) cancelled: bool,
}

/// Where payload lands and comes from.
struct Memory {
    journal: ReplayLog<u64, Data>,
    calls: BTreeMap<u64, Call>,
    /// Data of writes nobody waits for, which may be partly sent.
    leaving: Buffers<Data>,
}

impl PayloadSink for Memory {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        let call = self.journal.caller(id).and_then(|token| self.calls.get_mut(&token));
        call.map(|call| part_mut(&mut call.buffer, at, len)).unwrap_or_default()
    }
}

impl PayloadSource for Memory {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        let data = self.journal.payload(id).or_else(|| self.leaving.get(id));
        data.map(|data| part(data, at, len)).unwrap_or_default()
    }
}

impl App {
    pub(super) fn new(
        rng: Rng,
        policy: &Reconnect,
        facts: &Negotiated,
        capacity: usize,
        disk: &[u8],
    ) -> Self {
        let journal = ReplayLog::new(policy, facts, capacity).expect("the server can flush");
        let flags = facts.export.as_ref().map_or(TransmissionFlags::empty(), |e| e.flags);
        Self {
            rng,
            memory: Memory { journal, calls: BTreeMap::new(), leaving: Buffers::new() },
            model: Model::new(disk, policy.kept_bytes().is_some()),
            report: Report::default(),
            flags,
            size: disk.len(),
            next: 0,
            sent: BTreeSet::new(),
            untold: 0,
            cancel_one_in: 0,
            cancelled: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.memory.calls.is_empty() && self.memory.journal.is_idle()
    }

    pub(super) fn submit_random(&mut self) -> Check {
        if self.memory.journal.is_full() {
            return Ok(());
        }
        let command = self.random_command();
        self.submit(command)
    }

    fn random_command(&mut self) -> Command {
        use TransmissionFlags as Flag;
        let rng = &mut self.rng;
        let length = rng.between(1, LONGEST);
        let offset = rng.below(self.size - length + 1) as u64;
        let fua = rng.one_in(4) && self.flags.contains(Flag::SEND_FUA);
        let command = match rng.below(12) {
            0..3 => Command::read(offset, length as u32),
            3 | 4 if self.flags.contains(Flag::SEND_FLUSH) => Command::flush(),
            5 => Command::cache(offset, length as u64),
            6 => Command::trim(offset, length as u64),
            7 => Command::write_zeroes(offset, length as u64),
            _ => Command::write(offset, length as u32),
        };
        if fua && command.kind.modifies() { command.with(CommandFlags::FUA) } else { command }
    }

    pub(super) fn submit(&mut self, command: Command) -> Check {
        let token = self.next;
        self.next += 1;
        let length = command.length as usize;
        let mut buffer = vec![0; if command.kind == CommandType::Read { length } else { 0 }];
        self.rng.fill(&mut buffer);
        let data: Option<Data> = match command.kind {
            CommandType::Write => {
                let mut data = vec![0; length];
                self.rng.fill(&mut data);
                Some(data.into())
            }
            CommandType::WriteZeroes => Some(vec![0; length].into()),
            _ => None,
        };
        if command.kind.modifies() {
            self.model.begin(range(&command), data.as_deref());
        }
        let payload = data.clone().filter(|_| command.kind == CommandType::Write);
        let place = self
            .memory
            .journal
            .submit(token, command, payload)
            .map_err(|error| format!("{command:?} not accepted: {error}"))?;
        let glances = self.model.glance(range(&command));
        let stamp = self.model.stamp();
        self.memory.calls.insert(token, Call { command, place, buffer, data, glances, stamp });
        self.report.submitted += 1;
        self.take_failed(false)
    }

    /// Somebody loses interest.
    pub(super) fn cancel_some(&mut self, client: Option<&mut Client>) {
        if !self.rng.one_in(self.cancel_one_in) || self.memory.calls.is_empty() {
            return;
        }
        let nth = self.rng.below(self.memory.calls.len());
        let Some(token) = self.memory.calls.keys().nth(nth).copied() else {
            return;
        };
        let Some(call) = self.memory.calls.remove(&token) else {
            return;
        };
        if call.command.kind.modifies() {
            self.cancelled = true;
            self.model.give_up(call.range());
        }
        if let (Some(client), Some(id)) = (client, self.memory.journal.request(call.place))
            && !client.abandon(id)
            && let Some(data) = call.data
        {
            self.memory.leaving.insert(id, data);
        }
        self.memory.journal.cancel(call.place);
    }

    /// Hands the client what is due, moves bytes, and takes in what came of it. Returns
    /// whether the connection is over.
    pub(super) fn step(&mut self, client: &mut Client, link: &mut Link) -> Result<bool, String> {
        self.hand_over(client)?;
        let wrote = link.write(client, &self.memory);
        let result = wrote.and_then(|()| link.read(client, &mut self.memory));
        self.take_events(client)?;
        if let Some(fault) = self.memory.journal.fault() {
            return Err(format!("the journal gave up: {fault}"));
        }
        Ok(result.is_err() || client.is_closed() || self.memory.journal.is_drained())
    }

    fn hand_over(&mut self, client: &mut Client) -> Check {
        while !client.is_full()
            && let Some((place, command)) = self.memory.journal.due()
        {
            let Ok(id) = client.submit(command) else {
                // The connection is ending; that will show.
                return Ok(());
            };
            self.memory.journal.sent(place, id);
            self.report.repeated += u64::from(!self.sent.insert(place));
            let nobody = self.memory.journal.caller(id).is_none();
            self.report.own_flushes += u64::from(nobody && command.kind == CommandType::Flush);
        }
        Ok(())
    }

    pub(super) fn take_events(&mut self, client: &mut Client) -> Check {
        while let Some(event) = client.poll_event() {
            let Event::Completed { id, result, .. } = event else {
                continue;
            };
            if let Some((token, result)) = self.memory.journal.completed(id, result) {
                self.complete(token, result)?;
            }
        }
        if client.is_shutting_down() {
            self.memory.journal.drain();
        }
        self.take_failed(false)
    }

    fn complete(&mut self, token: u64, result: Result<(), CommandError>) -> Check {
        let Some(call) = self.memory.calls.remove(&token) else {
            return Err(format!("command {token} completed twice, or after it was cancelled"));
        };
        let Call { command, .. } = &call;
        match result {
            Ok(()) => self.report.succeeded += 1,
            Err(_) => self.report.failed += 1,
        }
        match (command.kind, result) {
            (CommandType::Read, Ok(())) => {
                let at = command.offset as usize;
                if let Some(at) = self.model.check_read(at, &call.buffer, &call.glances) {
                    return Err(format!("{command:?} returned a wrong byte at {at}"));
                }
            }
            (CommandType::Flush, Ok(())) => self.model.flush(call.stamp),
            (kind, Ok(())) if kind.modifies() => {
                let durable = command.flags.contains(CommandFlags::FUA);
                self.model.acknowledge(call.range(), call.data.as_deref(), durable);
            }
            (kind, Err(_)) if kind.modifies() => self.model.fail(call.range()),
            _ => {}
        }
        Ok(())
    }

    fn take_failed(&mut self, just_lost: bool) -> Check {
        let mut told = 0;
        while let Some((token, error)) = self.memory.journal.poll_failed() {
            let Some(call) = self.memory.calls.remove(&token) else {
                return Err(format!("command {token} failed after it was over: {error}"));
            };
            self.report.failed += 1;
            match error {
                RecoveryError::UnflushedLost if call.command.kind == CommandType::Flush => {
                    told += 1;
                    self.model.tell();
                }
                // It was not sent.
                RecoveryError::CannotFlush(_) if call.command.kind.modifies() => {
                    self.model.fail(call.range());
                }
                error => return Err(format!("{:?} failed: {error}", call.command)),
            }
        }
        self.report.told += told;
        if told > 0 && self.untold == 0 || told > 1 && !just_lost {
            return Err("a flush told twice of the same lost writes".to_owned());
        }
        if told > 0 {
            self.untold = 0;
        }
        Ok(())
    }

    /// The connection is gone.
    pub(super) fn lose(&mut self, client: Option<Box<Client>>, crashed: bool) -> Check {
        if let Some(mut client) = client {
            let _ = client.eof();
            self.take_events(&mut client)?;
        }
        self.memory.leaving = Buffers::new();
        self.memory.journal.lost();
        self.model.lose(crashed);
        self.report.losses += 1;
        self.untold += 1;
        self.take_failed(true)
    }

    pub(super) fn resume(&mut self, facts: &Negotiated) -> Check {
        self.memory.journal.resume(facts).map_err(|changed| format!("refused: {changed}"))
    }
}
