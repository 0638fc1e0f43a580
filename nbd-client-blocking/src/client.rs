//! The client: one call, one command.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nbd_proto::{
    Command, CommandFlags, ContextId, Disconnect, ExportInfo, Extent, Machine, Negotiated,
    ReadChunk, RequestId, RequestStatus, Stats, StrictMode, SubmitError, TransmissionFlags,
};
use nbd_session::OldError as Error;
use nbd_transport::tls::TlsInfo;
use nbd_transport::{Connection, NbdUri, PeerProcess, UriError};
use rustix::net::{Shutdown, shutdown};

use crate::extents::{Extents, Survey};
use crate::origin::Origin;
use crate::pipeline::Pipeline;
use crate::ports::Single;
use crate::pump::Pump;
use crate::recovery::{self, Recovery};
use crate::state::State;

/// The longest payload sent in one command when the server tells no maximum, in bytes.
const MAX_REQUEST: u64 = 32 << 20;

/// A connection to an export.
///
/// Each method sends one command, or as many as the length takes, and waits for the
/// end. Data goes straight between the socket and the caller's slice. To keep many
/// commands in flight, see [`pipeline`](Self::pipeline). Offsets and lengths are in
/// bytes from the start of the export.
///
/// Dropping it closes the connection abruptly; [`disconnect`](Self::disconnect) does
/// it in good order.
#[derive(Debug)]
pub struct Client {
    pub(crate) core: nbd_proto::Client,
    pub(crate) pump: Pump,
    origin: Origin,
    export: String,
    /// What ended the connection, if the machine cannot know.
    pub(crate) lost: Option<Error>,
    /// The end of the session was asked for.
    pub(crate) leaving: bool,
    /// Only if it was told to reconnect.
    pub(crate) recovery: Option<Box<Recovery>>,
}

impl Client {
    pub(crate) const fn new(
        core: nbd_proto::Client,
        pump: Pump,
        origin: Origin,
        export: String,
        recovery: Option<Box<Recovery>>,
    ) -> Self {
        Self { core, pump, origin, export, lost: None, leaving: false, recovery }
    }

    /// Connects to a URI with the defaults of [`Builder`](crate::Builder).
    ///
    /// # Errors
    /// When the URI is malformed or forbidden, nobody answers, or the server refuses.
    pub fn connect(uri: &str) -> Result<Self, Error> {
        crate::Builder::new().connect_uri(uri)
    }

