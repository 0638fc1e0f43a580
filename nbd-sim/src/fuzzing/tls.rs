//! Two stages of TLS, and somebody between them.
//!
//! ```text
//!   client ── seal ─► unsent ──┐ cut, changed, dropped, repeated, ┌─► open ─► server
//!          ◄─ open ────────────┴────────── made up ───────────────┴── unsent ◄─
//! ```
//!
//! The input says what happens and where the bytes are cut. The libraries draw keys by chance
//! and look at the clock, so an input is repeated but for the bytes on the wire.

use std::collections::VecDeque;
use std::sync::LazyLock;

use nbd_transport::tls::stage::{Opened, Plaintext, TlsStage};
use nbd_transport::tls::{Credentials, TlsAcceptor, TlsConfig, TlsConnector, TlsServerConfig};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::input::Input;

/// Most bytes that one side encrypts.
const MOST: u64 = 1 << 20;

/// More than a stage ever holds for its transport, in bytes: what it encrypts ahead, twice, and
/// some room for records and for the handshake.
const UNSENT: usize = 600 << 10;

/// Runs both ends of a session as the bytes say.
pub fn tls_stage(data: &[u8]) {
    let mut input = Input::new(data);
    let mut session = Session::new(input.byte());
    while !input.is_empty() {
        session.step(&mut input);
    }
    session.finish();
}

struct Session {
    /// The client and the server.
    ends: [End; 2],
    /// Not every byte arrives as it was sent.
    spoilt: bool,
}

/// One end, with what is under way to it.
struct End {
    stage: Box<dyn TlsStage>,
    /// From the other end, not delivered yet.
    arriving: VecDeque<u8>,
    /// What was delivered last.
    delivered: Vec<u8>,
    handshaken: bool,
    /// The stage has more than was taken.
    behind: bool,
    saw_end: bool,
    closed: bool,
    failed: bool,
    /// Bytes that were encrypted.
    sealed: u64,
    /// Whose bytes come out, how many have, and how many more are taken for now.
    drain: Drain,
}

impl Session {
    fn new(setup: u8) -> Self {
        let (acceptor, connector) = match setup % 3 {
            0 => &ENDS.known,
            1 => &ENDS.anonymous,
            _ => &ENDS.keys,
        };
        let client = connector.start(Some("localhost")).expect("the name is sound");
        let server = acceptor.start().expect("there is memory");
        Self { ends: [End::new(client, 1), End::new(server, 0)], spoilt: false }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let operation = input.byte();
        let amount = input.byte();
        let who = usize::from(operation >> 3 & 1);
        match operation & 7 {
            0 | 1 => self.carry(who, amount_of(amount)),
            2 => self.ends[who].seal(amount_of(amount), who),
            3 => self.close(who),
            4 => self.spoil(who, |bytes| {
                if let Some(byte) = bytes.front_mut() {
                    *byte ^= amount.max(1);
                }
            }),
            5 => self.spoil(who, |bytes| drop(bytes.drain(..amount_of(amount).min(bytes.len())))),
            6 => {
                let made_up = input.list(64).to_vec();
                let again = self.ends[who].delivered.clone();
                let before = if amount.is_multiple_of(2) { made_up } else { again };
                self.spoil(who, |bytes| before.iter().rev().for_each(|b| bytes.push_front(*b)));
            }
            _ => self.ends[who].drain.room = amount_of(amount),
        }
        self.check();
    }

    /// A bad record behind the last word trips an assertion of rustls, which stops a fuzzer although
    /// the stage survives it. So whoever has closed gets good ones only.
    fn close(&mut self, who: usize) {
        if !self.spoilt {
            self.ends[who].stage.close();
            self.ends[who].closed = true;
        }
    }

    /// Changes what is under way to one end.
    fn spoil(&mut self, to: usize, change: impl FnOnce(&mut VecDeque<u8>)) {
        if self.ends[to].closed {
            return;
        }
        let before = self.ends[to].arriving.clone();
        change(&mut self.ends[to].arriving);
        self.spoilt |= self.ends[to].arriving != before;
    }

    /// Sends all that one end has encrypted, and delivers up to so many bytes of it.
    fn carry(&mut self, from: usize, most: usize) {
        let wire = self.ends[from].stage.wire_mut();
        let sent = wire.unsent().to_vec();
        wire.sent(sent.len());
        let to = &mut self.ends[1 - from];
        to.arriving.extend(sent);
        to.deliver(most);
    }

    fn check(&self) {
        for end in &self.ends {
            let unsent = end.stage.wire().unsent().len();
            assert!(unsent < UNSENT, "{unsent} bytes wait to be sent");
            assert!(self.spoilt || !end.failed, "nobody has done any harm");
        }
        for (from, to) in [(0, 1), (1, 0)] {
            assert!(self.ends[to].drain.at <= self.ends[from].sealed, "more than was sent");
        }
    }

    /// Lets everything arrive. All of it comes out, unless something was spoilt.
    fn finish(mut self) {
        for closing in [false, true] {
            for who in 0..2 {
                self.ends[who].drain.room = usize::MAX;
                if closing {
                    self.close(who);
                }
            }
            for _ in 0..20 {
                self.carry(0, usize::MAX);
                self.carry(1, usize::MAX);
                self.check();
            }
        }
        if self.spoilt {
            return;
        }
        let [client, server] = &self.ends;
        for (end, other) in [(client, server), (server, client)] {
            assert!(end.handshaken && end.saw_end, "no end: {:?}", end.stage);
            assert_eq!(end.drain.at, other.sealed, "something is lost: {:?}", end.stage);
        }
    }
}

