//! Peers that shake hands honestly and then make up their records.
//!
//! ```text
//!   our stage ◄── handshake ──► an honest library ── key log ──► Forger
//!   our stage ◄────────── any record that the keys allow ─────────┘
//! ```
//!
//! With ChaCha20-Poly1305 and SHA-256, in TLS 1.3 (RFC 8446, 7.3) and 1.2 (RFC 5246, 6.3).

#[cfg(feature = "psk")]
mod keys;

use nbd_session::LinkError;
use nbd_sim::peer::pki::Pki;
use nbd_transport::tls::stage::{Opened, Plaintext, TlsStage};
use nbd_transport::tls::{TlsConfig, TlsError, TlsRole, TlsServerConfig, TlsVersion};
#[cfg(feature = "tls")]
use rustls::crypto::aws_lc_rs as crypto;
use rustls::crypto::cipher::{AeadKey, Iv, MessageEncrypter, OutboundChunks, OutboundPlainMessage};
#[cfg(not(feature = "tls"))]
use rustls::crypto::ring as crypto;
use rustls::crypto::tls13::{HkdfExpander, OkmBlock};
use rustls::crypto::{CryptoProvider, tls13};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, ContentType, KeyLog, ProtocolVersion,
    RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite, SupportedProtocolVersion,
    Tls13CipherSuite, version,
};
use std::sync::{Arc, Mutex};

/// A session of ours, and a peer that can send it anything.
pub(crate) struct Victim {
    /// Which library and which end, for messages.
    pub(crate) name: &'static str,
    pub(crate) stage: Box<dyn TlsStage>,
    pub(crate) forger: Forger,
    /// What has come out of it.
    pub(crate) data: Vec<u8>,
    /// The ClientHello with which it all began.
    pub(crate) client_hello: Vec<u8>,
}

impl Victim {
    /// Our clients and our servers, with each library, in TLS 1.3.
    pub(crate) fn all(pki: &Pki) -> Vec<Self> {
        Self::of_version(pki, TlsVersion::Tls13)
    }

    /// Our clients and our servers, with each library.
    pub(crate) fn of_version(pki: &Pki, version: TlsVersion) -> Vec<Self> {
        vec![
            Self::new("rustls client", by_certificate(pki), rustls_server(pki, version)),
            Self::new("rustls server", accept_certificates(pki), rustls_client(pki, version)),
            #[cfg(feature = "psk")]
            Self::new("OpenSSL client", keys::by_key(), keys::server(version)),
            #[cfg(feature = "psk")]
            Self::new("OpenSSL server", keys::accept_keys(), keys::client(version)),
        ]
    }

    fn new(
        name: &'static str,
        mut stage: Box<dyn TlsStage>,
        (mut peer, secrets): (Box<dyn Honest>, Arc<Secrets>),
    ) -> Self {
        // What either side says before anything is encrypted.
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let mut done = false;
        for _ in 0..10 {
            let sent = stage.wire().unsent().to_vec();
            stage.wire_mut().sent(sent.len());
            let answer = peer.answer(&sent);
            for piece in answer.chunks(1 << 10) {
                stage.wire_mut().recv_buf()[..piece.len()].copy_from_slice(piece);
                stage.wire_mut().received(piece.len());
                done = stage.handshake().expect("both are honest");
            }
            ours.extend(sent);
            theirs.extend(answer);
        }
        assert!(done, "{name}: no end of the handshake");
        let peer = stage.peer();
        let (client, server) = match peer {
            TlsRole::Server => (&ours, &theirs),
            TlsRole::Client => (&theirs, &ours),
        };
        let forger = match stage.info().expect("it is done").version {
            TlsVersion::Tls13 => Forger::new(secrets.find(match peer {
                TlsRole::Server => "SERVER_TRAFFIC_SECRET_0",
                TlsRole::Client => "CLIENT_TRAFFIC_SECRET_0",
            })),
            _ => Forger::of_master(&secrets.find("CLIENT_RANDOM"), client, server, peer),
        };
        let client_hello = message(client).to_vec();
        Self { name, stage, forger, data: Vec::new(), client_hello }
    }

