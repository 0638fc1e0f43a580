//! What another connection may differ in, and what it may not.

use std::time::Duration;

use crate::support::{Host, cause, on_every_runtime, options};
use nbd_client_async::proto::{CommandFlags, ContextId, HeaderStyle, TlsPolicy, TransmissionFlags};
use nbd_client_async::session::replay::{Changed, RecoveryError};
use nbd_client_async::transport::tls::TlsConfig;
use nbd_client_async::{Client, ErrorKind, Reconnect};
use nbd_sim::hostile::bytes::{FLAGS, SIZE};
use nbd_sim::peer::{Scratch, Server};
use nbd_sim::scripted::{Life, Scripted};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

on_every_runtime! {
    contexts_keep_the_numbers_they_had,
    each_change_has_an_error_of_its_own,
    tls_is_made_again_and_checked_again,
}

const POLICY: Reconnect =
    Reconnect::new().first_delay(Duration::from_millis(2)).max_delay(Duration::from_millis(10));

async fn connect<H: Host>(server: &Scripted, policy: Reconnect) -> Client {
    let options = options().reconnect(policy).meta_context("x:y");
    H::to(options, &server.uri()).connect().await.unwrap()
}

/// The other connection has other numbers for the same contexts, and even swaps them.
async fn contexts_keep_the_numbers_they_had<H: Host>() {
    let numbers = [[1, 2], [2, 1], [7, 1], [1, 2]];
    let server = Scripted::start(move |n| {
        let [allocation, other] = numbers[n % numbers.len()];
        let contexts = vec![(allocation, "base:allocation"), (other, "x:y")];
        Life { replies: 1, contexts, ..Life::default() }
    });
    let client = connect::<H>(&server, POLICY).await;
    for [allocation, other] in numbers {
        let extents = client.block_status(0, 4096, CommandFlags::empty()).await.unwrap();
        let mut told: Vec<_> =
            extents.into_iter().map(|(context, extent)| (context, extent.status)).collect();
        // The status says by which number the server knows the context.
        told.sort_unstable_by_key(|(context, _)| context.0);
        let known = [(ContextId(1), u64::from(allocation)), (ContextId(2), u64::from(other))];
        assert_eq!(told, known);
    }
    assert_eq!(client.stats().reconnects(), 3);
    drop(client);
}

/// What the second connection finds, and what is told of it.
async fn each_change_has_an_error_of_its_own<H: Host>() {
    let contexts = vec![(1, "base:allocation"), (2, "x:y")];
    let first = Life { replies: 1, contexts, ..Life::default() };
    let simple = Life { structured: false, contexts: Vec::new(), ..first };
    let fewer = Life { contexts: vec![(1, "base:allocation")], ..first };
    let headers = Changed::Headers { was: HeaderStyle::Structured, is: HeaderStyle::Simple };
    let cases = [
        (Life { size: SIZE / 2, ..first.clone() }, Changed::Size { was: SIZE, is: SIZE / 2 }),
        (Life { flags: FLAGS | 2, ..first.clone() }, Changed::ReadOnly),
        (
            Life { flags: FLAGS & !0x20, ..first.clone() },
            Changed::Flags(TransmissionFlags::SEND_TRIM),
        ),
        (fewer, Changed::Context("x:y".to_owned())),
        (simple, headers),
    ];
    for (second, changed) in cases {
        let lives = [first.clone(), second];
        let server = Scripted::start(move |n| lives[n.min(1)].clone());
        let client = connect::<H>(&server, POLICY).await;
        client.read(0, 512).await.unwrap();
        let error = client.read(0, 512).await.unwrap_err();
        assert_eq!(error.recovery(), Some(&RecoveryError::Changed(changed)), "{error}");
        assert_eq!(client.stats().reconnects(), 0);
        assert!(client.is_closed());
    }
}

/// A directory with a server's certificate and key, of an authority of its own.
pub(crate) fn identity() -> Scratch {
    let scratch = Scratch::new().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    for (name, text) in [
        ("ca-cert.pem", authority.pem()),
        ("server-cert.pem", certificate.pem()),
        ("server-key.pem", key.serialize_pem()),
    ] {
        std::fs::write(scratch.join(name), text).unwrap();
    }
    scratch
}

/// A copy of what is in one directory, in another.
fn give(from: &Scratch, to: &Scratch) {
    for name in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

pub(crate) fn credentials(dir: &Scratch) -> TlsConfig {
    TlsConfig::new().directory(dir.path()).server_name("localhost")
}

async fn tls_is_made_again_and_checked_again<H: Host>() {
    let (ours, other, shown) = (identity(), identity(), identity());
    give(&ours, &shown);
    let certificates = format!("--tls-certificates={}", shown.path().display());
    let mut server =
        Server::nbdkit(&["--tls=require", &certificates, "pattern", "1M"]).start().unwrap();
    let options = options().reconnect(POLICY).tls(TlsPolicy::Require, credentials(&ours));
    let client = H::to(options, &server.uri()).connect().await.unwrap();
    for times in 0..3 {
        assert_eq!(client.read(8, 8).await.unwrap()[..], 8u64.to_be_bytes());
        assert_eq!(client.stats().reconnects(), times);
        assert!(client.tls_info().is_some());
        server.kill();
        server.start_again().unwrap();
    }
    assert_eq!(client.read(8, 8).await.unwrap()[..], 8u64.to_be_bytes());
    // Somebody else answers in the server's place.
    server.kill();
    give(&other, &shown);
    server.start_again().unwrap();
    let error = client.read(8, 8).await.unwrap_err();
    let cause = cause(&error);
    assert_eq!(cause.kind(), ErrorKind::Tls, "{cause}");
    assert!(cause.to_string().contains("certificate"), "{cause}");
    assert!(client.is_closed());
}
