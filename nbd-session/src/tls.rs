//! Drives a stage between a machine and its transport.

use crate::link::LinkError;
use nbd_proto::io::{Progress, checked_count, is_gone};
use nbd_proto::{Direction, Error, Machine, PayloadSink, PayloadSource};
use nbd_transport::tls::stage::{IntoMachine, Opened, TlsStage};
use nbd_transport::tls::{TlsError, TlsInfo, TlsRole};
use std::io::{self, ErrorKind, IoSlice, Read, Write};

/// Pieces that are encrypted in one go; enough for the headers and payloads of 64 writes.
const PIECES: usize = 128;

/// With so much unsent, in bytes, nothing more is read. Only a peer that makes us answer on the
/// level of TLS without reading the answers gets here.
const CLOGGED: usize = 1 << 20;

/// A stage and how far it has come.
#[derive(Debug)]
pub(crate) struct TlsSession {
    stage: Box<dyn TlsStage>,
    state: State,
    /// No plaintext has come yet.
    fresh: bool,
    /// Something was decrypted, or can be, that the machine has not been offered or not taken.
    behind: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Handshake,
    Open,
    /// Only a last word may still leave.
    Failed,
}

impl TlsSession {
    pub(crate) fn new(stage: Box<dyn TlsStage>) -> Self {
        Self { stage, state: State::Handshake, fresh: true, behind: false }
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.state == State::Handshake
    }

    pub(crate) const fn is_behind(&self) -> bool {
        self.behind
    }

    pub(crate) fn info(&self) -> Option<&TlsInfo> {
        self.stage.info()
    }

    pub(crate) fn take_unsent(&mut self) -> Vec<u8> {
        let wire = self.stage.wire_mut();
        let bytes = wire.unsent().to_vec();
        wire.sent(bytes.len());
        bytes
    }

    pub(crate) fn close(&mut self) {
        if self.state == State::Open {
            self.stage.close();
        }
    }

    pub(crate) fn direction<M: Machine>(&self, machine: &M) -> Direction {
        let mut direction = match self.state {
            State::Handshake => Direction::READ,
            State::Open => machine.get_direction(),
            State::Failed => return Direction::empty(),
        };
        if !self.stage.wire().unsent().is_empty() {
            direction |= Direction::WRITE;
        }
        direction
    }

    /// Reads once, and hands over everything that can be decrypted then.
    pub(crate) fn read<M, R, S>(
        &mut self,
        machine: &mut M,
        io: &mut R,
        sink: &mut S,
    ) -> Result<Progress, LinkError>
    where
        M: Machine,
        R: Read + ?Sized,
        S: PayloadSink,
    {
        let result = self.try_read(machine, io, sink);
        if let Err(LinkError::Tls(_)) = result {
            self.state = State::Failed;
            // What is in flight is lost; why, the error tells.
            let _ = machine.eof();
        }
        result
    }

