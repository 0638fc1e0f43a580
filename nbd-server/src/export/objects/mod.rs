//! A disk of objects that are put as a whole.
//!
//! | file | what |
//! |---|---|
//! | `mod` | storage, and the export over it |
//! | `changed` | objects that differ from storage, in memory |

mod changed;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use nbd_proto::BlockSizes;
use rustix::io::Errno;

use self::changed::{Changed, Content, Object};
use super::{Abilities, AsyncExport, BoxFuture, ZEROES, Zeroing, check_range};

/// Calls of storage beside each other for one request, or one flush.
const AT_ONCE: usize = 64;

/// Storage that keeps objects by number, such as an object store: each is put as a whole, and is
/// there as a whole or not at all. See [`ObjectExport`].
///
/// Calls for different objects come beside each other. For one object there is one
/// [`put`](Self::put) or [`delete`](Self::delete) at a time.
pub trait Objects: Send + Sync {
    /// These bytes of an object; nothing where it was never put, or was deleted since. What was
    /// put before this is called has to be seen.
    fn get(&self, object: u64, range: Range<usize>) -> BoxFuture<'_, io::Result<Option<Bytes>>>;

    /// Puts an object in place of what it was. When it returns, the object is durable.
    fn put(&self, object: u64, bytes: Bytes) -> BoxFuture<'_, io::Result<()>>;

    /// Takes an object away, durably. It may never have been there.
    fn delete(&self, object: u64) -> BoxFuture<'_, io::Result<()>>;
}

/// A disk over [`Objects`], for storage in which nothing can be changed in place.
///
/// Objects have one size. Those that are written to are changed in memory and put by the next
/// flush; so a small write costs a read of its object at most. When more of them have changed
/// than [`max_changed`](Self::max_changed) says, some are put earlier. Zeroes over a whole object
/// delete it. What was not flushed is lost with the server, as the protocol has it; an object
/// that could not be put stays changed, and the next flush puts it again.
///
/// ```
/// use std::collections::HashMap;
/// use std::io;
/// use std::ops::Range;
/// use std::sync::Mutex;
///
/// use nbd_server::{BoxFuture, Bytes, ObjectExport, Objects, Server};
///
/// /// A store that forgets everything with the program.
/// #[derive(Default)]
/// struct Shelf(Mutex<HashMap<u64, Bytes>>);
///
/// impl Objects for Shelf {
///     fn get(&self, object: u64, range: Range<usize>) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
///         let bytes = self.0.lock().unwrap().get(&object).map(|bytes| bytes.slice(range));
///         Box::pin(async { Ok(bytes) })
///     }
///
///     fn put(&self, object: u64, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
///         self.0.lock().unwrap().insert(object, bytes);
///         Box::pin(async { Ok(()) })
///     }
///
///     fn delete(&self, object: u64) -> BoxFuture<'_, io::Result<()>> {
///         self.0.lock().unwrap().remove(&object);
///         Box::pin(async { Ok(()) })
///     }
/// }
///
/// let disk = ObjectExport::new(Shelf::default(), 64 << 30).object_size(1 << 20);
/// let server = Server::new_async(disk);
/// ```
pub struct ObjectExport<O> {
    objects: O,
    size: u64,
    object_size: usize,
    max_changed: usize,
    changed: Changed,
}

/// A part of an object.
#[derive(Clone, Copy, Debug)]
struct Piece {
    object: u64,
    /// Offset in the object, in bytes.
    at: usize,
    len: usize,
}

impl<O: Objects> ObjectExport<O> {
    /// A disk of `size` bytes. Where no object is, it is zeroes.
    pub fn new(objects: O, size: u64) -> Self {
        Self {
            objects,
            size,
            object_size: 256 << 10,
            max_changed: 64 << 20,
            changed: Changed::default(),
        }
    }

    /// The size of each object, in bytes (default 256 KiB; less than 512 counts as that). Once a
    /// disk has been written to it must stay the same.
    #[must_use]
    pub fn object_size(mut self, bytes: usize) -> Self {
        self.object_size = bytes.max(512);
        self
    }

    /// How many bytes of objects that have changed are kept in memory (default 64 MiB; less than
    /// two objects count as that), beside one object for each write that is under way.
    #[must_use]
    pub fn max_changed(mut self, bytes: usize) -> Self {
        self.max_changed = bytes;
        self
    }

    /// What a range is made of.
    fn pieces(&self, mut offset: u64, len: u64) -> impl Iterator<Item = Piece> + use<O> {
        let (object_size, end) = (self.object_size as u64, offset + len);
        std::iter::from_fn(move || {
            let (object, at) = (offset / object_size, offset % object_size);
            let len = (object_size - at).min(end - offset);
            offset += len;
            (len > 0).then_some(Piece { object, at: at as usize, len: len as usize })
        })
    }

    fn is_whole(&self, piece: Piece) -> bool {
        piece.len == self.object_size
    }

    /// Reads a part of an object from storage.
    async fn fetch(&self, Piece { object, at, len }: Piece) -> io::Result<Option<Bytes>> {
        let fetched = self.objects.get(object, at..at + len).await?;
        match &fetched {
            Some(bytes) if bytes.len() != len => {
                let text = format!("storage gave {} bytes of {len}", bytes.len());
                Err(io::Error::new(io::ErrorKind::InvalidData, text))
            }
            _ => Ok(fetched),
        }
    }

