//! What tasks have beyond the calls of every adapter, against servers nobody here wrote.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::support::{Host, LONG, is_timeout, nbdkit, on_every_runtime, once, options};
use bytes::{Bytes, BytesMut};
use nbd_client_async::proto::{Command, CommandFlags, TransmissionFlags};
use nbd_client_async::transport::{Activation, CommandSpec, Connection, Endpoint, FdName};
use nbd_client_async::{Client, Error, Pool};
use nbd_sim::hostile::bytes::FLAGS;
use nbd_sim::peer::{Scratch, Server};
use nbd_sim::rng::noise;
use nbd_sim::scripted::{Life, Scripted};

on_every_runtime! {
    extents_as_a_stream_and_the_parts_of_a_read,
    buffers_of_every_kind_come_back,
    an_option_that_is_dropped_is_finished_by_the_next,
    every_endpoint,
    sixty_four_tasks,
    what_gathers_leaves_in_one_write,
    a_full_table_is_served_in_order,
    a_full_table_is_told,
    deadlines_fire_while_the_server_stands_still,
    the_last_handle_ends_the_session,
    a_pool_survives_the_death_of_a_connection,
    a_pool_grows_beside_its_work,
    a_pool_has_one_connection_where_more_are_not_safe,
}

async fn exercise(client: &Client, size: usize) {
    assert_eq!(client.size(), size as u64);
    let data = Bytes::from(noise(size, 42));
    client.write_all_at(data.clone(), 0).await.unwrap();
    assert!(client.read(0, size).await.unwrap() == data);
}

async fn extents_as_a_stream_and_the_parts_of_a_read<H: Host>() {
    let server = nbdkit(&["memory", "1M"]);
    let client = H::connect(&server).await;
    client.write_all_at(noise(1 << 20, 7), 0).await.unwrap();
    client.trim(65536, 65536).await.unwrap();
    let mut extents = client.extents("base:allocation", 0..1 << 20).unwrap();
    let mut total = 0;
    let mut hole = false;
    while let Some(placed) = extents.next().await {
        let placed = placed.unwrap();
        assert_eq!(placed.offset, total);
        total += placed.extent.length;
        hole |= placed.offset == 65536 && placed.extent.is_hole();
    }
    assert!(total == 1 << 20 && hole);
    let (chunks, data) =
        client.read_structured(vec![1; 8192], 60 << 10, CommandFlags::empty()).await;
    let chunks = chunks.unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.length).sum::<usize>(), 8192);
    assert!(data[4096..].iter().all(|byte| *byte == 0));
    assert!(client.extents("no:such", 0..1).is_err());
    client.disconnect().await.unwrap();
}

async fn buffers_of_every_kind_come_back<H: Host>() {
    let server = nbdkit(&["memory", "1M"]);
    let client = H::connect(&server).await;
    client.write_all_at(vec![7; 300], 100).await.unwrap();
    let (result, array) = client.read_exact_at([0; 300], 100).await;
    assert!(result.is_ok() && array == [7; 300]);
    let (result, boxed) = client.read_exact_at(vec![0; 300].into_boxed_slice(), 100).await;
    assert!(result.is_ok() && *boxed == [7; 300]);
    let (result, bytes) = client.read_exact_at(BytesMut::zeroed(300), 100).await;
    assert!(result.is_ok() && bytes == [7; 300][..]);
    let (result, vector) = client.read_exact_at(vec![1; 300], 2 << 20).await;
    assert!(result.is_err() && vector == [1; 300]);
    let (result, vector) = client.read_exact_at(Vec::new(), 0).await;
    assert!(result.is_ok() && vector.is_empty());
    client.write_all_at(Bytes::new(), 0).await.unwrap();
    assert!(client.read(0, 0).await.unwrap().is_empty());
    assert_eq!(client.read(0, usize::MAX).await.unwrap_err().errno(), 22);
}

async fn an_option_that_is_dropped_is_finished_by_the_next<H: Host>() {
    let list = "exportname-list=explicit";
    let server = nbdkit(&["--filter=exportname", "memory", "1M", "exportname=hello", list]);
    let mut choice = H::to(options(), &server.uri()).negotiate().await.unwrap();
    // Otherwise the answer may be there at once.
    server.stop().expect("stop");
    let mut cut = Box::pin(choice.info());
    assert!(once(&mut cut).await.is_pending());
    drop(cut);
    server.cont().expect("cont");
    let exports = choice.list().await.unwrap();
    assert!(exports.iter().any(|entry| entry.name == "hello"), "{exports:?}");
    choice.go().await.unwrap().disconnect().await.unwrap();
}

