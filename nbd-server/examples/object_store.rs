//! A disk in an object store: objects of one size, changed in memory, put on flush.
//!
//! ```sh
//! cargo run -p nbd-server --features tokio --example object_store
//! ```
//!
//! It serves from memory; any other store of the crate `object_store` (S3, Azure, files) does as
//! well. What has not been flushed is lost with the server, as the protocol allows.

use std::io;
use std::ops::Range;

use nbd_server::{BoxFuture, Bytes, ObjectExport, Objects, Server};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};

struct Store<S>(S);

fn name(object: u64) -> Path {
    format!("disk/{object:016x}").into()
}

impl<S: ObjectStore> Objects for Store<S> {
    fn get(&self, object: u64, range: Range<usize>) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        Box::pin(async move {
            let range = range.start as u64..range.end as u64;
            match self.0.get_range(&name(object), range).await {
                Err(Error::NotFound { .. }) => Ok(None),
                fetched => Ok(Some(fetched?)),
            }
        })
    }

    fn put(&self, object: u64, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move { Ok(self.0.put(&name(object), bytes.into()).await.map(drop)?) })
    }

    fn delete(&self, object: u64) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            match self.0.delete(&name(object)).await {
                Err(Error::NotFound { .. }) => Ok(()),
                deleted => Ok(deleted?),
            }
        })
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let disk = ObjectExport::new(Store(InMemory::new()), 1 << 30);
    let mut server = Server::new_async(disk).listen_tcp("127.0.0.1:0")?.spawn()?;
    println!("{}", server.uris()[0]);
    server.wait().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_sim::peer::{run, tool};
    use object_store::throttle::{ThrottleConfig, ThrottledStore};
    use std::sync::Arc;
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
            let disk = ObjectExport::new(Store(Arc::clone(&store)), 1 << 30);
            let server =
                Server::new_async(disk).listen_tcp("127.0.0.1:0").unwrap().spawn().unwrap();
            let uri = server.uris()[0].clone();
            let client = move || run(tool("nbdsh").unwrap().args(["-u", &uri, "-c", script]));
            tokio::task::spawn_blocking(client).await.unwrap().unwrap().success().unwrap();
            server.stop().await.unwrap();
        }
    }
}
