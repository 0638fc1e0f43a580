//! What only an event source does, against servers nobody here wrote.

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nbd_client_mio::proto::{ClientConfig, Command, CommandFlags, Direction, Machine, SubmitError};
use nbd_client_mio::transport::{CommandSpec, Endpoint};
use nbd_client_mio::{Builder, Error, State};
use nbd_sim::peer::{Scratch, Server};
use support::{Loop, noise};

fn nbdkit(args: &[&str]) -> Server {
    Server::nbdkit(args).start().expect("nbdkit")
}

fn builder() -> Builder {
    Builder::new().meta_context("base:allocation")
}

#[test]
fn two_hundred_connections_on_one_poll() {
    let server = nbdkit(&["-t", "4", "memory", "1M"]);
    let mut this = Loop::new();
    for _ in 0..200 {
        this.connect(&builder(), &server.uri());
    }
    this.all(State::Ready);
    let poke = |token: usize| noise(512, token as u64 + 1);
    for token in 0..200 {
        let offset = token as u64 * 512;
        let write = this.disk(token).write(offset, poke(token), CommandFlags::empty());
        write.unwrap();
    }
    for _ in 0..200 {
        this.next().result.unwrap();
    }
    // Each reads what its neighbour wrote.
    for token in 0..200 {
        let offset = (token as u64 + 1) % 200 * 512;
        this.disk(token).read(offset, vec![0; 512]).unwrap();
    }
    for _ in 0..200 {
        let done = this.next();
        assert!(done.buffer.unwrap() == poke(done.command.offset as usize / 512));
    }
    this.disks.values_mut().for_each(support::Disk::disconnect);
    this.all(State::Closed);
    assert!(this.errors.is_empty(), "{:?}", this.errors);
}

