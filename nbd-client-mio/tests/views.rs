//! What is made of many commands: a walk over extents, and an export as a file.

mod support;

use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use mio::{Events, Token, Waker};
use nbd_client_mio::proto::{Command, CommandFlags, ReadChunk};
use nbd_client_mio::session::Request;
use nbd_client_mio::{ConnectOptions, ExportFile, ExportView, State};
use nbd_sim::peer::{Scratch, Server, run, tool};
use nbd_sim::rng::noise;
use support::Loop;

const NONE: CommandFlags = CommandFlags::empty();

/// All segments of a range: where each is, how long, and its statuses.
fn walk(this: &mut Loop, token: usize, names: &[&str], end: u64) -> Vec<(u64, u64, Vec<u64>)> {
    let mut extents = this.disk(token).extents(names, 0..end).unwrap();
    let mut all = Vec::new();
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        match extents.next(this.disk(token)) {
            Poll::Ready(Some(segment)) => {
                let segment = segment.unwrap();
                all.push((segment.offset, segment.length, segment.statuses));
            }
            Poll::Ready(None) => break,
            Poll::Pending => this.turn(limit),
        }
        assert!(Instant::now() < limit, "{all:?}");
    }
    assert!(extents.next(this.disk(token)).is_ready(), "it stays over");
    assert!(this.done.is_empty(), "nobody has asked for these: {:?}", this.done);
    all
}

#[test]
fn extents_of_nbdkit_while_others_fill_the_line() {
    let server = Server::nbdkit(&["memory", "1G"]).start().expect("nbdkit");
    let mut this = Loop::new();
    // Of the walk's questions not all find room.
    let options = ConnectOptions::new().meta_context("base:allocation").max_in_flight(2);
    let token = this.ready(&options, &server.uri());
    for at in [0, 512 << 20] {
        this.disk(token).write(vec![1; 65_536], at, NONE).unwrap();
    }
    for _ in 0..2 {
        this.next().result.unwrap();
    }
    let found = walk(&mut this, token, &["base:allocation"], 1 << 30);
    let holes = [(65_536, (512 << 20) - 65_536), ((512 << 20) + 65_536, (512 << 20) - 65_536)];
    let expected = [
        (0, 65_536, vec![0]),
        (holes[0].0, holes[0].1, vec![3]),
        (512 << 20, 65_536, vec![0]),
        (holes[1].0, holes[1].1, vec![3]),
    ];
    assert_eq!(found, expected);
    // One that is not finished is no burden: what it has asked is withdrawn.
    server.stop().unwrap();
    let mut extents = this.disk(token).extents(&[], 0..1 << 30).unwrap();
    assert!(extents.next(this.disk(token)).is_pending());
    this.until("it is asked", |this| !this.disk(token).needs_drive());
    assert!(this.disk(token).session().in_flight() > 0);
    let waker = Arc::new(Waker::new(this.poll.registry(), Token(99)).unwrap());
    let submitter = this.disk(token).submitter(waker);
    drop(extents);
    assert!(this.disk(token).needs_drive());
    // Whoever comes now still wakes the loop, which may be about to wait for ever.
    submitter.submit(Command::flush(), None, drop).unwrap();
    let mut events = Events::with_capacity(4);
    this.poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
    assert!(events.iter().any(|event| event.token() == Token(99)));
    this.turn(Instant::now());
    assert_eq!(this.disk(token).session().in_flight(), 0);
    server.cont().unwrap();
    this.until("there is room", |this| !this.disk(token).session().is_full());
    this.disk(token).write(vec![2; 512], 0, NONE).unwrap();
    this.next().result.unwrap();
    assert!(this.disk(token).extents(&["no:such"], 0..512).is_err());
}

