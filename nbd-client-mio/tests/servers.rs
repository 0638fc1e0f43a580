//! What only an event source does, against servers nobody here wrote.

mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::mem;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};
use nbd_client_mio::proto::{ClientConfig, Command, CommandFlags, Direction, SubmitError};
use nbd_client_mio::transport::{CommandSpec, Endpoint};
use nbd_client_mio::{
    BufferPool, ConnectOptions, Connection, ErrorKind, Limit, PooledBuffer, State,
};
use nbd_sim::peer::{Scratch, Server};
use nbd_sim::rng::noise;
use support::Loop;

fn nbdkit(args: &[&str]) -> Server {
    Server::nbdkit(args).start().expect("nbdkit")
}

fn options() -> ConnectOptions {
    ConnectOptions::new().meta_context("base:allocation")
}

fn waker(this: &Loop) -> Waker {
    Waker::new(this.poll.registry(), Token(usize::MAX)).unwrap()
}

#[test]
fn two_hundred_connections_on_one_poll() {
    let server = nbdkit(&["-t", "4", "memory", "1M"]);
    let mut this = Loop::new();
    for _ in 0..200 {
        this.connect(&options(), &server.uri());
    }
    this.all(State::Ready);
    let poke = |token: usize| noise(512, token as u64 + 1);
    for token in 0..200 {
        let offset = token as u64 * 512;
        let write = this.disk(token).write(poke(token), offset, CommandFlags::empty());
        write.unwrap();
    }
    for _ in 0..200 {
        this.next().result.unwrap();
    }
    // Each reads what its neighbour wrote.
    for token in 0..200 {
        let offset = (token as u64 + 1) % 200 * 512;
        this.disk(token).read(vec![0; 512], offset).unwrap();
    }
    for _ in 0..200 {
        let done = this.next();
        assert!(done.buffer.unwrap() == poke(done.command.offset as usize / 512));
    }
    this.disks.values_mut().for_each(|disk| disk.disconnect(Limit::Default));
    this.all(State::Closed);
    assert!(this.errors.is_empty(), "{:?}", this.errors);
}

#[test]
fn a_server_that_dies_takes_nothing_but_the_replies() {
    let mut server = nbdkit(&["--filter=delay", "memory", "1M", "rdelay=60"]);
    let mut this = Loop::new();
    let token = this.ready(&options(), &server.uri());
    for index in 0..10 {
        this.disk(token).read(vec![7; 512], index * 512).unwrap();
    }
    this.until("all is sent", |this| this.disk(token).session().direction() == Direction::READ);
    server.kill();
    for _ in 0..10 {
        let done = this.next();
        assert_eq!(done.buffer.map(|buffer| buffer.len()), Some(512));
        let error = done.result.unwrap_err();
        assert_eq!(error.errno(), 107, "{error}");
    }
    assert_eq!(this.errors.len(), 1, "told once: {:?}", this.errors);
    assert_eq!(this.disk(token).state(), State::Closed);
    let rejected = this.disk(token).read(vec![7; 512], 0).unwrap_err();
    assert_eq!(rejected.buffer, Some(vec![7; 512]));
    assert_eq!(rejected.error.errno(), 107, "{rejected}");
}

/// Nor does one that never served: whoever comes later is told what was wrong with it.
#[test]
fn what_is_no_server_is_told_to_all() {
    let scratch = Scratch::new().unwrap();
    let path = scratch.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut this = Loop::new();
    // One says something else, the other nothing.
    let options = ConnectOptions::new().endpoint(Endpoint::Unix(path));
    let limited = options.clone().connect_timeout(Duration::from_millis(100));
    let silent = this.add(Connection::connect(limited).unwrap());
    let _held = listener.accept().unwrap();
    let other = this.add(Connection::connect(options).unwrap());
    listener.accept().unwrap().0.write_all(b"220 mail.example ESMTP").unwrap();
    this.until("two errors", |this| this.errors.len() == 2);
    for (token, first) in mem::take(&mut this.errors) {
        match first.kind() {
            ErrorKind::TimedOut => assert_eq!(token, silent),
            ErrorKind::Protocol => assert_eq!(token, other),
            _ => panic!("{first}"),
        }
        for _ in 0..2 {
            let rejected = this.disk(token).read(vec![7; 512], 0).unwrap_err();
            assert_eq!(rejected.error.to_string(), first.to_string());
            assert_eq!(rejected.buffer, Some(vec![7; 512]));
            this.disk(token).disconnect(Limit::Default);
        }
    }
}

