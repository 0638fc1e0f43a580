//! Exports whose work is done by futures.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use nbd_proto::BlockSizes;
use rustix::io::Errno;

use super::{Abilities, AllocationExtent, Export, ExtentKind, ZEROES, Zeroing};

/// A future that is sent to whoever runs it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A disk that can be served, by futures: the asynchronous form of [`Export`], for storage behind
/// a network.
///
/// Each method says and promises what that of [`Export`] does. It differs in what is read, which
/// is the export's own memory and is sent from there, in [`extents`](Self::extents), which
/// returns a list, and in what it does not have: contexts of its own, and a read that does not
/// wait. All futures of a client run side by side, and each runs to its end, also when its
/// client has left: none is ever dropped half done by the server. A future must not block its
/// thread: where it does, others wait.
///
/// [`Server::new_async`](crate::Server::new_async) and
/// [`ExportList::async_export`](crate::ExportList::async_export) serve it. It is at home in a
/// server in tasks, `Server::spawn`. A server in threads, [`Server::start`](crate::Server::start),
/// runs each future in one of its workers, where there is no runtime: what needs that of tokio
/// panics there, "there is no reactor running", and the request fails.
///
/// ```
/// use std::io;
/// use nbd_server::{AsyncExport, BoxFuture, Bytes};
///
/// /// A disk that somebody else reads.
/// struct Remote;
///
/// # async fn fetch(offset: u64, len: usize) -> io::Result<Bytes> { Ok(vec![0; len].into()) }
/// impl AsyncExport for Remote {
///     fn size(&self) -> u64 {
///         1 << 30
///     }
///
///     fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
///         Box::pin(fetch(offset, len))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be served as an export of the asynchronous form",
    note = "implement `AsyncExport`; what implements `Export` goes to `Server::new`"
)]
pub trait AsyncExport: Send + Sync {
    /// See [`Export::size`].
    fn size(&self) -> u64;

    /// The `len` bytes at `offset`, neither more nor less. See [`Export::read_exact_at`].
    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>>;

    /// See [`Export::abilities`].
    fn abilities(&self) -> Abilities {
        Abilities::empty()
    }

    /// See [`Export::block_sizes`].
    fn block_sizes(&self) -> BlockSizes {
        BlockSizes { minimum: 1, preferred: 4096, maximum: u32::MAX }
    }

    /// See [`Export::description`].
    fn description(&self) -> Option<String> {
        None
    }

    /// See [`Export::write_all_at`].
    fn write_all_at<'a>(&'a self, buf: &'a [u8], offset: u64) -> BoxFuture<'a, io::Result<()>> {
        let _ = (buf, offset);
        Box::pin(async { Err(Errno::ROFS.into()) })
    }

    /// See [`Export::flush`].
    fn flush(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// See [`Export::trim`].
    fn trim(&self, offset: u64, len: u64) -> BoxFuture<'_, io::Result<()>> {
        let _ = (offset, len);
        Box::pin(async { Ok(()) })
    }

    /// See [`Export::write_zeroes`].
    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        zeroing: Zeroing,
    ) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            if zeroing.fast_only {
                return Err(Errno::OPNOTSUPP.into());
            }
            let (mut offset, end) = (offset, offset.saturating_add(len));
            while offset < end {
                let length = (end - offset).min(ZEROES.len() as u64);
                self.write_all_at(&ZEROES[..length as usize], offset).await?;
                offset += length;
            }
            Ok(())
        })
    }

    /// See [`Export::cache`].
    fn cache(&self, offset: u64, len: u64) -> BoxFuture<'_, io::Result<()>> {
        let _ = (offset, len);
        Box::pin(async { Ok(()) })
    }

    /// The allocation of the `len` bytes at `offset`, in order and without gaps. It may end
    /// early, behind the first extent, and beyond the range. See [`Export::extents`].
    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, io::Result<Vec<AllocationExtent>>> {
        let _ = offset;
        let all = AllocationExtent { length: len, kind: ExtentKind::Data };
        Box::pin(async move { Ok(vec![all]) })
    }
}

/// An export of either form.
#[derive(Clone)]
pub(crate) enum AnyExport {
    Blocking(Arc<dyn Export>),
    Async(Arc<dyn AsyncExport>),
}

impl std::fmt::Debug for AnyExport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnyExport").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl AnyExport {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Blocking(export) => export.size(),
            Self::Async(export) => export.size(),
        }
    }

    pub(crate) fn abilities(&self) -> Abilities {
        match self {
            Self::Blocking(export) => export.abilities(),
            Self::Async(export) => export.abilities(),
        }
    }

    pub(crate) fn block_sizes(&self) -> BlockSizes {
        match self {
            Self::Blocking(export) => export.block_sizes(),
            Self::Async(export) => export.block_sizes(),
        }
    }

    pub(crate) fn description(&self) -> Option<String> {
        match self {
            Self::Blocking(export) => export.description(),
            Self::Async(export) => export.description(),
        }
    }

    /// Meta contexts beside `base:allocation`.
    pub(crate) fn contexts(&self) -> Vec<String> {
        match self {
            Self::Blocking(export) => export.contexts(),
            Self::Async(_) => Vec::new(),
        }
    }
}
