//! One session, and an adapter that waits for nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nbd_proto::io::IoMode;
use nbd_proto::{Direction, PayloadSink, PayloadSource, RequestId, part, part_mut};
use nbd_session::{ConnectOptions, Error, Session, Step, Withdrawn};

use crate::pipe::End;
use crate::recovery::server::ServerSide;
use crate::rng::Rng;

/// Payload by the session's names.
#[derive(Debug, Default)]
pub(super) struct Lent(pub(super) BTreeMap<RequestId, Vec<u8>>);

impl PayloadSink for Lent {
    fn region(&mut self, id: RequestId, at: usize, len: usize) -> &mut [u8] {
        self.0.get_mut(&id).map(|buffer| part_mut(buffer, at, len)).unwrap_or_default()
    }
}

impl PayloadSource for Lent {
    fn bytes(&self, id: RequestId, at: usize, len: usize) -> &[u8] {
        self.0.get(&id).map(|buffer| part(buffer, at, len)).unwrap_or_default()
    }
}

/// What the world makes of an attempt to connect.
pub(super) enum Dialled {
    Done(End, Box<ServerSide>),
    Refused,
    /// The outcome never comes.
    Never,
}

/// One connection.
pub(super) struct Stream {
    generation: u64,
    end: End,
    /// `None` after a crash.
    pub(super) server: Option<ServerSide>,
    /// Since when the server does nothing any more, nor does the network.
    pub(super) frozen: Option<Instant>,
    /// Since when it has owed an answer that cannot come, and how long that may take.
    pub(super) owes: Option<(Instant, Duration)>,
}

/// One session and everything around it.
pub(super) struct Member {
    pub(super) session: Session,
    pub(super) stream: Option<Stream>,
    pub(super) lent: Lent,
    mode: IoMode,
    /// Its number in the pool, once it has joined.
    pub(super) number: Option<usize>,
    /// The pool was told of its end.
    pub(super) is_counted_out: bool,
}

impl Member {
    pub(super) fn new(options: ConnectOptions, rng: &mut Rng, now: Instant) -> Self {
        Self {
            session: Session::new(options, rng.bits(), now).expect("sound options"),
            stream: None,
            lent: Lent::default(),
            mode: rng.pick(&[IoMode::Vectored, IoMode::Single]),
            number: None,
            is_counted_out: false,
        }
    }

    /// One turn. `dial` connects, perhaps again; connections that were closed are returned.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        dial: impl FnMut(&mut Rng, bool) -> Dialled,
        rng: &mut Rng,
    ) -> Result<Vec<ServerSide>, String> {
        if self.session.next_deadline().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
        }
        let closed = self.steps(now, dial, rng);
        let generation = self.session.generation();
        if let Some(stream) = self.stream.as_mut().filter(|it| it.generation == generation) {
            if self.session.direction().contains(Direction::WRITE) {
                self.session.write(&mut stream.end, &mut self.lent, now);
            }
            if self.session.direction().contains(Direction::READ) {
                self.session.read(&mut stream.end, &mut self.lent, now);
            }
        }
        while let Some(id) = self.session.next_released() {
            if self.lent.0.remove(&id).is_none() {
                return Err(format!("{id:?} was released, and nobody had lent anything"));
            }
        }
        Ok(closed)
    }

    fn steps(
        &mut self,
        now: Instant,
        mut dial: impl FnMut(&mut Rng, bool) -> Dialled,
        rng: &mut Rng,
    ) -> Vec<ServerSide> {
        let mut closed = Vec::new();
        while let Some(step) = self.session.next_step() {
            match step {
                Step::Connect(connect) => {
                    let generation = connect.generation;
                    let outcome = match dial(rng, generation > 1) {
                        Dialled::Done(end, server) => {
                            let server = Some(*server);
                            let (frozen, owes) = (None, None);
                            self.stream = Some(Stream { generation, end, server, frozen, owes });
                            Ok(self.mode)
                        }
                        Dialled::Refused => Err(refused()),
                        Dialled::Never => continue,
                    };
                    self.session.connected(generation, outcome, now);
                }
                Step::Close { generation, .. } => {
                    let gone = self.stream.take_if(|stream| stream.generation <= generation);
                    closed.extend(gone.and_then(|stream| stream.server));
                }
                _ => {}
            }
        }
        closed
    }

    /// Whether bytes were moved since, as a number that grows.
    pub(super) fn moves(&self) -> u64 {
        let wire = self.session.stats().wire;
        wire.bytes_received + wire.bytes_sent
    }

    /// The server falls silent.
    pub(super) fn freeze(&mut self, now: Instant) {
        if let Some(stream) = &mut self.stream {
            stream.end.steady();
            stream.frozen.get_or_insert(now);
        }
    }

    /// The server is gone, with what was under way.
    pub(super) fn crash(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.end.cut();
            stream.server = None;
        }
    }

    /// A caller loses interest: its buffer is its own, or is waited for, or copied.
    pub(super) fn withdraw(&mut self, id: RequestId, rng: &mut Rng, now: Instant) {
        match self.session.withdraw(id, now) {
            Withdrawn::Free => drop(self.lent.0.remove(&id)),
            Withdrawn::HalfSent => self.copy_some(id, rng),
        }
    }

    /// Whoever cannot leave its buffer has it copied.
    pub(super) fn copy_some(&mut self, id: RequestId, rng: &mut Rng) {
        if rng.one_in(2)
            && let Some(buffer) = self.lent.0.remove(&id)
        {
            self.session.copy_held(id, &buffer);
        }
    }
}

fn refused() -> Error {
    std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()
}
