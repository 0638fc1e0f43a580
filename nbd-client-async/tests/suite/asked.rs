//! What can be asked of a connection and of its server besides data.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;
use nbd_client_async::proto::{CommandFlags, ContextId, TlsPolicy};
use nbd_client_async::transport::{CommandSpec, Endpoint};
use nbd_client_async::{Client, ContextExtents, Segment};
use nbd_sim::peer::{Scratch, Server, tool};

use crate::changed_export::{credentials, identity};
use crate::support::{Host, is_timeout, nbdkit, on_every_runtime, options};

on_every_runtime! {
    a_ping_is_a_small_read,
    a_uri_leads_to_the_same_export,
    tls_by_hand,
    some_contexts_of_several,
    a_survey_that_is_dropped_half_way,
    extents_that_are_taken_slowly,
    a_limit_of_one_handle_is_not_anothers,
}

async fn a_ping_is_a_small_read<H: Host>() {
    let server = nbdkit(&["memory", "1M"]);
    let client = H::connect(&server).await;
    let before = client.stats().wire;
    client.ping().await.unwrap();
    assert_eq!(client.stats().wire.messages_sent, before.messages_sent + 1);
    server.stop().expect("stop");
    let hasty = client.with_timeout(Some(Duration::from_millis(20)));
    assert!(is_timeout(&hasty.ping().await));
    server.cont().unwrap();
    client.ping().await.unwrap();
    // An export of no bytes is not asked for anything.
    let empty = nbdkit(&["null", "0"]);
    let empty = H::connect(&empty).await;
    let before = empty.stats().wire;
    empty.ping().await.unwrap();
    assert_eq!(empty.stats().wire, before);
}

async fn a_uri_leads_to_the_same_export<H: Host>() {
    let list = ["--filter=exportname", "memory", "1M", "exportname=a disk"];
    let server = Server::nbdkit(&list).tcp().start().unwrap();
    let to = Endpoint::Address(server.tcp_address().unwrap());
    let client = H::on(options().endpoint(to).export("a disk")).connect().await.unwrap();
    let uri = client.to_uri().expect("it has one").to_string();
    let again = H::to(options(), &uri).connect().await.unwrap();
    assert_eq!((again.size(), again.to_uri().unwrap().to_string()), (1 << 20, uri));
    // A program that speaks on its standard input has no address.
    let command = CommandSpec::new("nbdkit", ["-s", "memory", "1M"]);
    let client = H::on(options().endpoint(Endpoint::Command(command))).connect().await.unwrap();
    assert!(client.to_uri().is_err());
}

async fn tls_by_hand<H: Host>() {
    let ours = identity();
    let certificates = format!("--tls-certificates={}", ours.path().display());
    let server = Server::nbdkit(&["--tls=on", &certificates, "memory", "1M"]).start().unwrap();
    let options = options().tls(TlsPolicy::Disable, credentials(&ours));
    let mut choice = H::to(options, &server.uri()).negotiate().await.unwrap();
    assert!(choice.tls_info().is_none());
    assert!(choice.start_tls().await.unwrap());
    assert!(choice.tls_info().is_some());
    let client = choice.go().await.unwrap();
    assert!(client.tls_info().is_some());
    client.ping().await.unwrap();
    client.disconnect().await.unwrap();
}

