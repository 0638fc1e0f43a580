//! The client: one call, one command.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use nbd_proto::{
    Command, CommandFlags, ContextId, Discard, Disconnect, ExportInfo, Extent, Negotiated,
    ReadChunk, StrictMode, TransmissionFlags,
};
use nbd_session::{Completion, Error, Limit, Request, Session, State};
use nbd_transport::{Connection, NbdUri, PeerProcess, UriError};

use crate::driver::Driver;
use crate::ports::Single;

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
#[doc(alias("nbd_set_private_data", "nbd_get_private_data", "nbd_get_handle_size"))]
pub struct Client {
    pub(crate) driver: Driver,
    /// How long calls may take.
    pub(crate) limit: Limit,
    /// What the session is known to have: it is never without again.
    facts: Box<(Negotiated, ExportInfo)>,
}

impl Client {
    pub(crate) fn new(driver: Driver) -> Result<Self, Error> {
        match (driver.session.negotiated(), driver.session.export()) {
            (Some(facts), Some(export)) => {
                let facts = Box::new((Negotiated::clone(facts), export.clone()));
                Ok(Self { driver, limit: Limit::Default, facts })
            }
            _ => Err(driver.end()),
        }
    }

    /// What is behind the connection: where it stands, what was negotiated, also for TLS
    /// ([`tls_info`](Session::tls_info)), what was counted ([`stats`](Session::stats)).
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.driver.session
    }

    /// Where the connection stands.
    #[must_use]
    #[doc(alias = "nbd_aio_is_ready")]
    pub fn state(&self) -> State {
        self.session().state()
    }

    /// Name of the connection: the one that was [given](nbd_session::ConnectOptions::name), or
    /// `nbd1`, `nbd2` and so on.
    #[must_use]
    #[doc(alias = "nbd_get_handle_name")]
    pub fn name(&self) -> &str {
        self.session().name()
    }

    /// A URI that leads to the same export, with the same credentials for TLS as long as
    /// those came from a URI.
    ///
    /// # Errors
    /// [`UriError::NoUri`] when the server has no address: a program that speaks on its
    /// standard input and output, or a socket of another kind that was handed over.
    #[doc(alias = "nbd_get_uri")]
    pub fn to_uri(&self) -> Result<NbdUri, UriError> {
        let peer = self.connection().and_then(|connection| connection.stream.peer());
        self.session().to_uri(peer.as_ref())
    }

    /// The export: size, flags, block sizes, names, and what it can do.
    #[must_use]
    pub fn export(&self) -> &ExportInfo {
        self.session().export().unwrap_or(&self.facts.1)
    }

    /// Everything that was negotiated: style, TLS, contexts, block sizes, names.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        self.session().negotiated().map_or(&self.facts.0, |facts| facts)
    }

    /// Size of the export in bytes.
    #[must_use]
    #[doc(alias = "nbd_get_size")]
    pub fn size(&self) -> u64 {
        self.export().size
    }

    /// What the export can do.
    #[must_use]
    pub fn flags(&self) -> TransmissionFlags {
        self.export().flags
    }

    /// Whether writes are refused.
    #[must_use]
    #[doc(alias = "nbd_is_read_only")]
    pub fn is_read_only(&self) -> bool {
        self.flags().contains(TransmissionFlags::READ_ONLY)
    }

    /// The number of a meta context, if it was asked for and granted.
    #[must_use]
    #[doc(alias = "nbd_can_meta_context")]
    pub fn context(&self, name: &str) -> Option<ContextId> {
        self.session().context(name)
    }

    /// The process that was started for this connection, to watch it or to signal it.
    #[doc(alias("nbd_get_subprocess_pid", "nbd_kill_subprocess"))]
    pub fn peer_process(&mut self) -> Option<&mut PeerProcess> {
        self.driver.connection.as_mut()?.peer.as_mut()
    }

    /// The connection: its socket, and the process behind it, if there is one. `None` while
    /// it is lost.
    #[must_use]
    #[doc(alias = "nbd_aio_get_fd")]
    pub const fn connection(&self) -> Option<&Connection> {
        self.driver.connection.as_ref()
    }

    /// System calls made on this connection's behalf, waiting included.
    #[must_use]
    pub const fn system_calls(&self) -> u64 {
        self.driver.system_calls
    }

    /// Changes the checks made before a command is sent.
    #[doc(alias("nbd_set_strict_mode", "nbd_get_strict_mode"))]
    pub fn set_strict(&mut self, mode: StrictMode) {
        self.driver.session.set_strict(mode);
    }

    /// How long calls may take from now on; see
    /// [`ConnectOptions::request_timeout`](nbd_session::ConnectOptions::request_timeout).
    pub fn set_request_timeout(&mut self, limit: impl Into<Option<Duration>>) {
        self.driver.session.set_request_timeout(limit);
    }

    /// The client for calls that together take no longer than this. What they have not done by
    /// then ends with an error of which [`is_timeout`](Error::is_timeout) is true, and the
    /// connection goes on.
    ///
    /// ```no_run
    /// # let mut client = nbd_client_blocking::Client::connect("nbd://localhost")?;
    /// use std::time::Duration;
    ///
    /// let mut sector = [0; 512];
    /// client.within(Duration::from_secs(5)).read_exact_at(&mut sector, 0)?;
    /// # Ok::<(), nbd_client_blocking::Error>(())
    /// ```
    pub fn within(&mut self, time: Duration) -> Within<'_> {
        let limit = Limit::within(time, Instant::now());
        let before = std::mem::replace(&mut self.limit, limit);
        Within { client: self, before }
    }

    /// Reads `buf.len()` bytes at `offset`.
    ///
    /// # Errors
    /// When the range is not inside the export, the server fails the command, or the
    /// connection fails. What is in the buffer then is undefined.
    #[doc(alias("nbd_pread", "nbd_set_pread_initialize", "nbd_get_pread_initialize"))]
    pub fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let (max, limit) = self.session().pieces(buf.len(), self.limit, Instant::now);
        let mut at = offset;
        for piece in buf.chunks_mut(max) {
            let length = piece.len();
            self.run(Command::read(at, length as u32), piece, &[], limit)?;
            // Beyond all numbers is beyond the export, which the next one is told.
            at = at.saturating_add(length as u64);
        }
        Ok(())
    }

    /// Reads as [`read_exact_at`](Self::read_exact_at), in one command, and reports the parts
    /// of the answer: data or hole, in whatever order the server sent them.
    ///
    /// # Errors
    /// As [`read_exact_at`](Self::read_exact_at).
    #[doc(alias = "nbd_pread_structured")]
    pub fn read_structured(
        &mut self,
        buf: &mut [u8],
        offset: u64,
        flags: CommandFlags,
    ) -> Result<Vec<ReadChunk>, Error> {
        let length = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        let request = Request::new(Command::read(offset, length).with(flags)).report_chunks();
        let done = self.request(request, buf)?;
        done.result.map(|()| done.chunks)
    }

    /// Writes all of `buf` at `offset`.
    ///
    /// # Errors
    /// When the range is not inside the export, the export is read-only, the server
    /// fails the command, or the connection fails. How much has been written then is
    /// unknown.
    #[doc(alias = "nbd_pwrite")]
    pub fn write_all_at(&mut self, buf: &[u8], offset: u64) -> Result<(), Error> {
        self.write_all_at_with(buf, offset, CommandFlags::empty())
    }

    /// Writes as [`write_all_at`](Self::write_all_at), with flags such as
    /// [`CommandFlags::FUA`].
    ///
    /// # Errors
    /// As [`write_all_at`](Self::write_all_at).
    #[doc(alias = "nbd_pwrite")]
    pub fn write_all_at_with(
        &mut self,
        buf: &[u8],
        offset: u64,
        flags: CommandFlags,
    ) -> Result<(), Error> {
        let (max, limit) = self.session().pieces(buf.len(), self.limit, Instant::now);
        let mut at = offset;
        for piece in buf.chunks(max) {
            let command = Command::write(at, piece.len() as u32).with(flags);
            self.run(command, &mut [], piece, limit)?;
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
    #[doc(alias("nbd_flush", "sync_all", "fsync"))]
    pub fn flush(&mut self) -> Result<(), Error> {
        self.submit_and_wait(Command::flush())
    }

    /// Tells the server that the data in a range is no longer needed.
    ///
    /// # Errors
    /// When the server does not offer it, fails it, or the connection fails.
    #[doc(alias("nbd_trim", "discard", "unmap"))]
    pub fn trim(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.submit_and_wait(Command::trim(offset, length))
    }

    /// Makes a range read as zeroes, with flags such as [`CommandFlags::NO_HOLE`].
    ///
    /// # Errors
    /// When the server does not offer it, fails it, or the connection fails.
    #[doc(alias = "nbd_zero")]
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
    #[doc(alias = "nbd_cache")]
    pub fn cache(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        self.submit_and_wait(Command::cache(offset, length))
    }

    /// Reads the first block of the export, to see whether the server is there, and to show
    /// it that its client is: some servers drop those that ask for nothing. A program that
    /// may be idle for long calls this from time to time; nothing here works behind its
    /// back. An export of no bytes is not asked for anything.
    ///
    /// # Errors
    /// As [`read_exact_at`](Self::read_exact_at); one of kind
    /// [`Command`](nbd_session::ErrorKind::Command) comes from a server that is there.
    pub fn ping(&mut self) -> Result<(), Error> {
        let block = self.export().minimum_block();
        if self.size() < u64::from(block) {
            return Ok(());
        }
        self.read_exact_at(&mut vec![0; block as usize], 0)
    }

    /// Asks for the extents of a range, for each meta context that was granted; they come in
    /// order for each context. The server may report less than was asked for, but at least
    /// one extent. See [`extents`](Self::extents) for the whole.
    ///
    /// # Errors
    /// When no meta context was granted, the server fails the command or sends extents
    /// that cannot be true, or the connection fails.
    #[doc(alias("nbd_block_status_64", "nbd_block_status"))]
    pub fn block_status(
        &mut self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Result<Vec<(ContextId, Extent)>, Error> {
        self.status(Request::new(Command::block_status(offset, length).with(flags)))
    }

    /// Asks as [`block_status`](Self::block_status) does, but for some of the meta
    /// contexts only, by the numbers [`context`](Self::context) tells.
    ///
    /// # Errors
    /// As [`block_status`](Self::block_status), and when
    /// [`ExportInfo::can_block_status_payload`] is not so.
    #[doc(alias = "nbd_block_status_filter")]
    pub fn block_status_filtered(
        &mut self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
        contexts: &[ContextId],
    ) -> Result<Vec<(ContextId, Extent)>, Error> {
        let command = Command::block_status(offset, length).with(flags);
        self.status(Request::new(command).contexts(contexts))
    }

    /// Sends one command without payload and waits for its end.
    ///
    /// # Errors
    /// When it cannot be sent, the server fails it, or the connection fails.
    #[doc(alias = "nbd_trim")]
    pub fn submit_and_wait(&mut self, command: Command) -> Result<(), Error> {
        self.session().check_payload(&command, 0)?;
        self.run(command, &mut [], &[], self.limit)
    }

    /// Ends the session: asks the server to, and waits until it has closed the
    /// connection. A [`Pipeline`](crate::Pipeline) with commands in flight has a
    /// [`disconnect`](crate::Pipeline::disconnect) of its own, which says what becomes of them.
    ///
    /// # Errors
    /// As [`Session::farewell`].
    #[doc(alias("nbd_shutdown", "nbd_close", "close"))]
    pub fn disconnect(mut self) -> Result<(), Error> {
        self.end()
    }

    pub(crate) fn end(&mut self) -> Result<(), Error> {
        let mut now = Instant::now();
        self.driver.session.disconnect(Disconnect::AfterReplies, self.limit, now);
        while !self.session().is_over() {
            self.driver.turn(&mut Discard, now);
            now = Instant::now();
        }
        self.session().farewell()
    }

    #[inline]
    fn run(
        &mut self,
        command: Command,
        read: &mut [u8],
        write: &[u8],
        limit: Limit,
    ) -> Result<(), Error> {
        let now = Instant::now();
        let id = match self.driver.submit(command, write, limit, || now) {
            Ok(id) => id,
            Err(refused) => {
                self.driver.submit_in_line(Request::new(command), limit, write, refused)?
            }
        };
        self.finish(Single { id, read, write }, now).result
    }

    fn status(&mut self, request: Request<'_>) -> Result<Vec<(ContextId, Extent)>, Error> {
        let done = self.request(request, &mut [])?;
        done.result.map(|()| done.extents)
    }

    fn request(&mut self, request: Request<'_>, read: &mut [u8]) -> Result<Completion, Error> {
        let now = Instant::now();
        let request = request.limit(self.limit);
        let id = match self.driver.submit_request(request.clone(), &[], now) {
            Ok(id) => id,
            Err(refused) => self.driver.submit_in_line(request, self.limit, &[], refused)?,
        };
        Ok(self.finish(Single { id, read, write: &[] }, now))
    }

    #[inline]
    fn finish(&mut self, mut payload: Single<'_>, mut now: Instant) -> Completion {
        loop {
            // What cannot be done is finished before anything is sent.
            if let Some(done) = self.driver.session.take(payload.id) {
                if done.held {
                    self.driver.release(done.id, payload.write);
                }
                return done;
            }
            self.driver.turn(&mut payload, now);
            now = Instant::now();
        }
    }
}

/// A client whose calls have a limit of time; see [`Client::within`].
#[derive(Debug)]
pub struct Within<'c> {
    client: &'c mut Client,
    before: Limit,
}

impl Deref for Within<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}

impl DerefMut for Within<'_> {
    fn deref_mut(&mut self) -> &mut Client {
        self.client
    }
}

impl Drop for Within<'_> {
    fn drop(&mut self) {
        self.client.limit = self.before;
    }
}
