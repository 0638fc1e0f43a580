//! What another connection may differ in, and what it may not.

use std::time::Duration;

use nbd_client_blocking::proto::{CommandFlags, ContextId, HeaderStyle, TransmissionFlags};
use nbd_client_blocking::session::replay::{Changed, Reconnect, RecoveryError};
use nbd_client_blocking::{Client, ConnectOptions};
use nbd_sim::hostile::bytes::{FLAGS, SIZE};
use nbd_sim::scripted::{Life, Scripted};

/// Longer than anything takes that goes well.
const LONG: Duration = Duration::from_secs(60);

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
