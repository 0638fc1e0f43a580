//! A client and a server over TLS in memory.

#[cfg(feature = "psk")]
use crate::memory::{Failed, keys};
use crate::memory::{Run, Served, backends, certificates};
use nbd_proto::io::IoMode;
use nbd_proto::{ClientConfig, Command, Direction, Discard, Phase, TlsPolicy};
use nbd_session::Handshake;
#[cfg(feature = "psk")]
use nbd_session::LinkError;
use nbd_sim::peer::pki::Pki;
use nbd_sim::pipe::{Schedule, Way, pipe};
use nbd_sim::rng::Rng;
use nbd_transport::tls::{
    TlsAcceptor, TlsConfig, TlsConnector, TlsError, TlsPeer, TlsVersion, rustls,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::sync::Arc;

/// Records in a stream of ciphertext, by content type.
fn records(bytes: &[u8]) -> Vec<(u8, usize)> {
    let mut records = Vec::new();
    let mut rest = bytes;
    while let [kind, _, _, high, low, tail @ ..] = rest {
        let length = usize::from(*high) << 8 | usize::from(*low);
        records.push((*kind, length));
        rest = tail.get(length..).expect("records are whole");
    }
    records
}

#[test]
fn whatever_the_cuts_the_data_arrives() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        for seed in 0..24 {
            let run = Run::new(&acceptor, &connector, seed);
            if let Err(failed) = run.go() {
                panic!("seed {seed}: {failed:?}");
            }
        }
    }
}

#[test]
fn each_side_knows_the_other() {
    let pki = Pki::new();
    let (acceptor, connector) = certificates(&pki, true);
    let (link, _, served) = Run::smooth(&acceptor, &connector).go().expect("it works");
    for link in [&link, &served.link] {
        let info = link.tls_info().expect("TLS is in use");
        assert!(matches!(info.peer, TlsPeer::Certificate { .. }), "{info:?}");
        assert!(info.to_string().starts_with("TLS 1.3 with TLS13_AES_128_GCM_SHA256"), "{info}");
    }
    let (acceptor, connector) = certificates(&pki, false);
    let (_, _, served) = Run::smooth(&acceptor, &connector).go().expect("it works");
    let info = served.link.tls_info().expect("TLS is in use");
    assert_eq!(info.peer, TlsPeer::Anonymous);
}

/// As they are: nothing of ours is added, tickets and all.
#[test]
fn configurations_of_the_librarys_own_are_taken() {
    let pki = Pki::new();
    let read = |name: &str| fs::read(pki.file(name)).expect("it is there");
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(&read("ca-cert.pem")).expect("it is PEM");
    roots.add(authority).expect("it is sound");
    let certificate = CertificateDer::from_pem_slice(&read("server-cert.pem")).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(&read("server-key.pem")).expect("PEM");
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("it knows this version")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they belong together");
    let client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("it knows these versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let acceptor = TlsAcceptor::from_rustls(Arc::new(server));
    let connector = TlsConnector::from_rustls(Arc::new(client));
    assert_eq!(connector.start(None).expect_err("which?"), TlsError::NoServerName);
    let connector = connector.server_name("localhost");
    for seed in 0..4 {
        let (link, ..) = Run::new(&acceptor, &connector, seed).go().expect("it works");
        let info = link.tls_info().expect("TLS is in use");
        assert_eq!(info.version, TlsVersion::Tls12);
    }
    let other = connector.server_name("nbd.example");
    assert!(Run::smooth(&acceptor, &other).go().is_err(), "it is not compared");
}

#[cfg(feature = "psk")]
#[test]
fn each_side_knows_whose_key_it_was() {
    let (acceptor, connector) = keys();
    let (link, _, served) = Run::smooth(&acceptor, &connector).go().expect("it works");
    for link in [&link, &served.link] {
        let info = link.tls_info().expect("TLS is in use");
        assert_eq!(
            info.to_string().split_once(", "),
            Some(("TLS 1.3 with TLS_AES_128_GCM_SHA256", "by the key of alice",))
        );
    }
}

#[cfg(feature = "psk")]
#[test]
fn a_wrong_key_or_user_is_refused_by_the_server() {
    for (user, key) in [("alice", 8), ("bob", 7)] {
        let (acceptor, _) = keys();
        let client = TlsConfig::new().psk_key_bytes([key; 32]).username(user);
        let connector = client.connector().expect("it is sound");
        match Run::smooth(&acceptor, &connector).go() {
            Err(Failed::Server(LinkError::Tls(error))) => {
                let text = error.to_string();
                assert!(text.contains("key"), "{text}");
            }
            other => panic!("{:?}", other.err()),
        }
    }
}

#[test]
fn a_batch_of_headers_is_one_record_in_one_write() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let (mut end, far) = pipe(&mut Rng::new(1), Schedule::SMOOTH, Schedule::SMOOTH);
        let mut served = Served::new(far, acceptor);
        let config = ClientConfig::new().tls(TlsPolicy::Require).extended_headers(false);
        let mut handshake =
            Handshake::with_tls(config, connector, Some("localhost")).expect("it is sound");
        while handshake.phase() != Phase::Established {
            handshake.drive(&mut end, IoMode::Vectored).expect("it works");
            served.turn().expect("it works");
        }
        let (mut client, mut link) = handshake.finish().expect("it is established");
        for slot in 0..64 {
            let read = Command::read(slot * 4096, 4096);
            client.submit(read).expect("it is sound");
        }
        let calls = end.calls();
        link.write(&mut client, &mut end, &Discard, IoMode::Vectored).expect("there is room");
        assert!(!link.direction(&client).contains(Direction::WRITE));
        assert_eq!(end.calls() - calls, 1);
        let (way, burst) = end.log().last().expect("something was sent");
        assert_eq!(*way, Way::Sent);
        let [(23, length)] = records(burst)[..] else {
            panic!("not one record of data: {:?}", records(burst));
        };
        assert!((64 * 28..64 * 28 + 40).contains(&length), "{length}");
    }
}

#[test]
fn nothing_but_the_request_for_tls_goes_out_in_clear() {
    let pki = Pki::new();
    for (acceptor, connector) in backends(&pki) {
        let (_, end, _) = Run::smooth(&acceptor, &connector).go().expect("it works");
        let sent: Vec<u8> = end
            .log()
            .iter()
            .filter(|(way, _)| *way == Way::Sent)
            .flat_map(|(_, burst)| burst.clone())
            .collect();
        let (clear, tls) = sent.split_at(4 + 16);
        assert_eq!(clear, b"\0\0\0\x03IHAVEOPT\0\0\0\x05\0\0\0\0");
        // From then on there is nothing but records, and the last one is an alert: close_notify
        // (in TLS 1.3 it looks like data, of two bytes, its type, and the tag).
        let records = records(tls);
        assert!(records.iter().all(|(kind, _)| (20..=23).contains(kind)), "{records:?}");
        assert_eq!(records.last(), Some(&(23, 2 + 1 + 16)));
    }
}