async fn every_endpoint<H: Host>() {
    let tcp = Server::nbdkit(&["memory", "1M"]).tcp().start().unwrap();
    let port = tcp.tcp_address().unwrap().port();
    let host = "localhost".to_owned();
    let command = CommandSpec::new("nbdkit", ["-s", "memory", "1M"]);
    let activated = CommandSpec::new("nbdkit", ["-f", "memory", "1M"]);
    for endpoint in [
        Endpoint::Tcp { host, port },
        Endpoint::Address(tcp.tcp_address().unwrap()),
        Endpoint::Command(command),
        Endpoint::SocketActivation(Activation::new(activated, FdName::default())),
    ] {
        let connector = H::on(options().endpoint(endpoint.clone()));
        let client = connector.connect().await.expect("connect");
        exercise(&client, 1 << 20).await;
        let has_process = matches!(endpoint, Endpoint::Command(_) | Endpoint::SocketActivation(_));
        assert_eq!(client.peer_pid().is_some(), has_process);
    }
    let socket = std::net::TcpStream::connect(tcp.tcp_address().unwrap()).unwrap();
    let connection = Connection::from_socket(socket.into()).unwrap();
    let client = H::on(options()).connect_over(connection).await.unwrap();
    exercise(&client, 1 << 20).await;
    let nobody = Endpoint::Unix(tcp.scratch().path().join("nobody"));
    let refused = H::on(options().endpoint(nobody)).connect().await;
    assert!(refused.is_err_and(|error| error.is_connect()));
}

