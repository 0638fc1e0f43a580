//! Checks made before a command is queued, in libnbd's order, and queueing.

use alloc::vec::Vec;

use super::{Client, Core, Life};
use crate::config::StrictMode;
use crate::engine::outbox::Outbox;
use crate::error::SubmitError;
use crate::reply::status::{ContextSet, StatusProgress};
use crate::types::{Command, ContextId, HeaderStyle, RequestId};
use crate::wire::flags::{CommandFlags, TransmissionFlags};
use crate::wire::request::{CommandType, RequestHeader};

/// The longest payload a server takes that tells no maximum
/// (proto.md, "Size constraints").
const DEFAULT_MAX_PAYLOAD: u64 = 32 << 20;

impl Client {
    /// Queues a command. Nothing is written by this call.
    ///
    /// A read's data lands in the [`PayloadSink`](crate::PayloadSink) and a write's
    /// data comes from the [`PayloadSource`](crate::PayloadSource) of later calls,
    /// under the id that is returned.
    ///
    /// # Errors
    /// When the command cannot be sent, or would be wrong and the
    /// [`StrictMode`] in force minds. Nothing has changed then.
    #[inline(always)]
    #[doc(alias = "nbd_aio_pread")]
    pub fn submit(&mut self, command: Command) -> Result<RequestId, SubmitError> {
        if matches!(self.core.life, Life::Open) && self.core.gate.passes(&command) {
            return self.core.enqueue(command, command.flags, None, None);
        }
        self.queue(command, None)
    }

    /// Queues a block status command that asks for some of the negotiated contexts
    /// only. `contexts` must not be empty; one that is named twice is asked for once.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); [`SubmitError::NoFilter`] when extended headers
    /// were not negotiated, [`SubmitError::UnsupportedFlag`] when the server does not
    /// offer the choice, [`SubmitError::UnknownContext`] when it has not granted one.
    #[doc(alias = "nbd_aio_block_status_filter")]
    pub fn submit_filtered(
        &mut self,
        command: Command,
        contexts: &[ContextId],
    ) -> Result<RequestId, SubmitError> {
        self.queue(command, Some(contexts))
    }

    /// Whether [`submit`](Self::submit) would take a command now. For whoever finds a fault
    /// of his own with it, and wants to know first whether there is a worse one.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn check(&self, mut command: Command) -> Result<(), SubmitError> {
        self.core.check_open()?;
        command.flags = self.core.flags_to_send(&command, false);
        if self.core.gate.passes(&command) && !self.core.slots.is_full() {
            return Ok(());
        }
        self.core.check(&command, false)
    }

    fn queue(
        &mut self,
        asked: Command,
        filter: Option<&[ContextId]>,
    ) -> Result<RequestId, SubmitError> {
        let core = &mut self.core;
        core.check_open()?;
        let flags = core.flags_to_send(&asked, filter.is_some());
        let command = Command { flags, ..asked };
        if !core.gate.passes(&command) {
            core.check(&command, filter.is_some())?;
        }
        let (wanted, once) = match filter {
            Some(contexts) => {
                let (wanted, once) = core.check_filter(&command, contexts)?;
                (Some(wanted), Some(once))
            }
            None if command.kind == CommandType::BlockStatus => (Some(core.contexts.all()), None),
            None => (None, None),
        };
        core.enqueue(asked, flags, once.as_deref(), wanted)
    }
}

impl Core {
    /// Queues a command that has passed all checks but for a free slot, with these flags in
    /// place of its own.
    #[inline(always)]
    fn enqueue(
        &mut self,
        command: Command,
        flags: CommandFlags,
        filter: Option<&[ContextId]>,
        wanted: Option<ContextSet>,
    ) -> Result<RequestId, SubmitError> {
        // What a compact header cannot say is not sent as something else.
        let compact = match self.facts.headers {
            HeaderStyle::Extended => None,
            HeaderStyle::Simple | HeaderStyle::Structured => {
                Some(u32::try_from(command.length).map_err(|_| SubmitError::LengthTooLong)?)
            }
        };
        let (id, pending) = self.slots.claim_back(&mut self.in_flight).ok_or(SubmitError::Full)?;
        pending.reset(command);
        let header = header(Command { flags, ..command }, id);
        if let Some(wanted) = wanted {
            pending.reply.status = StatusProgress::new(wanted);
        }
        pending.sequence = match filter {
            Some(contexts) => push_filtered(&mut self.outbox, header, contexts),
            None if command.kind == CommandType::Write => {
                push_write(&mut self.outbox, compact, id, header)
            }
            None => push_header(&mut self.outbox, compact, header),
        };
        let sequence = pending.sequence;
        self.count_in(command.kind, sequence);
        Ok(id)
    }
}

