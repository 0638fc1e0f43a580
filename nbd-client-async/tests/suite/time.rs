//! Deadlines, and connections that are idle.

use std::time::{Duration, Instant};

use nbd_client_async::Connector;
use nbd_client_async::proto::{ClientConfig, StrictMode};
use nbd_client_async::transport::TcpKeepAlive;
use nbd_sim::peer::Server;
use rustix::net::sockopt::socket_keepalive;

use crate::support::{ByHand, Host, LONG, is_timeout, nbdkit, on_every_runtime, options};

on_every_runtime! {
    deadlines_are_kept,
    an_idle_connection_is_kept_alive,
    an_empty_export_is_not_asked,
    a_vanished_peer_is_noticed_by_the_system,
    a_socket_of_the_callers_is_watched_by_the_system,
}

/// That they are not late is for the simulation to say, where time is a value.
async fn deadlines_are_kept<H: Host>() {
    let server = nbdkit(&["memory", "1M"]);
    let timeout = Duration::from_millis(200);
    // One for each call, and one for a single call.
    let strict = options().request_timeout(timeout);
    let strict = H::to(strict, &server.uri()).connect().await.unwrap();
    let client = H::connect(&server).await;
    let hasty = client.with_timeout(Some(timeout));
    server.stop().expect("stop");
    for client in [&strict, &hasty, &strict] {
        let start = Instant::now();
        assert!(is_timeout(&client.read(0, 512).await));
        assert!(start.elapsed() >= timeout, "{:?}", start.elapsed());
    }
    server.cont().unwrap();
    client.read(0, 512).await.unwrap();
    // The answers that came too late are read through.
    H::until(|| strict.stats().wire.bytes_received >= 512).await;
    strict.with_timeout(Some(LONG)).disconnect().await.unwrap();
    client.disconnect().await.unwrap();
}

/// Time passes by hand, and so no server is too slow to be alive.
async fn an_idle_connection_is_kept_alive<H: Host>() {
    const HOUR: Duration = Duration::from_secs(3600);
    // A chunk of one byte, behind its header and its offset.
    const ANSWER: u64 = 20 + 8 + 1;
    let server = nbdkit(&["memory", "1M"]);
    let clock = ByHand::<H::Runtime>::default();
    let options = options().request_timeout(None).keep_alive(HOUR);
    let connector = Connector::on(clock.clone(), options.clone().uri(&server.uri()).unwrap());
    let client = connector.connect().await.unwrap();
    let before = client.stats().wire;
    let mut asked = Vec::new();
    for count in 1..=3 {
        H::until(|| {
            let is_asked = client.stats().wire.messages_sent - before.messages_sent == count;
            is_asked || {
                asked.extend(clock.pass());
                false
            }
        })
        .await;
        H::until(|| client.stats().wire.bytes_received - before.bytes_received == count * ANSWER)
            .await;
    }
    let between = asked.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(between.is_some_and(|between| between <= HOUR / 2), "{between:?}");
    assert_eq!((client.in_flight(), client.stats().wire.anomalies), (0, 0));
    client.read(512, 512).await.unwrap();

    server.stop().expect("stop");
    H::until(|| {
        let _ = clock.pass();
        client.is_closed()
    })
    .await;
    let error = client.read(0, 512).await.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("no answer"), "{error}");
    server.cont().unwrap();
}

/// There is nothing to ask an export of no bytes for.
async fn an_empty_export_is_not_asked<H: Host>() {
    let server = nbdkit(&["null", "0"]);
    let clock = ByHand::<H::Runtime>::default();
    let lax = ClientConfig::new().strict(StrictMode::empty());
    let options = options().config(lax).keep_alive(Duration::from_secs(3600));
    let connector = Connector::on(clock.clone(), options.uri(&server.uri()).unwrap());
    let client = connector.connect().await.unwrap();
    let idle = client.stats().wire;
    for _ in 0..5 {
        H::until(|| clock.pass().is_some()).await;
    }
    assert!(!client.is_closed());
    assert_eq!(client.stats().wire, idle);
}

async fn a_vanished_peer_is_noticed_by_the_system<H: Host>() {
    let server = Server::nbdkit(&["memory", "1M"]).tcp().start().unwrap();
    let port = server.tcp_address().unwrap().port();
    let plain = H::connect(&server).await;
    assert_eq!(keep_alive_timers(port), 0);
    let probes = H::to(options().tcp_keep_alive(TcpKeepAlive::new()), &server.uri());
    let client = probes.connect().await.unwrap();
    // A byte that is not acknowledged yet has another timer.
    H::until(|| keep_alive_timers(port) == 1).await;
    client.disconnect().await.unwrap();
    plain.disconnect().await.unwrap();
}

/// What callers hand over is watched as what is dialled.
async fn a_socket_of_the_callers_is_watched_by_the_system<H: Host>() {
    let server = Server::nbdkit(&["memory", "1M"]).tcp().start().expect("nbdkit");
    let address = server.tcp_address().expect("by TCP");
    let socket = move || std::net::TcpStream::connect(address).expect("a server");
    for watched in [true, false] {
        let options = options().tcp_keep_alive(watched.then(TcpKeepAlive::new));
        // A server that the options name is the way back, and not asked before.
        let connector = H::to(options.clone(), &server.uri());
        let given = socket();
        let same = given.try_clone().expect("a socket");
        let client = connector.connect_over(given).await.unwrap();
        assert_eq!(socket_keepalive(&same).unwrap(), watched);
        client.disconnect().await.unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let dial = move || {
            let socket = socket();
            tell.send(socket.try_clone().expect("a socket")).expect("a listener");
            async move { Ok(socket) }
        };
        let client = H::on(options).connect_with(dial).await.unwrap();
        assert_eq!(socket_keepalive(told.recv().unwrap()).unwrap(), watched);
        client.disconnect().await.unwrap();
    }
}

/// Connections to a port for which the system has a timer to send a probe.
fn keep_alive_timers(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = format!(":{port:04X}");
    let lines = table.lines().filter(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // The other end, the state "established", and the kind of timer.
        fields[2].ends_with(&ends) && fields[3] == "01" && fields[5].starts_with("02")
    });
    lines.count()
}
