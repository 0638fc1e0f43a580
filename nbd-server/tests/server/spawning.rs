//! What only a server in tasks does.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nbd_server::tls::TlsServerConfig;
use nbd_server::{
    Abilities, AsyncExport, BoxFuture, Bytes, Event, ExportList, MemoryExport, Server, TlsPolicy,
    Zeroing,
};
use nbd_sim::peer::pki::Pki;
use nbd_sim::peer::{run, tool};
use nbd_sim::raw::Raw;
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

/// Clients that come without end leave the thread to others now and then.
#[test]
fn a_crowd_at_the_door_holds_up_no_other_task() {
    const CROWD: usize = 1000;
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let come = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&come);
    let server = Server::new(MemoryExport::new(1 << 20))
        .on_event(move |event| {
            if let Event::Connected { .. } = event {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        })
        .listen_unix(&path)
        .unwrap();
    // All of them wait before the first is taken in.
    let crowd: Vec<_> = (0..CROWD).map(|_| UnixStream::connect(&path).unwrap()).collect();
    runtime.block_on(async {
        let server = server.spawn().unwrap();
        let (mut seen, mut most) = (0, 0);
        while seen < CROWD {
            tokio::task::yield_now().await;
            let now = come.load(Ordering::SeqCst);
            most = most.max(now - seen);
            seen = now;
        }
        assert!(most < CROWD / 2, "{most} clients in a row");
        drop(crowd);
        server.stop().await.unwrap();
    });
}

/// One that sends on and on after it was told that it is over does so, too.
#[test]
fn who_does_not_stop_sending_holds_up_no_other_task() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let pki = Pki::new();
    let acceptor = TlsServerConfig::directory(pki.dir()).acceptor().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (sent, over) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&over);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Raw::over(ours);
            client.negotiate();
            client.write(b"IHAVEOPT\0\0\0\x05\0\0\0\0");
            client.read(20);
            while let Ok(n) = client.stream.write(&[0; 64 << 10]) {
                sent.fetch_add(n, Ordering::SeqCst);
            }
        });
        runtime.block_on(async {
            let server = Server::new(MemoryExport::new(1 << 20))
                .tls(TlsPolicy::Require, acceptor)
                .on_event(move |event| {
                    told.fetch_or(matches!(event, Event::Closed { .. }), Ordering::SeqCst);
                })
                .spawn()
                .unwrap();
            server.serve(theirs).unwrap();
            while !over.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            // What the socket holds, and what is read in a row.
            for _ in 0..1000 {
                let before = sent.load(Ordering::SeqCst);
                tokio::task::yield_now().await;
                let more = sent.load(Ordering::SeqCst) - before;
                assert!(more <= 4 << 20, "{more} bytes in a row");
            }
            server.stop().await.unwrap();
        });
    });
}