#[inline]
const fn header(command: Command, id: RequestId) -> RequestHeader {
    RequestHeader {
        flags: command.flags,
        kind: command.kind.to_wire(),
        cookie: id.to_cookie(),
        offset: command.offset,
        length: command.length,
    }
}

/// Queues a request without a payload; `compact` is the length if headers are compact.
#[inline(always)]
pub(super) fn push_header(outbox: &mut Outbox, compact: Option<u32>, header: RequestHeader) -> u64 {
    match compact {
        Some(length) => outbox.push(&header.compact(length)),
        None => outbox.push(&header.encode_extended()),
    }
}

fn push_write(
    outbox: &mut Outbox,
    compact: Option<u32>,
    id: RequestId,
    header: RequestHeader,
) -> u64 {
    // Checked against `Limits::max_payload`, which has 32 bits.
    let payload = header.length as usize;
    match compact {
        Some(length) => outbox.push_payload(id, &header.compact(length), 0, payload),
        None => outbox.push_payload(id, &header.encode_extended(), 0, payload),
    }
}

/// A block status request whose payload lists contexts: the effect length, then
/// the ids (extended-headers draft, "NBD_CMD_BLOCK_STATUS").
fn push_filtered(outbox: &mut Outbox, mut header: RequestHeader, contexts: &[ContextId]) -> u64 {
    let effect = header.length;
    header.length = 4_u64.saturating_mul(contexts.len() as u64).saturating_add(8);
    outbox.push_body(None, &header.encode_extended(), |body| {
        body.extend_from_slice(&effect.to_be_bytes());
        for context in contexts {
            body.extend_from_slice(&context.0.to_be_bytes());
        }
    })
}

/// What a plain read or write must fulfil, worked out once. Whatever passes is beyond
/// doubt; whatever does not is looked at in detail.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gate {
    size: u64,
    /// Bits of offset and length that must be clear.
    mask: u64,
    max_read: u64,
    max_write: u64,
    write_flags: CommandFlags,
}

impl Gate {
    pub(super) fn new(core: &Core) -> Self {
        let longest = |kind| core.longest_payload(kind).min(u64::from(core.limits.max_payload));
        let read_only = core.export.flags.contains(TransmissionFlags::READ_ONLY);
        Self {
            size: core.export.size,
            mask: core.misaligned(),
            max_read: longest(CommandType::Read),
            max_write: if read_only { 0 } else { longest(CommandType::Write) },
            write_flags: if core.facts.headers == HeaderStyle::Extended {
                CommandFlags::PAYLOAD_LEN
            } else {
                CommandFlags::empty()
            },
        }
    }

    #[inline]
    fn passes(&self, command: &Command) -> bool {
        let Command { kind, flags, offset, length } = *command;
        let (plain, max) = match kind {
            CommandType::Read => (flags.is_empty(), self.max_read),
            CommandType::Write => (flags == self.write_flags, self.max_write),
            _ => return false,
        };
        let inside = length <= self.size && offset <= self.size.wrapping_sub(length);
        plain && inside && length > 0 && length <= max && (offset | length) & self.mask == 0
    }
}

impl Core {
    /// The command's flags, among them the one that says whether there is a payload, unless
    /// the caller sees to that.
    fn flags_to_send(&self, command: &Command, filtered: bool) -> CommandFlags {
        let mut flags = command.flags;
        if self.strict.contains(StrictMode::AUTO_FLAG) {
            let payload = self.is_flagged(command.kind, filtered);
            flags.set(CommandFlags::PAYLOAD_LEN, payload);
        }
        flags
    }

    /// Whether the header says that a payload follows (extended-headers draft,
    /// "NBD_CMD_FLAG_PAYLOAD_LEN").
    fn is_flagged(&self, kind: CommandType, filtered: bool) -> bool {
        self.facts.headers == HeaderStyle::Extended && (kind == CommandType::Write || filtered)
    }

    #[inline]
    fn check_open(&self) -> Result<(), SubmitError> {
        match self.life {
            Life::Open => Ok(()),
            // The transport takes no more, whether or not all that was sent is answered.
            Life::Draining | Life::Disconnecting if self.outbox.is_closed() => {
                Err(SubmitError::NotConnected)
            }
            Life::Draining | Life::Disconnecting => Err(SubmitError::Disconnecting),
            Life::Closed(_) => Err(SubmitError::NotConnected),
        }
    }

