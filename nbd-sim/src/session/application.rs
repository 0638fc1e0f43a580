//! Who asks, and judges what comes back.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nbd_proto::{Command, CommandFlags, CommandType, RequestId};
use nbd_session::pool::{Flush, Members};
use nbd_session::replay::RecoveryError;
use nbd_session::{Completion, Error, Limit, Request};

use super::Report;
use super::member::Member;
use crate::recovery::Check;
use crate::recovery::model::{Glance, Model};
use crate::rng::Rng;

/// Longest range, in bytes: small enough for a small disk, and for much overlap.
const LONGEST: usize = 200;

/// A command somebody waits for.
struct Call {
    command: Command,
    data: Option<Vec<u8>>,
    glances: Vec<Glance>,
}

fn range(command: &Command) -> Range<usize> {
    command.offset as usize..(command.offset + command.length) as usize
}

/// A flush of the pool.
struct PoolFlush {
    flush: Flush,
    next: usize,
    /// Where a flush is under way.
    asked: Option<(usize, RequestId)>,
    stamp: u64,
    /// Losses that had been told of by then.
    told: u64,
}

pub(super) struct Application {
    pub(super) model: Model,
    pub(super) members: Members,
    pub(super) report: Report,
    calls: BTreeMap<(usize, RequestId), Call>,
    flushes: Vec<PoolFlush>,
    pub(super) size: usize,
    depth: usize,
    /// The log keeps changes of the same bytes in order, and says so.
    ordered: bool,
    /// Losses so far, and how many of them flushes have told of.
    pub(super) losses: u64,
    told: u64,
    limit_one_in: usize,
    withdraw_one_in: usize,
    /// A change was withdrawn, or took too long: it may still strike.
    pub(super) has_strays: bool,
    /// What is told now was brought by a connection that has been lost since.
    pub(super) is_told_of_a_loss: bool,
}

