//! Servers that cheat around STARTTLS, over real sockets.

use crate::driver::{connector, negotiate};
use nbd_proto::{ClientConfig, TlsPolicy};
use nbd_session::LinkError;
use nbd_sim::peer::pki::Pki;
use nbd_transport::tls::TlsConfig;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";
const ACK: &[u8] = b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x05\0\0\0\x01\0\0\0\0";
const REFUSED: &[u8] = b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x05\x80\0\0\x01\0\0\0\0";
/// The acknowledgement of structured replies, as if it belonged to what comes next.
const INJECTED: &[u8] = b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x08\0\0\0\x01\0\0\0\0";

/// What the server does once the client has asked for TLS. Returns the error the client gets, and
/// what the server has received after that.
fn meet(policy: TlsPolicy, answer: Vec<Vec<u8>>) -> (LinkError, Vec<u8>) {
    let pki = Pki::authority();
    let (client, mut server) = UnixStream::pair().expect("a pair is made");
    let far = thread::spawn(move || {
        server.write_all(GREETING).expect("the client listens");
        let mut asked = [0; 4 + 16];
        server.read_exact(&mut asked).expect("the client asks");
        let mut received = vec![0; 64 << 10];
        let mut got = 0;
        for (i, piece) in answer.iter().enumerate() {
            if i > 0 {
                // The client has sent something in between, so this comes as another segment.
                got += server.read(&mut received[got..]).expect("the client goes on");
            }
            if server.write_all(piece).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Write);
        while let Ok(n @ 1..) = server.read(&mut received[got..]) {
            got += n;
        }
        received.truncate(got);
        received
    });
    let config = ClientConfig::new().tls(policy);
    let connector = connector(TlsConfig::new().directory(pki.dir()));
    let error = negotiate(client, config, connector, Some("localhost"))
        .map(|session| session.link)
        .expect_err("the server cheats");
    (error, far.join().expect("the server does not panic"))
}

#[test]
fn plaintext_in_the_segment_of_the_acknowledgement_is_fatal() {
    for policy in [TlsPolicy::Allow, TlsPolicy::Require] {
        let (error, received) = meet(policy, vec![[ACK, INJECTED].concat()]);
        let expected = "protocol violation by the peer: plaintext after the acknowledgement of \
                        STARTTLS";
        assert_eq!(error.to_string(), expected);
        assert!(received.is_empty(), "it went on with TLS: {received:?}");
    }
}

#[test]
fn plaintext_after_the_acknowledgement_is_fatal() {
    for policy in [TlsPolicy::Allow, TlsPolicy::Require] {
        let (error, received) = meet(policy, vec![ACK.to_vec(), INJECTED.to_vec()]);
        assert!(error.to_string().contains("is this TLS at all?"), "{error}");
        let records = received.first().zip(received.get(1));
        assert_eq!(records, Some((&22, &3)), "not a ClientHello");
        assert!(!received.windows(8).any(|bytes| bytes == b"IHAVEOPT"));
    }
}

#[test]
fn garbage_in_place_of_tls_is_fatal() {
    for garbage in [vec![0xff; 100], vec![22; 40_000], b"HTTP/1.1 400 Bad Request\r\n".to_vec()] {
        let (error, received) = meet(TlsPolicy::Allow, vec![ACK.to_vec(), garbage]);
        assert!(matches!(error, LinkError::Tls(_)), "{error:?}");
        assert!(!received.windows(8).any(|bytes| bytes == b"IHAVEOPT"));
    }
}

#[test]
fn an_end_after_the_acknowledgement_is_told() {
    for policy in [TlsPolicy::Allow, TlsPolicy::Require] {
        let (error, received) = meet(policy, vec![ACK.to_vec()]);
        let expected = "the server closed the connection during the TLS handshake: ";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!received.windows(8).any(|bytes| bytes == b"IHAVEOPT"));
    }
}

#[test]
fn a_refusal_under_require_is_final_and_says_goodbye() {
    let (error, received) = meet(TlsPolicy::Require, vec![REFUSED.to_vec()]);
    assert!(error.to_string().contains("STARTTLS"), "{error}");
    assert_eq!(received, b"IHAVEOPT\0\0\0\x02\0\0\0\0");
}

#[test]
fn a_connection_without_credentials_never_starts_tls() {
    let (client, mut server) = UnixStream::pair().expect("a pair is made");
    let far = thread::spawn(move || {
        server.write_all(GREETING).expect("there is room");
        let mut received = vec![0; 4 + 16];
        server.read_exact(&mut received).expect("the client asks");
        server.write_all(ACK).expect("there is room");
        server.read_to_end(&mut received).expect("the client leaves");
        received
    });
    let config = ClientConfig::new().tls(TlsPolicy::Require);
    let mut handshake = nbd_session::Handshake::new(config).expect("the names are sound");
    let error = loop {
        match handshake.drive(&mut &client, nbd_proto::io::IoMode::Vectored) {
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    drop(client);
    let expected = "TLS was agreed on, but this connection was set up without credentials for it";
    assert_eq!(error, expected);
    assert_eq!(far.join().expect("it does not panic").len(), 4 + 16);
}
