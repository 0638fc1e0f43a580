//! Clients that cheat around STARTTLS, byte by byte.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use nbd_sim::peer::Scratch;
use nbd_transport::tls::TlsConfig;

use crate::support::{LIMIT, Serving, TestResult, arg, fail, succeed};
use nbd_sim::peer::pki::Pki;

const START_TLS: &[u8] = b"IHAVEOPT\0\0\0\x05\0\0\0\0";
const LIST: &[u8] = b"IHAVEOPT\0\0\0\x03\0\0\0\0";
const ACK: &[u8] = b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x05\0\0\0\x01\0\0\0\0";

/// A client that has asked for TLS, with `more` in the same segment.
fn asked(server: &Serving, more: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(server.socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&[&[0, 0, 0, 3], START_TLS, more].concat()).unwrap();
    stream
}

/// What comes until the server closes. That it closes without having read all
/// may show as an error.
fn rest(mut stream: UnixStream) -> Vec<u8> {
    let _ = stream.shutdown(Shutdown::Write);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn read_acknowledgement(stream: &mut UnixStream) {
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply, ACK);
}

/// The server says one line of it, and still serves others.
fn assert_told(server: &Serving, pki: &Pki, expected: &str) -> TestResult {
    let said = server.said(1);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(expected), "{said:?}");
    assert_eq!(succeed(&["info", "--size", &server.with(pki.dir())])?, "12582912");
    Ok(())
}

#[test]
fn an_option_injected_behind_starttls_is_fatal() -> TestResult {
    let pki = Pki::new();
    for policy in ["require", "allow"] {
        let server = Serving::unix(&["--tls-certificates", pki.arg(), "--tls", policy]);
        let answer = rest(asked(&server, LIST));
        // Neither is the option answered, nor does TLS begin.
        assert!(answer.is_empty() || answer == ACK, "{answer:?}");
        assert_told(&server, &pki, "plaintext after the acknowledgement of STARTTLS")?;
    }
    Ok(())
}

#[test]
fn plaintext_in_place_of_the_handshake_is_fatal() -> TestResult {
    let pki = Pki::new();
    for plaintext in [LIST, &[22; 40_000], b"GET / HTTP/1.1\r\n\r\n"] {
        let server = Serving::unix(&["--tls-certificates", pki.arg(), "--tls", "allow"]);
        let mut stream = asked(&server, &[]);
        read_acknowledgement(&mut stream);
        stream.write_all(plaintext).unwrap();
        let answer = rest(stream);
        let magic = &ACK[..8];
        assert!(!answer.windows(8).any(|bytes| bytes == magic), "{answer:?}");
        // At most an alert.
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
        assert_told(&server, &pki, "the client ")?;
    }
    Ok(())
}

#[test]
fn a_client_that_leaves_in_the_handshake_is_told_of() -> TestResult {
    let pki = Pki::new();
    let server = Serving::unix(&["--tls-certificates", pki.arg()]);
    let mut stream = asked(&server, &[]);
    read_acknowledgement(&mut stream);
    assert!(rest(stream).is_empty());
    assert_told(&server, &pki, "the client closed the connection during the TLS handshake")
}

/// Sends only so many bytes of an otherwise sound client after the acknowledgement, and leaves
/// without a word. Returns whether the client was done with the handshake by then.
fn leave_after(server: &Serving, pki: &Pki, most: usize) -> bool {
    let mut stream = asked(server, &[]);
    read_acknowledgement(&mut stream);
    let connector = TlsConfig::new().directory(pki.dir()).connector().expect("it is sound");
    let mut stage = connector.start(Some("localhost")).expect("it starts");
    let mut left = most;
    loop {
        let sent = stage.wire().unsent().to_vec();
        stage.wire_mut().sent(sent.len());
        let whole = sent.len() <= left;
        stream.write_all(&sent[..sent.len().min(left)]).expect("the server listens");
        left = left.saturating_sub(sent.len());
        let done = stage.handshake().expect("both are sound");
        if done || !whole {
            // The end of a stream without `close_notify`.
            let _ = rest(stream);
            return done && whole;
        }
        let n = stream.read(stage.wire_mut().recv_buf()).expect("the server goes on");
        assert!(n > 0, "the server has left");
        stage.wire_mut().received(n);
        stage.handshake().expect("both are sound");
    }
}

#[test]
fn a_client_that_is_cut_off_in_the_handshake_is_told_of_wherever_it_was() -> TestResult {
    let pki = Pki::new();
    let server = Serving::unix(&["--tls-certificates", pki.arg(), "--tls-verify-peer"]);
    let mut told = 0;
    for most in (1..).step_by(61) {
        let done = leave_after(&server, &pki, most);
        told += 1;
        let said = server.said(told);
        assert_eq!(said.len(), told, "{said:?}");
        let last = said.last().expect("at least one");
        let when = if done { "right after" } else { "during" };
        let expected = format!("the client closed the connection {when} the TLS handshake: ");
        assert!(last.contains(&expected), "after {most} bytes: {last}");
        if done {
            break;
        }
    }
    assert!(told > 10, "it was done after {told} pieces");
    assert_eq!(succeed(&["info", "--size", &server.with(pki.dir())])?, "12582912");
    Ok(())
}

#[test]
fn a_client_that_is_cut_off_in_the_middle_of_data_is_told_of() -> TestResult {
    let pki = Pki::new();
    let server = Serving::unix(&["--tls-certificates", pki.arg()]);
    // A client on the other side of a relay, which stops in the middle of a record.
    let scratch = Scratch::new()?;
    let socket = scratch.join("relay");
    let listener = UnixListener::bind(&socket).expect("nobody is there");
    let behind = server.socket();
    let relay = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("it connects");
        let mut far = UnixStream::connect(behind).expect("it listens");
        let mut back = far.try_clone().expect("there are descriptors");
        let mut to_client = client.try_clone().expect("there are descriptors");
        let answers = std::thread::spawn(move || {
            let _ = std::io::copy(&mut back, &mut to_client);
            // The server is to find the end where it reads, not where it writes.
            let _ = std::io::copy(&mut back, &mut std::io::sink());
        });
        let mut some = (&mut client).take(200_001);
        std::io::copy(&mut some, &mut far).expect("it listens");
        let _ = far.shutdown(Shutdown::Write);
        let _ = client.shutdown(Shutdown::Both);
        answers.join().expect("it does not panic");
    });
    let uri = format!("nbds+unix:///?socket={}&tls-certificates={}", arg(&socket), pki.arg());
    let args = ["bench", "--rw=write", "--size=64k", "--count=100", &uri];
    fail(&args)?;
    relay.join().expect("it does not panic");
    assert_told(&server, &pki, "the TLS stream was cut off (it ended without close_notify)")
}

/// Whoever is in the middle of sending would otherwise find the connection gone
/// before it has read why.
#[test]
fn a_client_that_is_turned_away_may_finish_what_it_sends() {
    let pki = Pki::new();
    let server = Serving::unix(&["--tls-certificates", pki.arg()]);
    // The server waits for a second only, which a busy machine may miss.
    let finished = (0..5).any(|_| {
        let mut stream = asked(&server, &[]);
        read_acknowledgement(&mut stream);
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut alert = Vec::new();
        stream.read_to_end(&mut alert).is_ok_and(|_| alert.first() == Some(&21))
            && stream.write_all(b"GET / HTTP/1.1\r\n\r\n").is_ok()
    });
    assert!(finished);
}
