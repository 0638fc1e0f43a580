//! What only the blocking client has, against servers nobody here wrote.

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use nbd_client_blocking::transport::TcpKeepAlive;
use nbd_client_blocking::{Builder, Client, Error, ExportFile};
use nbd_sim::peer::{Scratch, Server};

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(60);

fn nbdkit(args: &[&str]) -> Server {
    Server::nbdkit(args).start().expect("nbdkit")
}

fn builder() -> Builder {
    Builder::new().timeout(LONG)
}

fn connect(server: &Server) -> Client {
    builder().meta_context("base:allocation").connect_uri(&server.uri()).expect("connect")
}

/// Bytes that differ from place to place, so that a misplaced piece shows.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

#[test]
fn an_export_is_a_file() {
    let scratch = Scratch::new().unwrap();
    let image = scratch.raw_image("disk", 1 << 20).unwrap();
    let align = format!(
        "driver=blkdebug,align=4096,image.driver=file,image.filename={}",
        image.to_str().unwrap()
    );
    let server = Server::qemu_nbd(&["--image-opts", &align]).start().unwrap();
    let mut file = ExportFile::new(connect(&server));
    let data = noise(10_000, 3);
    file.seek(SeekFrom::Start(5_000)).unwrap();
    file.write_all(&data).unwrap();
    file.flush().unwrap();
    file.seek(SeekFrom::Start(4_999)).unwrap();
    let mut back = vec![1; 10_002];
    file.read_exact(&mut back).unwrap();
    assert_eq!((back[0], back[10_001]), (0, 0));
    assert!(back[1..10_001] == data);
    file.seek(SeekFrom::End(-3)).unwrap();
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 3);
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 0);
}

