//! Reading and writing.

use bytes::{Bytes, BytesMut};
use nbd_proto::{Command, CommandFlags, ReadChunk, SubmitError};
use nbd_session::OldError as Error;

use super::Client;
use crate::buffer::Buffer;
use crate::calls::Matter;
use crate::pending::Pending;
use crate::state::WhenFull;

impl Client {
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
        let mut matter = Matter::new(Command::read(offset, 0), Buffer::lend(buffer));
        let length = matter.buffer.writable().len();
        let mut result = Ok(());
        let mut base = 0;
        while base < length && result.is_ok() {
            let piece = max.min(length - base);
            matter.command = Command::read(offset.saturating_add(base as u64), piece as u32);
            matter.base = base;
            result = Pending::command(&*self.handle, &mut matter, terms).await;
            base += piece;
        }
        (result, returned(matter.buffer))
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
        let mut matter = Matter::in_parts(Command::read(offset, length).with(flags), buffer);
        let result = self.call(&mut matter, WhenFull::Wait).await;
        let chunks = matter.account().chunks.unwrap_or_default();
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
            let mut matter = Matter::new(command, Buffer::Write(piece));
            Pending::command(&*self.handle, &mut matter, terms).await?;
            at = at.saturating_add(length as u64);
        }
        Ok(())
    }
}

/// The caller's buffer, out of the one that was made of it.
fn returned<B: 'static>(buffer: Buffer) -> B {
    let buffer = buffer.give_back();
    buffer.expect("a call gives back the buffer it was given")
}