    async fn read_piece(&self, piece: Piece) -> io::Result<Bytes> {
        let Piece { object, at, len } = piece;
        if let Some(held) = self.changed.find(object) {
            match &*held.content().await {
                Content::Changed(bytes) => return Ok(bytes.slice(at..at + len)),
                Content::Absent => return Ok(zeroes(len)),
                Content::Stored => {}
            }
        }
        Ok(self.fetch(piece).await?.unwrap_or_else(|| zeroes(len)))
    }

    /// Changes a part of an object, in memory.
    async fn change(&self, piece: Piece, new: &[u8]) -> io::Result<()> {
        self.make_room().await?;
        let held = self.changed.hold(piece.object);
        let mut content = held.content().await;
        if matches!(*content, Content::Stored) && !self.is_whole(piece) {
            let whole = Piece { at: 0, len: self.object_size, ..piece };
            *content = match self.fetch(whole).await? {
                Some(bytes) => Content::Changed(bytes),
                None => Content::Absent,
            };
        }
        content.change(self.object_size, piece.at, new);
        Ok(())
    }

    /// Puts some objects where there are too many that have changed.
    async fn make_room(&self) -> io::Result<()> {
        let most = (self.max_changed / self.object_size).max(2);
        match self.changed.half_of(most) {
            None => Ok(()),
            Some(some) => self.put_all(some).await,
        }
    }

    /// Puts what of these has changed. What cannot be put stays as it is.
    async fn put_all(&self, objects: Vec<u64>) -> io::Result<()> {
        let put = |object| async move {
            match self.changed.find(object) {
                Some(held) => self.put(object, &held).await,
                None => Ok(()),
            }
        };
        // All of them are tried, whichever fails.
        let results = stream::iter(objects).map(put).buffer_unordered(AT_ONCE);
        results.fold(Ok(()), |all, one| async { all.and(one) }).await
    }

    async fn put(&self, number: u64, object: &Object) -> io::Result<()> {
        // Or an older state could come to lie over a newer one.
        let _turn = object.turn().await;
        // Others may read and change it while it is put.
        let before = object.content().await.clone();
        match &before {
            Content::Stored => return Ok(()),
            Content::Changed(bytes) => self.objects.put(number, bytes.clone()).await?,
            Content::Absent => self.objects.delete(number).await?,
        }
        let mut content = object.content().await;
        if content.is_same(&before) {
            *content = Content::Stored;
        }
        Ok(())
    }
}

/// So many zeroes.
fn zeroes(len: usize) -> Bytes {
    ZEROES.get(..len).map_or_else(|| vec![0; len].into(), Bytes::from_static)
}

impl<O: Objects> AsyncExport for ObjectExport<O> {
    fn size(&self) -> u64 {
        self.size
    }

    fn abilities(&self) -> Abilities {
        Abilities::WRITE | Abilities::TRIM | Abilities::FAST_ZERO | Abilities::MULTI_CONN
    }

    fn block_sizes(&self) -> BlockSizes {
        let preferred = u32::try_from(self.object_size).unwrap_or(u32::MAX);
        BlockSizes { minimum: 1, preferred, maximum: u32::MAX }
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            check_range(self.size, offset, len as u64, Errno::INVAL)?;
            let pieces = stream::iter(self.pieces(offset, len as u64));
            let parts = pieces.map(|piece| self.read_piece(piece)).buffered(AT_ONCE);
            let mut parts: Vec<Bytes> = parts.try_collect().await?;
            match parts.len() {
                1 => Ok(parts.remove(0)),
                _ => Ok(parts.concat().into()),
            }
        })
    }

    fn write_all_at<'a>(&'a self, mut buf: &'a [u8], offset: u64) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            check_range(self.size, offset, buf.len() as u64, Errno::NOSPC)?;
            for piece in self.pieces(offset, buf.len() as u64) {
                let (new, rest) = buf.split_at(piece.len);
                self.change(piece, new).await?;
                buf = rest;
            }
            Ok(())
        })
    }

    fn flush(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.put_all(self.changed.all()))
    }

    /// Of whole objects only.
    fn trim(&self, offset: u64, len: u64) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            check_range(self.size, offset, len, Errno::INVAL)?;
            for piece in self.pieces(offset, len).filter(|piece| self.is_whole(*piece)) {
                self.make_room().await?;
                *self.changed.hold(piece.object).content().await = Content::Absent;
            }
            Ok(())
        })
    }

    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        zeroing: Zeroing,
    ) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            check_range(self.size, offset, len, Errno::NOSPC)?;
            let in_whole = |it: u64| it.is_multiple_of(self.object_size as u64);
            if zeroing.fast_only && !(in_whole(offset) && in_whole(len)) {
                // The rest of an object would have to be read.
                return Err(Errno::OPNOTSUPP.into());
            }
            for piece in self.pieces(offset, len) {
                if self.is_whole(piece) {
                    self.make_room().await?;
                    *self.changed.hold(piece.object).content().await = Content::Absent;
                } else {
                    self.change(piece, &zeroes(piece.len)).await?;
                }
            }
            Ok(())
        })
    }
}

impl<O> fmt::Debug for ObjectExport<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectExport")
            .field("size", &self.size)
            .field("object_size", &self.object_size)
            .finish_non_exhaustive()
    }
}