    fn check(&self, command: &Command, filtered: bool) -> Result<(), SubmitError> {
        if self.strict.contains(StrictMode::COMMANDS) {
            self.check_offered(command)?;
            // Whoever sets the flag by hand is told when it does not fit: a server would
            // take the payload for a request, or wait for one.
            let flagged = command.flags.contains(CommandFlags::PAYLOAD_LEN);
            if flagged != self.is_flagged(command.kind, filtered) {
                return Err(SubmitError::BadFlag);
            }
        }
        if !command.flags.is_empty()
            && self.strict.contains(StrictMode::FLAGS)
            && !allowed_flags(command.kind).contains(command.flags)
        {
            return Err(SubmitError::BadFlag);
        }
        if self.slots.is_full() {
            return Err(SubmitError::Full);
        }
        self.check_range(command)?;
        self.check_length(command)
    }

    /// Bits that must be clear in an offset and a length. The minimum block size is a power
    /// of two (proto.md, "Block size constraints").
    fn misaligned(&self) -> u64 {
        u64::from(self.export.minimum_block().saturating_sub(1))
    }

    /// What the export's flags say about the command and its flags.
    fn check_offered(&self, command: &Command) -> Result<(), SubmitError> {
        let offered = |flag| self.export.flags.contains(flag);
        let supported = match command.kind {
            CommandType::Read | CommandType::Write => true,
            CommandType::Flush => offered(TransmissionFlags::SEND_FLUSH),
            CommandType::Trim => offered(TransmissionFlags::SEND_TRIM),
            CommandType::Cache => offered(TransmissionFlags::SEND_CACHE),
            CommandType::WriteZeroes => offered(TransmissionFlags::SEND_WRITE_ZEROES),
            CommandType::BlockStatus => {
                if self.facts.headers == HeaderStyle::Simple || self.contexts.is_empty() {
                    return Err(SubmitError::NoMetaContext);
                }
                true
            }
        };
        if !supported {
            return Err(SubmitError::Unsupported);
        }
        if command.kind.modifies() && offered(TransmissionFlags::READ_ONLY) {
            return Err(SubmitError::ReadOnly);
        }
        let unmet = |flag, need| command.flags.contains(flag) && !offered(need);
        if unmet(CommandFlags::FUA, TransmissionFlags::SEND_FUA)
            || unmet(CommandFlags::DF, TransmissionFlags::SEND_DF)
            || unmet(CommandFlags::FAST_ZERO, TransmissionFlags::SEND_FAST_ZERO)
        {
            return Err(SubmitError::UnsupportedFlag);
        }
        Ok(())
    }

    fn check_range(&self, command: &Command) -> Result<(), SubmitError> {
        let Command { kind, offset, length, .. } = *command;
        if kind == CommandType::Flush {
            return Ok(());
        }
        if length == 0 && self.strict.contains(StrictMode::ZERO_SIZE) {
            return Err(SubmitError::ZeroLength);
        }
        if self.strict.contains(StrictMode::BOUNDS)
            && offset.checked_add(length).is_none_or(|end| end > self.export.size)
        {
            let writes = kind.modifies();
            return Err(if writes { SubmitError::NoSpace } else { SubmitError::OutOfBounds });
        }
        if self.strict.contains(StrictMode::ALIGN) && (offset | length) & self.misaligned() != 0 {
            return Err(SubmitError::Unaligned);
        }
        Ok(())
    }

    fn check_length(&self, command: &Command) -> Result<(), SubmitError> {
        let Command { kind, length, .. } = *command;
        match kind {
            CommandType::Read | CommandType::Write => {
                let strict = self.strict.contains(StrictMode::PAYLOAD)
                    && length > self.longest_payload(kind);
                if strict || length > u64::from(self.limits.max_payload) {
                    return Err(SubmitError::PayloadTooLong);
                }
            }
            CommandType::Flush
            | CommandType::Trim
            | CommandType::Cache
            | CommandType::WriteZeroes
            | CommandType::BlockStatus => {
                let extended = self.facts.headers == HeaderStyle::Extended;
                if !extended && length > u64::from(u32::MAX) {
                    return Err(SubmitError::LengthTooLong);
                }
            }
        }
        Ok(())
    }

    /// The longest payload the server takes in such a command, or sends.
    fn longest_payload(&self, kind: CommandType) -> u64 {
        let told = self.export.block_sizes.map(|sizes| u64::from(sizes.maximum));
        match (kind, told) {
            // proto.md, "Size constraints": "MUST NOT request a length larger".
            (_, Some(maximum)) => maximum,
            (CommandType::Write, None) => DEFAULT_MAX_PAYLOAD,
            // A server that tells nothing may still answer long reads.
            (_, None) => u64::MAX,
        }
    }

