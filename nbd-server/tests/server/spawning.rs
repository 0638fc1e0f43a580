//! What only a server in tasks does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nbd_server::{
    Abilities, AsyncExport, BoxFuture, Bytes, Event, ExportList, MemoryExport, Server, Zeroing,
};
use nbd_sim::peer::{run, tool};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Memory behind a network: every request takes a while, and it is counted how many there are at
/// a time.
#[derive(Default)]
struct Far {
    bytes: std::sync::Mutex<Vec<u8>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

const SIZE: usize = 1 << 20;

impl Far {
    async fn travel(&self) {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl AsyncExport for Far {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            self.travel().await;
            let bytes = self.bytes.lock().unwrap();
            Ok(Bytes::copy_from_slice(&bytes[offset as usize..][..len]))
        })
    }

    fn abilities(&self) -> Abilities {
        Abilities::WRITE | Abilities::MULTI_CONN
    }

    fn write_all_at<'a>(&'a self, buf: &'a [u8], offset: u64) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.travel().await;
            assert_ne!(offset, 4096, "as it was told");
            let mut bytes = self.bytes.lock().unwrap();
            bytes[offset as usize..][..buf.len()].copy_from_slice(buf);
            Ok(())
        })
    }

    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        _zeroing: Zeroing,
    ) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.bytes.lock().unwrap()[offset as usize..][..len as usize].fill(0);
            Ok(())
        })
    }
}

fn nbdsh(uri: &str, script: &str) -> String {
    run(tool("nbdsh").unwrap().args(["-u", uri, "-c", script])).unwrap().success().unwrap()
}

#[test]
fn futures_of_one_client_run_side_by_side() {
    let runtime = runtime();
    let far = Arc::new(Far { bytes: vec![1; SIZE].into(), ..Far::default() });
    let server = runtime.block_on(async {
        let exports = ExportList::new()
            .opened(nbd_server::Opened::new_async("far", Arc::clone(&far) as Arc<dyn AsyncExport>))
            .export("near", MemoryExport::new(1 << 20));
        Server::with_exports(exports).listen_tcp("127.0.0.1:0").unwrap().spawn().unwrap()
    });
    let uri = server.uris()[0].clone();
    let script = "buffers = [nbd.Buffer(4096) for i in range(64)]\n\
                  cookies = [h.aio_pread(b, i * 4096) for i, b in enumerate(buffers)]\n\
                  while h.aio_in_flight(): h.poll(-1)\n\
                  for c in cookies: assert h.aio_command_completed(c)\n\
                  h.pwrite(b'far away', 0)\nh.zero(4, 4)\nh.flush()\n\
                  print(h.pread(8, 0))\n\
                  try: h.pwrite(b'x', 4096)\n\
                  except nbd.Error as e: print(e.errno)\n";
    assert_eq!(nbdsh(&uri, script), "bytearray(b'far \\x00\\x00\\x00\\x00')\nEIO");
    assert!(far.most.load(Ordering::SeqCst) >= 32, "{far:?}", far = far.most);
    assert_eq!(nbdsh(&format!("{uri}near"), "print(h.pread(2, 0))"), "bytearray(b'\\x00\\x00')");
    runtime.block_on(server.stop()).unwrap();
}

#[test]
fn any_stream_can_be_served() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let runtime = runtime();
    runtime.block_on(async {
        let server = Server::new(MemoryExport::new(1 << 20)).spawn().unwrap();
        let (mut ours, theirs) = tokio::io::duplex(100);
        server.serve_stream(theirs).unwrap();
        let mut greeting = [0; 18];
        ours.read_exact(&mut greeting).await.unwrap();
        ours.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0").await.unwrap();
        let mut export = [0; 10];
        ours.read_exact(&mut export).await.unwrap();
        assert_eq!(export[..8], (1_u64 << 20).to_be_bytes());
        drop(ours);
        server.stop().await.unwrap();
    });
}

/// Whoever waits for the server hears when nobody can come in any more.
#[test]
fn the_end_of_an_acceptor_is_the_end_of_the_server() {
    let runtime = runtime();
    runtime.block_on(async {
        let mut server = Server::new(MemoryExport::new(1 << 20))
            .on_event(|event| assert!(!matches!(event, Event::Connected { .. }), "as it was told"))
            .listen_tcp("127.0.0.1:0")
            .unwrap()
            .spawn()
            .unwrap();
        let uri: nbd_transport::NbdUri = server.uris()[0].parse().unwrap();
        let _connection = uri.endpoint().connect(None).unwrap();
        let error = server.wait().await.unwrap_err();
        assert!(error.to_string().contains("has failed"), "{error}");
    });
}