    fn try_read<M, R, S>(
        &mut self,
        machine: &mut M,
        io: &mut R,
        sink: &mut S,
    ) -> Result<Progress, LinkError>
    where
        M: Machine,
        R: Read + ?Sized,
        S: PayloadSink,
    {
        if !self.direction(machine).contains(Direction::READ)
            || self.stage.wire().unsent().len() > CLOGGED
        {
            return Ok(Progress::Blocked);
        }
        if self.behind {
            // There may be nothing more to read, and reading may wait.
            return Ok(match self.deliver(machine, sink)? {
                Progress::Blocked if !self.behind => Progress::More,
                progress => progress,
            });
        }
        let room = self.stage.wire_mut().recv_buf();
        if room.is_empty() {
            let reason = String::from("a message that is too long");
            let peer = self.stage.peer();
            return Err(TlsError::Misbehaved { peer, reason }.into());
        }
        let offered = room.len();
        let received = loop {
            match io.read(room) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match received {
            Ok(0) => self.cut_off(machine),
            Ok(n) => {
                let n = checked_count(n, offered)?;
                self.stage.wire_mut().received(n);
                if self.state == State::Handshake {
                    if !self.stage.handshake()? {
                        return Ok(Progress::Blocked);
                    }
                    self.state = State::Open;
                    self.behind = true;
                    return Ok(Progress::More);
                }
                Ok(match self.deliver(machine, sink)? {
                    Progress::Blocked if n == offered => Progress::More,
                    progress => progress,
                })
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Progress::Blocked),
            // A peer that closes without reading all that we sent, such as our `close_notify`,
            // resets the connection.
            Err(error)
                if error.kind() == ErrorKind::ConnectionReset
                    && (self.fresh || machine.is_ending()) =>
            {
                self.cut_off(machine)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Hands over what can be decrypted.
    fn deliver<M, S>(&mut self, machine: &mut M, sink: &mut S) -> Result<Progress, LinkError>
    where
        M: Machine,
        S: PayloadSink,
    {
        let before = machine.stats().bytes_received;
        let opened = self.stage.open(&mut IntoMachine { machine, sink });
        self.fresh &= machine.stats().bytes_received == before;
        let opened = opened?;
        self.behind = opened == Opened::Behind;
        if opened == Opened::Closed {
            machine.eof()?;
            return Ok(Progress::Closed);
        }
        Ok(Progress::Blocked)
    }

    /// The stream has ended without `close_notify`. An attacker may have cut it off; that does no
    /// harm only when nothing more was to come.
    fn cut_off<M: Machine>(&self, machine: &mut M) -> Result<Progress, LinkError> {
        let suspicion = self.stage.suspicion();
        if self.state == State::Handshake {
            let peer = self.stage.peer();
            return Err(TlsError::ClosedInHandshake { peer, suspicion }.into());
        }
        let ending = machine.is_ending();
        match machine.eof() {
            Ok(()) if ending => Ok(Progress::Closed),
            // proto.md, "NBD_OPT_EXPORT_NAME": this is how a server says no.
            Err(error @ Error::Refused(_)) => Err(error.into()),
            Ok(()) | Err(_) if self.fresh => {
                let peer = self.stage.peer();
                Err(TlsError::ClosedAfterHandshake { peer, suspicion }.into())
            }
            Ok(()) | Err(_) => Err(TlsError::Truncated.into()),
        }
    }

    /// Writes once: what is encrypted, or else what the machine has to send.
    pub(crate) fn write<M, W, P>(
        &mut self,
        machine: &mut M,
        io: &mut W,
        source: &P,
    ) -> Result<Progress, LinkError>
    where
        M: Machine,
        W: Write + ?Sized,
        P: PayloadSource + ?Sized,
    {
        if self.state == State::Open && self.stage.wire().unsent().is_empty() {
            self.encrypt(machine, source)?;
        }
        let wire = self.stage.wire_mut();
        while !wire.unsent().is_empty() {
            match io.write(wire.unsent()) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(n) => {
                    let n = checked_count(n, wire.unsent().len())?;
                    wire.sent(n);
                    let more = self.direction(machine).contains(Direction::WRITE);
                    return Ok(if more { Progress::More } else { Progress::Blocked });
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // What the peer sent before it went can still be read, and tells more.
                Err(error) if is_gone(error.kind()) => {
                    let lost = wire.unsent().len();
                    wire.sent(lost);
                    machine.send_failed();
                    return Ok(Progress::Closed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Progress::Blocked)
    }

    fn encrypt<M, P>(&mut self, machine: &mut M, source: &P) -> Result<(), LinkError>
    where
        M: Machine,
        P: PayloadSource + ?Sized,
    {
        if machine.get_direction().contains(Direction::WRITE) {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let filled = machine.send_bufs(source, &mut pieces)?;
            let sealed = self.stage.seal(pieces.get(..filled).unwrap_or_default());
            let sealed = match sealed {
                Ok(n) => n,
                Err(error) => {
                    self.state = State::Failed;
                    // What is in flight is lost; why, the error tells.
                    let _ = machine.eof();
                    return Err(error.into());
                }
            };
            machine.sent(sealed)?;
        }
        // A server may still have replies to come; only its owner knows.
        let client = self.stage.peer() == TlsRole::Server;
        if client && machine.is_ending() && !machine.get_direction().contains(Direction::WRITE) {
            self.stage.close();
        }
        Ok(())
    }
}