    /// The contexts asked for, as a set and as a list without repetitions: a server must
    /// refuse those (extended-headers draft, "NBD_CMD_BLOCK_STATUS").
    fn check_filter(
        &self,
        command: &Command,
        contexts: &[ContextId],
    ) -> Result<(ContextSet, Vec<ContextId>), SubmitError> {
        if self.facts.headers != HeaderStyle::Extended
            || command.kind != CommandType::BlockStatus
            || contexts.is_empty()
        {
            return Err(SubmitError::NoFilter);
        }
        if self.strict.contains(StrictMode::COMMANDS)
            && !self.export.flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD)
        {
            return Err(SubmitError::UnsupportedFlag);
        }
        let (mut wanted, mut once) = (ContextSet::default(), Vec::new());
        for context in contexts {
            let index = self.contexts.index(*context).ok_or(SubmitError::UnknownContext)?;
            if wanted.insert(index) {
                once.push(*context);
            }
        }
        Ok((wanted, once))
    }
}

/// proto.md, "Command flags" and the description of each command.
const fn allowed_flags(kind: CommandType) -> CommandFlags {
    match kind {
        CommandType::Read => CommandFlags::DF,
        CommandType::Write => CommandFlags::FUA.union(CommandFlags::PAYLOAD_LEN),
        CommandType::Trim => CommandFlags::FUA,
        CommandType::WriteZeroes => {
            CommandFlags::FUA.union(CommandFlags::NO_HOLE).union(CommandFlags::FAST_ZERO)
        }
        CommandType::BlockStatus => CommandFlags::REQ_ONE.union(CommandFlags::PAYLOAD_LEN),
        CommandType::Flush | CommandType::Cache => CommandFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientConfig;
    use crate::engine::Stats;
    use crate::engine::scratch::Scratch;
    use crate::negotiate::facts::{ExportInfo, Negotiated};
    use crate::wire::option::{BlockSizes, MetaContext};
    use proptest::prelude::*;

    proptest! {
        /// What the gate lets through, the detailed checks let through.
        #[test]
        fn the_gate_is_no_laxer_than_the_checks(
            kind in prop::sample::select(&[0u16, 1, 3, 4, 5, 6, 7][..]),
            flags in prop::sample::select(&[0u16, 1, 4, 32][..]),
            offset in 0u64..5000,
            length in 0u64..5000,
            size in 0u64..5000,
            export_flags in any::<u16>(),
            minimum in prop::sample::select(&[0u32, 1, 512][..]),
            extended in any::<bool>(),
        ) {
            let flags_offered = TransmissionFlags::from_bits_retain(export_flags);
            let mut export = ExportInfo::new(size, flags_offered);
            let sizes = BlockSizes { minimum, preferred: 4096, maximum: 4096 };
            export.block_sizes = (minimum > 0).then_some(sizes);
            let mut facts = Negotiated::default();
            if extended {
                facts.headers = HeaderStyle::Extended;
            }
            let config = ClientConfig::new();
            let client = Client::new(facts, export, &config, Scratch::new(64), Stats::default());
            let kind = CommandType::from_wire(kind).unwrap();
            let flags = CommandFlags::from_bits_retain(flags);
            let command = Command { kind, flags, offset, length };
            if client.core.gate.passes(&command) {
                prop_assert_eq!(client.core.check(&command, false), Ok(()));
            }
        }
    }

    #[test]
    fn a_filter_needs_extended_headers_and_the_servers_word() {
        let filter = |headers, strict| {
            let mut facts = Negotiated { headers, ..Negotiated::default() };
            facts.contexts.push(MetaContext { id: ContextId(7), name: "base:allocation".into() });
            let export = ExportInfo::new(4096, TransmissionFlags::HAS_FLAGS);
            let config = ClientConfig::new().strict(strict);
            let mut client =
                Client::new(facts, export, &config, Scratch::new(64), Stats::default());
            client.submit_filtered(Command::block_status(0, 4096), &[ContextId(7)]).err()
        };
        let all = StrictMode::all();
        assert_eq!(filter(HeaderStyle::Structured, all), Some(SubmitError::NoFilter));
        assert_eq!(filter(HeaderStyle::Extended, all), Some(SubmitError::UnsupportedFlag));
        assert_eq!(filter(HeaderStyle::Extended, all - StrictMode::COMMANDS), None);
    }
}
