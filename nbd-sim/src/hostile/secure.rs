//! Servers that break rules behind TLS, or on the way to it: the client asks for TLS, the
//! server agrees, and a real handshake follows, by another library than ours wraps for
//! servers.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nbd_proto::{Command, Error, PeerMisbehaved, TlsPolicy};
use nbd_transport::tls::{Credentials, TlsConfig, TlsConnector};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::bytes::{DONE, ack, chunk, data, granted, greeting, kind, opt, simple};
use super::scenes::{Request, lost};
use super::stage::has_left;
use super::tour::over_unix;
use super::{Case, DATA, Failure, Form, Outcome, Played, talking};
use crate::peer::Scratch;

/// One of these servers.
struct Secret {
    case: Case,
    act: fn(UnixStream, ServerConnection) -> io::Result<()>,
    ends_well: fn(&Played) -> bool,
}

type Secured = rustls::StreamOwned<ServerConnection, UnixStream>;

/// Plays every scene behind TLS over a Unix socket to the client that `play` is, which is
/// given what to trust, the case and the server's URI.
///
/// # Panics
/// When a scene ends in another way than it should.
pub fn play_secrets(mut play: impl FnMut(&TlsConnector, &Case, &str) -> Played) {
    let scratch = Scratch::new().expect("a temporary directory");
    let (config, connector) = credentials();
    for Secret { case, act, ends_well } in secrets() {
        let serve = |mut client: UnixStream| {
            client.write_all(&greeting(3))?;
            // The flags and NBD_OPT_STARTTLS.
            client.read_exact(&mut [0; 4 + 16])?;
            client.write_all(&ack(opt::STARTTLS))?;
            let tls = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            match act(client, tls) {
                Err(error) if has_left(&error) => Ok(()),
                result => result,
            }
        };
        let played = over_unix(&scratch, &case, serve, |uri| play(&connector, &case, uri));
        assert!(ends_well(&played), "{}: {played:?}", case.id);
    }
}

/// A server's identity, and a client that trusts it.
fn credentials() -> (Arc<ServerConfig>, TlsConnector) {
    let key = KeyPair::generate().expect("a key is made");
    let mut params = CertificateParams::new(Vec::new()).expect("no names are no fault");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("it signs itself").pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key is made");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("it is a name");
    let certificate = params.signed_by(&key, &issuer).expect("it is signed");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has ciphers for them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("they belong together");
    let trusting = TlsConfig::new().authorities(Credentials::Pem(authority.into_bytes()));
    (Arc::new(config), trusting.connector().expect("it is sound"))
}

fn secrets() -> Vec<Secret> {
    let read = [Command::read(0, 1024)];
    let scene = |id, act, ends_well| {
        let case = talking(id, Form::Simple, &read, Vec::new(), Outcome::Lives(Vec::new()));
        Secret { case: case.with(|config| config.tls(TlsPolicy::Require)), act, ends_well }
    };
    let mut stalls = scene("TL16", stall, |played| refused(played, &Failure::TimedOut));
    stalls.case.outcome = Outcome::Waits;
    vec![
        scene("TL00-sound", |client, tls| serve(client, tls, usize::MAX), answered),
        scene("TL09", |client, tls| serve(client, tls, 1), answered),
        scene("TL05", cut_off, is_over),
        scene("TL06", cut_off_in_a_reply, is_over),
        scene("TL08", inject, is_over),
        scene("TL10", refuse_the_version, |played| refused(played, &Failure::Tls)),
        scene("TL10-insists", insist_on_tls_1_1, |played| refused(played, &Failure::Tls)),
        scene("TL13", keep_structured_replies, |played| {
            let error = Error::from(PeerMisbehaved::WrongReplyForm);
            ended_by(played, &Failure::Protocol(error))
        }),
        scene("TL14", start_twice, |played| {
            let error = Error::from(PeerMisbehaved::WrongOption);
            refused(played, &Failure::Protocol(error))
        }),
        stalls,
    ]
}

fn answered(played: &Played) -> bool {
    played.answers == [Ok(())] && played.usable == Some(Ok(()))
}

fn refused(played: &Played, failure: &Failure) -> bool {
    matches!(&played.connected, Some(Err(error)) if error == failure)
}

/// The connection came to stand, and this ended it.
fn ended_by(played: &Played, failure: &Failure) -> bool {
    played.answers == [Err(failure.clone())] && played.usable == Some(Err(failure.clone()))
}

/// The connection is gone, whoever noticed first: TLS, the socket or the machine.
fn is_over(played: &Played) -> bool {
    let over = |answer: &Result<(), Failure>| *answer == Err(Failure::Tls) || lost(answer);
    played.answers.iter().all(over) && played.usable.as_ref().is_some_and(over)
}