/// Connects with a timeout that a busy machine may fail to keep for once.
fn hasty(server: &Server, timeout: Duration) -> Client {
    let end = Instant::now() + LONG;
    loop {
        match Builder::new().timeout(timeout).connect_uri(&server.uri()) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

/// That they are not late is for the simulation to say, where time is a value.
#[test]
fn deadlines_are_kept_in_every_way_of_waiting() {
    let server = nbdkit(&["memory", "1M"]);
    let timeout = Duration::from_millis(200);
    let [mut whole, mut large] = [(); 2].map(|()| hasty(&server, timeout));
    let mut single = connect(&server);
    single.set_timeout(Some(timeout)).unwrap();
    server.stop().unwrap();
    let late = |timeout: Duration, call: &mut dyn FnMut() -> Result<(), Error>| {
        for _ in 0..2 {
            let start = Instant::now();
            let error = call().unwrap_err();
            let took = start.elapsed();
            assert!(matches!(error, Error::TimedOut { .. }), "{error}");
            assert!(took >= timeout, "{took:?}");
        }
    };
    late(timeout, &mut || whole.read_at(0, &mut [0; 512]));
    // Where the system's own timers are coarse.
    let coarse = Duration::from_millis(1050);
    single.set_timeout(Some(coarse)).unwrap();
    late(coarse, &mut || single.flush());
    single.set_timeout(Some(timeout)).unwrap();
    late(timeout, &mut || single.flush());
    let mut pipeline = single.pipeline::<Vec<u8>>();
    late(timeout, &mut || {
        pipeline.read(0, vec![0; 512])?;
        pipeline.wait().map(drop)
    });
    drop(pipeline);
    // More than the socket takes.
    let data = vec![1; 1 << 20];
    let mut pipeline = large.pipeline::<Vec<u8>>();
    late(timeout, &mut || {
        for _ in 0..8 {
            pipeline.write(0, data.clone())?;
        }
        pipeline.wait().map(drop)
    });
    server.cont().unwrap();
    let end = Instant::now() + LONG;
    loop {
        match pipeline.wait() {
            Ok(Some(done)) => done.result.unwrap(),
            Ok(None) => break,
            // A busy machine may take longer for one of them.
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
    drop(pipeline);
    for mut client in [whole, single, large] {
        client.set_timeout(Some(LONG)).unwrap();
        client.read_at(0, &mut [0; 512]).unwrap();
        client.disconnect().unwrap();
    }
}

#[test]
fn the_system_watches_over_tcp() {
    let server = Server::nbdkit(&["memory", "1M"]).tcp().start().unwrap();
    let watched = builder().tcp_keep_alive(TcpKeepAlive::new());
    let client = watched.connect_uri(&server.uri()).unwrap();
    assert!(rustix::net::sockopt::socket_keepalive(&client).unwrap());
    assert!(!rustix::net::sockopt::socket_keepalive(connect(&server)).unwrap());
}

#[test]
fn large_reads_are_placed_and_small_ones_batched() {
    let server = nbdkit(&["memory", "64M"]);
    let mut client = connect(&server);
    let mut pipeline = client.pipeline();
    let mut offset = 0;
    while offset < 64 << 20 {
        while pipeline.in_flight() >= 16 {
            pipeline.wait().unwrap().unwrap().result.unwrap();
        }
        pipeline.read(offset, vec![0; 256 << 10]).unwrap();
        offset += 256 << 10;
    }
    while let Some(done) = pipeline.wait().unwrap() {
        done.result.unwrap();
    }
    let stats = *pipeline.client().stats();
    let payload = stats.bytes_placed + stats.bytes_copied;
    assert_eq!(payload, 64 << 20);
    assert!(stats.bytes_placed * 100 >= payload * 99, "{stats:?}");
}

#[test]
fn requests_that_follow_several_completions_share_a_write() {
    // One reply at a time, with a pause before each.
    let server = nbdkit(&["-t", "1", "--filter=delay", "memory", "1M", "wdelay=1ms"]);
    let mut client = connect(&server);
    let before = client.stats().writes;
    let mut pipeline = client.pipeline();
    let (mut queued, mut done) = (0, 0);
    while done < 256 {
        while queued < 256 && pipeline.in_flight() < 64 {
            pipeline.read(queued * 4096, vec![1; 4096]).unwrap();
            queued += 1;
        }
        let ready = pipeline.wait_for(8).unwrap();
        assert!(ready >= 8.min(256 - done), "{ready} are finished after {done}");
        for left in (0..ready).rev() {
            let completion = pipeline.next_completed().expect("it is here");
            completion.result.unwrap();
            assert!(completion.buffer.is_some_and(|data| data.iter().all(|byte| *byte == 0)));
            assert_eq!(pipeline.completed(), left);
        }
        done += ready;
    }
    assert_eq!(pipeline.wait_for(1).unwrap(), 0, "there is nothing to wait for");
    drop(pipeline);
    // The first one carried 64 requests, the others at least 8 each.
    let writes = client.stats().writes - before;
    assert!(writes <= 1 + (256 - 64) / 8, "{writes} writes");
    client.disconnect().unwrap();
}

#[test]
fn waiting_for_more_than_are_in_flight_waits_for_all() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server);
    let mut pipeline = client.pipeline();
    for block in 0..5 {
        pipeline.read(block * 4096, vec![0; 4096]).unwrap();
    }
    assert_eq!(pipeline.wait_for(0).unwrap(), 0, "it does not wait");
    assert_eq!(pipeline.wait_for(100).unwrap(), 5);
    assert_eq!(pipeline.wait_for(2).unwrap(), 5, "they have not been taken");
    while let Some(done) = pipeline.next_completed() {
        done.result.unwrap();
    }
    // A server that is gone: every command comes back with its error.
    for block in 0..5 {
        pipeline.read(block * 4096, vec![0; 4096]).unwrap();
    }
    drop(server);
    while pipeline.completed() < 5 {
        if let Err(error) = pipeline.wait_for(5) {
            assert_eq!(pipeline.completed(), 5, "{error}");
        }
    }
    assert_eq!(pipeline.wait_for(6).unwrap(), 5);
}

/// One to send and one that waits for the reply.
#[test]
fn a_command_alone_takes_two_system_calls() {
    const WRITES: u64 = 130;
    let server = nbdkit(&["--filter=delay", "memory", "1M", "wdelay=1ms"]);
    let mut client = connect(&server);
    let before = client.system_calls();
    for _ in 0..WRITES {
        client.write_at(0, &[1; 512]).unwrap();
    }
    let calls = client.system_calls() - before;
    assert_eq!(calls, 2 * WRITES);
}
