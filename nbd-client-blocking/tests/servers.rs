//! What only the blocking client has, against servers nobody here wrote.

use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nbd_client_blocking::BufferPool;
use nbd_client_blocking::proto::Command;
use nbd_client_blocking::transport::{Connection, TcpKeepAlive};
use nbd_client_blocking::{
    Borrowed, Client, ConnectOptions, Error, ExportFile, GoError, Options, Pool, Rejected,
};
use nbd_sim::peer::{Scratch, Server};
use nbd_sim::rng::noise;

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(60);

fn nbdkit(args: &[&str]) -> Server {
    Server::nbdkit(args).start().expect("nbdkit")
}

fn options() -> ConnectOptions {
    ConnectOptions::new().connect_timeout(LONG).request_timeout(LONG)
}

fn connect(server: &Server) -> Client {
    options()
        .meta_context("base:allocation")
        .uri(&server.uri())
        .and_then(Client::connect)
        .expect("connect")
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

/// That they are not late is for the simulation to say, where time is a value.
#[test]
fn deadlines_are_kept_in_every_way_of_waiting() {
    let server = nbdkit(&["memory", "1M"]);
    let timeout = Duration::from_millis(200);
    let hasty = options().request_timeout(timeout).uri(&server.uri()).unwrap();
    let [mut whole, mut large] = [(); 2].map(|()| Client::connect(hasty.clone()).unwrap());
    let mut single = connect(&server);
    single.set_request_timeout(timeout);
    server.stop().unwrap();
    let late = |timeout: Duration, call: &mut dyn FnMut() -> Result<(), Error>| {
        for _ in 0..2 {
            let start = Instant::now();
            let error = call().unwrap_err();
            let took = start.elapsed();
            assert!(error.is_timeout(), "{error}");
            assert!(took >= timeout, "{took:?}");
        }
    };
    late(timeout, &mut || whole.read_exact_at(&mut [0; 512], 0));
    // Where the system's own timers are coarse.
    let coarse = Duration::from_millis(1050);
    single.set_request_timeout(coarse);
    late(coarse, &mut || single.flush());
    single.set_request_timeout(timeout);
    late(timeout, &mut || single.flush());
    let mut pipeline = single.pipeline::<Vec<u8>>();
    late(timeout, &mut || {
        pipeline.read(vec![0; 512], 0)?;
        pipeline.wait().expect("it ends").result
    });
    drop(pipeline);
    // More than the socket takes.
    let data = vec![1; 1 << 20];
    let mut pipeline = large.pipeline::<Vec<u8>>();
    late(timeout, &mut || {
        for _ in 0..8 {
            pipeline.write(data.clone(), 0)?;
        }
        // One of them is half sent, and its buffer comes back all the same.
        let mut last = Ok(());
        while let Some(done) = pipeline.wait() {
            assert_eq!(done.buffer.expect("it comes back").len(), 1 << 20);
            last = done.result;
        }
        last
    });
    server.cont().unwrap();
    drop(pipeline);
    for mut client in [whole, single, large] {
        client.set_request_timeout(LONG);
        client.read_exact_at(&mut [0; 512], 0).unwrap();
        client.disconnect().unwrap();
    }
}

#[test]
fn the_system_watches_over_tcp() {
    let server = Server::nbdkit(&["memory", "1M"]).tcp().start().unwrap();
    let watched = options().tcp_keep_alive(TcpKeepAlive::new());
    let client = watched.uri(&server.uri()).and_then(Client::connect).unwrap();
    assert!(rustix::net::sockopt::socket_keepalive(&client.connection().unwrap().stream).unwrap());
    assert!(
        !rustix::net::sockopt::socket_keepalive(&connect(&server).connection().unwrap().stream)
            .unwrap()
    );
}

/// What callers hand over is watched as what is dialled.
#[test]
fn the_system_watches_over_what_callers_hand_over() {
    let server = Server::nbdkit(&["memory", "1M"]).tcp().start().unwrap();
    let address = server.tcp_address().unwrap();
    let connection = move || Connection::from_socket(TcpStream::connect(address).unwrap().into());
    for watched in [true, false] {
        let options = options().tcp_keep_alive(watched.then(TcpKeepAlive::new));
        let dial = move |_| Ok(connection()?);
        for client in [
            Client::connect_over(options.clone(), connection().unwrap()).unwrap(),
            Client::connect_with(options, dial).unwrap(),
        ] {
            let socket = &client.connection().unwrap().stream;
            assert_eq!(rustix::net::sockopt::socket_keepalive(socket).unwrap(), watched);
        }
    }
}

#[test]
fn large_reads_are_placed_and_small_ones_batched() {
    let server = nbdkit(&["memory", "64M"]);
    let mut client = connect(&server);
    let mut pipeline = client.pipeline();
    let mut offset = 0;
    while offset < 64 << 20 {
        while pipeline.in_flight() >= 16 {
            pipeline.wait().unwrap().result.unwrap();
        }
        pipeline.read(vec![0; 256 << 10], offset).unwrap();
        offset += 256 << 10;
    }
    while let Some(done) = pipeline.wait() {
        done.result.unwrap();
    }
    let stats = pipeline.client().session().stats().wire;
    let payload = stats.bytes_placed + stats.bytes_copied;
    assert_eq!(payload, 64 << 20);
    assert!(stats.bytes_placed * 100 >= payload * 99, "{stats:?}");
}

#[test]
fn requests_that_follow_several_completions_share_a_write() {
    // One reply at a time, with a pause before each.
    let server = nbdkit(&["-t", "1", "--filter=delay", "memory", "1M", "wdelay=1ms"]);
    let mut client = connect(&server);
    let before = client.session().stats().wire.writes;
    let mut pipeline = client.pipeline();
    let (mut queued, mut done) = (0, 0);
    while done < 256 {
        while queued < 256 && pipeline.in_flight() < 64 {
            pipeline.read(vec![1; 4096], queued * 4096).unwrap();
            queued += 1;
        }
        let ready = pipeline.wait_for(8);
        assert!(ready >= 8.min(256 - done), "{ready} are finished after {done}");
        for left in (0..ready).rev() {
            let completion = pipeline.next_completion().expect("it is here");
            completion.result.unwrap();
            assert!(completion.buffer.is_some_and(|data| data.iter().all(|byte| *byte == 0)));
            assert_eq!(pipeline.completed(), left);
        }
        done += ready;
    }
    assert_eq!(pipeline.wait_for(1), 0, "there is nothing to wait for");
    drop(pipeline);
    // The first one carried 64 requests, the others at least 8 each.
    let writes = client.session().stats().wire.writes - before;
    assert!(writes <= 1 + (256 - 64) / 8, "{writes} writes");
    client.disconnect().unwrap();
}

#[test]
fn waiting_for_more_than_are_in_flight_waits_for_all() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server);
    let mut pipeline = client.pipeline();
    for block in 0..5 {
        pipeline.read(vec![0; 4096], block * 4096).unwrap();
    }
    assert_eq!(pipeline.wait_for(0), 0, "it does not wait");
    assert_eq!(pipeline.wait_for(100), 5);
    assert_eq!(pipeline.wait_for(2), 5, "they have not been taken");
    while let Some(done) = pipeline.next_completion() {
        done.result.unwrap();
    }
    // A server that is gone: every command comes back with its error.
    for block in 0..5 {
        pipeline.read(vec![0; 4096], block * 4096).unwrap();
    }
    drop(server);
    while pipeline.completed() < 5 {
        pipeline.wait_for(5);
    }
    assert_eq!(pipeline.wait_for(6), 5);
}