/// Shakes hands and chooses the export, in pieces of at most so many bytes.
fn negotiate(client: UnixStream, tls: ServerConnection, most: usize) -> io::Result<Secured> {
    let mut stream = rustls::StreamOwned::new(tls, client);
    // NBD_OPT_GO.
    let mut option = [0; 16];
    stream.read_exact(&mut option)?;
    let [.., a, b, c, d] = option;
    stream.read_exact(&mut vec![0; u32::from_be_bytes([a, b, c, d]) as usize])?;
    say(&mut stream, &granted(), most)?;
    Ok(stream)
}

/// Each piece is a record of its own.
fn say(stream: &mut Secured, bytes: &[u8], most: usize) -> io::Result<()> {
    for piece in bytes.chunks(most.min(bytes.len())) {
        stream.write_all(piece)?;
        stream.flush()?;
    }
    Ok(())
}

fn serve(client: UnixStream, tls: ServerConnection, most: usize) -> io::Result<()> {
    let mut stream = negotiate(client, tls, most)?;
    loop {
        let request = Request::read(&mut stream)?;
        let data = if request.is_read() { vec![DATA; 1024] } else { Vec::new() };
        say(&mut stream, &simple(0, request.cookie, &data), most)?;
    }
}

fn cut_off(client: UnixStream, tls: ServerConnection) -> io::Result<()> {
    Request::read(&mut negotiate(client, tls, usize::MAX)?).map(drop)
}

fn cut_off_in_a_reply(client: UnixStream, tls: ServerConnection) -> io::Result<()> {
    let mut stream = negotiate(client, tls, usize::MAX)?;
    let request = Request::read(&mut stream)?;
    say(&mut stream, &simple(0, request.cookie, &[DATA; 500]), usize::MAX)
}

/// The reply comes in clear.
fn inject(client: UnixStream, tls: ServerConnection) -> io::Result<()> {
    let mut stream = negotiate(client, tls, usize::MAX)?;
    let request = Request::read(&mut stream)?;
    stream.sock.write_all(&simple(0, request.cookie, &[DATA; 1024]))?;
    io::copy(&mut stream.sock, &mut io::sink()).map(drop)
}

/// An alert: protocol_version (RFC 8446, 6.2), in a record of TLS 1.1.
fn refuse_the_version(mut client: UnixStream, _tls: ServerConnection) -> io::Result<()> {
    read_record(&mut client)?;
    client.write_all(&[21, 3, 2, 0, 2, 2, 70])?;
    io::copy(&mut client, &mut io::sink()).map(drop)
}

/// A ServerHello of TLS 1.1 with RSA and AES, as if that had been asked for.
fn insist_on_tls_1_1(mut client: UnixStream, _tls: ServerConnection) -> io::Result<()> {
    read_record(&mut client)?;
    let hello = [&[3, 2][..], &[7; 32], &[0, 0, 0x2f, 0]].concat();
    let length = hello.len() as u8;
    client.write_all(&[&[22, 3, 2, 0, length + 4, 2, 0, 0, length], &hello[..]].concat())?;
    io::copy(&mut client, &mut io::sink()).map(drop)
}

/// What an attacker had agreed on in clear (CVE-2021-3716), for a client that has not.
fn keep_structured_replies(client: UnixStream, tls: ServerConnection) -> io::Result<()> {
    let mut stream = negotiate(client, tls, usize::MAX)?;
    let request = Request::read(&mut stream)?;
    let reply = chunk(DONE, kind::OFFSET_DATA, request.cookie, &data(0, 1024));
    say(&mut stream, &reply, usize::MAX)?;
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

/// In place of an answer to NBD_OPT_GO.
fn start_twice(client: UnixStream, tls: ServerConnection) -> io::Result<()> {
    let mut stream = rustls::StreamOwned::new(tls, client);
    stream.read_exact(&mut [0; 16])?;
    say(&mut stream, &ack(opt::STARTTLS), usize::MAX)?;
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

/// Half of what the server has to say in the handshake.
fn stall(mut client: UnixStream, mut tls: ServerConnection) -> io::Result<()> {
    let hello = read_record(&mut client)?;
    tls.read_tls(&mut &hello[..])?;
    tls.process_new_packets().map_err(io::Error::other)?;
    let mut flight = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut flight)?;
    }
    client.write_all(&flight[..flight.len() / 2])?;
    io::copy(&mut client, &mut io::sink()).map(drop)
}

fn read_record(client: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut record = vec![0; 5];
    client.read_exact(&mut record)?;
    let length = u16::from_be_bytes([record[3], record[4]]);
    let body = Read::take(&mut *client, length.into()).read_to_end(&mut record)?;
    if body == usize::from(length) { Ok(record) } else { Err(ErrorKind::UnexpectedEof.into()) }
}