/// The server is made of nothing but bytes: oldstyle, 1 MiB, one reply, then silence one
/// way.
#[test]
fn a_half_closed_connection_is_noticed_with_the_last_bytes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (go, gone) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut greeting = b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53".to_vec();
        greeting.extend((1_u64 << 20).to_be_bytes());
        greeting.extend([0, 0, 0, 1]);
        greeting.extend([0; 124]);
        stream.write_all(&greeting).unwrap();
        let mut requests = [0; 56];
        stream.read_exact(&mut requests).unwrap();
        gone.recv().unwrap();
        // One reply and the end in one go: the client's read comes back short, and no
        // event tells of the end again.
        let mut reply = b"\x67\x44\x66\x98\x00\x00\x00\x00".to_vec();
        reply.extend(&requests[8..16]);
        reply.extend([0xab; 512]);
        stream.write_all(&reply).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        ended.send(()).unwrap();
        // Open the other way until the client leaves.
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    });
    let mut this = Loop::new();
    let token =
        this.add(Connection::connect(options().endpoint(Endpoint::Address(address))).unwrap());
    this.until("ready", |this| this.disk(token).state() == State::Ready);
    for offset in [0, 512] {
        this.disk(token).read(vec![0; 512], offset).unwrap();
    }
    this.turn(Instant::now());
    go.send(()).unwrap();
    end.recv().unwrap();
    let first = this.next();
    first.result.unwrap();
    assert_eq!(first.buffer.unwrap(), [0xab; 512]);
    let error = this.next().result.unwrap_err();
    assert!(error.is_closed(), "{error}");
    drop(this);
    server.join().unwrap();
}

#[test]
fn a_silent_server_costs_no_turns_and_giving_up_spares_the_connection() {
    let server = nbdkit(&["memory", "1M"]);
    let mut this = Loop::new();
    let token = this.ready(&options().silence(Duration::from_secs(3600)), &server.uri());
    server.stop().unwrap();
    assert_eq!(this.disk(token).next_deadline(), None, "nothing is expected");
    let before = Instant::now();
    let id = this.disk(token).read(vec![0; 512], 0).unwrap();
    let deadline = this.disk(token).next_deadline().unwrap();
    let limit = Duration::from_secs(3600);
    assert!(deadline >= before + limit && deadline <= Instant::now() + limit);
    let turns = this.turns;
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        this.turn(end);
    }
    assert!(this.turns - turns < 5, "{} turns", this.turns - turns);
    // The next command gets its own reply.
    assert_eq!(this.disk(token).withdraw(id), Some(vec![0; 512]));
    assert_eq!(this.disk(token).next_deadline(), Some(deadline), "it still owes the reply");
    server.cont().unwrap();
    let next = this.disk(token).read(vec![1; 512], 512).unwrap();
    let done = this.next();
    assert_eq!(done.id, next);
    done.result.unwrap();
    assert_eq!(this.disk(token).next_deadline(), None, "nothing is owed any more");
}

/// Where only calls are limited, a call that nobody waits for has no limit.
#[test]
fn a_call_that_is_withdrawn_has_no_deadline() {
    let server = nbdkit(&["memory", "1M"]);
    let mut this = Loop::new();
    let token = this.ready(&options().request_timeout(Duration::from_secs(3600)), &server.uri());
    server.stop().unwrap();
    let id = this.disk(token).read(vec![0; 512], 0).unwrap();
    assert!(this.disk(token).next_deadline().is_some());
    assert_eq!(this.disk(token).withdraw(id), Some(vec![0; 512]));
    assert_eq!(this.disk(token).next_deadline(), None);
    server.cont().unwrap();
}

