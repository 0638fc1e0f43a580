//! Requests, compact and extended.

use super::error::{Breach, Fault};
use super::message::{Command, Message, Request};
use super::numbers::{self, cmd_flag, flag};
use super::reader::{Reader, Stop};
use super::reply::Progress;
use super::summary::{Exchange, Outcome};
use super::{Oracle, Phase};

impl Oracle {
    /// "Request message".
    pub(super) fn request(&mut self, reader: &mut Reader<'_>) -> Result<Message, Stop> {
        let extended = self.summary.extended;
        let due = if extended { numbers::EXTENDED_REQUEST } else { numbers::REQUEST };
        let magic = reader.u32()?;
        if magic != due {
            return Err(Fault::Magic(u64::from(magic)).into());
        }
        let flags = reader.u16()?;
        let command = Command::from_wire(reader.u16()?);
        let cookie = reader.u64()?;
        let offset = reader.u64()?;
        let length = if extended { reader.u64()? } else { u64::from(reader.u32()?) };
        // "the write command always sends a payload of the bytes to be written", so a
        // client that forgets the flag is understood; `judge` notes it.
        let payload_flag = extended && flags & cmd_flag::PAYLOAD_LEN != 0;
        let has_payload = command == Command::Write || payload_flag;
        let payload = reader.bytes(if has_payload { length } else { 0 })?.to_vec();
        let request = Request { extended, flags, command, cookie, offset, length, payload };
        if command == Command::Disconnect {
            self.judge(&request, 0);
            self.summary.ended = true;
            self.phase = Phase::Ended;
            return Ok(Message::Request(request));
        }
        if self.in_flight.contains_key(&cookie) {
            return Err(Fault::CookieTwice(cookie).into());
        }
        let (effect, contexts) = self.scope(&request);
        self.judge(&request, effect);
        self.in_flight.insert(cookie, Progress::new(self.summary.requests.len(), contexts));
        let outcome = Outcome::Pending;
        self.summary.requests.push(Exchange { request: request.clone(), effect, outcome });
        Ok(Message::Request(request))
    }

    /// How many bytes of the export a request is about, and the contexts whose status it
    /// asks for. A block status request may carry both in its payload.
    fn scope(&mut self, request: &Request) -> (u64, Vec<u32>) {
        let selected: Vec<u32> = self.summary.contexts.iter().map(|context| context.id).collect();
        if request.command != Command::BlockStatus {
            return (request.length, Vec::new());
        }
        if request.payload.is_empty() {
            return (request.length, selected);
        }
        match status_payload(&request.payload, &selected) {
            Some(scope) => scope,
            None => {
                self.note(Breach::StatusPayload);
                (0, Vec::new())
            }
        }
    }

    /// Notes every rule for clients that the request breaks.
    fn judge(&mut self, request: &Request, effect: u64) {
        let Request { command, flags, offset, .. } = *request;
        let offered = |bit| self.summary.flags.unwrap_or(0) & bit != 0;
        let mut breaches = Vec::new();
        let stray = flags & !self.allowed_flags(command);
        if stray != 0 {
            breaches.push(Breach::CommandFlags(stray));
        }
        let exposed = match command {
            Command::Flush => offered(flag::FLUSH),
            Command::Trim => offered(flag::TRIM),
            Command::WriteZeroes => offered(flag::WRITE_ZEROES),
            // Clients send cache requests unasked; the protocol text lets them.
            Command::Read | Command::Write | Command::Disconnect | Command::Cache => true,
            Command::BlockStatus => true,
            Command::Other(number) => {
                breaches.push(Breach::UnknownCommand(number));
                true
            }
        };
        if !exposed {
            breaches.push(Breach::NotOffered(command));
        }
        if command == Command::BlockStatus && self.summary.contexts.is_empty() {
            breaches.push(Breach::NoContext);
        }
        let payload_flag = flags & cmd_flag::PAYLOAD_LEN != 0;
        if request.extended && command == Command::Write && !payload_flag {
            breaches.push(Breach::NoPayloadFlag);
        }
        if request.extended && payload_flag && request.length == 0 {
            breaches.push(Breach::EmptyPayload);
        }
        match command {
            Command::Disconnect | Command::Flush => {
                if offset != 0 || request.length != 0 {
                    breaches.push(Breach::Reserved(command));
                }
            }
            Command::Other(_) => {}
            _ => self.judge_range(request, effect, &mut breaches),
        }
        breaches.into_iter().for_each(|breach| self.note(breach));
    }

    /// "Size constraints", and the end of the export.
    fn judge_range(&self, request: &Request, effect: u64, breaches: &mut Vec<Breach>) {
        let size = self.summary.size.unwrap_or(u64::MAX);
        if request.offset.checked_add(effect).is_none_or(|end| end > size) {
            breaches.push(Breach::BeyondEnd);
        }
        let Some(sizes) = self.summary.block_sizes else {
            return;
        };
        let minimum = u64::from(sizes.minimum);
        if !request.offset.is_multiple_of(minimum) || !effect.is_multiple_of(minimum) {
            breaches.push(Breach::Unaligned);
        }
        let simple = !self.summary.structured && !self.summary.extended;
        let carried = match request.command {
            Command::Read if simple => effect,
            _ => u64::try_from(request.payload.len()).unwrap_or(u64::MAX),
        };
        if carried > u64::from(sizes.maximum) {
            breaches.push(Breach::TooLong);
        }
    }

    /// "Command flags": those that are for this command, in this session.
    fn allowed_flags(&self, command: Command) -> u16 {
        let offered = |bit| self.summary.flags.unwrap_or(0) & bit != 0;
        let when = |yes, bit| if yes { bit } else { 0 };
        let own = match command {
            Command::Read => when(offered(flag::DF), cmd_flag::DF),
            Command::Write => when(self.summary.extended, cmd_flag::PAYLOAD_LEN),
            Command::WriteZeroes => {
                cmd_flag::NO_HOLE | when(offered(flag::FAST_ZERO), cmd_flag::FAST_ZERO)
            }
            Command::BlockStatus => {
                cmd_flag::REQ_ONE | when(offered(flag::BLOCK_STATUS_PAYLOAD), cmd_flag::PAYLOAD_LEN)
            }
            Command::Disconnect | Command::Flush | Command::Trim | Command::Cache => 0,
            Command::Other(_) => u16::MAX,
        };
        own | when(offered(flag::FUA), cmd_flag::FUA)
    }
}

/// Effect length, then the numbers of selected contexts, none of them twice.
fn status_payload(payload: &[u8], selected: &[u32]) -> Option<(u64, Vec<u32>)> {
    let mut reader = Reader::new(payload);
    let effect = reader.u64().ok()?;
    let mut wanted = Vec::new();
    while reader.left() > 0 {
        let id = reader.u32().ok()?;
        if wanted.contains(&id) || !selected.contains(&id) {
            return None;
        }
        wanted.push(id);
    }
    Some((effect, wanted))
}
