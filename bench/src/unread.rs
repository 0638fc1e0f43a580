//! What a server behind TLS can give: a client that does not decrypt what it reads.
//!
//! It asks as the others do, and throws the replies away as they come. No client of the same
//! server can do much better, whatever it decrypts with, so where it is no faster than another
//! client, that one waits for the server.

use std::collections::VecDeque;
use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;

use nbd_proto::wire::flags::{ClientFlags, CommandFlags};
use nbd_proto::wire::greeting::{ExportHeader, Style};
use nbd_proto::wire::option::{OptionHeader, OptionReplyHeader};
use nbd_proto::wire::reply::SimpleReply;
use nbd_proto::wire::request::{DISCONNECT, RequestHeader};
use nbd_proto::{CommandType, Error, OptionCode};
use nbd_transport::tls::TlsConfig;
use nbd_transport::tls::stage::{Plaintext, TlsStage};
use nbd_transport::{NbdUri, Stream};

use crate::Outcome;
use crate::load::{Load, Offsets};
use crate::measured::{Measured, Stopwatch};

/// As much as there is room for in the socket, and more.
const ROOM: usize = 256 << 10;

pub(crate) fn unread(load: &Load) -> Outcome<Measured> {
    if load.write || load.check {
        return Err("unread: what was read is not looked at".into());
    }
    let uri: NbdUri = load.uri.parse()?;
    let Stream::Unix(stream) = uri.endpoint().connect(None)?.stream else {
        return Err("unread: only over a Unix socket".into());
    };
    let stage = start_tls(&stream, &uri)?;
    let mut peer = Peer { stream, stage, plaintext: Collected::default(), asked: 0 };
    let mut offsets = Offsets::new(load, peer.enter()?)?;

    // Messages after the handshake may come before the first reply, but not before the second.
    peer.ask(0, load.length)?;
    peer.expect(SimpleReply::LEN + load.length)?;
    peer.ask(0, load.length)?;
    let sealed = peer.expect(SimpleReply::LEN + load.length)?;

    let mut stopwatch = Stopwatch::start(load)?;
    let mut buffer = vec![0; ROOM];
    // Replies are not told apart; they are taken for those to the oldest requests.
    let mut asked = VecDeque::with_capacity(load.depth);
    for at in offsets.by_ref().take(load.depth) {
        peer.ask(at, load.length)?;
        asked.push_back(stopwatch.now());
    }
    let (mut received, mut left) = (0, load.count);
    while left > 0 {
        received += match peer.stream.read(&mut buffer)? {
            0 => return Err("unread: the server closed".into()),
            n => n,
        };
        while received >= sealed {
            received -= sealed;
            left -= 1;
            let now = stopwatch.now();
            stopwatch.record(now - asked.pop_front().unwrap_or(now));
            if let Some(at) = offsets.next() {
                peer.ask(at, load.length)?;
                asked.push_back(now);
            }
        }
    }
    let measured = stopwatch.stop(load)?;
    peer.leave()?;
    Ok(measured)
}

/// Asks for TLS, and shakes hands.
fn start_tls(mut stream: &UnixStream, uri: &NbdUri) -> Outcome<Box<dyn TlsStage>> {
    let mut greeting = [0; Style::LEN + 2];
    stream.read_exact(&mut greeting)?;
    let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
    let option = OptionHeader { option: OptionCode::StartTls.to_wire(), length: 0 };
    stream.write_all(&flags.bits().to_be_bytes())?;
    stream.write_all(&option.encode())?;
    stream.read_exact(&mut [0; OptionReplyHeader::LEN])?;

    let mut stage = TlsConfig::from_uri(uri).connector()?.start(None)?;
    while !stage.handshake()? {
        send(&mut *stage, stream)?;
        receive(&mut *stage, stream)?;
    }
    send(&mut *stage, stream)?;
    Ok(stage)
}

struct Peer {
    stream: UnixStream,
    stage: Box<dyn TlsStage>,
    plaintext: Collected,
    asked: u64,
}

impl Peer {
    /// Enters the default export. Returns its size.
    fn enter(&mut self) -> Outcome<u64> {
        let option = OptionHeader { option: OptionCode::ExportName.to_wire(), length: 0 };
        self.say(&option.encode())?;
        self.expect(ExportHeader::NEWSTYLE_LEN)?;
        let header = self.plaintext.bytes.last_chunk().ok_or("unread: no answer")?;
        Ok(ExportHeader::decode_newstyle(header).size)
    }

    fn ask(&mut self, offset: u64, length: usize) -> Outcome<()> {
        self.request(CommandType::Read.to_wire(), offset, length as u64)
    }

    fn leave(&mut self) -> Outcome<()> {
        self.request(DISCONNECT, 0, 0)?;
        self.stage.close();
        Ok(send(&mut *self.stage, &self.stream)?)
    }

    fn request(&mut self, kind: u16, offset: u64, length: u64) -> Outcome<()> {
        self.asked += 1;
        let (flags, cookie) = (CommandFlags::empty(), self.asked);
        let header = RequestHeader { flags, kind, cookie, offset, length };
        self.say(&header.encode_compact().ok_or("unread: a request that is too long")?)
    }

    fn say(&mut self, plaintext: &[u8]) -> Outcome<()> {
        self.stage.seal(&[IoSlice::new(plaintext)])?;
        Ok(send(&mut *self.stage, &self.stream)?)
    }

    /// Reads and decrypts so many bytes. Returns how many they were on the wire.
    fn expect(&mut self, length: usize) -> Outcome<usize> {
        let mut sealed = 0;
        self.plaintext.bytes.clear();
        loop {
            self.stage.open(&mut self.plaintext)?;
            if self.plaintext.bytes.len() >= length {
                return Ok(sealed);
            }
            sealed += receive(&mut *self.stage, &self.stream)?;
        }
    }
}

fn send(stage: &mut dyn TlsStage, mut stream: &UnixStream) -> std::io::Result<()> {
    let unsent = stage.wire().unsent();
    stream.write_all(unsent)?;
    let sent = unsent.len();
    stage.wire_mut().sent(sent);
    Ok(())
}

fn receive(stage: &mut dyn TlsStage, mut stream: &UnixStream) -> Outcome<usize> {
    match stream.read(stage.wire_mut().recv_buf())? {
        0 => Err("unread: the server closed".into()),
        n => {
            stage.wire_mut().received(n);
            Ok(n)
        }
    }
}

/// Takes whatever is decrypted.
struct Collected {
    bytes: Vec<u8>,
    room: Vec<u8>,
}

impl Default for Collected {
    fn default() -> Self {
        Self { bytes: Vec::new(), room: vec![0; ROOM] }
    }
}

impl Plaintext for Collected {
    fn feed(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn recv_buf(&mut self) -> &mut [u8] {
        &mut self.room
    }

    fn received(&mut self, n: usize) -> Result<(), Error> {
        self.bytes.extend_from_slice(self.room.get(..n).unwrap_or_default());
        Ok(())
    }
}