#[test]
fn extents_of_qemu_nbd_by_two_contexts_at_once() {
    let scratch = Scratch::new().expect("a directory");
    let image = scratch.qcow2_image("disk", 64 << 20).expect("an image");
    let mut add = tool("qemu-img").expect("qemu-img");
    add.args(["bitmap", "--add", "--enable", "-f", "qcow2"]).arg(&image).arg("monday");
    run(&mut add).and_then(|done| done.success()).expect("the bitmap is added");
    let mut write = tool("qemu-io").expect("qemu-io");
    write.args(["-f", "qcow2", "-c", "write 1M 1M"]).arg(&image);
    run(&mut write).and_then(|done| done.success()).expect("it is written");
    let image = image.to_str().expect("a path");
    let server = Server::qemu_nbd(&["-f", "qcow2", "-B", "monday", image]).start();
    let server = server.expect("qemu-nbd");
    let mut this = Loop::new();
    let names = ["qemu:dirty-bitmap:monday", "base:allocation"];
    let options = names.iter().fold(ConnectOptions::new(), |all, name| all.meta_context(*name));
    let token = this.ready(&options, &server.uri());
    // A read across the first of them tells of its parts, if it is asked to.
    let read = Command::read(0, 2 << 20);
    let disk = this.disk(token);
    disk.submit_request(Request::new(read).report_chunks(), Some(vec![0; 2 << 20])).unwrap();
    let mut chunks = this.next().chunks;
    chunks.sort_by_key(|chunk| chunk.at);
    let first = ReadChunk { at: 0, length: 1 << 20, hole: true };
    assert_eq!(chunks[0], first);
    assert!(chunks[1..].iter().all(|chunk| !chunk.hole) && chunks.len() > 1, "{chunks:?}");
    this.disk(token).submit(read, Some(vec![0; 2 << 20])).unwrap();
    assert!(this.next().chunks.is_empty(), "nobody asked");
    let found = walk(&mut this, token, &names, 64 << 20);
    let expected = [(0, 1 << 20, vec![0, 3]), (1 << 20, 1 << 20, vec![1, 0])];
    assert_eq!(found[..2], expected);
    assert_eq!(found[2..], [(2 << 20, 62 << 20, vec![0, 3])]);
    // And by one of them.
    let found = walk(&mut this, token, &names[..1], 64 << 20);
    let dirty: Vec<_> = found.iter().map(|(at, length, is)| (*at, *length, is[0])).collect();
    assert_eq!(dirty, [(0, 1 << 20, 0), (1 << 20, 1 << 20, 1), (2 << 20, 62 << 20, 0)]);
}

/// Turns until a call does not block.
fn wait<T>(
    this: &mut Loop,
    token: usize,
    view: &mut ExportView<Vec<u8>>,
    mut call: impl FnMut(&mut ExportFile<'_, Vec<u8>>) -> std::io::Result<T>,
) -> std::io::Result<T> {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        match call(&mut this.disk(token).file(view)) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => this.turn(limit),
            other => return other,
        }
        assert!(Instant::now() < limit, "{view:?}");
    }
}

#[test]
fn a_file_reads_seeks_writes_and_flushes() {
    let server = Server::nbdkit(&["--filter=blocksize-policy", "memory", "64K"])
        .arg("blocksize-minimum=4096")
        .arg("blocksize-error-policy=error")
        .start()
        .expect("nbdkit");
    let mut this = Loop::new();
    let token = this.connect(&ConnectOptions::new(), &server.uri());
    assert!(this.disk(token).view().is_err(), "it is not ready");
    this.all(State::Ready);
    let mut view = this.disk(token).view().unwrap();
    let data = noise(10_000, 5);
    let mut written = 0;
    assert_eq!(this.disk(token).file(&mut view).seek(SeekFrom::Start(4_097)).unwrap(), 4_097);
    while written < data.len() {
        written += wait(&mut this, token, &mut view, |file| file.write(&data[written..])).unwrap();
    }
    wait(&mut this, token, &mut view, |file| file.flush()).unwrap();
    wait(&mut this, token, &mut view, |file| file.seek(SeekFrom::Current(-10_000))).unwrap();
    let (mut back, mut filled) = (vec![0; 10_000], 0);
    while filled < back.len() {
        let into = &mut back[filled..];
        filled += wait(&mut this, token, &mut view, |file| file.read(into)).unwrap();
    }
    assert!(back == data);
    // The end of it.
    wait(&mut this, token, &mut view, |file| file.seek(SeekFrom::End(0))).unwrap();
    assert_eq!(wait(&mut this, token, &mut view, |file| file.read(&mut [0; 9])).unwrap(), 0);
    assert_eq!(wait(&mut this, token, &mut view, |file| file.write(&[0; 9])).unwrap(), 0);
    // A view that is dropped with a command under way, and commands beside it.
    assert!(this.disk(token).file(&mut view).seek(SeekFrom::Start(0)).is_ok());
    let blocked = this.disk(token).file(&mut view).read(&mut [0; 9]).unwrap_err();
    assert_eq!(blocked.kind(), ErrorKind::WouldBlock);
    drop(view);
    this.disk(token).read(vec![0; 4096], 0).unwrap();
    this.next().result.unwrap();
    this.until("all is answered", |this| this.disk(token).session().in_flight() == 0);
    assert!(this.done.is_empty(), "{:?}", this.done);
}

#[test]
fn a_file_tells_of_a_connection_that_is_lost() {
    let mut server = Server::nbdkit(&["memory", "64K"]).start().expect("nbdkit");
    let mut this = Loop::new();
    let token = this.ready(&ConnectOptions::new(), &server.uri());
    let mut view = this.disk(token).view().unwrap();
    wait(&mut this, token, &mut view, |file| file.read(&mut [0; 9])).unwrap();
    server.kill();
    wait(&mut this, token, &mut view, |file| file.write(&[1; 9])).unwrap_err();
    wait(&mut this, token, &mut view, |file| file.flush()).unwrap_err();
}