impl Application {
    pub(super) fn new(rng: &mut Rng, disk: &[u8], keeps: bool, ordered: bool, pool: usize) -> Self {
        Self {
            model: Model::new(disk, keeps),
            members: Members::new(pool),
            report: Report::default(),
            calls: BTreeMap::new(),
            flushes: Vec::new(),
            size: disk.len(),
            depth: rng.pick(&[1, 4, 16]),
            ordered,
            losses: 0,
            told: 0,
            limit_one_in: rng.pick(&[0, 4, 1]),
            withdraw_one_in: rng.pick(&[0, 200, 40]),
            has_strays: false,
            is_told_of_a_loss: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.flushes.is_empty()
    }

    fn random_command(&self, rng: &mut Rng) -> Command {
        let length = rng.between(1, LONGEST);
        let offset = rng.below(self.size - length + 1) as u64;
        let command = match rng.below(12) {
            0..4 => Command::read(offset, length as u32),
            4 => Command::flush(),
            5 => Command::cache(offset, length as u64),
            6 => Command::trim(offset, length as u64),
            7 => Command::write_zeroes(offset, length as u64),
            _ => Command::write(offset, length as u32),
        };
        let fua = rng.one_in(6) && command.kind.modifies();
        if fua { command.with(CommandFlags::FUA) } else { command }
    }

    /// Asks for something, where there is somebody to ask. `plain` are commands that a server
    /// answers soon.
    pub(super) fn ask(
        &mut self,
        all: &mut [Member],
        plain: bool,
        rng: &mut Rng,
        now: Instant,
    ) -> Check {
        let mut command = self.random_command(rng);
        if plain && !matches!(command.kind, CommandType::Read | CommandType::Write) {
            command = Command::read(0, 1);
        }
        if command.kind == CommandType::Flush {
            return self.flush(all, now);
        }
        if self.calls.len() >= self.depth * all.len() || !self.is_alone(&command) {
            return Ok(());
        }
        let Some(number) = self.members.pick(self.depth) else { return Ok(()) };
        self.submit(all, number, command, rng, now)
    }

    /// Two changes of the same bytes at once have no order, unless somebody gives them one.
    fn is_alone(&self, command: &Command) -> bool {
        let overlaps = |other: &Call| {
            let (a, b) = (range(command), range(&other.command));
            other.command.kind.modifies() && a.start < b.end && b.start < a.end
        };
        self.ordered || !command.kind.modifies() || !self.calls.values().any(overlaps)
    }

    fn submit(
        &mut self,
        all: &mut [Member],
        number: usize,
        command: Command,
        rng: &mut Rng,
        now: Instant,
    ) -> Check {
        let at = place(all, number);
        let member = &mut all[at];
        let length = command.length as usize;
        let mut noise = vec![0; length];
        rng.fill(&mut noise);
        let data = match command.kind {
            CommandType::Write => Some(noise.clone()),
            CommandType::WriteZeroes => Some(vec![0; length]),
            _ => None,
        };
        let seconds = rng.pick(&[1, 5, 20]);
        let limit = match rng.one_in(self.limit_one_in) {
            true => Limit::within(Duration::from_secs(seconds), now),
            false => Limit::Default,
        };
        let mut request = Request::new(command).limit(limit);
        let kept = member.session.keeps_payload(&command);
        if kept {
            request = request.payload(Bytes::from(noise.clone()));
        }
        let id = match member.session.submit_request(request, now) {
            Ok(id) => id,
            Err(error) => {
                self.members.finished(number);
                let lasts = member.session.options().reconnects();
                let known = error.is_full() || member.session.is_over() || !lasts;
                return if known { Ok(()) } else { Err(format!("{command:?}: {error}")) };
            }
        };
        if !kept && matches!(command.kind, CommandType::Read | CommandType::Write) {
            member.lent.0.insert(id, noise);
        }
        if command.kind.modifies() {
            self.model.begin(range(&command), data.as_deref());
        }
        let glances = self.model.glance(range(&command));
        let call = Call { command, data, glances };
        if self.calls.insert((at, id), call).is_some() {
            return Err(format!("{id:?} was given out twice"));
        }
        self.report.submitted += 1;
        Ok(())
    }

    /// Begins to flush all members.
    pub(super) fn flush(&mut self, all: &mut [Member], now: Instant) -> Check {
        let unflushed = |number| all[place(all, number)].session.has_unflushed();
        let flush = self.members.begin_flush(unflushed);
        let stamp = self.model.stamp();
        self.flushes.push(PoolFlush { flush, next: 0, asked: None, stamp, told: self.told });
        self.go_on_flushing(all, now)
    }

    /// One member after the other.
    fn go_on_flushing(&mut self, all: &mut [Member], now: Instant) -> Check {
        let mut flushes = std::mem::take(&mut self.flushes);
        let mut outcome = Ok(());
        flushes.retain_mut(|one| {
            while one.asked.is_none() {
                let Some(number) = one.flush.members().get(one.next).copied() else { break };
                one.next += 1;
                let at = place(all, number);
                match all[at].session.submit(Command::flush(), Limit::Default, now) {
                    Ok(id) => {
                        one.asked = Some((at, id));
                        self.report.submitted += 1;
                    }
                    // There is no room now.
                    Err(error) if error.is_full() => {
                        one.next -= 1;
                        return true;
                    }
                    Err(error) => {
                        self.losses += 1;
                        self.count_out(all);
                        self.members.flushed(&mut one.flush, Err(error));
                    }
                }
            }
            one.asked.is_some() || {
                let flush = std::mem::replace(&mut one.flush, self.members.begin_flush(|_| false));
                let told = self.end_flush(flush, one);
                outcome = std::mem::replace(&mut outcome, Ok(())).and(told);
                false
            }
        });
        self.flushes.append(&mut flushes);
        outcome
    }

    fn end_flush(&mut self, flush: Flush, begun: &PoolFlush) -> Check {
        match self.members.end_flush(flush) {
            Ok(()) if begun.next > 0 => {
                self.model.flush(begun.stamp);
                self.report.succeeded += 1;
            }
            // There was nobody left to ask, which the caller is told.
            Ok(()) => {}
            Err(error) => {
                self.report.failed += 1;
                if matches!(error.recovery(), Some(RecoveryError::UnflushedLost)) {
                    self.report.told += 1;
                    if self.losses == begun.told {
                        return Err("a flush told of lost writes, and nothing was lost".to_owned());
                    }
                }
                self.told = self.losses;
                self.model.tell();
            }
        }
        Ok(())
    }

    /// The pool is told of members that are over.
    pub(super) fn count_out(&mut self, all: &mut [Member]) {
        for member in all {
            if let Some(number) = member.number
                && member.session.is_over()
                && !member.is_counted_out
            {
                member.is_counted_out = true;
                self.losses += 1;
                self.members.died(number, member.session.has_unflushed());
                self.report.given_up += 1;
            }
        }
    }

    /// Takes what is finished on one member.
    pub(super) fn take(
        &mut self,
        all: &mut [Member],
        at: usize,
        rng: &mut Rng,
        now: Instant,
    ) -> Check {
        while let Some(done) = all[at].session.next_completion() {
            self.told(all, at, done, rng, now)?;
        }
        self.go_on_flushing(all, now)
    }

    fn told(
        &mut self,
        all: &mut [Member],
        at: usize,
        done: Completion,
        rng: &mut Rng,
        now: Instant,
    ) -> Check {
        let Completion { id, result, held, .. } = done;
        if let Some(one) = self.flushes.iter().position(|one| one.asked == Some((at, id))) {
            let mut one = self.flushes.swap_remove(one);
            one.asked = None;
            // What a server tells once is meant for all who flush.
            self.losses += u64::from(result.is_err());
            self.count_out(all);
            self.members.flushed(&mut one.flush, result);
            self.flushes.push(one);
            return Ok(());
        }
        let Some(call) = self.calls.remove(&(at, id)) else {
            return Err(format!("{:?} was told twice, or to nobody", done.command));
        };
        let number = all[at].number.expect("only members are asked");
        self.members.finished(number);
        let buffer = match held {
            true => {
                all[at].copy_some(id, rng);
                None
            }
            false => all[at].lent.0.remove(&id),
        };
        self.judge(&call, &result, buffer)?;
        self.count_out(all);
        if result.is_err_and(|error| !error.is_timeout())
            && all[at].session.is_over()
            && self.members.is_worth_another(&call.command)
            && let Some(other) = self.members.pick(usize::MAX)
        {
            return self.submit(all, other, call.command, rng, now);
        }
        Ok(())
    }

    fn judge(&mut self, call: &Call, result: &Result<(), Error>, buffer: Option<Vec<u8>>) -> Check {
        let Call { command, data, glances } = call;
        match result {
            Ok(()) => self.report.succeeded += 1,
            Err(error) => {
                self.report.failed += 1;
                self.report.late += u64::from(error.is_timeout());
            }
        }
        match (command.kind, result) {
            (CommandType::Read, Ok(())) => {
                let Some(buffer) = buffer else {
                    return Err(format!("{command:?} succeeded, and its buffer is held"));
                };
                let at = command.offset as usize;
                if let Some(at) = self.model.check_read(at, &buffer, glances) {
                    return Err(format!("{command:?} returned a wrong byte at {at}"));
                }
            }
            (kind, Ok(())) if kind.modifies() => {
                let durable = command.flags.contains(CommandFlags::FUA);
                self.model.acknowledge(range(command), data.as_deref(), durable);
                if self.is_told_of_a_loss {
                    self.model.lose(false);
                }
            }
            (kind, Err(error)) if kind.modifies() => {
                if error.command_failure().is_some() {
                    self.model.fail(range(command));
                } else {
                    self.model.give_up(range(command));
                    self.has_strays = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Somebody loses interest.
    pub(super) fn withdraw_some(&mut self, all: &mut [Member], rng: &mut Rng, now: Instant) {
        if !rng.one_in(self.withdraw_one_in) || self.calls.is_empty() {
            return;
        }
        let nth = rng.below(self.calls.len());
        let Some(key) = self.calls.keys().nth(nth).copied() else { return };
        let Some(call) = self.calls.remove(&key) else { return };
        if call.command.kind.modifies() {
            self.has_strays = true;
            self.model.give_up(range(&call.command));
        }
        let member = &mut all[key.0];
        member.withdraw(key.1, rng, now);
        self.members.finished(member.number.expect("only members are asked"));
        self.report.withdrawn += 1;
    }

    /// Whoever is ready joins; who may not is of no use.
    pub(super) fn let_join(&mut self, all: &mut [Member], now: Instant) {
        for member in all.iter_mut().filter(|member| member.number.is_none()) {
            let session = &mut member.session;
            if let Some(facts) = session.negotiated().filter(|_| session.is_ready()) {
                // It may have shrunk before anybody had seen it.
                self.size = self.size.min(session.export().map_or(0, |it| it.size as usize));
                member.number = self.members.join(&facts.clone(), session.options());
                if member.number.is_none() {
                    session.disconnect(nbd_proto::Disconnect::AfterReplies, Limit::Default, now);
                }
            }
        }
    }
}

/// Where the member of this number is.
fn place(all: &[Member], number: usize) -> usize {
    let found = all.iter().position(|member| member.number == Some(number));
    found.expect("numbers are given out once")
}
