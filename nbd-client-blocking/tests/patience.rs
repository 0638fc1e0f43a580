//! How long a client goes on trying: patience is for one outage, and what goes well ends
//! an outage.

use std::time::{Duration, Instant};

use nbd_client_blocking::proto::{CommandFlags, ContextId, HeaderStyle, TransmissionFlags};
use nbd_client_blocking::session::replay::{Changed, Reconnect, RecoveryError};
use nbd_client_blocking::{Client, ConnectOptions, Woken};
use nbd_sim::hostile::bytes::{FLAGS, SIZE};
use nbd_sim::scripted::{Life, Scripted};

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(20);

const POLICY: Reconnect =
    Reconnect::new().first_delay(Duration::from_millis(2)).max_delay(Duration::from_millis(10));

fn connect(server: &Scripted, policy: Reconnect) -> Client {
    let builder = ConnectOptions::new()
        .reconnect(policy)
        .connect_timeout(LONG)
        .request_timeout(LONG)
        .meta_context("base:allocation");
    builder.meta_context("x:y").uri(&server.uri()).and_then(Client::connect).unwrap()
}

/// Each connection is good for one read, over and over, for far longer than patience lasts.
#[test]
fn patience_begins_anew_with_each_answer() {
    let server = Scripted::start(|_| Life { replies: 1, ..Life::default() });
    let patience = Duration::from_millis(800);
    let mut client = connect(&server, POLICY.give_up_after(patience));
    let begun = Instant::now();
    while begun.elapsed() < patience * 3 {
        client.read_exact_at(&mut [0; 512], 0).unwrap();
    }
    assert!(
        (client.session().stats().connections - 1) > 3,
        "{}",
        (client.session().stats().connections - 1)
    );
}

/// Connections on which nothing is ever answered are no progress, however many there are.
#[test]
fn a_connection_alone_does_not_renew_patience() {
    let server = Scripted::start(|n| Life { replies: usize::from(n == 0), ..Life::default() });
    let patience = Duration::from_millis(300);
    let mut client = connect(&server, POLICY.give_up_after(patience));
    client.read_exact_at(&mut [0; 512], 0).unwrap();
    let begun = Instant::now();
    let error = client.read_exact_at(&mut [0; 512], 0).unwrap_err();
    assert!(error.to_string().contains("not made again in"), "{error}");
    assert!(
        begun.elapsed() >= patience && client.session().stats().connections > 2,
        "{:?}",
        begun.elapsed()
    );
}

/// Nothing was asked of a connection, and it lasted: when it is lost after all, that is
/// another outage.
#[test]
fn a_connection_that_lasted_renews_patience() {
    // The first ends by itself, the second of its first request.
    let server = Scripted::start(|n| Life {
        replies: if n < 2 { 0 } else { usize::MAX },
        waits: n > 0,
        ..Life::default()
    });
    let patience = Duration::from_millis(500);
    let mut client = connect(&server, POLICY.give_up_after(patience));
    let mut pipeline = client.pipeline::<Vec<u8>>();
    let end = Instant::now() + LONG;
    while (pipeline.client().session().stats().connections - 1) == 0 {
        assert!(Instant::now() < end, "the loss is not noticed");
        pipeline.poll(Some(Duration::from_millis(1))).unwrap();
    }
    // The new connection lasts, with nothing to do, for longer than patience.
    let longer = patience + Duration::from_millis(100);
    assert_eq!(pipeline.poll(Some(longer)).unwrap(), Woken::TimedOut);
    drop(pipeline);
    client.read_exact_at(&mut [0; 512], 0).unwrap();
    assert_eq!((client.session().stats().connections - 1), 2);
}

/// What the second connection finds, and what is told of it.
#[test]
fn each_change_has_an_error_of_its_own() {
    let contexts = vec![(1, "base:allocation"), (2, "x:y")];
    let first = Life { replies: 1, contexts, ..Life::default() };
    let cases = [
        (Life { size: SIZE / 2, ..first.clone() }, Changed::Size { was: SIZE, is: SIZE / 2 }),
        (Life { flags: FLAGS | 2, ..first.clone() }, Changed::ReadOnly),
        (
            Life { flags: FLAGS & !0x20, ..first.clone() },
            Changed::Flags(TransmissionFlags::SEND_TRIM),
        ),
        (
            Life { contexts: vec![(1, "base:allocation")], ..first },
            Changed::Context("x:y".to_owned()),
        ),
        (
            Life { structured: false, contexts: Vec::new(), ..first },
            Changed::Headers { was: HeaderStyle::Structured, is: HeaderStyle::Simple },
        ),
    ];
    for (second, changed) in cases {
        let lives = [first.clone(), second];
        let server = Scripted::start(move |n| lives[n.min(1)].clone());
        let mut client = connect(&server, POLICY);
        client.read_exact_at(&mut [0; 512], 0).unwrap();
        let error = client.read_exact_at(&mut [0; 512], 0).unwrap_err();
        let Some(RecoveryError::Changed(told)) = error.recovery() else { panic!("{error}") };
        assert_eq!(*told, changed);
        assert_eq!((client.session().stats().connections - 1), 0);
    }
}

/// The other connection has other numbers for the same contexts, and even swaps them.
#[test]
fn contexts_keep_the_numbers_they_had() {
    let numbers = [[1, 2], [2, 1], [7, 1], [1, 2]];
    let server = Scripted::start(move |n| {
        let [allocation, other] = numbers[n % numbers.len()];
        let contexts = vec![(allocation, "base:allocation"), (other, "x:y")];
        Life { replies: 1, contexts, ..Life::default() }
    });
    let mut client = connect(&server, POLICY);
    for [allocation, other] in numbers {
        let extents = client.block_status(0, 4096, CommandFlags::empty()).unwrap();
        let mut extents: Vec<_> =
            extents.into_iter().map(|(context, extent)| (context, extent.status)).collect();
        // The status says by which number the server knows the context.
        extents.sort_unstable_by_key(|(context, _)| context.0);
        let told = [(ContextId(1), u64::from(allocation)), (ContextId(2), u64::from(other))];
        assert_eq!(extents, told);
    }
    assert_eq!((client.session().stats().connections - 1), 3);
}