/// An export with two meta contexts, of which a client may ask for one: its upper layer has
/// data where the lower one has none.
async fn two_contexts<H: Host>() -> (Scratch, Server, Client) {
    let scratch = Scratch::new().unwrap();
    let (lower, upper) = (scratch.join("lower"), scratch.join("upper"));
    for args in [
        vec!["create", "-q", "-f", "qcow2", lower.to_str().unwrap(), "1M"],
        vec!["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "lower", upper.to_str().unwrap()],
    ] {
        assert!(tool("qemu-img").unwrap().args(args).status().unwrap().success());
    }
    let write = ["-c", "write 256k 256k", "-f", "qcow2", upper.to_str().unwrap()];
    let written = tool("qemu-io").unwrap().args(write).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let server = Server::qemu_nbd(&["-A", "-f", "qcow2"]).arg(&upper).start().unwrap();
    let options = options().meta_context("qemu:allocation-depth");
    let client = H::to(options, &server.uri()).connect().await.unwrap();
    (scratch, server, client)
}

async fn some_contexts_of_several<H: Host>() {
    let (_scratch, _server, client) = two_contexts::<H>().await;
    let names = ["base:allocation", "qemu:allocation-depth"];
    let both: Vec<ContextId> = names.iter().map(|name| client.context(name).unwrap()).collect();
    let flags = CommandFlags::empty();
    let all = client.block_status(0, 1 << 20, flags).await.unwrap();
    assert!(both.iter().all(|context| all.iter().any(|(told, _)| told == context)), "{all:?}");
    let some = client.block_status_filtered(0, 1 << 20, flags, &both[1..]).await.unwrap();
    assert!(!some.is_empty() && some.iter().all(|(told, _)| *told == both[1]), "{some:?}");
    // Both cut at each other's ends.
    let mut walk = client.context_extents(&[], 0..1 << 20).unwrap();
    assert_eq!(walk.contexts(), both);
    let segments = all_of(&mut walk).await;
    let lengths: Vec<_> = segments.iter().map(|segment| segment.length >> 10).collect();
    assert_eq!(lengths, [256, 256, 512]);
    assert_eq!(segments[1].statuses, [0, 1]);
    assert!(client.context_extents(&["no:such"], 0..1).is_err());
}

async fn all_of(walk: &mut ContextExtents) -> Vec<Segment> {
    let mut segments = Vec::new();
    while let Some(segment) = walk.next().await {
        segments.push(segment.unwrap());
    }
    segments
}

async fn a_survey_that_is_dropped_half_way<H: Host>() {
    let (_scratch, server, client) = two_contexts::<H>().await;
    server.stop().expect("stop");
    let mut walk = client.context_extents(&["base:allocation"], 0..1 << 20).unwrap();
    let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut walk).poll_next(cx).is_pending()));
    assert!(polled.await);
    assert!(client.in_flight() > 0);
    drop(walk);
    server.cont().unwrap();
    H::until(|| client.in_flight() == 0).await;
    client.ping().await.unwrap();
}

/// All answers that were asked for ahead are there when the next extent is wanted.
async fn extents_that_are_taken_slowly<H: Host>() {
    const SIZE: u64 = 1 << 30;
    let server = nbdkit(&["-t", "1", "memory", "1G"]);
    let client = H::connect(&server).await;
    for at in [0, 1 << 20, SIZE / 2, SIZE - 65_536] {
        client.write_all_at(vec![1; 65_536], at).await.unwrap();
    }
    let mut extents = client.extents("base:allocation", 0..SIZE).unwrap();
    let (mut at, mut data) = (0, Vec::new());
    while let Some(placed) = extents.next().await {
        let placed = placed.unwrap();
        assert_eq!(placed.offset, at);
        at += placed.extent.length;
        data.extend((!placed.extent.is_hole()).then_some(placed.offset));
        let before = client.stats().wire;
        client.ping().await.unwrap();
        // One after the other: what was asked before it has been answered.
        assert!(client.stats().wire.messages_received > before.messages_received);
    }
    assert_eq!((at, data), (SIZE, vec![0, 1 << 20, SIZE / 2, SIZE - 65_536]));
}

async fn a_limit_of_one_handle_is_not_anothers<H: Host>() {
    let server = nbdkit(&["memory", "1M"]);
    let options = options().request_timeout(Duration::from_millis(30));
    let client = H::to(options, &server.uri()).connect().await.unwrap();
    let patient = client.with_timeout(None);
    server.stop().expect("stop");
    assert!(is_timeout(&client.read(0, 512).await));
    let read = H::spawn({
        let patient = patient.clone();
        async move { patient.read(0, 512).await }
    });
    assert!(is_timeout(&client.flush().await));
    server.cont().unwrap();
    read.await.unwrap();
    assert_eq!(patient.stats().timed_out, 2);
}
