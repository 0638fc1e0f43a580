//! Several clients of one server without sockets, threads or a clock: an input says which bytes
//! move, which request is carried out next, how that goes, and when time passes.
//!
//! Of the clients some keep the rules and check what they are told, the others send anything. A
//! connection is driven when a runner would drive it and never else, so one that nobody wakes
//! stands still and is found out. At the end everybody who keeps the rules has been answered, all
//! have left, and the server holds nothing.
//!
//! | file | what |
//! |---|---|
//! | `mod` | what happens |
//! | `client` | a client that keeps the rules |
//! | `disk` | what is served, and what it has been |
//! | `wire` | the bytes between them |

mod client;
mod disk;
mod wire;

use std::cell::{Cell, RefCell};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use nbd_proto::{Direction, Disconnect};

use crate::clients::{Clients, Place};
use crate::config::{Limits, Shared, Tls};
use crate::connection::ConnectionError;
use crate::connection::budget::PATIENCE;
use crate::connection::handshake::{Handshake, Step};
use crate::connection::job::Job;
use crate::connection::mailbox::Mailbox;
use crate::connection::placement::Placement;
use crate::connection::session::{Execute, Next, Session};
use crate::export::{Abilities, AnyExport};
use crate::exports::{ExportList, Opened};
use crate::peer::Peer;
use client::Honest;
use disk::{Disk, NextCall};
use wire::Wire;

/// The least that a server may be told, so that memory is soon short.
const PAYLOAD: u32 = 64 << 10;

/// Everything that is left has moved long before so many turns.
const TURNS: usize = 100_000;

/// Whoever keeps the rules has been answered after so long, whatever others do.
const LONGEST: Duration = Duration::from_secs(60);

/// Plays what the bytes say, and panics when the server has broken a promise.
#[cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "only the fuzzer is elsewhere"))]
pub fn play(data: &[u8]) {
    let mut input = Input(data);
    let mut simulation = Simulation::new(&mut input);
    while !input.0.is_empty() {
        simulation.happen(&mut input);
    }
    simulation.settle();
}

/// The bytes that decide. Beyond their end all are 0.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, most: usize) -> &[u8] {
        let (head, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        head
    }
}

struct Simulation {
    shared: Arc<Shared>,
    disk: Arc<Disk>,
    deferred: DeferredJobs,
    connections: Vec<Connection>,
    begun: Instant,
    now: Instant,
    /// Time enough has passed for a client to have been too slow.
    slow: bool,
    version: u64,
}

/// One client, what serves it, and what that waits for.
struct Connection {
    wire: Wire,
    behaviour: Behaviour,
    stage: Stage,
    /// Its place among the clients, as long as a runner would keep it.
    _place: Option<Place>,
    /// It is served as in a task, else as in a thread of its own.
    in_task: bool,
    flag_waker: Arc<FlagWaker>,
    direction: Direction,
    deadline: Option<Instant>,
    /// The client was told to go, or the server to stop: its requests may remain unanswered.
    cut: bool,
}

enum Behaviour {
    Honest(Box<Honest>),
    /// Sends anything.
    Hostile,
}

enum Stage {
    Handshake(Box<Handshake>),
    Session(Box<Session>),
    Over,
}

#[derive(Debug, Default)]
struct FlagWaker(AtomicBool);

