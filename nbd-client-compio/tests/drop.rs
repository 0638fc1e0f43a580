//! What is dropped while the kernel has its buffers, on io_uring and without.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::process::Command;
use std::task::Poll;

use bytes::BytesMut;
use compio::driver::{DriverType, ProactorBuilder};
use compio::runtime::Runtime;
use futures_util::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use nbd_client_compio::transport::{CommandSpec, Endpoint};
use nbd_client_compio::{Client, ConnectOptions, Connector, ErrorKind, ExportFile, connect};
use nbd_sim::peer::Server;
use nbd_sim::rng::noise;

/// Runs a test on the runtime of this system, and on one that may only poll.
fn on_each<F: Future<Output = ()>>(test: impl Fn() -> F) {
    Runtime::new().expect("a runtime").block_on(test());
    let mut polling = ProactorBuilder::new();
    polling.driver_type(DriverType::Poll);
    let runtime = Runtime::builder().with_proactor(polling).build().expect("a runtime");
    assert_eq!(runtime.driver_type(), DriverType::Poll);
    runtime.block_on(test());
}

/// Polls a future once, which is not ready then.
async fn begin<F: Future>(future: &mut Pin<Box<F>>) {
    let pending = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await;
    assert!(pending, "nobody answers");
}

/// Lets the connection's own tasks run, until there is nothing for them to do but wait.
async fn settle() {
    for _ in 0..50 {
        compio::runtime::spawn(async {}).await.expect("it does not panic");
    }
}

async fn both(server: &Server) -> [Client; 2] {
    [connect(&server.uri()).await.unwrap(), connect(&server.uri()).await.unwrap()]
}

#[test]
fn a_read_that_is_dropped_with_its_reply_under_way() {
    on_each(async || {
        let server = Server::nbdkit(&["memory", "4M"]).start().unwrap();
        let [client, other] = both(&server).await;
        let data = noise(4 << 20, 1);
        other.write_all_at(data.clone(), 0).await.unwrap();
        for round in 0..8 {
            server.stop().unwrap();
            let mut reads: Vec<_> = (0..4)
                .map(|at| Box::pin(client.read_exact_at(BytesMut::zeroed(1 << 20), at << 20)))
                .collect();
            for read in &mut reads {
                begin(read).await;
            }
            // The requests are sent, and the kernel has a buffer for what comes.
            settle().await;
            server.cont().unwrap();
            if round % 2 == 0 {
                // One reply has come, and of the others a part.
                reads.remove(0).await.0.unwrap();
            }
            drop(reads);
            for at in 0..4 {
                let (result, back) = client.read_exact_at(vec![0; 65_536], at << 20).await;
                result.unwrap();
                assert!(back == data[(at as usize) << 20..][..65_536], "round {round}");
            }
        }
        client.disconnect().await.unwrap();
    });
}

#[test]
fn a_write_that_is_dropped_when_it_is_half_sent() {
    on_each(async || {
        let server = Server::nbdkit(&["memory", "64M"]).start().unwrap();
        let [client, other] = both(&server).await;
        for round in 0..4 {
            let (old, new) = (noise(16 << 20, 2 * round + 2), noise(16 << 20, 2 * round + 3));
            other.write_all_at(old.clone(), 0).await.unwrap();
            server.stop().unwrap();
            let mut write = Box::pin(client.write_all_at(new.clone(), 0));
            begin(&mut write).await;
            // The socket is full, and an operation with the next bytes waits for room.
            settle().await;
            drop(write);
            server.cont().unwrap();
            // What comes after it is understood: it was sent to its end.
            let (result, _) = client.read_exact_at(vec![0; 16 << 20], 0).await;
            result.unwrap();
            client.flush().await.unwrap();
            let after = other.read(0, 16 << 20).await.unwrap();
            for piece in 0..256 {
                let at = piece << 16..(piece + 1) << 16;
                let is = &after[at.clone()];
                let known = is == &old[at.clone()] || is == &new[at];
                assert!(known, "bytes of neither in round {round}");
            }
        }
        client.disconnect().await.unwrap();
    });
}

