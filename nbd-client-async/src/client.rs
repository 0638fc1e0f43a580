//! The client: any number of handles on one connection.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nbd_proto::{
    Command, CommandFlags, ContextId, Extent, Negotiated, ReadChunk, Stats, SubmitError,
    TransmissionFlags,
};

use crate::buffer::Buffer;
use crate::calls::{Deadline, Matter};
use crate::error::Error;
use crate::extents::Extents;
use crate::pending::{Handle, Pending, Terms};
use crate::state::{Shared, WhenFull};

/// The longest payload sent in one command when the server tells no maximum, in bytes.
const MAX_REQUEST: u64 = 32 << 20;

/// A connection to an export, for any number of tasks.
///
/// Clones share the connection. What many tasks ask for at the same time is in flight
/// at the same time and leaves in few system calls. When as much is in flight as
/// [`Limits`](nbd_proto::Limits) allow, calls wait in line, first come first served;
/// those whose name begins with `try_` fail with [`SubmitError::Full`] instead. Offsets
/// and lengths are in bytes from the start of the export.
///
/// Every future can be dropped at any time: its command is abandoned, and neither the
/// connection nor another command takes notice. Whether an abandoned write takes place
/// is unknown.
///
/// When the last clone is dropped, the session ends in good order in the background;
/// [`disconnect`](Self::disconnect) waits for that.
///
/// ```
/// # use nbd_client_async::{Client, Error};
/// async fn first_sectors(client: &Client) -> Result<(), Error> {
///     let (one, two) = (client.clone(), client.clone());
///     let first = async move { one.read_at(0, 512).await };
///     let second = async move { two.read_at(512, 512).await };
///     // Spawned on a runtime, or joined, the two run side by side.
///     println!("{:?} {:?}", first.await?, second.await?);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<Handle>,
    timeout: Option<Duration>,
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>, timeout: Option<Duration>) -> Self {
        let handle = Arc::new(Handle { shared });
        Self { handle, timeout }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Another handle on the same connection whose calls fail with [`Error::TimedOut`]
    /// when they take longer than this; `None` lets them take for ever.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # use std::time::Duration;
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let hasty = client.with_timeout(Some(Duration::from_secs(1)));
    /// let sector = hasty.read_at(0, 512).await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: Option<Duration>) -> Self {
        Self { handle: Arc::clone(&self.handle), timeout }
    }

    /// Size of the export in bytes.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("{} MiB", client.size() >> 20);
    /// # }
    /// ```
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared().export.size
    }

    /// What the export can do.
    ///
    /// ```
    /// # use nbd_client_async::proto::TransmissionFlags;
    /// # fn example(client: &nbd_client_async::Client) {
    /// let can_trim = client.flags().contains(TransmissionFlags::SEND_TRIM);
    /// # }
    /// ```
    #[must_use]
    pub fn flags(&self) -> TransmissionFlags {
        self.shared().export.flags
    }

    /// Whether writes are refused.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// assert!(!client.is_read_only());
    /// # }
    /// ```
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.flags().contains(TransmissionFlags::READ_ONLY)
    }

    /// Everything that was negotiated: style, TLS, contexts, block sizes, names.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("{}", client.negotiated().protocol.name());
    /// # }
    /// ```
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.shared().negotiated
    }

    /// The number of a meta context, if it was asked for and granted.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// assert!(client.context("base:allocation").is_some());
    /// # }
    /// ```
    #[must_use]
    pub fn context(&self, name: &str) -> Option<ContextId> {
        let contexts = &self.negotiated().contexts;
        let context = contexts.iter().find(|context| context.name == name)?;
        Some(ContextId(context.id))
    }

    /// The longest read or write sent as one command, in bytes. Longer ones are split.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// let piece = client.max_request().min(256 << 10);
    /// # }
    /// ```
    #[must_use]
    pub fn max_request(&self) -> usize {
        let export = &self.shared().export;
        let maximum = export
            .block_sizes
            .map_or(MAX_REQUEST, |sizes| u64::from(sizes.maximum).min(MAX_REQUEST));
        // Whole blocks, so that what follows a piece stays aligned.
        let block = u64::from(export.minimum_block());
        (maximum - maximum % block).max(block) as usize
    }

    pub(crate) fn minimum_block(&self) -> u32 {
        self.shared().export.minimum_block()
    }

    /// Counters of the protocol.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("{} bytes received", client.stats().bytes_received);
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        *nbd_proto::Machine::stats(&self.shared().lock().core)
    }

    /// Calls under way on all handles of this connection, those in line included.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// assert_eq!(client.in_flight(), 0);
    /// # }
    /// ```
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared().load()
    }

    /// Whether the connection is over. Every call fails then.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// assert!(!client.is_closed());
    /// # }
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared().lock().is_over()
    }

    /// The id of the process behind the connection, if there is one and the connection
    /// is not over. The process ends with the connection.
    ///
    /// ```
    /// # fn example(client: &nbd_client_async::Client) {
    /// println!("served by process {:?}", client.peer_pid());
    /// # }
    /// ```
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        self.shared().lock().peer_pid()
    }

    /// Reads `length` bytes at `offset`.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let sector = client.read_at(0, 512).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the range is not inside the export, the server fails the command, the
    /// connection fails, or the time is over.
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<BytesMut, Error> {
        self.read_new(offset, length, WhenFull::Wait).await
    }

    /// Reads as [`read_at`](Self::read_at), but does not wait in line.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::SubmitError};
    /// # async fn example(client: &Client) {
    /// match client.try_read_at(0, 512).await {
    ///     Err(Error::Submit { error: SubmitError::Full, .. }) => println!("busy"),
    ///     result => println!("{result:?}"),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at), and [`SubmitError::Full`].
    pub async fn try_read_at(&self, offset: u64, length: usize) -> Result<BytesMut, Error> {
        self.read_new(offset, length, WhenFull::Fail).await
    }

    async fn read_new(
        &self,
        offset: u64,
        length: usize,
        when_full: WhenFull,
    ) -> Result<BytesMut, Error> {
        if length as u64 > self.size() {
            // Before there is memory for it.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            return Err(Error::Submit {
                command: Command::read(offset, length),
                error: SubmitError::OutOfBounds,
            });
        }
        let buffer = BytesMut::zeroed(length);
        let (result, buffer) = self.read_whole(offset, buffer, when_full).await;
        result.map(|()| buffer)
    }

    /// Reads into the whole of a buffer of the caller's, which is given back whatever
    /// happens, unless the future is dropped. After an error its contents are undefined.
    ///
    /// The buffer's own code runs while the connection is locked: it must not block, nor
    /// use the client.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let mut buffer = vec![0; 65536];
    /// let mut result;
    /// for offset in [0, 65536] {
    ///     (result, buffer) = client.read_into(offset, buffer).await;
    ///     result?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub async fn read_into<B>(&self, offset: u64, buffer: B) -> (Result<(), Error>, B)
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        self.read_whole(offset, buffer, WhenFull::Wait).await
    }

    /// Reads as [`read_into`](Self::read_into), but does not wait in line.
    ///
    /// ```
    /// # async fn example(client: &nbd_client_async::Client) {
    /// let (result, buffer) = client.try_read_into(0, vec![0; 512]).await;
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at), and [`SubmitError::Full`].
    pub async fn try_read_into<B>(&self, offset: u64, buffer: B) -> (Result<(), Error>, B)
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        self.read_whole(offset, buffer, WhenFull::Fail).await
    }

    async fn read_whole<B>(
        &self,
        offset: u64,
        buffer: B,
        when_full: WhenFull,
    ) -> (Result<(), Error>, B)
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        let terms = self.terms(when_full);
        let max = self.max_request();
        let mut buffer = Buffer::lend(buffer);
        let length = buffer.writable().len();
        let mut result = Ok(());
        let mut base = 0;
        while base < length && result.is_ok() {
            let piece = max.min(length - base);
            let command = Command::read(offset.saturating_add(base as u64), piece as u32);
            let mut matter = Matter::new(command, buffer);
            matter.base = base;
            (result, matter) = Pending::command(&*self.handle, matter, terms).await;
            buffer = matter.buffer;
            base += piece;
        }
        (result, returned(buffer))
    }

    /// Reads as [`read_into`](Self::read_into), in one command, and tells the parts of
    /// the reply: data or hole, in whatever order the server sent them.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::CommandFlags};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let (result, buffer) =
    ///     client.read_structured(0, vec![0; 65536], CommandFlags::empty()).await;
    /// let holes = result?.iter().filter(|chunk| chunk.hole).count();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub async fn read_structured<B>(
        &self,
        offset: u64,
        buffer: B,
        flags: CommandFlags,
    ) -> (Result<Vec<ReadChunk>, Error>, B)
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        let mut buffer = Buffer::lend(buffer);
        let length = u32::try_from(buffer.writable().len()).unwrap_or(u32::MAX);
        let mut matter = Matter::new(Command::read(offset, length).with(flags), buffer);
        matter.chunks = Some(Vec::new());
        let (result, matter) = self.call(matter, WhenFull::Wait).await;
        let chunks = matter.chunks.unwrap_or_default();
        (result.map(|()| chunks), returned(matter.buffer))
    }

    /// Writes all of `data` at `offset`.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.write_at(0, vec![7; 512]).await?;
    /// client.write_at(512, &b"constant data"[..]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the range is not inside the export, the export is read-only, the server
    /// fails the command, the connection fails, or the time is over. How much has been
    /// written then is unknown.
    pub async fn write_at(&self, offset: u64, data: impl Into<Bytes>) -> Result<(), Error> {
        self.write_whole(offset, data.into(), CommandFlags::empty(), WhenFull::Wait).await
    }

    /// Writes as [`write_at`](Self::write_at), with flags such as
    /// [`CommandFlags::FUA`].
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::CommandFlags};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.write_at_with(0, vec![7; 512], CommandFlags::FUA).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    pub async fn write_at_with(
        &self,
        offset: u64,
        data: impl Into<Bytes>,
        flags: CommandFlags,
    ) -> Result<(), Error> {
        self.write_whole(offset, data.into(), flags, WhenFull::Wait).await
    }

    /// Writes as [`write_at`](Self::write_at), but does not wait in line.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.try_write_at(0, vec![7; 512]).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at), and [`SubmitError::Full`].
    pub async fn try_write_at(&self, offset: u64, data: impl Into<Bytes>) -> Result<(), Error> {
        self.write_whole(offset, data.into(), CommandFlags::empty(), WhenFull::Fail).await
    }

    async fn write_whole(
        &self,
        offset: u64,
        mut data: Bytes,
        flags: CommandFlags,
        when_full: WhenFull,
    ) -> Result<(), Error> {
        let terms = self.terms(when_full);
        let max = self.max_request();
        let mut at = offset;
        while !data.is_empty() {
            let piece = data.split_to(max.min(data.len()));
            let length = piece.len();
            let command = Command::write(at, length as u32).with(flags);
            let matter = Matter::new(command, Buffer::Write(piece));
            Pending::command(&*self.handle, matter, terms).await.0?;
            at = at.saturating_add(length as u64);
        }
        Ok(())
    }

    /// Makes everything durable that has been written on this connection, and on every
    /// other one to an export with
    /// [`CAN_MULTI_CONN`](TransmissionFlags::CAN_MULTI_CONN).
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.write_at(0, vec![7; 512]).await?;
    /// client.flush().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server does not offer it, fails it, the connection fails, or the time is
    /// over.
    pub async fn flush(&self) -> Result<(), Error> {
        self.run(Command::flush()).await
    }

    /// Tells the server that the data in a range is no longer needed.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.trim(0, client.size()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn trim(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.run(Command::trim(offset, length)).await
    }

    /// Makes a range read as zeroes, with flags such as [`CommandFlags::NO_HOLE`].
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::CommandFlags};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.write_zeroes(0, 1 << 20, CommandFlags::NO_HOLE).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Result<(), Error> {
        let command = Command::write_zeroes(offset, length);
        self.run(command.with(flags)).await
    }

    /// Tells the server that a range will be read soon.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.cache(0, 1 << 20).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub async fn cache(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.run(Command::cache(offset, length)).await
    }

    /// Asks for the extents of a range, for each meta context that was granted, in order
    /// for each context. The server may report less than was asked for, but at least one
    /// extent. See [`extents`](Self::extents) for the whole.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::CommandFlags};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// for (context, extent) in client.block_status(0, 1 << 20, CommandFlags::empty()).await? {
    ///     println!("{context:?}: {} bytes, status {}", extent.length, extent.status);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`flush`](Self::flush); when no meta context was granted, or the server sends
    /// extents that cannot be true.
    pub async fn block_status(
        &self,
        offset: u64,
        length: u64,
        flags: CommandFlags,
    ) -> Result<Vec<(ContextId, Extent)>, Error> {
        let command = Command::block_status(offset, length).with(flags);
        let matter = Matter::new(command, Buffer::None);
        let (result, matter) = self.call(matter, WhenFull::Wait).await;
        result.map(|()| matter.extents)
    }

    /// All extents of a range for one meta context, in order, neighbours of equal status
    /// merged, asked for as far as they are taken.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let mut extents = client.extents("base:allocation", 0..client.size())?;
    /// while let Some(placed) = extents.next().await {
    ///     let placed = placed?;
    ///     println!("{} bytes at {}", placed.extent.length, placed.offset);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the context was not granted.
    pub fn extents(&self, context: &str, range: Range<u64>) -> Result<Extents, Error> {
        Extents::new(self, context, range)
    }

    /// Sends one command without payload and waits for its end.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::{Command, CommandFlags}};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.run(Command::trim(0, 1 << 20).with(CommandFlags::FUA)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When it cannot be sent, the server fails it, the connection fails, or the time is
    /// over.
    pub async fn run(&self, command: Command) -> Result<(), Error> {
        let matter = Matter::new(command, Buffer::None);
        self.call(matter, WhenFull::Wait).await.0
    }

    /// Sends a command as [`run`](Self::run), but does not wait in line.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::Command};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.try_run(Command::flush()).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run), and [`SubmitError::Full`].
    pub async fn try_run(&self, command: Command) -> Result<(), Error> {
        let matter = Matter::new(command, Buffer::None);
        self.call(matter, WhenFull::Fail).await.0
    }

    /// Ends the session for all handles: waits for the replies that are due, asks the
    /// server to end, and waits until it has closed the connection.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// client.disconnect().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the server breaks the protocol before that, or the time is over.
    pub async fn disconnect(self) -> Result<(), Error> {
        let terms = self.terms(WhenFull::Wait);
        Pending::disconnect(&*self.handle, terms).await.0
    }

    fn terms(&self, when_full: WhenFull) -> Terms {
        Terms { deadline: self.timeout.and_then(Deadline::after), when_full }
    }

    async fn call(&self, matter: Matter, when_full: WhenFull) -> (Result<(), Error>, Matter) {
        Pending::command(&*self.handle, matter, self.terms(when_full)).await
    }

    /// A call that keeps the connection, to be kept itself.
    pub(crate) fn keep(&self, matter: Matter) -> Pending<Arc<Handle>> {
        let handle = Arc::clone(&self.handle);
        Pending::command(handle, matter, self.terms(WhenFull::Wait))
    }
}

/// The caller's buffer, out of the one that was made of it.
fn returned<B: 'static>(buffer: Buffer) -> B {
    let buffer = buffer.give_back();
    buffer.expect("a call gives back the buffer it was given")
}