    /// Delivers bytes of the peer as they fit, and takes what comes out.
    pub(crate) fn deliver(&mut self, mut bytes: &[u8]) -> Result<Opened, LinkError> {
        let mut opened = Opened::Drained;
        while !bytes.is_empty() {
            let room = self.stage.wire_mut().recv_buf();
            let n = room.len().min(bytes.len());
            assert!(n > 0, "{}: it takes no more and does not say why", self.name);
            room[..n].copy_from_slice(&bytes[..n]);
            self.stage.wire_mut().received(n);
            bytes = &bytes[n..];
            opened = self.stage.open(&mut Collect(&mut self.data, [0; 100]))?;
        }
        Ok(opened)
    }

    /// A record of the peer.
    pub(crate) fn record(
        &mut self,
        kind: ContentType,
        content: &[u8],
    ) -> Result<Opened, LinkError> {
        let record = self.forger.record(kind, content);
        self.deliver(&record)
    }

    /// Makes sure that the peer is blamed for breaking the protocol, in these words of either
    /// library, and that nothing comes out any more.
    pub(crate) fn assert_blames(&mut self, result: Result<Opened, LinkError>, words: [&str; 2]) {
        let Err(LinkError::Tls(error @ TlsError::Misbehaved { .. })) = result else {
            panic!("{}: {result:?}", self.name);
        };
        let [rustls, openssl] = words;
        let reason = if self.name.starts_with("rustls") { rustls } else { openssl };
        let expected = format!("the {} broke the TLS protocol: {reason}", self.stage.peer());
        assert_eq!(error.to_string(), expected, "{}", self.name);
        let before = self.data.len();
        let more = self.record(ContentType::ApplicationData, b"more");
        assert!(more.is_err(), "{}: it goes on", self.name);
        assert_eq!(self.data.len(), before, "{}: something comes out", self.name);
    }
}

/// The first message of a stream of records.
fn message(stream: &[u8]) -> &[u8] {
    let length = usize::from(stream[3]) << 8 | usize::from(stream[4]);
    &stream[5..5 + length]
}

/// The randomness in the Hello that a stream begins with.
fn random(stream: &[u8]) -> &[u8] {
    &message(stream)[4 + 2..][..32]
}

/// Plaintext, piled up.
struct Collect<'a>(&'a mut Vec<u8>, [u8; 100]);

impl Plaintext for Collect<'_> {
    fn feed(&mut self, bytes: &[u8]) -> Result<usize, nbd_proto::Error> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn recv_buf(&mut self) -> &mut [u8] {
        &mut self.1
    }

    fn received(&mut self, n: usize) -> Result<(), nbd_proto::Error> {
        self.0.extend_from_slice(&self.1[..n]);
        Ok(())
    }
}

/// Encrypts whatever it is told to with the keys of one direction.
pub(crate) struct Forger {
    /// What the next keys of TLS 1.3 are made from.
    secret: OkmBlock,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Forger {
    fn new(secret: OkmBlock) -> Self {
        let hkdf = suite().hkdf_provider.expander_for_okm(&secret);
        let key = AeadKey::from(expand(&*hkdf, "key"));
        let iv = Iv::new(expand(&*hkdf, "iv"));
        Self { secret, encrypter: suite().aead_alg.encrypter(key, iv), sequence: 0 }
    }

    /// For TLS 1.2: the keys of both directions are cut from one block. The first record of each
    /// was the end of the handshake.
    fn of_master(master: &OkmBlock, client: &[u8], server: &[u8], from: TlsRole) -> Self {
        let seed = [b"key expansion", random(server), random(client)].concat();
        let hmac = |text: &[u8]| suite().hkdf_provider.hmac_sign(master, text).as_ref().to_vec();
        let mut block = Vec::new();
        let mut link = hmac(&seed);
        while block.len() < 2 * (32 + 12) {
            block.extend(hmac(&[&link, &seed[..]].concat()));
            link = hmac(&link);
        }
        let (keys, ivs) = block.split_at(2 * 32);
        let side = usize::from(from == TlsRole::Server);
        let key: [u8; 32] = keys[32 * side..][..32].try_into().expect("that many");
        let iv = &ivs[12 * side..][..12];
        let suite = crypto::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
        let SupportedCipherSuite::Tls12(suite) = suite else {
            panic!("{suite:?} is one of TLS 1.2");
        };
        let encrypter = suite.aead_alg.encrypter(AeadKey::from(key), iv, &[]);
        Self { secret: OkmBlock::new(&[]), encrypter, sequence: 1 }
    }

    /// One record, whatever the protocol makes of it.
    pub(crate) fn record(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        let plain = OutboundPlainMessage {
            typ: kind,
            version: ProtocolVersion::TLSv1_2,
            payload: OutboundChunks::Single(content),
        };
        let sealed = self.encrypter.encrypt(plain, self.sequence).expect("it can be encrypted");
        self.sequence += 1;
        sealed.encode()
    }

    /// Goes on with the next keys, as after a KeyUpdate (RFC 8446, 7.2).
    pub(crate) fn update(&mut self) {
        let hkdf = suite().hkdf_provider.expander_for_okm(&self.secret);
        *self = Self::new(OkmBlock::new(&expand::<32>(&*hkdf, "traffic upd")));
    }
}

/// HKDF-Expand-Label without a context.
fn expand<const N: usize>(hkdf: &dyn HkdfExpander, label: &str) -> [u8; N] {
    let label = format!("tls13 {label}");
    let (length, short) = ((N as u16).to_be_bytes(), [label.len() as u8]);
    tls13::expand(hkdf, &[&length, &short, label.as_bytes(), &[0]])
}

fn suite() -> &'static Tls13CipherSuite {
    crypto::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256.tls13().expect("it is one of TLS 1.3")
}