    /// Where the connection stands.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.recovery {
            Some(recovery) if recovery.is_down() => State::Reconnecting,
            _ => State::of(&self.core),
        }
    }

    /// Name of the connection, see [`Builder::name`](crate::Builder::name).
    #[must_use]
    pub fn name(&self) -> &str {
        self.pump.trace.name()
    }

    /// The name of the export that was asked for. What the server calls it is in
    /// [`ExportInfo::canonical_name`].
    #[must_use]
    pub fn export_name(&self) -> &str {
        &self.export
    }

    /// A URI that leads to the same export, with the same credentials for TLS as long as
    /// those came from a URI.
    ///
    /// # Errors
    /// [`UriError::NoUri`] when the server has no address: a program that speaks on its
    /// standard input and output, or a socket of another kind that was handed over.
    pub fn to_uri(&self) -> Result<NbdUri, UriError> {
        let tls = self.negotiated().tls;
        self.origin.to_uri(&self.pump.connection.stream, &self.export, tls)
    }

    /// The export: size, flags, block sizes, names, and what it can do.
    #[must_use]
    pub fn export(&self) -> &ExportInfo {
        self.core.export()
    }

    /// What was agreed on for TLS, if it is in use.
    #[must_use]
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        self.pump.link.tls_info()
    }

    /// The process that was started for this connection, to watch it or to signal it.
    pub fn peer_process(&mut self) -> Option<&mut PeerProcess> {
        self.pump.connection.peer.as_mut()
    }

    /// Changes the checks made before a command is sent.
    pub fn set_strict(&mut self, mode: StrictMode) {
        self.core.set_strict(mode);
        if let Some(recovery) = &mut self.recovery {
            recovery.set_strict(mode);
        }
    }

    /// Size of the export in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.core.export().size
    }

    /// What the export can do.
    #[must_use]
    pub fn flags(&self) -> TransmissionFlags {
        self.core.export().flags
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.flags().contains(TransmissionFlags::READ_ONLY)
    }

    /// Everything that was negotiated: style, TLS, contexts, block sizes, names.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        match &self.recovery {
            Some(recovery) => recovery.facts(),
            None => self.core.negotiated(),
        }
    }

    /// The number of a meta context, if it was asked for and granted.
    #[must_use]
    pub fn context(&self, name: &str) -> Option<ContextId> {
        let contexts = &self.negotiated().contexts;
        let found = contexts.iter().find(|context| context.name == name);
        found.map(|context| ContextId(context.id))
    }

    /// The longest read or write sent as one command, in bytes. Longer ones are split.
    #[must_use]
    pub fn max_request(&self) -> usize {
        let sizes = self.core.export().block_sizes;
        let maximum = sizes.map_or(MAX_REQUEST, |sizes| u64::from(sizes.maximum).min(MAX_REQUEST));
        // Whole blocks, so that what follows a piece stays aligned.
        let block = u64::from(self.core.export().minimum_block());
        (maximum - maximum % block).max(block) as usize
    }

    /// Counters of the protocol, on this connection.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        self.core.stats()
    }

    /// System calls made on this connection's behalf, waiting included.
    #[must_use]
    pub fn system_calls(&self) -> u64 {
        self.pump.system_calls
    }

    /// The protocol machine.
    #[must_use]
    pub fn core(&self) -> &nbd_proto::Client {
        &self.core
    }

    /// The connection: its socket, and the process behind it, if there is one.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.pump.connection
    }

    /// Reads `buf.len()` bytes at `offset`.
    ///
    /// # Errors
    /// When the range is not inside the export, the server fails the command, or the
    /// connection fails. What is in the buffer then is undefined.
    pub fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let max = self.max_request();
        let mut at = offset;
        for piece in buf.chunks_mut(max) {
            let length = piece.len();
            let command = Command::read(at, length as u32);
            self.run(command, Single { read: piece, ..Single::none() })?;
            // Beyond all numbers is beyond the export, which the next one is told.
            at = at.saturating_add(length as u64);
        }
        Ok(())
    }

    /// Reads as [`read_at`](Self::read_at), in one command, and reports each part of
    /// the reply as it comes: data or hole, in whatever order the server sends them.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub fn read_structured(
        &mut self,
        offset: u64,
        buf: &mut [u8],
        flags: CommandFlags,
        mut on_chunk: impl FnMut(ReadChunk),
    ) -> Result<(), Error> {
        let length = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        let command = Command::read(offset, length).with(flags);
        self.run(command, Single { read: buf, on_chunk: Some(&mut on_chunk), ..Single::none() })
    }

    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    /// When the range is not inside the export, the export is read-only, the server
    /// fails the command, or the connection fails. How much has been written then is
    /// unknown.
    pub fn write_at(&mut self, offset: u64, buf: &[u8]) -> Result<(), Error> {
        self.write_at_with(offset, buf, CommandFlags::empty())
    }

    /// Writes as [`write_at`](Self::write_at), with flags such as
    /// [`CommandFlags::FUA`].
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub fn write_at_with(
        &mut self,
        offset: u64,
        buf: &[u8],
        flags: CommandFlags,
    ) -> Result<(), Error> {
        let max = self.max_request();
        let mut at = offset;
        for piece in buf.chunks(max) {
            let command = Command::write(at, piece.len() as u32).with(flags);
            self.run(command, Single { write: piece, ..Single::none() })?;
            at = at.saturating_add(piece.len() as u64);
        }
        Ok(())
    }

    /// Makes everything durable that has been written on this connection, and on every
    /// other one to an export with
    /// [`CAN_MULTI_CONN`](TransmissionFlags::CAN_MULTI_CONN).
    ///
    /// # Errors
    /// When the server does not offer it, fails it, or the connection fails.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.submit_and_wait(Command::flush())
    }

    /// Tells the server that the data in a range is no longer needed.
    ///
    /// # Errors
    /// When the server does not offer it, fails it, or the connection fails.
    pub fn trim(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.submit_and_wait(Command::trim(offset, length))
    }

    /// Makes a range read as zeroes, with flags such as [`CommandFlags::NO_HOLE`].
    ///
    /// # Errors
    /// When the server does not offer it, fails it, or the connection fails.
    pub fn write_zeroes(
        &mut self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Result<(), Error> {
        self.submit_and_wait(Command::write_zeroes(offset, length).with(flags))
    }

    /// Tells the server that a range will be read soon.
    ///
    /// # Errors
    /// When the server does not offer it, fails it, or the connection fails.
    pub fn cache(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.submit_and_wait(Command::cache(offset, length))
    }

    /// Reads the first block of the export, to see whether the server is there, and to show
    /// it that its client is: some servers drop those that ask for nothing. A program that
    /// may be idle for long calls this from time to time; nothing here works behind its
    /// back. An export of no bytes is not asked for anything.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at); [`Error::Command`] comes from a server that is there.
    pub fn ping(&mut self) -> Result<(), Error> {
        let block = self.core.export().minimum_block();
        if self.size() < u64::from(block) {
            return Ok(());
        }
        self.read_at(0, &mut vec![0; block as usize])
    }

    /// Asks for the extents of a range, for each meta context that was granted; they
    /// are passed on in order for each context. The server may report less than was
    /// asked for, but at least one extent. See [`extents`](Self::extents) for the whole.
    ///
    /// # Errors
    /// When no meta context was granted, the server fails the command or sends extents
    /// that cannot be true, or the connection fails.
    pub fn block_status(
        &mut self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
        mut on_extent: impl FnMut(ContextId, Extent),
    ) -> Result<(), Error> {
        let command = Command::block_status(offset, length).with(flags);
        self.run(command, Single { on_extent: Some(&mut on_extent), ..Single::none() })
    }

    /// Asks as [`block_status`](Self::block_status) does, but for some of the meta
    /// contexts only, by the numbers [`context`](Self::context) tells.
    ///
    /// # Errors
    /// As [`block_status`](Self::block_status), and when
    /// [`ExportInfo::can_block_status_payload`] is not so.
    pub fn block_status_filtered(
        &mut self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
        contexts: &[ContextId],
        mut on_extent: impl FnMut(ContextId, Extent),
    ) -> Result<(), Error> {
        let command = Command::block_status(offset, length).with(flags);
        if self.recovery.is_some() {
            let ports = Single { on_extent: Some(&mut on_extent), ..Single::none() };
            return recovery::run(self, command, Some(contexts), ports);
        }
        let submitted = self.core.submit_filtered(command, contexts);
        self.finish(
            command,
            submitted,
            Single { on_extent: Some(&mut on_extent), ..Single::none() },
        )
    }

    /// All extents of a range for one meta context, in order, neighbours of equal status
    /// merged. Several requests are in flight at any time.
    ///
    /// # Errors
    /// When the context was not granted.
    pub fn extents(
        &mut self,
        context: &str,
        range: std::ops::Range<u64>,
    ) -> Result<Extents<'_>, Error> {
        Survey::new(self, &[context], range).map(Extents)
    }

    /// What several meta contexts say of a range, in order and cut where any of them
    /// changes; of all contexts that were granted, when none is named.
    ///
    /// # Errors
    /// When one of the contexts was not granted.
    pub fn survey(
        &mut self,
        contexts: &[&str],
        range: std::ops::Range<u64>,
    ) -> Result<Survey<'_>, Error> {
        Survey::new(self, contexts, range)
    }

    /// Sends one command without payload and waits for its end.
    ///
    /// # Errors
    /// When it cannot be sent, the server fails it, or the connection fails.
    pub fn submit_and_wait(&mut self, command: Command) -> Result<(), Error> {
        self.check_buffer(command, 0)?;
        self.run(command, Single::none())
    }

    /// Starts keeping many commands in flight.
    pub fn pipeline<B: AsRef<[u8]> + AsMut<[u8]>>(&mut self) -> Pipeline<'_, B> {
        Pipeline::new(self)
    }

    /// Ends the session: asks the server to, and waits until it has closed the
    /// connection. A [`Pipeline`] with commands in flight has a
    /// [`disconnect`](Pipeline::disconnect) of its own, which says what becomes of them.
    ///
    /// # Errors
    /// When the connection fails before that, or has failed already: the cause. For one that
    /// [reconnects](crate::Builder::reconnect) and is without a connection,
    /// [`RecoveryError::UnflushedLost`](nbd_session::replay::RecoveryError::UnflushedLost)
    /// when a flush would tell so.
    pub fn disconnect(mut self) -> Result<(), Error> {
        self.end()
    }

    pub(crate) fn end(&mut self) -> Result<(), Error> {
        if self.recovery.is_some() && !recovery::put_back(self)? {
            return Ok(());
        }
        if self.core.is_closed() {
            let unasked = (!self.leaving).then(|| nbd_proto::PeerMisbehaved::Closed.into());
            let fault = || self.core.error().cloned().or(unasked).map(Error::from);
            let cause = self.lost.as_ref().and_then(Error::again).or_else(fault);
            return cause.map_or(Ok(()), Err);
        }
        self.core.disconnect(Disconnect::AfterReplies);
        let mut ports = Single::none();
        while !self.core.is_closed() {
            self.pump.send(&mut self.core, &ports)?;
            if self.core.is_ending()
                && !self.core.get_direction().contains(nbd_proto::Direction::WRITE)
            {
                // Nothing more will be sent. A peer that is gone already is no loss.
                let _ = shutdown(&self.pump.connection.stream, Shutdown::Write);
            }
            let answered = self.core.in_flight() == 0;
            match self.pump.round(&mut self.core, &mut ports) {
                // The end is what was wanted; how abrupt it is does not matter.
                Err(Error::Io(_)) if answered => return Ok(()),
                result => result?,
            }
        }
        Ok(())
    }

    /// Whether acknowledged writes are kept, so that nobody else may write.
    pub(crate) fn keeps_unflushed(&self) -> bool {
        self.recovery.as_ref().is_some_and(|recovery| recovery.ledger().keeps())
    }

    /// Changes the longest silence of the server while a command is waited for.
    ///
    /// # Errors
    /// When the socket does not take it.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        Ok(self.pump.set_timeout(timeout)?)
    }

    /// One command from submission to its end.
    fn run(&mut self, command: Command, ports: Single<'_>) -> Result<(), Error> {
        if self.recovery.is_some() {
            return recovery::run(self, command, None, ports);
        }
        let submitted = self.core.submit(command);
        self.finish(command, submitted, ports)
    }

    fn finish(
        &mut self,
        command: Command,
        submitted: Result<RequestId, SubmitError>,
        mut ports: Single<'_>,
    ) -> Result<(), Error> {
        let id = submitted.map_err(|error| self.not_sent(command, error))?;
        self.pump.trace.submitted(id, &command);
        ports.id = Some(id);
        while self.core.status(id) == RequestStatus::InFlight {
            if let Err(error) = self.pump.round(&mut self.core, &mut ports) {
                if !matches!(error, Error::TimedOut { .. }) {
                    self.fail(&error);
                }
                self.give_up(id, &error);
                self.pump.trace.finished(id, Err(&error));
                return Err(error);
            }
        }
        let result = match self.core.take(id) {
            Some((_, Ok(()))) => Ok(()),
            Some((_, Err(error))) => {
                let remark = ports.remark.take();
                Err(Error::failed(&self.core, self.lost.as_ref(), command, error, remark))
            }
            None => Err(Error::Protocol(nbd_proto::PeerMisbehaved::Closed.into())),
        };
        self.pump.trace.finished(id, result.as_ref().copied());
        result
    }
}

impl AsFd for Client {
    /// The socket, for a poller of one's own; see
    /// [`Pipeline::direction`](crate::Pipeline::direction).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pump.connection.stream.as_fd()
    }
}