#[test]
fn a_client_that_is_dropped_ends_its_session_whatever_is_under_way() {
    on_each(async || {
        let server = Server::nbdkit(&["--filter=limit", "memory", "1M", "limit=1"]);
        let server = server.start().unwrap();
        for _ in 0..4 {
            // There is room for one only: the one before is gone when this one is let in.
            let client = loop {
                if let Ok(client) = connect(&server.uri()).await {
                    break client;
                }
            };
            server.stop().unwrap();
            let mut read = Box::pin(client.read(0, 1 << 20));
            begin(&mut read).await;
            settle().await;
            drop(read);
            drop(client);
            settle().await;
            server.cont().unwrap();
        }
    });
}

#[test]
fn a_runtime_that_ends_takes_its_operations_with_it() {
    let mut server = Server::nbdkit(&["memory", "1M"]).start().unwrap();
    let client = Runtime::new().unwrap().block_on(async {
        let client = connect(&server.uri()).await.unwrap();
        server.stop().unwrap();
        let mut read = Box::pin(client.read(0, 1 << 20));
        begin(&mut read).await;
        settle().await;
        drop(read);
        client
    });
    // The handle is still there, and tells what became of it, on another runtime.
    let error = Runtime::new().unwrap().block_on(client.read(0, 512)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
    server.kill();
}

#[test]
fn a_program_is_spawned_and_a_time_limit_kept() {
    on_each(async || {
        let uri = "nbd+unix:///?socket=/nonexistent/socket";
        assert!(connect(uri).await.unwrap_err().is_connect());
        let program = CommandSpec::new("nbdkit", ["-s", "memory", "1M"]);
        let options = ConnectOptions::new().endpoint(Endpoint::Command(program));
        let client = Connector::new(options).connect().await.unwrap();
        assert!(client.peer_pid().is_some());
        let data = noise(4096, 9);
        client.write_all_at(data.clone(), 512).await.unwrap();
        assert!(client.read(512, 4096).await.unwrap() == data);
        client.disconnect().await.unwrap();

        let server = Server::nbdkit(&["--filter=delay", "memory", "1M", "rdelay=60"]);
        let server = server.tcp().start().unwrap();
        let limit = std::time::Duration::from_millis(50);
        let options = ConnectOptions::new().uri(&server.uri()).unwrap().request_timeout(limit);
        let client = Connector::new(options).connect().await.unwrap();
        assert!(client.read(0, 512).await.unwrap_err().is_timeout());
        assert!(client.to_uri().is_ok());
    });
}

#[test]
fn an_export_is_a_file() {
    on_each(async || {
        let server = Server::nbdkit(&["memory", "64K"]).start().unwrap();
        let mut file = ExportFile::new(connect(&server.uri()).await.unwrap());
        let data = noise(10_000, 4);
        file.seek(std::io::SeekFrom::Start(5_000)).await.unwrap();
        file.write_all(&data).await.unwrap();
        file.flush().await.unwrap();
        file.seek(std::io::SeekFrom::Start(5_000)).await.unwrap();
        let mut back = vec![0; 10_000];
        file.read_exact(&mut back).await.unwrap();
        assert!(back == data);
        file.seek(std::io::SeekFrom::End(-3)).await.unwrap();
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [0; 3]);
    });
}

#[test]
fn without_a_runtime_there_is_an_error() {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut connecting = Box::pin(connect("nbd://127.0.0.1:1"));
    let Poll::Ready(Err(error)) = connecting.as_mut().poll(&mut context) else { panic!() };
    assert!(error.to_string().contains("no compio runtime"), "{error}");
}

#[test]
fn the_example_does_what_it_says() {
    let server = Server::nbdkit(&["pattern", "3M"]).start().unwrap();
    let path = std::env::current_exe().unwrap();
    let example = path.ancestors().nth(2).unwrap().join("examples/compio_checksum");
    let done = Command::new(example).arg(server.uri()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let whole = Runtime::new()
        .unwrap()
        .block_on(async { connect(&server.uri()).await.unwrap().read(0, 3 << 20).await.unwrap() });
    let digest = <sha2::Sha256 as sha2::Digest>::digest(whole);
    let expected: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(String::from_utf8(done.stdout).unwrap().starts_with(&expected));
}
