//! A disk in an object store: objects of one size, changed in memory, put on flush.
//!
//! ```sh
//! cargo run -p nbd-server --features tokio --example object_store
//! ```
//!
//! It serves from memory; any other store of the crate `object_store` (S3, Azure, files) does as
//! well. What has not been flushed is lost with the server, as the protocol allows.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use futures_util::future::try_join_all;
use nbd_server::{Abilities, AsyncExport, BoxFuture, Bytes, Server};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use tokio::sync::{Mutex, RwLock};

/// The size of each object, in bytes.
const OBJECT: u64 = 256 << 10;

/// So many changed objects are kept in memory; then they are put without a flush.
const CHANGED: usize = 256;

/// An object that has changed since it was put. While it is fetched or put, others go on.
type Changed = Arc<Mutex<Option<Vec<u8>>>>;

struct ObjectDisk<S> {
    store: S,
    size: u64,
    changed: RwLock<BTreeMap<u64, Changed>>,
}

impl<S: ObjectStore> ObjectDisk<S> {
    fn new(store: S, size: u64) -> Self {
        Self { store, size, changed: RwLock::default() }
    }

    /// Reads a part of an object. One that was never put is zero.
    async fn fetch(&self, (object, at, len): Piece) -> io::Result<Bytes> {
        let changed = self.changed.read().await.get(&object).cloned();
        if let Some(changed) = changed
            && let Some(bytes) = &*changed.lock().await
        {
            return Ok(Bytes::copy_from_slice(&bytes[at..at + len]));
        }
        match self.store.get_range(&name(object), at as u64..(at + len) as u64).await {
            Err(Error::NotFound { .. }) => Ok(vec![0; len].into()),
            fetched => Ok(fetched?),
        }
    }

    /// Changes a part of an object, in memory.
    async fn change(&self, (object, at, len): Piece, new: &[u8]) -> io::Result<()> {
        let changed = Arc::clone(self.changed.write().await.entry(object).or_default());
        let mut bytes = changed.lock().await;
        if bytes.is_none() {
            *bytes = Some(match self.store.get_range(&name(object), 0..OBJECT).await {
                Err(Error::NotFound { .. }) => vec![0; OBJECT as usize],
                fetched => fetched?.into(),
            });
        }
        if let Some(bytes) = &mut *bytes {
            bytes[at..at + len].copy_from_slice(new);
        }
        Ok(())
    }

    /// Puts an object if it has changed. Until that has succeeded it stays in memory.
    async fn put(&self, object: u64, changed: Changed) -> io::Result<()> {
        let mut bytes = changed.lock().await;
        if let Some(changed) = &*bytes {
            self.store.put(&name(object), changed.clone().into()).await?;
            *bytes = None;
        }
        Ok(())
    }

    async fn put_all(&self) -> io::Result<()> {
        let all = self.changed.read().await.clone();
        try_join_all(all.into_iter().map(|(object, changed)| self.put(object, changed))).await?;
        // Whoever holds one may be about to change it again.
        let is_needed = |changed: &Changed| {
            Arc::strong_count(changed) > 1 || changed.try_lock().is_ok_and(|bytes| bytes.is_some())
        };
        self.changed.write().await.retain(|_, changed| is_needed(changed));
        Ok(())
    }
}

/// The number of an object, and offset and length of a part of it.
type Piece = (u64, usize, usize);

/// What a range is made of.
fn pieces(mut offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let end = offset + len as u64;
    std::iter::from_fn(move || {
        let (object, at) = (offset / OBJECT, offset % OBJECT);
        let len = (OBJECT - at).min(end - offset);
        offset += len;
        (len > 0).then_some((object, at as usize, len as usize))
    })
}

fn name(object: u64) -> Path {
    format!("disk/{object:016x}").into()
}

impl<S: ObjectStore> AsyncExport for ObjectDisk<S> {
    fn size(&self) -> u64 {
        self.size
    }

    fn abilities(&self) -> Abilities {
        Abilities::WRITE | Abilities::MULTI_CONN
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            let mut parts =
                try_join_all(pieces(offset, len).map(|piece| self.fetch(piece))).await?;
            if parts.len() == 1 {
                return Ok(parts.remove(0));
            }
            Ok(parts.concat().into())
        })
    }

    fn write_all_at<'a>(&'a self, mut buf: &'a [u8], offset: u64) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            for piece in pieces(offset, buf.len()) {
                let (new, rest) = buf.split_at(piece.2);
                self.change(piece, new).await?;
                buf = rest;
            }
            if self.changed.read().await.len() > CHANGED {
                self.put_all().await?;
            }
            Ok(())
        })
    }

    fn flush(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.put_all())
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let disk = ObjectDisk::new(InMemory::new(), 1 << 30);
    let mut server = Server::new_async(disk).listen_tcp("127.0.0.1:0")?.spawn()?;
    println!("{}", server.uris()[0]);
    server.wait().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_sim::peer::{run, tool};
    use object_store::throttle::{ThrottleConfig, ThrottledStore};
    use std::time::Duration;

    /// Reads, writes and flushes of a client nobody here wrote, 64 at a time, through a store
    /// that takes its time; what was flushed is there for the next server.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_disk_in_a_slow_store() {
        let latency = Duration::from_millis(5);
        let config = ThrottleConfig {
            wait_get_per_call: latency,
            wait_put_per_call: latency,
            ..ThrottleConfig::default()
        };
        let store = Arc::new(ThrottledStore::new(InMemory::new(), config));
        let write = "blocks = [bytes([i + 1]) * 5000 for i in range(64)]\n\
                     at = lambda i: i * 262144 - (i % 2) * 2500\n\
                     cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b)), at(i)) \
                     for i, b in enumerate(blocks)]\n\
                     while h.aio_in_flight(): h.poll(-1)\n\
                     for c in cookies: assert h.aio_command_completed(c)\n\
                     h.zero(10, 100)\n\
                     h.flush()";
        let read = "buffers = [nbd.Buffer(5000) for i in range(64)]\n\
                    at = lambda i: i * 262144 - (i % 2) * 2500\n\
                    cookies = [h.aio_pread(b, at(i)) for i, b in enumerate(buffers)]\n\
                    while h.aio_in_flight(): h.poll(-1)\n\
                    for c in cookies: assert h.aio_command_completed(c)\n\
                    for i, b in enumerate(buffers):\n\
                    \x20   if i: assert b.to_bytearray() == bytes([i + 1]) * 5000\n\
                    assert h.pread(12, 99) == b'\\x01' + b'\\0' * 10 + b'\\x01'\n\
                    assert h.pread(3, 200000000) == b'\\0' * 3";
        for script in [write, read] {
            let disk = ObjectDisk::new(Arc::clone(&store), 1 << 30);
            let server =
                Server::new_async(disk).listen_tcp("127.0.0.1:0").unwrap().spawn().unwrap();
            let uri = server.uris()[0].clone();
            let client = move || run(tool("nbdsh").unwrap().args(["-u", &uri, "-c", script]));
            tokio::task::spawn_blocking(client).await.unwrap().unwrap().success().unwrap();
            server.stop().await.unwrap();
        }
    }
}
