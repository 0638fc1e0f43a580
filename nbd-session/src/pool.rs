//! Several connections to one export, as one: who may join, who takes which call, and what a
//! flush of all of them is worth.
//!
//! [`Members`] knows connections by number and nothing else of them; a client keeps the
//! connections themselves, in the same order, and its way of waiting:
//!
//! 1. Make the first connection, and let it [`join`](Members::join). As long as
//!    [`wants_more`](Members::wants_more) says so, make others beside the work, never in its
//!    way; one that cannot be made is the [last that is tried](Members::no_room).
//! 2. For each call [`pick`](Members::pick) a member and tell when the call is
//!    [`finished`](Members::finished). When a member is over, it has [`died`](Members::died);
//!    a call that failed with it may be [worth another](Members::is_worth_another).
//! 3. To flush, [`begin_flush`](Members::begin_flush), flush each of the members that it
//!    names, one after the other or all at once, tell what came of each, and return what
//!    [`end_flush`](Members::end_flush) says.
//!
//!    Both are one with [`begin_call`](Members::begin_call), which leads a call from member to member.
//! 4. At the end, [`leave`](Members::leave) before the members are ended says whether something
//!    was lost that nobody was told of, and [`farewell`](Members::farewell) after them.
//!
//! # Why a flush goes to all that have something to flush
//!
//! A server with `NBD_FLAG_CAN_MULTI_CONN` promises that one flush covers what was
//! acknowledged on all connections (proto.md, "NBD_FLAG_CAN_MULTI_CONN"). But a connection
//! that was made later, or made again, may be one to a server that has been restarted since;
//! its flush vouches for nothing that was before. The connection on which a write was
//! acknowledged knows, because it has died by then.

use nbd_proto::{Command, CommandType, ExportInfo, Negotiated};

use crate::error::Error;
use crate::options::ConnectOptions;
use crate::replay::RecoveryError;
use crate::session::{Session, State};

/// The connections of a pool, by number.
#[derive(Debug)]
pub struct Members {
    size: usize,
    /// What the first of them has agreed on.
    facts: Option<Negotiated>,
    /// There can be no more.
    complete: bool,
    members: Vec<Member>,
    /// Calls begun so far.
    calls: u64,
    /// How often acknowledged writes may have been lost, and for how many of those a flush
    /// has failed.
    losses: u64,
    told: u64,
    /// Why the member died that died last.
    end: Option<Error>,
    /// What the end comes to, once it has begun.
    farewell: Option<Result<(), Error>>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    alive: bool,
    /// Calls under way.
    busy: usize,
    /// When it was last picked, as the number of a call.
    last: u64,
}

/// A flush of the whole pool, under way.
#[derive(Debug)]
#[must_use = "what came of it is for end_flush to say"]
pub struct Flush {
    members: Vec<usize>,
    /// None of them has anything to flush.
    for_others: bool,
    told: u64,
    failure: Option<Error>,
}

/// A call, on one member after the other as it takes: another one where the first is lost and
/// that helps, or all that have something to flush.
#[derive(Debug)]
#[must_use = "a call is to be carried out"]
pub struct Call {
    command: Command,
    /// The member that carries it out; none where it was given to a connection that has not
    /// joined yet.
    number: Option<usize>,
    /// For a flush: what it comes to, and how many members were asked.
    flush: Option<(Flush, usize)>,
}

impl Call {
    /// The command of it.
    #[must_use]
    pub const fn command(&self) -> Command {
        self.command
    }
}

impl Flush {
    /// The members that are to be flushed, each once. There may be one more when one of them
    /// was [found dead](Members::flushed).
    #[must_use]
    pub fn members(&self) -> &[usize] {
        &self.members
    }
}

impl Members {
    /// A pool that is to have so many members, at least one.
    #[must_use]
    pub const fn new(size: usize) -> Self {
        let members = Vec::new();
        Self {
            size,
            facts: None,
            complete: false,
            members,
            calls: 0,
            losses: 0,
            told: 0,
            end: None,
            farewell: None,
        }
    }

    /// A connection that is ready joins, if it may: when it is the first, or when the server
    /// says that several are safe, describes the export alike on both, and the options of this
    /// one let it. One that [keeps](crate::replay::Reconnect::keep_unflushed) unflushed writes
    /// would put them back over what another has written since, unless nobody can write; and of
    /// several servers two connections could come to different ones, unless they are
    /// [spread](ConnectOptions::spread).
    ///
    /// Returns its number: the first is 0, and each of the others one more than the last.
    /// One that may not join is of no use, and nor are others.
    pub fn join(&mut self, facts: &Negotiated, options: &ConnectOptions) -> Option<usize> {
        let read_only = facts.export.as_ref().is_some_and(ExportInfo::is_read_only);
        let alone = options.could_part() || options.keeps_unflushed() && !read_only;
        match &self.facts {
            None => {
                self.complete = alone || !facts.is_safe_beside(facts);
                self.facts = Some(facts.clone());
            }
            Some(first) if self.complete || alone || !facts.is_safe_beside(first) => {
                self.complete = true;
                return None;
            }
            Some(_) => {}
        }
        self.members.push(Member { alive: true, busy: 0, last: 0 });
        Some(self.members.len() - 1)
    }