/// A server that is silent for too long is a lost connection, and the time is what it is told.
#[test]
fn silence_ends_the_connection_when_its_time_has_come() {
    let server = nbdkit(&["memory", "1M"]);
    let mut this = Loop::new();
    let token = this.ready(&options().silence(Duration::from_secs(3600)), &server.uri());
    server.stop().unwrap();
    this.disk(token).read(vec![5; 512], 0).unwrap();
    let deadline = this.disk(token).next_deadline().unwrap();
    this.disk(token).handle_timeout(deadline - Duration::from_millis(1));
    assert_eq!(this.disk(token).state(), State::Ready);
    this.disk(token).handle_timeout(deadline);
    let done = this.next();
    assert_eq!(done.buffer, Some(vec![5; 512]));
    assert!(done.result.unwrap_err().is_timeout());
    assert_eq!(this.disk(token).state(), State::Closed);
    server.cont().unwrap();
}

#[test]
fn other_threads_submit_wait_in_line_and_are_answered() {
    let server = nbdkit(&["memory", "1M"]);
    let mut this = Loop::new();
    let waker = Arc::new(waker(&this));
    let limits = nbd_client_mio::proto::Limits::default().max_in_flight(4);
    let options = ConnectOptions::new().config(ClientConfig::new().limits(limits));
    let token = this.connect(&options, &server.uri());
    let submitter = this.disk(token).submitter(waker);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (submitter, sender) = (submitter.clone(), sender.clone());
            scope.spawn(move || {
                for index in 0..100 {
                    let offset = (thread * 100 + index) * 512;
                    let sender = sender.clone();
                    let buffer = noise(512, offset + 1);
                    let command = Command::write(offset, 512);
                    let on_done = move |outcome| sender.send(outcome).unwrap();
                    submitter.submit(command, Some(buffer), on_done).unwrap();
                }
            });
        }
        let mut answered = 0;
        this.until("all are answered", |_| {
            for outcome in receiver.try_iter() {
                let done = outcome.unwrap();
                done.result.unwrap();
                answered += 1;
            }
            answered == 400
        });
    });
    this.disk(token).read(vec![0; 512], 399 * 512).unwrap();
    assert!(this.next().buffer.unwrap() == noise(512, 399 * 512 + 1));
    // After the end, the answer is no.
    this.disk(token).disconnect(Limit::Default);
    this.all(State::Closed);
    let (sender, late) = mpsc::channel();
    let buffer = Some(vec![5; 512]);
    let command = Command::read(0, 512);
    let on_done = move |outcome| sender.send(outcome).unwrap();
    submitter.submit(command, buffer, on_done).unwrap();
    let mut outcome = None;
    this.until("a rejection", |_| {
        outcome = late.try_recv().ok();
        outcome.is_some()
    });
    let rejected = outcome.unwrap().unwrap_err();
    assert_eq!(rejected.buffer, Some(vec![5; 512]));
}