/// One to send and one that waits for the reply.
#[test]
fn a_command_alone_takes_two_system_calls() {
    const WRITES: u64 = 130;
    let server = nbdkit(&["--filter=delay", "memory", "1M", "wdelay=1ms"]);
    let mut client = connect(&server);
    // The socket is told once how long a read may wait.
    client.read_exact_at(&mut [0; 512], 0).unwrap();
    let before = client.system_calls();
    for _ in 0..WRITES {
        client.write_all_at(&[1; 512], 0).unwrap();
    }
    let calls = client.system_calls() - before;
    assert_eq!(calls, 2 * WRITES);
}

#[test]
fn one_call_may_have_a_limit_of_its_own() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server);
    let mut back = [9; 512];
    server.stop().unwrap();
    let mut hasty = client.within(Duration::from_millis(50));
    let error = hasty.read_exact_at(&mut back, 0).unwrap_err();
    assert!(error.is_timeout() && error.errno() == 110, "{error}");
    // All calls together: the time is over already.
    let error = hasty.write_all_at(&[1; 512], 0).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    drop(hasty);
    server.cont().unwrap();
    client.read_exact_at(&mut back, 512).unwrap();
    assert_eq!(back, [0; 512]);
    client.disconnect().unwrap();
}

#[test]
fn slices_of_the_callers_go_through_a_pipeline() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server);
    let (data, mut back) = (noise(4096, 5), vec![0; 4096]);
    for round in 0..2 {
        let mut pipeline = client.pipeline::<Borrowed<'_>>();
        pipeline.write(data.as_slice().into(), round * 4096).unwrap();
        pipeline.wait().unwrap().result.unwrap();
        pipeline.read(back.as_mut_slice().into(), round * 4096).unwrap();
        // What is only lent to be written is not read into.
        pipeline.read(data.as_slice().into(), 8192).unwrap();
        while let Some(done) = pipeline.wait() {
            assert_eq!(done.result.is_ok(), done.command.offset == round * 4096);
        }
        drop(pipeline);
        assert!(back == data);
    }
}

