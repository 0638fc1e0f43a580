//! Reading and writing.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use nbd_proto::{Command, CommandFlags, ReadChunk, SubmitError};
use nbd_session::{Error, Rejected};

use super::Client;
use crate::buffer::{Buffer, ReadBuffer, WriteBuffer};
use crate::calls::Exchange;
use crate::pending::Pending;

impl Client {
    /// Reads `length` bytes at `offset`. Their memory is allocated when the first of them come,
    /// so that many reads in flight hold no more than what has been answered.
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
            // Before any piece of it is asked for.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            let command = Command::read(offset, length);
            return Err(Error::not_sent(command, SubmitError::OutOfBounds));
        }
        let mut exchange = Exchange::new(Command::read(offset, 0), Buffer::Late(length));
        self.in_pieces(&mut exchange, length).await?;
        let buffer = exchange.buffer.give_back::<BytesMut>();
        Ok(buffer.unwrap_or_default().freeze())
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
        let result = self.in_pieces(&mut exchange, length).await;
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
    /// client.write_all_at(b"a copy is made", 512).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// When the range is not inside the export, the export is read-only, the server
    /// fails the command, the connection fails, or the time is over. How much has been
    /// written then is unknown. The data comes back with the error.
    #[doc(alias = "nbd_pwrite")]
    pub async fn write_all_at(
        &self,
        data: impl WriteBuffer,
        offset: u64,
    ) -> Result<(), Rejected<Bytes>> {
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
        data: impl WriteBuffer,
        offset: u64,
        flags: CommandFlags,
    ) -> Result<(), Rejected<Bytes>> {
        let data = data.into_bytes();
        let length = data.len();
        let command = Command::write(offset, 0).with(flags);
        let mut exchange = Exchange::new(command, Buffer::Write(data));
        let result = self.in_pieces(&mut exchange, length).await;
        result.map_err(|error| Rejected { error, buffer: exchange.buffer.give_back() })
    }

    /// Has the command carried out with so many bytes of the buffer, in as many pieces as it
    /// takes. They have one limit of time together.
    async fn in_pieces(&self, exchange: &mut Exchange, length: usize) -> Result<(), Error> {
        let mut terms = self.terms();
        let max;
        (max, terms.limit) = self.shared().lock().session.pieces(length, terms.limit, Instant::now);
        let Command { offset, .. } = exchange.command;
        for base in (0..length).step_by(max.max(1)) {
            exchange.command.offset = offset.saturating_add(base as u64);
            exchange.command.length = max.min(length - base) as u64;
            exchange.base = base;
            Pending::new(&*self.handle, &mut *exchange, terms).await?;
        }
        Ok(())
    }
}

/// The caller's buffer, out of the one that was made of it.
fn returned<B: 'static>(buffer: Buffer) -> B {
    let buffer = buffer.give_back();
    buffer.expect("a call gives back the buffer it was given")
}
