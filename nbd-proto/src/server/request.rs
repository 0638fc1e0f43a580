//! What the bytes from the client mean, and which requests are sound.
//!
//! ```text
//!            ┌─► sound, no payload ──────────────────────► fresh
//!   Header ──┼─► sound write ─► Payload ─────────────────► fresh
//!     ▲      ├─► block status with a filter ─► Filter ───► fresh
//!     │      └─► not sound ─► Refuse (payload skipped) ──► error reply
//!     └── Slot: none is free, nothing is read
//! ```

use alloc::vec::Vec;

use super::{Core, Life, Stage};
use crate::engine::intake::{Role, Step};
use crate::errno::Errno;
use crate::error::{Error, InvalidMessage, PeerMisbehaved, broken};
use crate::negotiate::MAX_CONTEXTS;
use crate::payload::PayloadSink;
use crate::reply::status::StatusProgress;
use crate::types::{Command, ContextId, HeaderStyle, RequestId};
use crate::wire::flags::{CommandFlags, TransmissionFlags};
use crate::wire::request::{CommandType, DISCONNECT, RequestHeader};

/// The longest filter of a block status: an effect length and every context.
const MAX_FILTER: u64 = 8 + 4 * MAX_CONTEXTS as u64;

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Header,
    /// No slot is free.
    Slot,
    /// A write's payload.
    Payload(RequestId),
    /// A block status payload.
    Filter {
        id: RequestId,
        length: u64,
    },
    /// Payload of a request that is refused.
    Refuse {
        id: RequestId,
        errno: Errno,
        reason: &'static str,
    },
}

impl Expect {
    /// Whether a request's header has come, and something that belongs to it has not.
    pub(super) const fn is_payload(&self) -> bool {
        match self {
            Self::Payload(_) | Self::Filter { .. } | Self::Refuse { .. } => true,
            Self::Header | Self::Slot => false,
        }
    }
}