#[test]
fn buffers_have_memory_for_what_comes() {
    const LENGTH: usize = 64 << 10;
    let server = nbdkit(&["memory", "4M"]);
    let mut client = connect(&server);
    let data = noise(4 << 20, 6);
    client.write_all_at(&data, 0).unwrap();
    // Nobody answers: nothing is held for those who wait.
    server.stop().unwrap();
    let pool = BufferPool::new();
    let mut pipeline = client.pipeline();
    for block in 0..64 {
        pipeline.read(pool.buffer(LENGTH), block * LENGTH as u64).unwrap();
    }
    assert!(pipeline.poll(Some(Duration::from_millis(1))).is_ok());
    assert_eq!((pipeline.in_flight(), pool.in_use()), (64, 0));
    server.cont().unwrap();
    let mut rest = 64;
    while let Some(done) = pipeline.wait() {
        done.result.unwrap();
        let (buffer, at) = (done.buffer.unwrap(), done.command.offset as usize);
        assert!(buffer[..] == data[at..at + LENGTH], "{at}");
        rest -= 1;
    }
    assert_eq!((rest, pool.in_use()), (0, 0));
    // As any other, they must be as long as the command says.
    let command = Command::read(0, LENGTH as u32);
    let short = pipeline.submit(command, Some(pool.buffer(512))).unwrap_err();
    assert_eq!(short.buffer.map(|buffer| buffer.len()), Some(512));
}

#[test]
fn a_read_that_fails_needs_no_memory_and_one_of_a_hole_brings_zeroes() {
    let bad = nbdkit(&["--filter=error", "memory", "1M", "error-pread-rate=100%"]);
    let (mut client, pool) = (connect(&bad), BufferPool::new());
    let mut pipeline = client.pipeline();
    pipeline.read(pool.buffer(4096), 0).unwrap();
    let done = pipeline.wait().unwrap();
    assert!(done.result.is_err());
    assert_eq!((done.buffer.map(|buffer| buffer.len()), pool.in_use()), (Some(4096), 0));
    drop(pipeline);
    // A hole is told without bytes, into memory that has something in it.
    let scratch = Scratch::new().unwrap();
    let image = scratch.raw_image("disk", 1 << 20).unwrap();
    let server = Server::qemu_nbd(&["-f", "raw", image.to_str().unwrap()]).start().unwrap();
    let mut client = connect(&server);
    pool.buffer(1 << 20).fill(9);
    let mut pipeline = client.pipeline();
    pipeline.read(pool.buffer(1 << 20), 0).unwrap();
    let done = pipeline.wait().unwrap();
    done.result.unwrap();
    assert!(done.buffer.unwrap()[..] == vec![0; 1 << 20]);
}

#[test]
fn who_polls_busily_gets_the_same() {
    let server = nbdkit(&["--filter=delay", "memory", "1M", "rdelay=5ms"]);
    let busy = options().busy_poll(Duration::from_micros(100));
    let mut client = busy.uri(&server.uri()).and_then(Client::connect).unwrap();
    client.write_all_at(&[4; 4096], 0).unwrap();
    let mut back = [0; 4096];
    client.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(back, [4; 4096]);
    client.disconnect().unwrap();
}

#[test]
fn clients_and_their_errors_can_be_shared() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Client>();
    shared::<Options>();
    shared::<GoError>();
    shared::<Rejected<Vec<u8>>>();
    shared::<Pool>();
}