impl Wake for FlagWaker {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Requests that are carried out when the input says so.
struct DeferredJobs {
    jobs: RefCell<Vec<(Job, AnyExport, Arc<Mailbox>)>>,
    /// There is no thread for the next one.
    refuses: Cell<bool>,
    disk: Arc<Disk>,
}

impl Execute for DeferredJobs {
    fn execute(
        &self,
        job: Job,
        _queue: u64,
        export: &AnyExport,
        mailbox: &Arc<Mailbox>,
    ) -> Result<(), Box<Job>> {
        if self.refuses.take() {
            // A client's own thread may run it yet, if it may wait.
            self.disk.state().note_failure(nbd_proto::Errno::NoMem);
            return Err(Box::new(job));
        }
        self.jobs.borrow_mut().push((job, export.clone(), Arc::clone(mailbox)));
        Ok(())
    }
}

impl DeferredJobs {
    /// Carries one of them out. False when there is none.
    fn perform(&self, which: usize) -> bool {
        let mut jobs = self.jobs.borrow_mut();
        if jobs.is_empty() {
            return false;
        }
        let at = which % jobs.len();
        let (mut job, export, mailbox) = jobs.remove(at);
        match &export {
            AnyExport::Blocking(export) => job.run(&**export),
            AnyExport::Async(export) => {
                let done = catch_unwind(AssertUnwindSafe(|| {
                    let running = pin!(job.run_async(&**export));
                    running.poll(&mut Context::from_waker(Waker::noop()))
                }));
                match done {
                    Ok(Poll::Ready(())) => {}
                    Ok(Poll::Pending) => unreachable!("the disk does not wait"),
                    Err(_) => job.give_up(),
                }
            }
        }
        job.took = if which & 0x80 == 0 { Duration::ZERO } else { Duration::from_millis(1) };
        mailbox.put(job);
        true
    }
}

impl Simulation {
    fn new(input: &mut Input<'_>) -> Self {
        let (setup, begun) = (input.byte(), Instant::now());
        let disk = Arc::new(Disk::default());
        disk.state().set_hints(match setup >> 3 & 3 {
            0 => Abilities::empty(),
            1 => Abilities::NEVER_WAITS,
            _ => Abilities::RARELY_WAITS,
        });
        let opened = if setup & 1 == 0 {
            Opened::new("", Arc::clone(&disk) as _)
        } else {
            Opened::new_async("", Arc::clone(&disk) as _)
        };
        let limits = Limits {
            max_payload: PAYLOAD,
            max_memory: 0,
            stall_timeout: Duration::from_secs(10),
            ..Limits::default()
        };
        let exports = Arc::new(ExportList::new().opened(opened));
        let mut simulation = Self {
            shared: Arc::new(Shared::new(exports, limits, Tls::default(), None)),
            deferred: DeferredJobs {
                jobs: RefCell::default(),
                refuses: Cell::new(false),
                disk: Arc::clone(&disk),
            },
            disk,
            connections: Vec::new(),
            begun,
            now: begun,
            slow: false,
            version: 1,
        };
        for _ in 0..2 + (setup >> 1 & 3) {
            simulation.connect(input.byte());
        }
        simulation
    }

    /// One more client.
    fn connect(&mut self, how: u8) {
        let flag_waker = Arc::new(FlagWaker::default());
        let waker = Waker::from(Arc::clone(&flag_waker));
        let place = Arc::new(Clients::default()).admit(|_| waker, usize::MAX);
        let handshake = Handshake::new(Arc::clone(&self.shared), Peer::unknown(), place, self.now);
        flag_waker.wake_by_ref();
        let room = if how & 0x20 == 0 { 1 << 20 } else { 5000 };
        self.connections.push(Connection {
            wire: Wire { room, ..Wire::default() },
            behaviour: Behaviour::Hostile,
            stage: Stage::Handshake(Box::new(handshake)),
            _place: None,
            in_task: how & 0x40 != 0,
            flag_waker,
            direction: Direction::empty(),
            deadline: None,
            cut: false,
        });
        // Some begin with anything.
        if how & 0x18 == 0x18 {
            return;
        }
        let at = self.connections.len() - 1;
        let mut negotiation = client::negotiation(how & 3);
        loop {
            while self.drive(at) {}
            if client::negotiate(&mut negotiation, &mut self.connections[at].wire) {
                break;
            }
        }
        if how & 0x18 != 0x10 {
            self.connections[at].behaviour = Behaviour::Honest(Box::new(Honest::new(negotiation)));
        }
    }

    fn happen(&mut self, input: &mut Input<'_>) {
        let (call, what) = (input.byte(), input.byte());
        let at = usize::from(call >> 4) % self.connections.len();
        match call & 0xf {
            0..=3 => self.ask(at, what, input),
            4 | 5 => self.send(at, 1 + usize::from(what) * 300, input),
            6 => self.receive(at, 1 + usize::from(what) * 300),
            7..=9 => {
                self.drive(at);
            }
            10 | 11 => {
                self.deferred.perform(usize::from(what));
            }
            12 => self.disk.state().set_next_call(next_call(what)),
            13 => self.deferred.refuses.set(what & 1 == 0),
            14 => self.pass([1, 50, 400, 1100, 3000, 11_000][usize::from(what) % 6]),
            _ => self.end(at, what),
        }
    }

    fn ask(&mut self, at: usize, what: u8, input: &mut Input<'_>) {
        let (offset, length) = (input.byte(), input.byte());
        let connection = &mut self.connections[at];
        match &mut connection.behaviour {
            Behaviour::Honest(honest) => {
                honest.submit(what, offset, length, self.version, &self.disk);
                self.version += 16;
            }
            Behaviour::Hostile => {
                // In the form of a request, and seldom a sound one.
                let mut request = vec![0x25, 0x60, 0x95, 0x13, 0, what >> 4, 0, what % 9];
                request.extend([at as u8; 8]);
                request.extend((u64::from(offset) << 10).to_be_bytes());
                request.extend((u32::from(length) << 11).to_be_bytes());
                connection.wire.to_server.extend(request);
            }
        }
    }

