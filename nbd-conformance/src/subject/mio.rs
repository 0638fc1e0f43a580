//! The adapter for event loops, with a loop of one connection.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use nbd_client_mio::{Completion, ConnectOptions, Connection, Error, Limit, Rejected, State};
use nbd_proto::{ApiMisuse, Command, CommandFlags, CommandType, ContextId, Extent, Negotiated};
use nbd_transport::tls::TlsInfo;

use super::{Choosing, How, Session, Subject};
use crate::outcome::{Failure, Op, Outcome, Reply};

pub(crate) struct Mio;

pub(super) fn options(how: &How, option_mode: bool) -> Outcome<ConnectOptions> {
    let options = how.options()?;
    let config = options.negotiation().clone().option_mode(option_mode);
    Ok(options.config(config))
}

/// A connection that is ready.
pub(super) fn ready(options: ConnectOptions) -> Outcome<Live> {
    let mut live = Live::new(Connection::connect(options)?)?;
    live.reach(|disk| disk.state() == State::Ready)?;
    Ok(live)
}

impl Subject for Mio {
    fn splits(&self) -> bool {
        false
    }

    fn connect(&self, how: &How) -> Outcome<Box<dyn Session>> {
        Ok(Box::new(ready(options(how, false)?)?))
    }

    fn negotiate(&self, how: &How) -> Outcome<Box<dyn Choosing>> {
        let mut live = Live::new(Connection::connect(options(how, true)?)?)?;
        live.reach(|disk| matches!(disk.state(), State::Choosing | State::Ready))?;
        Ok(Box::new(live))
    }
}

/// A loop, and the connection it is for.
pub(super) struct Live {
    poll: Poll,
    events: Events,
    pub(super) disk: Connection<Vec<u8>>,
}

impl Live {
    fn new(mut disk: Connection<Vec<u8>>) -> Outcome<Self> {
        let poll = Poll::new().map_err(Error::from)?;
        let registered = poll.registry().register(&mut disk, Token(0), Interest::READABLE);
        registered.map_err(Error::from)?;
        Ok(Self { poll, events: Events::with_capacity(8), disk })
    }

    /// Does what is due, for the caller to see what came of it; or waits for an event, until
    /// something is due.
    fn turn(&mut self) -> Outcome {
        // What has come in time counts, however late it is looked at.
        if self.disk.needs_drive() {
            self.disk.drive(self.poll.registry())?;
            return Ok(());
        }
        let now = Instant::now();
        if self.disk.next_deadline().is_some_and(|at| at <= now) {
            self.disk.handle_timeout(now);
            return Ok(());
        }
        let next = self.disk.next_deadline();
        // Nothing is expected of the server: the caller has what it wanted.
        let left = next.map(|at| at.saturating_duration_since(now)).unwrap_or_default();
        match self.poll.poll(&mut self.events, Some(left)) {
            // A process that was stopped and goes on sees its calls interrupted.
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled.map_err(Error::from)?,
        }
        self.events.iter().for_each(|event| self.disk.handle_event(event));
        Ok(())
    }

    /// The same where completions have somewhere else to go.
    pub(super) fn turn_and_take(&mut self) -> Outcome {
        // Why it failed is told by each command.
        let _ = self.turn();
        assert!(self.disk.next_completion().is_none(), "nobody has asked");
        Ok(())
    }

    /// Size of the export, in bytes.
    pub(super) fn facts_size(&self) -> u64 {
        self.disk.session().export().expect("it is ready").size
    }