async fn sixty_four_tasks<H: Host>() {
    let server = nbdkit(&["memory", "16M"]);
    let client = H::connect(&server).await;
    let tasks: Vec<_> = (0..64u64)
        .map(|index| {
            let client = client.clone();
            H::spawn(async move {
                let base = index << 18;
                for round in 0..20u64 {
                    let data = Bytes::from(noise(4096, index * 100 + round));
                    let at = base + round * 8192;
                    client.write_all_at(data.clone(), at).await.unwrap();
                    assert!(client.read(at, 4096).await.unwrap() == data);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await;
    }
    assert_eq!(client.in_flight(), 0);
    let stats = client.stats().wire;
    assert!(stats.writes < stats.messages_sent, "{stats:?}");
    client.disconnect().await.unwrap();
}

async fn what_gathers_leaves_in_one_write<H: Host>() {
    let server = nbdkit(&["memory", "1M"]);
    let client = H::connect(&server).await;
    client.read(0, 512).await.unwrap();
    // The first goes at once, what comes in its wake goes together. Where the driver has a
    // thread of its own, it writes while the calls are still being made, each write with
    // all that has gathered during the one before: how much that is, is for the system to
    // say, which on a busy machine may let the two take turns for a while.
    let end = Instant::now() + LONG;
    let most = if H::PARALLEL { 32 } else { 8 };
    loop {
        let before = client.stats().wire;
        let mut calls: Vec<_> =
            (0..64).map(|index| Box::pin(client.read(index * 512, 512))).collect();
        std::future::poll_fn(|cx| {
            calls.retain_mut(|call| call.as_mut().poll(cx).map(Result::unwrap).is_pending());
            if calls.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        let stats = client.stats().wire;
        assert_eq!(stats.messages_sent - before.messages_sent, 64);
        let writes = stats.writes - before.writes;
        if writes <= most {
            break;
        }
        assert!(H::PARALLEL && Instant::now() < end, "{writes} writes");
    }
}

/// A connection that takes four commands at a time.
async fn narrow<H: Host>(server: &Server) -> Client {
    H::to(options().max_in_flight(4), &server.uri()).connect().await.unwrap()
}

async fn a_full_table_is_served_in_order<H: Host>() {
    // One thread takes the commands as they come and logs them.
    let args = ["-t", "1", "--filter=log", "memory", "1M", "logfile={dir}/commands"];
    let server = nbdkit(&args);
    let client = narrow::<H>(&server).await;
    server.stop().expect("stop");
    let mut calls: Vec<_> =
        (0..40u64).map(|index| Box::pin(client.write_all_at(vec![1; 512], index * 512))).collect();
    // Everybody gets in line, then every third of those in line goes away again.
    for call in &mut calls {
        assert!(once(call).await.is_pending());
    }
    let stays = |index: u64| index < 4 || !(index + 1).is_multiple_of(3);
    let mut index = 0..;
    calls.retain(|_| index.next().is_some_and(stays));
    server.cont().unwrap();
    for call in calls {
        call.await.unwrap();
    }
    let log = std::fs::read_to_string(server.scratch().join("commands")).unwrap();
    let order: Vec<u64> = log
        .lines()
        .filter(|line| line.contains(" Write id="))
        .filter_map(|line| line.split("offset=0x").nth(1)?.split(' ').next())
        .map(|offset| u64::from_str_radix(offset, 16).unwrap() / 512)
        .collect();
    let want: Vec<_> = (0..40).filter(|index| stays(*index)).collect();
    assert_eq!(order, want, "{log}");
}

async fn a_full_table_is_told<H: Host>() {
    let server = nbdkit(&["memory", "1M"]);
    let client = narrow::<H>(&server).await;
    server.stop().expect("stop");
    let mut calls: Vec<_> = (0..4).map(|_| Box::pin(client.read(0, 512))).collect();
    for call in &mut calls {
        assert!(once(call).await.is_pending());
    }
    let full = |result: Result<(), Error>| matches!(result, Err(error) if error.is_full());
    assert!(full(client.fail_when_full().read(0, 512).await.map(drop)));
    let rejected = client.fail_when_full().write_all_at(vec![4; 512], 0).await.unwrap_err();
    // With an allocation that is the caller's again.
    assert_eq!(Vec::from(rejected.buffer.unwrap()), [4; 512]);
    assert!(full(Err(rejected.error)));
    assert!(full(client.fail_when_full().run(Command::flush()).await));
    let (result, buffer) = client.fail_when_full().read_exact_at(vec![3; 9], 0).await;
    assert!(full(result) && buffer == [3; 9]);
    server.cont().unwrap();
    for call in calls {
        call.await.unwrap();
    }
    client.fail_when_full().read(0, 512).await.unwrap();
}

async fn deadlines_fire_while_the_server_stands_still<H: Host>() {
    let server = nbdkit(&["memory", "64M"]);
    let client = narrow::<H>(&server).await;
    let timeout = Duration::from_millis(400);
    let hasty = client.with_timeout(Some(timeout));
    server.stop().expect("stop");
    let tasks: Vec<_> = (0..12u64)
        .map(|index| {
            let hasty = hasty.clone();
            H::spawn(async move {
                let start = Instant::now();
                // Some are partly sent, some are in line.
                let result = match index % 3 {
                    0 => {
                        let written = hasty.write_all_at(noise(4 << 20, index), index << 20).await;
                        written.map_err(|rejected| {
                            assert!(rejected.buffer.unwrap() == noise(4 << 20, index));
                            rejected.error
                        })
                    }
                    1 => hasty.read_exact_at(vec![0; 512], index << 20).await.0,
                    _ => hasty.flush().await,
                };
                (result, start.elapsed())
            })
        })
        .collect();
    for task in tasks {
        let (result, took) = task.await;
        assert!(is_timeout(&result), "{result:?}");
        assert!(took >= timeout, "{took:?}");
    }
    assert_eq!(hasty.disconnect().await.map_err(|error| error.errno()), Err(110));
    server.cont().unwrap();
    drop(client);

    // Another one: nbdkit 1.32 can fail an assertion of its own when clients vanish.
    let server = nbdkit(&["memory", "64M"]);
    let client = H::connect(&server).await;
    server.stop().expect("stop");
    let hasty = client.with_timeout(Some(timeout));
    let rejected = hasty.write_all_at(noise(40 << 20, 1), 0).await.unwrap_err();
    assert!(rejected.error.is_timeout() && rejected.buffer.unwrap().len() == 40 << 20);
    assert!(is_timeout(&hasty.read(0, 512).await));
    server.cont().unwrap();
    // What was partly sent is sent to its end, and the connection lives on.
    let data = Bytes::from(noise(1 << 20, 5));
    client.write_all_at(data.clone(), 48 << 20).await.unwrap();
    assert!(client.read(48 << 20, 1 << 20).await.unwrap() == data);
    client.disconnect().await.unwrap();
}

async fn the_last_handle_ends_the_session<H: Host>() {
    // This server goes when its only client has gone in good order or not.
    let mut server = Server::nbdkit(&["--exit-with-parent", "-v", "memory", "1M"]).start().unwrap();
    let client = H::connect(&server).await;
    let other = client.clone();
    drop(client);
    other.read(0, 512).await.unwrap();
    drop(other);
    H::until(|| server.log().contains("NBD_CMD_DISC") || server.log().contains("client sent disc"))
        .await;
    assert!(server.try_wait().is_none());
}

async fn a_pool_survives_the_death_of_a_connection<H: Host>() {
    // nbdkit 1.32 can fail an assertion of its own when clients vanish.
    let scratch = Scratch::new().unwrap();
    let disk = scratch.raw_image("disk", 1 << 20).unwrap();
    let server = Server::qemu_nbd(&["--shared=4", "-f", "raw"]).arg(&disk).start().unwrap();
    let pool = H::to(options(), &server.uri()).connect_pool(3).await.unwrap();
    H::until(|| pool.clients().len() == 3).await;
    pool.write_all_at(vec![9; 4096], 0).await.unwrap();
    pool.flush().await.unwrap();
    server.stop().expect("stop");
    let mut reads: Vec<_> = (0..30).map(|_| Box::pin(pool.read(0, 4096))).collect();
    for read in &mut reads {
        assert!(once(read).await.is_pending());
    }
    assert!(pool.clients().iter().all(|client| client.in_flight() == 10), "{pool:?}");
    // One of the three ends; what it had in flight goes to the others.
    let dying = pool.clients()[1].with_timeout(Some(Duration::from_millis(10)));
    assert!(is_timeout(&dying.disconnect().await));
    server.cont().unwrap();
    for read in reads {
        assert_eq!(read.await.unwrap(), vec![9; 4096]);
    }
    H::until(|| pool.clients()[1].is_closed()).await;
    assert_eq!(pool.read(0, 4096).await.unwrap(), vec![9; 4096]);
    let (result, _) = pool.read_exact_at(vec![0; 512], 0).await;
    result.unwrap();
    pool.write_all_at(vec![8; 512], 0).await.unwrap();
    pool.flush().await.unwrap();
    pool.disconnect().await.unwrap();
    assert!(Pool::new(Vec::new()).flush().await.is_err());
    // Those that may not join are left out, and harm no other.
    let (one, other) = (nbdkit(&["memory", "1M"]), nbdkit(&["memory", "2M"]));
    let mut clients = vec![H::connect(&one).await, H::connect(&one).await];
    clients.push(H::connect(&other).await);
    let pool = Pool::new(clients);
    for _ in 0..4 {
        assert_eq!(pool.read(0, 512).await.unwrap(), vec![0; 512]);
    }
    assert_eq!(pool.clients().len(), 2);
    pool.disconnect().await.unwrap();
}

async fn a_pool_grows_beside_its_work<H: Host>() {
    let server = nbdkit(&["--filter=limit", "memory", "1M", "limit=2"]);
    let pool = H::to(options(), &server.uri()).connect_pool(4).await.unwrap();
    pool.write_all_at(vec![1; 512], 0).await.unwrap();
    pool.flush().await.unwrap();
    H::until(|| pool.clients().len() == 2).await;
    pool.disconnect().await.unwrap();
    // The second connection is accepted, and then nobody says anything.
    let flags = FLAGS | TransmissionFlags::CAN_MULTI_CONN.bits();
    let server = Scripted::start(move |_| Life { flags, ..Life::default() });
    let pool = H::to(options(), &server.uri()).connect_pool(4).await.unwrap();
    for _ in 0..10 {
        pool.read(0, 512).await.unwrap();
        pool.flush().await.unwrap();
    }
    assert_eq!(pool.clients().len(), 1);
    pool.disconnect().await.unwrap();
}

async fn a_pool_has_one_connection_where_more_are_not_safe<H: Host>() {
    let server = nbdkit(&["--filter=multi-conn", "memory", "1M", "multi-conn-mode=disable"]);
    let pool = H::to(options(), &server.uri()).connect_pool(3).await.unwrap();
    assert_eq!(pool.clients().len(), 1);
    pool.write_all_at(vec![9; 512], 0).await.unwrap();
    pool.flush().await.unwrap();
}