/// The traffic secrets of a peer.
#[derive(Debug, Default)]
struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl Secrets {
    fn find(&self, label: &str) -> OkmBlock {
        let all = self.0.lock().expect("nobody has panicked");
        let found = all.iter().find(|(name, _)| name == label);
        OkmBlock::new(&found.unwrap_or_else(|| panic!("no {label} in {all:?}")).1)
    }

    fn add(&self, label: &str, secret: &[u8]) {
        let mut all = self.0.lock().expect("nobody has panicked");
        all.push((label.to_owned(), secret.to_vec()));
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        self.add(label, secret);
    }
}

/// A peer for the time of the handshake.
trait Honest {
    /// What it says to that.
    fn answer(&mut self, received: &[u8]) -> Vec<u8>;
}

impl Honest for Connection {
    fn answer(&mut self, mut received: &[u8]) -> Vec<u8> {
        while !received.is_empty() {
            self.read_tls(&mut received).expect("there is room");
            self.process_new_packets().expect("we are honest");
        }
        let mut sent = Vec::new();
        while self.wants_write() {
            self.write_tls(&mut sent).expect("a vector grows");
        }
        sent
    }
}

fn by_certificate(pki: &Pki) -> Box<dyn TlsStage> {
    let connector = TlsConfig::new().directory(pki.dir()).connector().expect("it is sound");
    connector.start(Some("localhost")).expect("it starts")
}

fn accept_certificates(pki: &Pki) -> Box<dyn TlsStage> {
    let acceptor = TlsServerConfig::directory(pki.dir()).acceptor().expect("it is sound");
    acceptor.start().expect("it starts")
}

fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        crypto::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        crypto::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(CryptoProvider { cipher_suites, ..crypto::default_provider() })
}

fn only(version: TlsVersion) -> [&'static SupportedProtocolVersion; 1] {
    [if version == TlsVersion::Tls13 { &version::TLS13 } else { &version::TLS12 }]
}

fn rustls_server(pki: &Pki, version: TlsVersion) -> (Box<dyn Honest>, Arc<Secrets>) {
    let certificate = CertificateDer::from_pem_file(pki.file("server-cert.pem"));
    let key = PrivateKeyDer::from_pem_file(pki.file("server-key.pem")).expect("a key");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&only(version))
        .expect("there is a suite for it")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.expect("a certificate")], key)
        .expect("they belong together");
    let secrets = Arc::new(Secrets::default());
    config.key_log = Arc::<Secrets>::clone(&secrets);
    config.send_tls13_tickets = 0;
    let server = ServerConnection::new(Arc::new(config)).expect("it starts");
    (Box::new(Connection::Server(server)), secrets)
}

fn rustls_client(pki: &Pki, version: TlsVersion) -> (Box<dyn Honest>, Arc<Secrets>) {
    let mut authorities = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(pki.file("ca-cert.pem")).expect("it is there");
    authorities.add(authority).expect("it is sound");
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&only(version))
        .expect("there is a suite for it")
        .with_root_certificates(authorities)
        .with_no_client_auth();
    let secrets = Arc::new(Secrets::default());
    config.key_log = Arc::<Secrets>::clone(&secrets);
    let name = ServerName::try_from("localhost").expect("it is a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("it starts");
    (Box::new(Connection::Client(client)), secrets)
}