/// Why a request is refused.
type Refused = (Errno, &'static str);

impl<S: PayloadSink> Role<S> for Core {
    fn parse(&mut self, bytes: &[u8], _sink: &mut S) -> Result<(usize, Step), Error> {
        if let Expect::Filter { id, length } = self.expect {
            let body = usize::try_from(length).ok().and_then(|len| bytes.get(..len));
            let body = body.ok_or(InvalidMessage::Truncated)?;
            self.filter(id, body);
            return Ok((body.len(), self.next_header()));
        }
        if self.slots.is_full() {
            self.expect = Expect::Slot;
            return Ok((0, Step::Wait));
        }
        let (header, used) = if self.facts.headers == HeaderStyle::Extended {
            let head = bytes.first_chunk().ok_or(InvalidMessage::Truncated)?;
            (RequestHeader::decode_extended(head)?, head.len())
        } else {
            let head = bytes.first_chunk().ok_or(InvalidMessage::Truncated)?;
            (RequestHeader::decode_compact(head)?, head.len())
        };
        self.messages_received = self.messages_received.wrapping_add(1);
        Ok((used, self.request(header)?))
    }

    fn finished(&mut self, _sink: &mut S) -> Result<Step, Error> {
        match self.expect {
            Expect::Payload(id) => self.arrived(id),
            Expect::Refuse { id, errno, reason } => self.refuse(id, errno, reason),
            Expect::Header | Expect::Slot | Expect::Filter { .. } => {}
        }
        Ok(self.next_header())
    }

    fn unplaced(&mut self, id: RequestId) {
        if self.expect == Expect::Payload(id) {
            let reason = "no memory for the payload";
            self.expect = Expect::Refuse { id, errno: Errno::NoMem, reason };
        }
    }

    fn payload(&mut self, _n: usize) {}

    fn wants(&self, id: RequestId) -> bool {
        self.slots.get(id).is_some()
    }

    /// Clients write in runs of one size: after a large write comes another.
    fn large_next(&self) -> Option<usize> {
        (self.last_payload >= self.limits.direct_min).then_some(self.header_len())
    }
}

impl Core {
    fn next_header(&mut self) -> Step {
        if self.life != Life::Open {
            return Step::Wait;
        }
        self.expect = Expect::Header;
        self.first_step()
    }

    /// A sound request is complete.
    fn arrived(&mut self, id: RequestId) {
        if let Some(received) = self.slots.get_mut(id) {
            received.stage = Stage::Fresh;
            if received.command.kind == CommandType::BlockStatus {
                let wanted = self.contexts.set(&received.filter);
                received.reply.status = StatusProgress::new(wanted);
            }
            self.slots.push_back(&mut self.fresh, id);
        }
    }

    fn refuse(&mut self, id: RequestId, errno: Errno, reason: &'static str) {
        self.refused = self.refused.wrapping_add(1);
        if let Some(received) = self.slots.get_mut(id) {
            received.stage = Stage::Open;
            self.answer_error(id, errno, reason);
        }
    }

    fn request(&mut self, header: RequestHeader) -> Result<Step, Error> {
        if header.kind == DISCONNECT {
            self.life = Life::Leaving;
            return Ok(Step::Wait);
        }
        let kind = CommandType::from_wire(header.kind);
        let payload = self.payload_length(&header)?;
        self.last_payload = usize::try_from(payload).unwrap_or(usize::MAX);
        let extended = self.facts.headers == HeaderStyle::Extended;
        let flagged = extended && header.flags.contains(CommandFlags::PAYLOAD_LEN);
        let mut flags = header.flags;
        if extended && matches!(kind, Some(CommandType::Write | CommandType::BlockStatus)) {
            // Of no other command, where it is refused as any flag that is not allowed.
            flags.remove(CommandFlags::PAYLOAD_LEN);
        }
        let mut command = Command {
            kind: kind.unwrap_or(CommandType::Flush),
            flags,
            offset: header.offset,
            length: header.length,
        };
        if command.kind == CommandType::Flush {
            // proto.md, "NBD_CMD_FLUSH": both are reserved, so nobody acts on them.
            (command.offset, command.length) = (0, 0);
        }
        let Some((id, received)) = self.slots.claim() else {
            return Ok(Step::Wait);
        };
        let id = id.with_cookie(header.cookie);
        received.command = command;
        received.cookie = header.cookie;
        received.offset = header.offset;
        received.filter.clear();
        received.reply.reset();
        received.failed = false;
        received.queued = 0;
        received.stage = Stage::Arriving;
        let filtered = kind == Some(CommandType::BlockStatus) && flagged;
        let verdict = match kind {
            None => Err((Errno::Inval, "unknown command")),
            // The range of a filtered one is in its payload.
            Some(CommandType::BlockStatus) if filtered => self.check_filter(payload),
            Some(_) => self.check(&command),
        };
        match verdict {
            Err((errno, reason)) => {
                self.expect = Expect::Refuse { id, errno, reason };
                Ok(Step::Skip { left: payload })
            }
            Ok(()) if filtered => {
                self.expect = Expect::Filter { id, length: payload };
                Ok(Step::Parse { need: usize::try_from(payload).unwrap_or(usize::MAX) })
            }
            Ok(()) if payload > 0 => {
                self.expect = Expect::Payload(id);
                let left = usize::try_from(payload).unwrap_or(usize::MAX);
                Ok(Step::Place { id, at: 0, left })
            }
            Ok(()) => {
                self.arrived(id);
                Ok(self.next_header())
            }
        }
    }

    /// How many bytes follow the header.
    fn payload_length(&self, header: &RequestHeader) -> Result<u64, Error> {
        let write = header.kind == CommandType::Write.to_wire();
        let flagged = header.flags.contains(CommandFlags::PAYLOAD_LEN);
        // Extended-headers draft, "NBD_CMD_FLAG_PAYLOAD_LEN": a write must set it.
        // QEMU's client does not, and its payload follows all the same.
        let extended = self.facts.headers == HeaderStyle::Extended;
        let payload = if write || (extended && flagged) { header.length } else { 0 };
        if payload > u64::from(u32::MAX) {
            return Err(PeerMisbehaved::TooLong.into());
        }
        Ok(payload)
    }

    fn check_filter(&self, payload: u64) -> Result<(), Refused> {
        if !self.export.flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD) {
            return Err((Errno::Inval, "block status takes no payload here"));
        }
        if !(12..=MAX_FILTER).contains(&payload) || !payload.is_multiple_of(4) {
            return Err((Errno::Inval, "malformed block status payload"));
        }
        Ok(())
    }

    /// The payload of a block status: the effect length, then context ids.
    fn filter(&mut self, id: RequestId, body: &[u8]) {
        let Some((effect, ids)) = body.split_first_chunk() else {
            return broken("the length of the payload was checked");
        };
        let filter: Vec<ContextId> =
            ids.as_chunks().0.iter().map(|bytes| ContextId(u32::from_be_bytes(*bytes))).collect();
        // Extended-headers draft, "NBD_CMD_BLOCK_STATUS": neither duplicates nor unknown ones.
        let known = filter.iter().enumerate().all(|(i, wanted)| {
            let unique = filter.get(..i).is_some_and(|before| !before.contains(wanted));
            unique && self.facts.contexts.iter().any(|context| context.id == *wanted)
        });
        let Some(received) = self.slots.get_mut(id) else {
            return broken("a request keeps its slot while its payload comes");
        };
        received.command.length = u64::from_be_bytes(*effect);
        received.filter = filter;
        let command = received.command;
        match self.check(&command) {
            Err((errno, reason)) => self.refuse(id, errno, reason),
            Ok(()) if !known => self.refuse(id, Errno::Inval, "unknown or repeated meta context"),
            Ok(()) => self.arrived(id),
        }
    }

    /// Whether the export offers the command, its flags and its range
    /// (proto.md, "Request types", "Size constraints").
    fn check(&self, command: &Command) -> Result<(), Refused> {
        let Command { kind, flags, offset, length } = *command;
        let offered = |flag| self.export.flags.contains(flag);
        let supported = match kind {
            CommandType::Read | CommandType::Write => true,
            CommandType::Flush => offered(TransmissionFlags::SEND_FLUSH),
            CommandType::Trim => offered(TransmissionFlags::SEND_TRIM),
            CommandType::Cache => offered(TransmissionFlags::SEND_CACHE),
            CommandType::WriteZeroes => offered(TransmissionFlags::SEND_WRITE_ZEROES),
            CommandType::BlockStatus => !self.facts.contexts.is_empty(),
        };
        if !supported {
            return Err((Errno::Inval, "command not supported"));
        }
        if kind.modifies() && offered(TransmissionFlags::READ_ONLY) {
            return Err((Errno::Perm, "export is read-only"));
        }
        if !self.allowed_flags(kind).contains(flags) {
            return Err((Errno::Inval, "flag not supported"));
        }
        if kind == CommandType::Flush {
            return Ok(());
        }
        if offset.checked_add(length).is_none_or(|end| end > self.export.size) {
            // proto.md, "Error values": a trim counts with the reads here.
            let errno = match kind {
                CommandType::Write | CommandType::WriteZeroes => Errno::NoSpc,
                CommandType::Read
                | CommandType::Trim
                | CommandType::Cache
                | CommandType::BlockStatus
                | CommandType::Flush => Errno::Inval,
            };
            return Err((errno, "range beyond the end of the export"));
        }
        let mask = u64::from(self.export.minimum_block().saturating_sub(1));
        if (offset | length) & mask != 0 {
            return Err((Errno::Inval, "range not aligned to the minimum block size"));
        }
        if kind == CommandType::BlockStatus && length == 0 {
            // proto.md, "NBD_CMD_BLOCK_STATUS": a reply has one extent at least, and none is
            // empty.
            return Err((Errno::Inval, "a range of no bytes has no extents"));
        }
        if flags.contains(CommandFlags::DF) && length > self.longest_data() {
            // proto.md, "NBD_CMD_FLAG_DF": what does not fit into one chunk.
            return Err((Errno::Overflow, "too long for one chunk"));
        }
        let carries = matches!(kind, CommandType::Read | CommandType::Write);
        if carries && length > u64::from(self.limits.max_payload) {
            let errno = if kind == CommandType::Read { Errno::Overflow } else { Errno::Inval };
            return Err((errno, "payload too long"));
        }
        Ok(())
    }

    /// proto.md, "Command flags": FUA may be set on any command once offered.
    fn allowed_flags(&self, kind: CommandType) -> CommandFlags {
        let offered = |flag| self.export.flags.contains(flag);
        let mut allowed = match kind {
            CommandType::WriteZeroes => CommandFlags::NO_HOLE,
            CommandType::BlockStatus => CommandFlags::REQ_ONE,
            _ => CommandFlags::empty(),
        };
        let fast = kind == CommandType::WriteZeroes && offered(TransmissionFlags::SEND_FAST_ZERO);
        allowed.set(CommandFlags::FAST_ZERO, fast);
        let whole = kind == CommandType::Read && offered(TransmissionFlags::SEND_DF);
        allowed.set(CommandFlags::DF, whole);
        allowed.set(CommandFlags::FUA, offered(TransmissionFlags::SEND_FUA));
        allowed
    }
}