impl End {
    fn new(stage: Box<dyn TlsStage>, whose: u8) -> Self {
        Self {
            stage,
            arriving: VecDeque::new(),
            delivered: Vec::new(),
            handshaken: false,
            behind: false,
            saw_end: false,
            closed: false,
            failed: false,
            sealed: 0,
            drain: Drain { whose, at: 0, room: usize::MAX, scratch: [0; 1000] },
        }
    }

    /// Encrypts the next bytes of this end, in a small piece and the rest.
    fn seal(&mut self, length: usize, whose: usize) {
        if !self.handshaken || self.failed || self.sealed > MOST {
            return;
        }
        let end = self.sealed + length as u64;
        let bytes: Vec<u8> = (self.sealed..end).map(|at| pattern(whose as u8, at)).collect();
        let (head, tail) = bytes.split_at(length.min(28));
        let pieces = [head, tail].map(std::io::IoSlice::new);
        match self.stage.seal(&pieces) {
            Ok(taken) => {
                assert!(taken <= length, "{taken} of {length} bytes were encrypted");
                self.sealed += taken as u64;
            }
            Err(_) => self.failed = true,
        }
    }

    /// Delivers up to so many bytes and takes what comes out.
    fn deliver(&mut self, mut most: usize) {
        loop {
            let mut moved = 0;
            // While a stage is behind nothing more is read, and it needs no room.
            if !self.behind {
                let room = self.stage.wire_mut().recv_buf();
                moved = room.len().min(most).min(self.arriving.len());
                assert!(moved > 0 || !room.is_empty() || self.failed, "it is stuck");
                self.delivered = self.arriving.drain(..moved).collect();
                room[..moved].copy_from_slice(&self.delivered);
                self.stage.wire_mut().received(moved);
                most -= moved;
            }
            let before = self.drain.at;
            self.advance();
            if moved == 0 && self.drain.at == before {
                return;
            }
        }
    }

    fn advance(&mut self) {
        if !self.handshaken {
            match self.stage.handshake() {
                Ok(done) => self.handshaken = done,
                Err(_) => self.failed = true,
            }
        }
        if !self.handshaken {
            return;
        }
        let info = self.stage.info();
        assert!(info.is_some(), "the handshake is done and nothing is known of it");
        match self.stage.open(&mut self.drain) {
            Ok(opened) => {
                self.behind = opened == Opened::Behind;
                self.saw_end |= opened == Opened::Closed;
            }
            Err(_) => (self.failed, self.behind) = (true, false),
        }
    }
}

/// Compares what comes out with what was sent.
struct Drain {
    whose: u8,
    at: u64,
    room: usize,
    scratch: [u8; 1000],
}

impl Drain {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert_eq!(*byte, pattern(self.whose, self.at), "wrong plaintext at {}", self.at);
            self.at += 1;
        }
        self.room -= bytes.len();
    }
}

impl Plaintext for Drain {
    fn feed(&mut self, bytes: &[u8]) -> Result<usize, nbd_proto::Error> {
        let taken = bytes.len().min(self.room);
        self.take(&bytes[..taken]);
        Ok(taken)
    }

    fn recv_buf(&mut self) -> &mut [u8] {
        let room = self.scratch.len().min(self.room);
        &mut self.scratch[..room]
    }

    fn received(&mut self, n: usize) -> Result<(), nbd_proto::Error> {
        let bytes = self.scratch;
        self.take(&bytes[..n]);
        Ok(())
    }
}

/// The byte that an end sends at `at`.
const fn pattern(whose: u8, at: u64) -> u8 {
    (at ^ at >> 8) as u8 ^ whose
}

/// Few bytes, one by one, or many.
fn amount_of(byte: u8) -> usize {
    match usize::from(byte) {
        few @ 0..=99 => few,
        some @ 100..=199 => (some - 99) * 50,
        255 => 300 << 10,
        many => (many - 199) * 1500,
    }
}

/// What both ends know each other by, made when it is first needed.
struct Ends {
    known: (TlsAcceptor, TlsConnector),
    anonymous: (TlsAcceptor, TlsConnector),
    keys: (TlsAcceptor, TlsConnector),
}

static ENDS: LazyLock<Ends> = LazyLock::new(|| {
    let key = KeyPair::generate().expect("a key is made");
    let mut params = CertificateParams::new(Vec::new()).expect("no names are no fault");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).expect("the authority signs itself").pem();
    let issuer = Issuer::new(params, key);
    let issue = |name: &str| {
        let key = KeyPair::generate().expect("a key is made");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("it is a name");
        let certificate = params.signed_by(&key, &issuer).expect("it is signed");
        (text(certificate.pem()), text(key.serialize_pem()))
    };
    let (server, client) = (issue("localhost"), issue("client"));
    let accept = |verify| {
        let (certificate, key) = server.clone();
        let config = TlsServerConfig::identity(certificate, key, Some(text(authority.clone())));
        config.verify_clients(verify).acceptor().expect("it is sound")
    };
    let trusting = TlsConfig::new().authorities(text(authority.clone()));
    let (certificate, key) = client;
    let known = trusting.clone().identity(certificate, key);
    let by_key = TlsConfig::new().psk_key_bytes([7; 32]).username("alice");
    let keys = TlsServerConfig::psk_key_bytes("alice", [7; 32]);
    let connect = |config: TlsConfig| config.connector().expect("it is sound");
    Ends {
        known: (accept(true), connect(known)),
        anonymous: (accept(false), connect(trusting)),
        keys: (keys.acceptor().expect("it is sound"), connect(by_key)),
    }
});

fn text(pem: String) -> Credentials {
    Credentials::Pem(pem.into_bytes())
}