    /// Turns until something holds.
    pub(super) fn reach(
        &mut self,
        mut holds: impl FnMut(&mut Connection<Vec<u8>>) -> bool,
    ) -> Outcome {
        while !holds(&mut self.disk) {
            if self.disk.state() == State::Closed {
                return Err(self.gone());
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Why a connection ended that was not to.
    fn gone(&self) -> Failure {
        let end = self.disk.session().end().cloned();
        end.unwrap_or_else(|| Error::from(ApiMisuse::WrongState)).into()
    }

    /// One command from its submission to its end.
    fn perform(&mut self, op: Op) -> Outcome<Reply> {
        let mut outcomes = self.batch(vec![op], &mut || ());
        outcomes.pop().expect("one for each")
    }
}

impl Session for Live {
    fn facts(&self) -> Negotiated {
        let negotiated = self.disk.session().negotiated().expect("it is ready");
        Negotiated::clone(negotiated)
    }

    fn tls_info(&self) -> Option<TlsInfo> {
        self.disk.session().tls_info().cloned()
    }

    fn read(&mut self, offset: u64, length: usize) -> Outcome<Vec<u8>> {
        Ok(self.perform(Op::read(offset, length))?.data)
    }

    fn write(&mut self, offset: u64, data: &[u8], flags: CommandFlags) -> Outcome {
        self.perform(Op::write(offset, data.to_vec()).with(flags)).map(drop)
    }

    fn run(&mut self, command: Command) -> Outcome {
        let data = (command.kind == CommandType::Write).then(|| vec![0; command.length as usize]);
        self.perform(Op { command, data }).map(drop)
    }

    fn status(
        &mut self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Outcome<Vec<(ContextId, Extent)>> {
        let command = Command::block_status(offset, length).with(flags);
        Ok(self.perform(Op::run(command))?.extents)
    }

    fn batch(&mut self, ops: Vec<Op>, meanwhile: &mut dyn FnMut()) -> Vec<Outcome<Reply>> {
        let mut outcomes: Vec<Option<Outcome<Reply>>> = ops.iter().map(|_| None).collect();
        let mut line: VecDeque<_> = ops.into_iter().enumerate().collect();
        let mut owners = BTreeMap::new();
        let mut meanwhile = Some(meanwhile);
        let mut place = 0;
        while !line.is_empty() || !owners.is_empty() {
            let session = self.disk.session();
            if owners.is_empty() && session.is_ready() && !session.has_room() {
                // Commands that were given up hold all of it. Why it failed is told by each.
                let _ = self.turn();
            }
            while !(self.disk.session().is_ready() && self.disk.session().is_full())
                && let Some((index, op)) = line.pop_front()
            {
                let buffer = match op.command.kind {
                    CommandType::Read => Some(vec![0; op.command.length as usize]),
                    _ => op.data,
                };
                match self.disk.submit(op.command, buffer) {
                    Ok(id) => drop(owners.insert(id, index)),
                    Err(Rejected { error, .. }) => outcomes[index] = Some(Err(error.into())),
                }
            }
            if let Some(meanwhile) = meanwhile.take() {
                // Why it failed is told by each command.
                let _ = self.disk.drive(self.poll.registry());
                meanwhile();
            }
            while let Some(done) = self.disk.next_completion() {
                let Completion { id, buffer, extents, result, .. } = done;
                let reply = Reply { data: buffer.unwrap_or_default(), extents, place };
                let index = owners.remove(&id).expect("it was submitted");
                outcomes[index] = Some(result.map(|()| reply).map_err(Failure::from));
                place += 1;
            }
            // There is room for the next in line.
            if owners.is_empty() || !line.is_empty() && !self.disk.session().is_full() {
                continue;
            }
            // Why it failed is told by each command.
            let _ = self.turn();
        }
        outcomes.into_iter().map(|outcome| outcome.expect("each has an end")).collect()
    }

    fn set_timeout(&mut self, timeout: Duration) -> Outcome {
        self.disk.set_request_timeout(timeout);
        Ok(())
    }

    fn disconnect(mut self: Box<Self>) -> Outcome<Option<Box<dyn Session>>> {
        self.disk.disconnect(Limit::Default);
        while self.disk.state() != State::Closed {
            self.turn()?;
        }
        self.disk.session().farewell()?;
        Ok(Some(self))
    }
}
