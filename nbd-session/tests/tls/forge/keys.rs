//! The same with pre-shared keys.

use super::{Honest, Secrets};
use nbd_transport::tls::stage::TlsStage;
use nbd_transport::tls::{TlsConfig, TlsServerConfig, TlsVersion};
use openssl::ssl::{Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVersion};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

const USER: &str = "alice";
const KEY: [u8; 32] = [7; 32];

pub(super) fn by_key() -> Box<dyn TlsStage> {
    let config = TlsConfig::new().psk_key_bytes(KEY).username(USER);
    config.connector().expect("it is sound").start(None).expect("it starts")
}

pub(super) fn accept_keys() -> Box<dyn TlsStage> {
    let acceptor = TlsServerConfig::psk_key_bytes(USER, KEY).acceptor().expect("it is sound");
    acceptor.start().expect("it starts")
}

pub(super) fn server(version: TlsVersion) -> (Box<dyn Honest>, Arc<Secrets>) {
    let mut context = context(SslMethod::tls_server(), version);
    context.set_session_id_context(b"test").expect("it is short");
    context.set_num_tickets(0).expect("none are made");
    context.set_psk_server_callback(|_, _, room| {
        room[..KEY.len()].copy_from_slice(&KEY);
        Ok(KEY.len())
    });
    peer(context, false)
}

pub(super) fn client(version: TlsVersion) -> (Box<dyn Honest>, Arc<Secrets>) {
    let mut context = context(SslMethod::tls_client(), version);
    context.set_psk_client_callback(|_, _, identity, room| {
        identity[..USER.len()].copy_from_slice(USER.as_bytes());
        identity[USER.len()] = 0;
        room[..KEY.len()].copy_from_slice(&KEY);
        Ok(KEY.len())
    });
    peer(context, true)
}

fn context(method: SslMethod, version: TlsVersion) -> SslContextBuilder {
    let mut context = SslContext::builder(method).expect("there is memory");
    let version = match version {
        TlsVersion::Tls13 => SslVersion::TLS1_3,
        _ => SslVersion::TLS1_2,
    };
    context.set_min_proto_version(Some(version)).expect("it is known");
    context.set_max_proto_version(Some(version)).expect("it is known");
    context.set_cipher_list("ECDHE-PSK-CHACHA20-POLY1305").expect("it is known");
    context.set_ciphersuites("TLS_CHACHA20_POLY1305_SHA256").expect("it is known");
    context
}

fn peer(mut context: SslContextBuilder, connects: bool) -> (Box<dyn Honest>, Arc<Secrets>) {
    let secrets = Arc::new(Secrets::default());
    let log = Arc::clone(&secrets);
    context.set_keylog_callback(move |_, line| {
        if let [label, _, secret] = line.split(' ').collect::<Vec<_>>()[..] {
            let pairs = (0..secret.len() / 2).map(|at| &secret[2 * at..2 * at + 2]);
            let bytes = pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal"));
            log.add(label, &bytes.collect::<Vec<_>>());
        }
    });
    let ssl = Ssl::new(&context.build()).expect("there is memory");
    let stream = SslStream::new(ssl, Pipe::default()).expect("there is memory");
    (Box::new(Peer { stream, connects }), secrets)
}

struct Peer {
    stream: SslStream<Pipe>,
    connects: bool,
}

impl Honest for Peer {
    fn answer(&mut self, received: &[u8]) -> Vec<u8> {
        self.stream.get_mut().received.extend(received);
        // It wants more until it is done.
        let _ = if self.connects { self.stream.connect() } else { self.stream.accept() };
        std::mem::take(&mut self.stream.get_mut().sent)
    }
}

#[derive(Debug, Default)]
struct Pipe {
    received: std::collections::VecDeque<u8>,
    sent: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.received.read(buf)? {
            0 => Err(ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.sent.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
