//! Reading and writing.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use nbd_proto::{Command, CommandFlags, ReadChunk, SubmitError};
use nbd_session::{Error, Limit};

use super::Client;
use crate::buffer::Buffer;
use crate::calls::Exchange;
use crate::pending::{Pending, Terms};
use crate::state::WhenFull;

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
        self.read_new(offset, length, WhenFull::Wait).await
    }

    /// Reads as [`read`](Self::read), but does not wait in line.
    ///
    /// ```
    /// # async fn example(client: &nbd_client_async::Client) {
    /// match client.try_read(0, 512).await {
    ///     Err(error) if error.is_full() => println!("busy"),
    ///     result => println!("{result:?}"),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`read`](Self::read), and when there is [no room](Error::is_full).
    pub async fn try_read(&self, offset: u64, length: usize) -> Result<Bytes, Error> {
        self.read_new(offset, length, WhenFull::Fail).await
    }

    async fn read_new(
        &self,
        offset: u64,
        length: usize,
        when_full: WhenFull,
    ) -> Result<Bytes, Error> {
        if length as u64 > self.size() {
            // Before there is memory for it.
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            let command = Command::read(offset, length);
            return Err(Error::not_sent(command, SubmitError::OutOfBounds));
        }
        let buffer = BytesMut::zeroed(length);
        let (result, buffer) = self.read_whole(offset, buffer, when_full).await;
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
    pub async fn read_exact_at<B>(&self, buffer: B, offset: u64) -> (Result<(), Error>, B)
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        self.read_whole(offset, buffer, WhenFull::Wait).await
    }

    /// Reads as [`read_exact_at`](Self::read_exact_at), but does not wait in line.
    ///
    /// ```
    /// # async fn example(client: &nbd_client_async::Client) {
    /// let (result, buffer) = client.try_read_exact_at(vec![0; 512], 0).await;
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`read`](Self::read), and when there is [no room](Error::is_full).
    pub async fn try_read_exact_at<B>(&self, buffer: B, offset: u64) -> (Result<(), Error>, B)
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
        let mut exchange = Exchange::new(Command::read(offset, 0), Buffer::lend(buffer));
        let length = exchange.buffer.writable().len();
        let terms = self.terms_of(length, when_full);
        let max = self.max_request();
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
    pub async fn read_structured<B>(
        &self,
        buffer: B,
        offset: u64,
        flags: CommandFlags,
    ) -> (Result<Vec<ReadChunk>, Error>, B)
    where
        B: AsMut<[u8]> + Send + 'static,
    {
        let mut buffer = Buffer::lend(buffer);
        let length = u32::try_from(buffer.writable().len()).unwrap_or(u32::MAX);
        let command = Command::read(offset, length).with(flags);
        let mut exchange = Exchange::detailed(command, buffer, None);
        let result = self.call(&mut exchange, WhenFull::Wait).await;
        let chunks = exchange.details().chunks;
        (result.map(|()| chunks), returned(exchange.buffer))
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
        self.write_whole(offset, data.into(), CommandFlags::empty(), WhenFull::Wait).await
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
        self.write_whole(offset, data.into(), flags, WhenFull::Wait).await
    }

    /// Writes as [`write_all_at`](Self::write_all_at), but does not wait in line.
    ///
    /// ```
    /// # use nbd_client_async::{Client, Error};
    /// # async fn example(client: &Client) -> Result<(), Error> {
    /// client.try_write_all_at(vec![7; 512], 0).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`write_all_at`](Self::write_all_at), and when there is [no room](Error::is_full).
    pub async fn try_write_all_at(&self, data: impl Into<Bytes>, offset: u64) -> Result<(), Error> {
        self.write_whole(offset, data.into(), CommandFlags::empty(), WhenFull::Fail).await
    }

    async fn write_whole(
        &self,
        offset: u64,
        mut data: Bytes,
        flags: CommandFlags,
        when_full: WhenFull,
    ) -> Result<(), Error> {
        let terms = self.terms_of(data.len(), when_full);
        let max = self.max_request();
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

    /// The terms of a call that may take several commands, which have one limit together.
    fn terms_of(&self, length: usize, when_full: WhenFull) -> Terms {
        let terms = self.terms(when_full);
        if terms.limit != Limit::Default || length <= self.max_request() {
            return terms;
        }
        let limit = self.shared().lock().session.fixed(terms.limit, Instant::now());
        Terms { limit, ..terms }
    }
}

/// The caller's buffer, out of the one that was made of it.
fn returned<B: 'static>(buffer: Buffer) -> B {
    let buffer = buffer.give_back();
    buffer.expect("a call gives back the buffer it was given")
}
