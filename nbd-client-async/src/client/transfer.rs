//! Reading and writing.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use nbd_proto::{Command, CommandFlags, ReadChunk, SubmitError};
use nbd_session::Error;

use super::Client;
use crate::buffer::{Buffer, ReadBuffer};
use crate::calls::{Exchange, Terms};
use crate::pending::Pending;

impl Client {
    /// Reads `length` bytes at `offset`.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let sector = client.read(0, 512).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the range is not inside the export, the server fails the command, the
    /// connection fails, or the time is over.
    #[doc(alias = "nbd_pread")]
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes, Error> {
        if length as u64 > self.size() {
            // Before there is memory for it.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            let command = Command::read(offset, length);
            return Err(Error::not_sent(command, SubmitError::OutOfBounds));
        }
        let (result, buffer) = self.read_exact_at(BytesMut::zeroed(length), offset).await;
        result.map(|()| buffer.freeze())
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
    ///     (result, buffer) = client.read_exact_at(buffer, offset).await;
    ///     result?;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[doc(alias = "nbd_pread")]
    pub async fn read_exact_at<B: ReadBuffer>(
        &self,
        buffer: B,
        offset: u64,
    ) -> (Result<(), Error>, B) {
        let mut exchange = Exchange::new(Command::read(offset, 0), Buffer::lend(buffer));
        let length = exchange.buffer.writable().len();
        let (max, terms) = self.pieces(length);
        let mut result = Ok(());
        let mut base = 0;
        while base < length && result.is_ok() {
            let piece = max.min(length - base);
            exchange.command = Command::read(offset.saturating_add(base as u64), piece as u32);
            exchange.base = base;
            result = Pending::new(&*self.handle, &mut exchange, terms).await;
            base += piece;
        }
        (result, returned(exchange.buffer))
    }

    /// Reads as [`read_exact_at`](Self::read_exact_at), in one command, and tells the parts of
    /// the reply: data or hole, in whatever order the server sent them.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::CommandFlags};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// let (result, buffer) =
    ///     client.read_structured(vec![0; 65536], 0, CommandFlags::empty()).await;
    /// let holes = result?.iter().filter(|chunk| chunk.hole).count();
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[doc(alias = "nbd_pread_structured")]
    pub async fn read_structured<B: ReadBuffer>(
        &self,
        buffer: B,
        offset: u64,
        flags: CommandFlags,
    ) -> (Result<Vec<ReadChunk>, Error>, B) {
        let mut buffer = Buffer::lend(buffer);
        let length = u32::try_from(buffer.writable().len()).unwrap_or(u32::MAX);
        let command = Command::read(offset, length).with(flags);
        let mut exchange = Exchange::new(command, buffer);
        exchange.report_chunks = true;
        let result = self.call(&mut exchange).await;
        (result.map(|()| exchange.chunks), returned(exchange.buffer))
    }

    /// Writes all of `data` at `offset`.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.write_all_at(vec![7; 512], 0).await?;
    /// client.write_all_at(&b"constant data"[..], 512).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the range is not inside the export, the export is read-only, the server
    /// fails the command, the connection fails, or the time is over. How much has been
    /// written then is unknown.
    #[doc(alias = "nbd_pwrite")]
    pub async fn write_all_at(&self, data: impl Into<Bytes>, offset: u64) -> Result<(), Error> {
        self.write_all_at_with(data, offset, CommandFlags::empty()).await
    }

    /// Writes as [`write_all_at`](Self::write_all_at), with flags such as
    /// [`CommandFlags::FUA`].
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error, proto::CommandFlags};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.write_all_at_with(vec![7; 512], 0, CommandFlags::FUA).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`write_all_at`](Self::write_all_at).
    #[doc(alias = "nbd_pwrite")]
    pub async fn write_all_at_with(
        &self,
        data: impl Into<Bytes>,
        offset: u64,
        flags: CommandFlags,
    ) -> Result<(), Error> {
        let mut data = data.into();
        let (max, terms) = self.pieces(data.len());
        let mut at = offset;
        while !data.is_empty() {
            let piece = data.split_to(max.min(data.len()));
            let length = piece.len();
            let command = Command::write(at, length as u32).with(flags);
            let mut exchange = Exchange::new(command, Buffer::Write(piece));
            Pending::new(&*self.handle, &mut exchange, terms).await?;
            at = at.saturating_add(length as u64);
        }
        Ok(())
    }

    /// The longest piece of a call that may take several commands, and their terms: they have
    /// one limit together.
    fn pieces(&self, length: usize) -> (usize, Terms) {
        let session = &self.shared().lock().session;
        let (max, mut terms) = (session.max_request(), self.terms());
        if length > max {
            terms.limit = session.fixed(terms.limit, Instant::now());
        }
        (max, terms)
    }
}

/// The caller's buffer, out of the one that was made of it.
fn returned<B: 'static>(buffer: Buffer) -> B {
    let buffer = buffer.give_back();
    buffer.expect("a call gives back the buffer it was given")
}