    fn send(&mut self, at: usize, most: usize, input: &mut Input<'_>) {
        let connection = &mut self.connections[at];
        match &mut connection.behaviour {
            Behaviour::Honest(honest) => {
                honest.send(&mut connection.wire, most);
            }
            Behaviour::Hostile if most & 1 == 0 => {
                connection.wire.to_server.extend(input.bytes(most / 600));
            }
            Behaviour::Hostile => {
                let more = most.min((1 << 20_usize) - connection.wire.to_server.len().min(1 << 20));
                connection.wire.to_server.extend(std::iter::repeat_n(0, more));
            }
        }
    }

    fn receive(&mut self, at: usize, most: usize) {
        let connection = &mut self.connections[at];
        match &mut connection.behaviour {
            Behaviour::Honest(honest) => {
                honest.receive(&mut connection.wire, most, &self.disk);
            }
            Behaviour::Hostile => {
                let n = most.min(connection.wire.to_client.len());
                connection.wire.to_client.drain(..n);
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.slow = self.now >= self.begun + PATIENCE;
    }

    fn end(&mut self, at: usize, what: u8) {
        let connection = &mut self.connections[at];
        match what {
            // The client vanishes.
            0..16 => {
                connection.cut = true;
                connection.wire.ended = true;
            }
            16..32 => {
                connection.cut = true;
                if let Behaviour::Honest(honest) = &mut connection.behaviour {
                    honest.leave(Disconnect::AfterRequests);
                }
            }
            // The server stops.
            32..48 => {
                connection.cut = true;
                if let Stage::Session(session) = &mut connection.stage {
                    session.stop(self.now + Duration::from_secs(5));
                    connection.flag_waker.wake_by_ref();
                }
            }
            _ => {}
        }
    }

    /// Drives a connection, if its runner would. Whether it did.
    fn drive(&mut self, at: usize) -> bool {
        let now = self.now;
        let connection = &mut self.connections[at];
        let Connection { wire, stage, flag_waker, direction, deadline, .. } = connection;
        let readable = direction.contains(Direction::READ) && wire.is_readable();
        let writable = direction.contains(Direction::WRITE) && wire.is_writable();
        let late = deadline.is_some_and(|deadline| deadline <= now);
        if !(flag_waker.0.swap(false, Ordering::Relaxed) || readable || writable || late) {
            return false;
        }
        match stage {
            Stage::Over => return false,
            Stage::Handshake(handshake) => match handshake.drive(wire, now) {
                Ok(Step::Wait(wanted, until)) => {
                    (*direction, *deadline) = (wanted, Some(until));
                }
                Ok(Step::Again) => flag_waker.wake_by_ref(),
                Ok(Step::Ask) => {
                    handshake.answer().expect("it was asked");
                    flag_waker.wake_by_ref();
                }
                Ok(Step::Established) => self.establish(at),
                Ok(Step::Closed) | Err(_) => *stage = Stage::Over,
            },
            Stage::Session(session) => match session.drive(wire, readable, now, &self.deferred) {
                Ok(Next::Wait(wanted, until)) => (*direction, *deadline) = (wanted, until),
                Ok(Next::Again) => {
                    flag_waker.wake_by_ref();
                    // And is taken to be readable.
                    *direction |= Direction::READ;
                }
                Ok(Next::Closed) => {
                    session.close(wire);
                    *stage = Stage::Over;
                }
                Err(error) => {
                    let slow = self.slow && is_slowness(&error);
                    let honest = matches!(connection.behaviour, Behaviour::Honest(_));
                    assert!(!honest || connection.cut || slow, "an honest client: {error}");
                    connection.cut = true;
                    *stage = Stage::Over;
                }
            },
        }
        true
    }

    fn establish(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        let Stage::Handshake(handshake) = mem::replace(&mut connection.stage, Stage::Over) else {
            return;
        };
        let (established, place) = handshake.finish().expect("it is established");
        let waker = Waker::from(Arc::clone(&connection.flag_waker));
        let account = self.shared.budget.account(waker.clone());
        let mailbox = Arc::new(Mailbox::new(waker));
        let shared = Arc::clone(&self.shared);
        let placement =
            if connection.in_task { Placement::in_task() } else { Placement::in_thread() };
        let session = Session::new(established, shared, account, mailbox, placement, self.now);
        connection.stage = Stage::Session(Box::new(session));
        connection._place = Some(place);
        connection.direction = Direction::READ;
        connection.flag_waker.wake_by_ref();
    }

    /// Everybody who keeps the rules is answered and leaves; then the others do.
    fn settle(&mut self) {
        self.disk.state().set_next_call(NextCall::Well);
        self.deferred.refuses.set(false);
        let end = self.now + LONGEST;
        self.run();
        while self.connections.iter().any(Connection::waits) {
            let next = self.connections.iter().filter_map(Connection::next).min();
            let next = next.filter(|next| *next <= end).expect("a client waits for ever");
            self.now = self.now.max(next);
            self.run();
        }
        if self
            .connections
            .iter()
            .all(|connection| matches!(connection.behaviour, Behaviour::Honest(_)))
        {
            self.pass(2000);
            self.run();
            self.check_memory();
        }
        for connection in &mut self.connections {
            match &mut connection.behaviour {
                Behaviour::Honest(honest) => honest.leave(Disconnect::AfterReplies),
                Behaviour::Hostile => connection.wire.ended = true,
            }
        }
        self.run();
        for connection in &mut self.connections {
            assert!(matches!(connection.stage, Stage::Over), "it does not end");
            if let Behaviour::Honest(honest) = &mut connection.behaviour {
                honest.end(&self.disk);
            }
        }
        self.check_memory();
    }

    /// Nobody holds any.
    fn check_memory(&self) {
        let all = self.shared.budget.account(Waker::noop().clone()).take(4 * PAYLOAD as usize);
        assert!(all.is_some(), "memory is held for nobody");
    }

    /// Moves and does all there is, without any time passing.
    fn run(&mut self) {
        for _ in 0..TURNS {
            let mut moved = false;
            for at in 0..self.connections.len() {
                moved |= self.drive(at);
                let connection = &mut self.connections[at];
                if let Behaviour::Honest(honest) = &mut connection.behaviour {
                    moved |= honest.send(&mut connection.wire, usize::MAX);
                    moved |= honest.receive(&mut connection.wire, usize::MAX, &self.disk);
                }
            }
            moved |= self.deferred.perform(0);
            if !moved {
                return;
            }
        }
        panic!("it never comes to rest");
    }
}

impl Connection {
    /// Whether its client keeps the rules and has not been answered.
    fn waits(&self) -> bool {
        match &self.behaviour {
            Behaviour::Honest(honest) => !self.cut && honest.waits(),
            Behaviour::Hostile => false,
        }
    }

    /// When it goes on by itself.
    fn next(&self) -> Option<Instant> {
        if matches!(self.stage, Stage::Over) { None } else { self.deadline }
    }
}

const fn next_call(what: u8) -> NextCall {
    match what % 12 {
        0 => NextCall::Fails(5),
        1 => NextCall::Fails(28),
        2 => NextCall::Fails(1),
        3 | 4 => NextCall::FailsMidway,
        5 => NextCall::Panics,
        6 | 7 => NextCall::WouldWait,
        8 => NextCall::AtOnce,
        9 => NextCall::TooLittle,
        10 => NextCall::TooMuch,
        _ => NextCall::Well,
    }
}

/// Whether a client that is slow ends so.
const fn is_slowness(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::Stalled(_) | ConnectionError::MemoryShort | ConnectionError::Abandoned
    )
}

#[cfg(test)]
mod tests {
    use nbd_sim::rng::Rng;

    use super::play;

    /// Seeds of an ordinary run; `NBD_SIM_SEEDS` asks for more.
    const SEEDS: u64 = 500;

    #[test]
    fn what_the_fuzzer_begins_with_is_sound() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus-seeds/server_sessions");
        for entry in std::fs::read_dir(seeds).expect("the seeds") {
            play(&std::fs::read(entry.expect("a seed").path()).expect("its bytes"));
        }
    }

    #[test]
    fn whatever_happens_promises_are_kept() {
        let asked = std::env::var("NBD_SIM_SEEDS");
        let seeds = asked.map_or(SEEDS, |text| text.parse().expect("a number"));
        for seed in 0..seeds {
            let mut rng = Rng::new(seed);
            let mut data = vec![0; rng.between(10, 2000)];
            rng.fill(&mut data);
            if std::panic::catch_unwind(|| play(&data)).is_err() {
                panic!("seed {seed}");
            }
        }
    }
}