#[test]
fn a_server_that_dies_takes_nothing_but_the_replies() {
    let mut server = nbdkit(&["--filter=delay", "memory", "1M", "rdelay=60"]);
    let mut this = Loop::new();
    let token = this.ready(&builder(), &server.uri());
    for index in 0..10 {
        this.disk(token).read(index * 512, vec![7; 512]).unwrap();
    }
    this.until("all is sent", |this| {
        this.disk(token).client().unwrap().get_direction() == Direction::READ
    });
    server.kill();
    for _ in 0..10 {
        let done = this.next();
        assert_eq!(done.buffer.map(|buffer| buffer.len()), Some(512));
        let error = done.result.unwrap_err();
        assert_eq!(error.errno(), 107, "{error}");
    }
    assert_eq!(this.errors.len(), 1, "told once: {:?}", this.errors);
    assert_eq!(this.disk(token).state(), State::Closed);
    let rejected = this.disk(token).read(0, vec![7; 512]).unwrap_err();
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
    let builder = Builder::new().timeout(Duration::from_millis(100));
    let silent = this.add(builder.connect(&Endpoint::Unix(path.clone())).unwrap());
    let _held = listener.accept().unwrap();
    let other = this.add(Builder::new().connect(&Endpoint::Unix(path)).unwrap());
    listener.accept().unwrap().0.write_all(b"220 mail.example ESMTP").unwrap();
    this.until("two errors", |this| this.errors.len() == 2);
    for (token, first) in mem::take(&mut this.errors) {
        match first {
            Error::TimedOut { .. } => assert_eq!(token, silent),
            Error::Protocol(_) => assert_eq!(token, other),
            _ => panic!("{first}"),
        }
        for _ in 0..2 {
            let rejected = this.disk(token).read(0, vec![7; 512]).unwrap_err();
            assert_eq!(rejected.error.to_string(), first.to_string());
            assert_eq!(rejected.buffer, Some(vec![7; 512]));
            this.disk(token).close();
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
    let token = this.add(builder().connect(&Endpoint::Address(address)).unwrap());
    this.until("ready", |this| this.disk(token).state() == State::Ready);
    for offset in [0, 512] {
        this.disk(token).read(offset, vec![0; 512]).unwrap();
    }
    this.turn(Instant::now());
    go.send(()).unwrap();
    end.recv().unwrap();
    let first = this.next();
    first.result.unwrap();
    assert_eq!(first.buffer.unwrap(), [0xab; 512]);
    let error = this.next().result.unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
    drop(this);
    server.join().unwrap();
}

#[test]
fn a_slow_server_costs_no_turns_and_has_a_deadline() {
    let server = nbdkit(&["memory", "1M"]);
    let mut this = Loop::new();
    let token = this.ready(&builder(), &server.uri());
    server.stop().unwrap();
    let silence = Duration::from_millis(300);
    assert_eq!(this.disk(token).deadline(silence), None, "nothing is expected");
    let id = this.disk(token).read(0, vec![0; 512]).unwrap();
    let (oldest, at) = this.disk(token).oldest().unwrap();
    assert_eq!(oldest, id);
    let deadline = this.disk(token).deadline(silence).unwrap();
    assert!(deadline >= at + silence && deadline <= Instant::now() + silence);
    let before = this.turns;
    while Instant::now() < deadline {
        this.turn(deadline);
    }
    assert!(this.turns - before < 5, "{} turns", this.turns - before);
    // Giving up spares the connection, and the next command gets its own reply.
    assert_eq!(this.disk(token).abandon(id), Some(vec![0; 512]));
    assert_eq!(this.disk(token).deadline(silence), None);
    server.cont().unwrap();
    let next = this.disk(token).read(512, vec![1; 512]).unwrap();
    let done = this.next();
    assert_eq!(done.id, next);
    done.result.unwrap();
}

#[test]
fn other_threads_submit_wait_in_line_and_are_answered() {
    let server = nbdkit(&["memory", "1M"]);
    let mut this = Loop::new();
    let waker = Arc::new(this.waker());
    let limits = nbd_client_mio::proto::Limits::default().max_in_flight(4);
    let builder = Builder::new().config(ClientConfig::new().limits(limits));
    let token = this.connect(&builder, &server.uri());
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
    this.disk(token).read(399 * 512, vec![0; 512]).unwrap();
    assert!(this.next().buffer.unwrap() == noise(512, 399 * 512 + 1));
    // After the end, the answer is no.
    this.disk(token).disconnect();
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
    let waker = Arc::new(this.waker());
    let limits = nbd_client_mio::proto::Limits::default().max_in_flight(2);
    let builder = Builder::new().config(ClientConfig::new().limits(limits));
    let token = this.ready(&builder, &server.uri());
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
    this.until("two are sent", |this| {
        this.disk(token).client().is_some_and(|core| core.in_flight() == 2)
    });
    // The poll goes first, then the connection.
    let Loop { poll, disks, .. } = this;
    drop(poll);
    drop(disks);
    let late = sender.clone();
    let on_done = move |outcome| late.send(outcome).unwrap();
    let error = submitter.submit(Command::flush(), None, on_done).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    drop(sender);
    // Whoever waits for an answer sees that there will be none.
    let gone = receiver.recv_timeout(Duration::from_secs(20));
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
    let program = Endpoint::Command(CommandSpec::new("nbdkit", ["-s", "memory", "1M"]));
    for endpoint in [name, program] {
        let token = this.add(builder().connect(&endpoint).unwrap());
        assert_eq!(this.disk(token).state(), State::Connecting);
    }
    this.all(State::Ready);
    for token in 0..2 {
        this.disk(token).read(0, vec![1; 512]).unwrap();
        assert_eq!(this.next().buffer.unwrap(), [0; 512]);
    }
    // Longer than any label of a name may be, so that no server is asked.
    let host = "x".repeat(70);
    let nobody = Endpoint::Tcp { host: host.clone(), port };
    let token = this.add(builder().connect(&nobody).unwrap());
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
    let disk = Builder::new().connect::<Vec<u8>>(&program).unwrap();
    let pid = eventually(|| fs::read_to_string(&pid_file).ok());
    drop(disk);
    let process = Path::new("/proc").join(pid.trim());
    eventually(|| (!process.exists()).then_some(()));
}

/// Asks again and again, until there is an answer.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
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
    let builder = Builder::new().config(ClientConfig::new().limits(limits));
    let mut this = Loop::new();
    let token = this.connect(&builder, &server.uri());
    let early = this.disk(token).read(0, vec![4; 1]).unwrap_err();
    let not_yet = SubmitError::NotConnected;
    assert!(matches!(early.error, Error::Submit { error, .. } if error == not_yet));
    assert_eq!(early.buffer, Some(vec![4; 1]));
    this.all(State::Ready);
    let disk = this.disk(token);
    let refused = disk.write(0, vec![5; 512], CommandFlags::empty()).unwrap_err();
    assert_eq!((refused.error.errno(), refused.buffer), (1, Some(vec![5; 512])));
    let short = disk.submit(Command::read(0, 512), Some(vec![0; 511])).unwrap_err();
    assert!(matches!(short.error, Error::BufferLength { buffer: 511, .. }));
    disk.read(0, vec![0; 512]).unwrap();
    disk.read(0, vec![0; 512]).unwrap();
    let full = disk.read(0, vec![0; 512]).unwrap_err();
    assert!(matches!(full.error, Error::Submit { error: SubmitError::Full, .. }), "{full}");
    this.next().result.unwrap();
    this.next().result.unwrap();
}

#[test]
fn a_handler_keeps_the_line_full() {
    let server = nbdkit(&["memory", "1M"]);
    let mut this = Loop::new();
    let token = this.ready(&builder(), &server.uri());
    let mut disk = this.disks.remove(&token).unwrap();
    disk.read(0, vec![1; 4096]).unwrap();
    let mut left = 500;
    let mut events = mio::Events::with_capacity(4);
    while disk.drive(this.poll.registry()).unwrap() != State::Closed {
        disk.for_each_completion(|disk, done| {
            left -= 1;
            match left {
                0 => disk.disconnect(),
                _ => drop(disk.read(0, done.buffer.unwrap()).unwrap()),
            }
        });
        if !disk.wants_again() {
            match this.poll.poll(&mut events, Some(Duration::from_secs(60))) {
                // A process that was stopped and goes on sees its calls interrupted.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled.unwrap(),
            }
            assert!(!events.is_empty() || disk.state() == State::Closed, "{disk:?}");
            events.iter().for_each(|event| disk.note(event));
        }
    }
    assert_eq!(left, 0);
}