    /// Whether another connection is to be made, beside the work.
    #[must_use]
    pub const fn wants_more(&self) -> bool {
        !self.complete && self.members.len() < self.size
    }

    /// Another connection could not be made. A server that has no room for it is no failure,
    /// and is not asked again.
    pub const fn no_room(&mut self) {
        self.complete = true;
    }

    /// How many have joined, dead ones included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether none has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many are alive, as far as anybody knows.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.members.iter().filter(|member| member.alive).count()
    }

    /// Whether a member is alive, as far as anybody knows.
    #[must_use]
    pub fn is_alive(&self, number: usize) -> bool {
        self.members.get(number).is_some_and(|member| member.alive)
    }

    /// The member for the next call: of those that are alive and have fewer than `most` calls
    /// under way, the one with the fewest, and of several the one that was picked longest ago.
    /// The call is under way from now on.
    pub fn pick(&mut self, most: usize) -> Option<usize> {
        let fit = |member: &Member| member.alive && member.busy < most;
        let fitting = self.members.iter().enumerate().filter(|(_, member)| fit(member));
        let (number, _) = fitting.min_by_key(|(_, member)| (member.busy, member.last))?;
        self.begin(number);
        Some(number)
    }

    /// The same for a call that has to be on this member; whether it is alive and has fewer
    /// than `most` calls under way.
    pub fn pick_one(&mut self, number: usize, most: usize) -> bool {
        let fits = self.members.get(number).is_some_and(|one| one.alive && one.busy < most);
        if fits {
            self.begin(number);
        }
        fits
    }

    fn begin(&mut self, number: usize) {
        self.calls += 1;
        if let Some(member) = self.members.get_mut(number) {
            member.busy += 1;
            member.last = self.calls;
        }
    }

    /// A call on this member is finished, or was withdrawn.
    pub fn finished(&mut self, number: usize) {
        if let Some(member) = self.members.get_mut(number) {
            debug_assert!(member.busy > 0, "a call is finished once");
            member.busy = member.busy.saturating_sub(1);
        }
    }

    /// A member is over and is picked no more. `unflushed` is whether writes were acknowledged
    /// on it that were not flushed, or may have been.
    pub fn died(&mut self, number: usize, unflushed: bool) {
        if let Some(member) = self.members.get_mut(number).filter(|member| member.alive) {
            member.alive = false;
            self.losses += u64::from(unflushed);
        }
    }

    /// Looks how a connection is doing whose session is in the client's hands: the next one
    /// [joins](Self::join) when it is ready, and a member whose session is over has
    /// [died](Self::died). Returns whether the connection is to be kept: one that may not join
    /// is not, nor one that [could not be made](Self::no_room) beside others.
    pub fn look(&mut self, number: usize, session: &Session) -> bool {
        let has_joined = number < self.members.len();
        match (session.state(), session.negotiated()) {
            (State::Ready, Some(facts)) if !has_joined => {
                self.join(facts, session.options()).is_some()
            }
            (State::Closed, _) if !has_joined => {
                self.no_room();
                number == 0
            }
            (State::Closed, _) if self.is_alive(number) => {
                if let Some(farewell) = &mut self.farewell {
                    *farewell = farewell.clone().and_then(|()| session.farewell());
                }
                self.end = session.end().cloned();
                self.died(number, session.has_unflushed());
                true
            }
            _ => true,
        }
    }

    /// Why there is nobody to call: how the member ended that was found dead last.
    #[must_use]
    pub fn end(&self) -> Error {
        self.end.clone().unwrap_or_else(Error::stopped)
    }

    /// Whether a command that failed because its member is over may be tried on another one:
    /// what does no harm when it is carried out twice. A write could be finished by the server
    /// after a later one to the same place; and a flush on another member would not vouch for
    /// this one's writes.
    #[must_use]
    pub fn is_worth_another(&self, command: &Command) -> bool {
        let harmless = match command.kind {
            CommandType::Read | CommandType::Cache | CommandType::BlockStatus => true,
            CommandType::Write
            | CommandType::WriteZeroes
            | CommandType::Trim
            | CommandType::Flush => false,
        };
        harmless && self.alive() > 0
    }

    /// Begins to flush. `unflushed` is whether a member has acknowledged writes that were not
    /// flushed; where none has, one member is flushed all the same, for what others have
    /// written.
    pub fn begin_flush(&self, unflushed: impl Fn(usize) -> bool) -> Flush {
        let alive = || (0..self.members.len()).filter(|number| self.is_alive(*number));
        let mut members: Vec<_> = alive().filter(|number| unflushed(*number)).collect();
        let for_others = members.is_empty();
        if for_others {
            members.extend(alive().min_by_key(|number| self.members.get(*number).map(|m| m.busy)));
        }
        Flush { members, for_others, told: self.told, failure: None }
    }

    /// What came of the flush of one member. Tell first that it [died](Self::died), if it did.
    pub fn flushed(&mut self, flush: &mut Flush, result: Result<(), Error>) {
        let dead = flush.members.last().is_some_and(|number| !self.is_alive(*number));
        match result {
            Ok(()) if flush.for_others => flush.failure = None,
            Ok(()) => {}
            Err(error) if flush.for_others && dead => {
                // Nothing was lost with it: another one will do as well.
                flush.failure.get_or_insert(error);
                flush.members.extend((0..self.members.len()).find(|number| self.is_alive(*number)));
            }
            Err(error) => {
                // Whoever flushes at the same time is told so too: what the server tells once
                // is meant for all.
                self.losses += 1;
                flush.failure.get_or_insert(error);
            }
        }
    }

    /// What the flush is worth.
    ///
    /// # Errors
    /// How the first member failed; or that acknowledged writes may be lost, because a member
    /// has died with them. That is told to all flushes that were under way when it came to be
    /// known, or else to the next one.
    pub fn end_flush(&mut self, flush: Flush) -> Result<(), Error> {
        let lost = self.losses > flush.told;
        self.told = self.losses;
        match flush.failure {
            Some(error) => Err(error),
            None if lost => Err(RecoveryError::UnflushedLost.into()),
            None => Ok(()),
        }
    }

    /// Begins a call of any kind. `unflushed` is as for [`begin_flush`](Self::begin_flush).
    pub fn begin_call(&self, command: Command, unflushed: impl Fn(usize) -> bool) -> Call {
        let is_flush = command.kind == CommandType::Flush;
        let flush = is_flush.then(|| (self.begin_flush(unflushed), 0));
        Call { command, number: None, flush }
    }

    /// The member that is to carry out a call, or to go on with it: one that has fewer than
    /// `most` calls under way, unless it is a flush. It is under way from now on. `None` when
    /// there is nobody.
    pub fn next_member(&mut self, call: &mut Call, most: usize) -> Option<usize> {
        let number = match &mut call.flush {
            None => self.pick(most)?,
            Some((flush, asked)) => {
                let number = *flush.members().get(*asked)?;
                *asked += 1;
                self.begin(number);
                number
            }
        };
        call.number = Some(number);
        call.number
    }

    /// What came of a call on its member; tell first that it [died](Self::died), if it did.
    /// Returns what its caller is to be told, or `None` when there is a
    /// [next member](Self::next_member) to go on with it.
    pub fn called(
        &mut self,
        call: &mut Call,
        result: Result<(), Error>,
    ) -> Option<Result<(), Error>> {
        let number = call.number.take();
        if let Some(number) = number {
            self.finished(number);
        }
        let Some((mut flush, asked)) = call.flush.take() else {
            let again = result.is_err()
                // What came before there was a member was given to the first.
                && !self.is_alive(number.unwrap_or(0))
                && self.is_worth_another(&call.command);
            return (!again).then_some(result);
        };
        self.flushed(&mut flush, result);
        if asked < flush.members().len() {
            call.flush = Some((flush, asked));
            return None;
        }
        Some(self.end_flush(flush))
    }

    /// A call that nobody waits for any more is over, wherever it was.
    pub fn withdraw(&mut self, call: &mut Call) {
        if let Some(number) = call.number.take() {
            self.finished(number);
        }
    }

    /// All members are going to be ended, and nobody joins any more. What their sessions say of
    /// it when they are [over](Self::look) is part of the farewell, but for those that are dead
    /// already.
    ///
    /// # Errors
    /// As [`farewell`](Self::farewell), of what has happened so far.
    pub fn leave(&mut self) -> Result<(), Error> {
        self.no_room();
        self.farewell.insert(self.farewell()).clone()
    }

    /// Whether everybody was told of what may be lost. To be asked before the members are
    /// ended, which tell for themselves; or after them, by those who [look](Self::look).
    ///
    /// # Errors
    /// When a member has died with acknowledged writes that were not flushed, and no flush has
    /// failed for that; how the first of them ended since the end [began](Self::leave).
    pub fn farewell(&self) -> Result<(), Error> {
        if let Some(farewell) = &self.farewell {
            return farewell.clone();
        }
        if self.losses > self.told {
            return Err(RecoveryError::UnflushedLost.into());
        }
        Ok(())
    }
}
