//! Deadlines, and connections that are idle.

use std::time::{Duration, Instant};

use nbd_client_async::Client;
use nbd_client_async::proto::{ClientConfig, StrictMode};
use nbd_client_async::transport::TcpKeepAlive;
use nbd_sim::peer::Server;

use crate::support::{Host, LONG, is_timeout, nbdkit, on_every_runtime, options};

on_every_runtime! {
    deadlines_are_kept,
    an_idle_connection_is_kept_alive,
    a_vanished_peer_is_noticed_by_the_system,
}

/// That they are not late is for the simulation to say, where time is a value.
async fn deadlines_are_kept<H: Host>() {
    let server = nbdkit(&["memory", "1M"]);
    let timeout = Duration::from_millis(200);
    // One for each call, and one for a single call.
    let strict = hasty_connect::<H>(&server, timeout).await;
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

/// Connects with a timeout that a busy machine may fail to keep for once.
async fn hasty_connect<H: Host>(server: &Server, timeout: Duration) -> Client {
    let options = options().connect_timeout(timeout).request_timeout(timeout);
    let connector = H::to(options, &server.uri());
    let end = Instant::now() + LONG;
    loop {
        match connector.connect().await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
}

async fn an_idle_connection_is_kept_alive<H: Host>() {
    // To be as silent as a dead server, a live one on a busy machine takes only bad luck,
    // but hardly for long.
    for seconds in [1, 4, 16] {
        if kept_alive::<H>(Duration::from_secs(seconds)).await.is_some() {
            return;
        }
    }
    panic!("given up on a server that answers");
}

/// Nothing when the connection was given up before the server was stopped.
async fn kept_alive<H: Host>(time: Duration) -> Option<()> {
    let server = nbdkit(&["memory", "1M"]);
    let empty = nbdkit(&["null", "0"]);
    let client = H::to(options().keep_alive(time), &server.uri()).connect().await.unwrap();
    let lax = ClientConfig::new().strict(StrictMode::empty());
    let lax = options().config(lax).keep_alive(time);
    let nothing = H::to(lax, &empty.uri()).connect().await.unwrap();
    let start = Instant::now();
    let (before, idle) = (client.stats().wire, nothing.stats().wire);
    // A chunk of one byte each, behind its header and its offset.
    const ANSWER: u64 = 20 + 8 + 1;
    H::until(|| {
        let now = client.stats().wire;
        let answers = now.messages_received - before.messages_received;
        let whole = now.bytes_received - before.bytes_received == answers * ANSWER;
        client.is_closed() || answers >= 2 && whole
    })
    .await;
    if client.is_closed() {
        return None;
    }
    assert!(start.elapsed() >= time, "asked twice in {:?}", start.elapsed());
    assert_eq!((client.in_flight(), client.stats().wire.anomalies), (0, 0));
    let start = Instant::now();
    client.read(512, 512).await.ok()?;

    server.stop().expect("stop");
    H::until(|| client.is_closed()).await;
    assert!(start.elapsed() >= time, "given up after {:?}", start.elapsed());
    let error = client.read(0, 512).await.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("no answer"), "{error}");
    server.cont().unwrap();
    // There is nothing to ask an export of no bytes for.
    assert!(!nothing.is_closed());
    assert_eq!(nothing.stats().wire, idle);
    Some(())
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