/// Nobody waits for ever for a loop that is no more.
#[test]
fn who_submits_to_a_loop_that_is_gone_is_told() {
    let server = nbdkit(&["memory", "1M"]);
    let mut this = Loop::new();
    let waker = Arc::new(waker(&this));
    let limits = nbd_client_mio::proto::Limits::default().max_in_flight(2);
    let options = ConnectOptions::new().config(ClientConfig::new().limits(limits));
    let token = this.ready(&options, &server.uri());
    let submitter = this.disk(token).submitter(waker);
    server.stop().unwrap();
    let (sender, receiver) = mpsc::channel();
    // Two are with the server, the others in line.
    for offset in 0..5 {
        let sender = sender.clone();
        let on_done = move |outcome| sender.send(outcome).unwrap();
        let buffer = Some(vec![0; 512]);
        submitter.submit(Command::read(offset * 512, 512), buffer, on_done).unwrap();
    }
    this.until("two are sent", |this| this.disk(token).session().in_flight() == 2);
    // The poll goes first, then the connection.
    let Loop { poll, disks, .. } = this;
    drop(poll);
    drop(disks);
    let late = sender.clone();
    let on_done = move |outcome| late.send(outcome).unwrap();
    let error = submitter.submit(Command::flush(), None, on_done).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    drop(sender);
    // Whoever waits for an answer sees that there will be none.
    let gone = receiver.recv_timeout(Duration::from_secs(60));
    assert!(matches!(gone, Err(mpsc::RecvTimeoutError::Disconnected)), "{gone:?}");
    server.cont().unwrap();
}

#[test]
fn names_and_programs_are_dialled_beside_the_loop() {
    let server = Server::nbdkit(&["memory", "1M"]).tcp().start().unwrap();
    let port = server.tcp_address().unwrap().port();
    let mut this = Loop::new();
    let host = String::from("localhost");
    let name = Endpoint::Tcp { host, port };
    // It says nothing before it may.
    let scratch = Scratch::new().unwrap();
    let gate = scratch.join("gate");
    let shown = gate.display();
    let text = format!(
        "until [ -e {shown} ]; do kill -0 $PPID || exit; sleep 0.01; done; exec nbdkit -s memory 1M"
    );
    let program = Endpoint::Command(CommandSpec::new("sh", ["-c", &text]));
    let token = this.add(Connection::connect(options().endpoint(name)).unwrap());
    let state = this.disk(token).state();
    assert!(matches!(state, State::Connecting | State::Negotiating), "{state:?}");
    let token = this.add(Connection::connect(options().endpoint(program)).unwrap());
    assert_eq!(this.disk(token).state(), State::Connecting, "nothing is waited for");
    fs::write(&gate, "").unwrap();
    this.all(State::Ready);
    for token in 0..2 {
        this.disk(token).read(vec![1; 512], 0).unwrap();
        assert_eq!(this.next().buffer.unwrap(), [0; 512]);
    }
    // Longer than any label of a name may be, so that no server is asked.
    let host = "x".repeat(70);
    let nobody = Endpoint::Tcp { host: host.clone(), port };
    let token = this.add(Connection::connect(options().endpoint(nobody)).unwrap());
    this.until("an error", |this| !this.errors.is_empty());
    let (_, error) = this.errors.remove(0);
    assert!(error.to_string().contains(&host), "{error}");
    assert_eq!(this.disk(token).state(), State::Closed);
}

/// The helper gives up for whoever is gone, and a program that says nothing is told to end.
#[test]
fn what_is_being_dialled_ends_with_its_connection() {
    let scratch = Scratch::new().unwrap();
    let pid_file = scratch.join("pid");
    let name = pid_file.display();
    let text = format!("echo $$ >{name}.new; mv {name}.new {name}; exec sleep 100");
    let program = Endpoint::Command(CommandSpec::new("sh", ["-c", &text]));
    let disk = Connection::<Vec<u8>>::connect(ConnectOptions::new().endpoint(program)).unwrap();
    let pid = eventually(|| fs::read_to_string(&pid_file).ok());
    drop(disk);
    let process = Path::new("/proc").join(pid.trim());
    eventually(|| (!process.exists()).then_some(()));
}

/// Asks again and again, until there is an answer.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "it takes too long");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn refused_commands_give_their_buffers_back() {
    let server = nbdkit(&["-r", "memory", "1M"]);
    let limits = nbd_client_mio::proto::Limits::default().max_in_flight(2);
    let options = ConnectOptions::new().config(ClientConfig::new().limits(limits));
    let mut this = Loop::new();
    let token = this.connect(&options, &server.uri());
    let early = this.disk(token).read(vec![4; 1], 0).unwrap_err();
    assert_eq!(early.error.submit_error(), Some(SubmitError::NotConnected));
    assert_eq!(early.buffer, Some(vec![4; 1]));
    this.all(State::Ready);
    let disk = this.disk(token);
    let refused = disk.write(vec![5; 512], 0, CommandFlags::empty()).unwrap_err();
    assert_eq!((refused.error.errno(), refused.buffer), (1, Some(vec![5; 512])));
    let short = disk.submit(Command::read(0, 512), Some(vec![0; 511])).unwrap_err();
    assert!(short.error.to_string().contains("a buffer of 511 bytes"), "{}", short.error);
    disk.read(vec![0; 512], 0).unwrap();
    disk.read(vec![0; 512], 0).unwrap();
    let full = disk.read(vec![0; 512], 0).unwrap_err();
    assert!(full.error.is_full(), "{full}");
    this.next().result.unwrap();
    this.next().result.unwrap();
}

#[test]
fn a_handler_keeps_the_line_full() {
    let server = nbdkit(&["memory", "1M"]);
    let mut this = Loop::new();
    let token = this.ready(&options(), &server.uri());
    let mut disk = this.disks.remove(&token).unwrap();
    disk.read(vec![1; 4096], 0).unwrap();
    let mut left = 500;
    let mut events = Events::with_capacity(4);
    while disk.drive(this.poll.registry()).unwrap() != State::Closed {
        while let Some(done) = disk.next_completion() {
            left -= 1;
            match left {
                0 => disk.disconnect(Limit::Default),
                _ => drop(disk.read(done.buffer.unwrap(), 0).unwrap()),
            }
        }
        if !disk.needs_drive() {
            match this.poll.poll(&mut events, Some(Duration::from_secs(60))) {
                // A process that was stopped and goes on sees its calls interrupted.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled.unwrap(),
            }
            assert!(!events.is_empty() || disk.state() == State::Closed, "{disk:?}");
            events.iter().for_each(|event| disk.handle_event(event));
        }
    }
    assert_eq!(left, 0);
}

#[test]
fn buffers_of_a_pool_have_memory_for_what_comes() {
    const LENGTH: usize = 64 << 10;
    let server = nbdkit(&["pattern", "4M"]);
    let mut poll = Poll::new().unwrap();
    let mut disk = Connection::<PooledBuffer>::connect(server.uri().as_str()).unwrap();
    poll.registry().register(&mut disk, Token(0), Interest::READABLE).unwrap();
    let (mut events, pool) = (Events::with_capacity(16), BufferPool::new());
    let mut turn = |disk: &mut Connection<PooledBuffer>| {
        let wait = disk.needs_drive().then_some(Duration::ZERO);
        poll.poll(&mut events, wait).unwrap();
        events.iter().for_each(|event| disk.handle_event(event));
        disk.drive(poll.registry()).unwrap()
    };
    while turn(&mut disk) != State::Ready {}
    // Nobody answers: nothing is held for those who wait.
    server.stop().unwrap();
    for block in 0..64 {
        disk.read(pool.buffer(LENGTH), block * LENGTH as u64).unwrap();
    }
    while disk.needs_drive() {
        turn(&mut disk);
    }
    assert_eq!(pool.in_use(), 0);
    server.cont().unwrap();
    for _ in 0..64 {
        let done = loop {
            match disk.next_completion() {
                Some(done) => break done,
                None => turn(&mut disk),
            };
        };
        done.result.unwrap();
        let (buffer, at) = (done.buffer.unwrap(), done.command.offset);
        // The plugin's data tells where it is from.
        assert_eq!(buffer[..8], at.to_be_bytes());
        assert_eq!(buffer[LENGTH - 8..], (at + LENGTH as u64 - 8).to_be_bytes());
    }
    assert_eq!(pool.in_use(), 0);
}
