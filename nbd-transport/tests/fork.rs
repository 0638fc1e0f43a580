//! A process that forks after it has started programs: the child starts its own, and leaves
//! those of its parent alone. Not under the test harness, whose threads a child would lack.

use fork::{Fork, fork};
use nbd_transport::{CommandSpec, Connection, Endpoint, PeerStderr, Stream};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io::{Read, Write, pipe};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes, so that a hang is a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// `nbdkit --exit-with-parent`, met on its standard input and output or by socket activation,
/// started from a thread that is gone when this returns.
fn server(by_activation: bool) -> Connection {
    let usual = ["--exit-with-parent", "memory", "1M"];
    let endpoint = if by_activation {
        Endpoint::SocketActivation(CommandSpec::new("nbdkit", usual).into())
    } else {
        let arguments = ["-s"].into_iter().chain(usual);
        Endpoint::Command(CommandSpec::new("nbdkit", arguments).stderr(PeerStderr::Capture))
    };
    let connect = thread::spawn(move || endpoint.connect(Some(Instant::now() + LIMIT)));
    let mut connection = connect.join().unwrap().expect("is nbdkit installed?");
    let stream = stream(&mut connection);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.read_exact(&mut [0; 18]).expect("a greeting");
    // Fixed newstyle.
    stream.write_all(&[0, 0, 0, 1]).unwrap();
    connection
}

fn stream(connection: &mut Connection) -> &mut std::os::unix::net::UnixStream {
    let Stream::Unix(stream) = &mut connection.stream else { panic!("not a Unix socket") };
    stream
}

/// Asks for an option that no server has, which is allowed any number of times, and is told so.
fn assert_answers(connection: &mut Connection) {
    let stream = stream(connection);
    // NBD_OPT_PEEK_EXPORT, which was withdrawn.
    stream.write_all(b"IHAVEOPT\0\0\0\x04\0\0\0\0").expect("the server is gone");
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).expect("the server is gone");
    // NBD_REP_ERR_UNSUP, and perhaps words.
    assert_eq!(reply[8..16], *b"\0\0\0\x04\x80\0\0\x01");
    let words = u32::from_be_bytes(*reply.last_chunk().unwrap());
    stream.read_exact(&mut vec![0; words as usize]).expect("the server is gone");
}

/// Where it can be connected to once more, if it can.
fn socket(connection: &mut Connection) -> Option<PathBuf> {
    stream(connection).peer_addr().unwrap().as_pathname().map(Path::to_owned)
}

/// What a process does that was forked from one which has `inherited`. Returns the id of a
/// server that has no other reason to end than its parent's end.
fn live_in_a_fork(inherited: [Connection; 2], generation: u32) -> u32 {
    for by_activation in [false, true] {
        let mut own = server(by_activation);
        assert_answers(&mut own);
        own.peer.unwrap().kill(nbd_transport::Signal::TERM).unwrap();
    }
    // Of the inherited ones nothing can be known here, and nothing comes of dropping them.
    for connection in inherited {
        let mut peer = connection.peer.unwrap();
        peer.try_status().expect_err("it is no child of this process");
        peer.kill(nbd_transport::Signal::KILL).expect_err("it is no child of this process");
    }
    if generation == 1 {
        in_a_fork(2);
    }
    let mut last = server(true);
    assert_answers(&mut last);
    let id = last.peer.as_ref().unwrap().pid();
    // Never dropped.
    thread::spawn(move || {
        let _last = last;
        loop {
            thread::park();
        }
    });
    id
}

#[expect(clippy::disallowed_methods, reason = "what is left to be dropped is the parent's")]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}

/// Forks, and sees that all goes well on both sides.
fn in_a_fork(generation: u32) {
    let mut ours = [false, true].map(server);
    ours.iter_mut().for_each(assert_answers);
    let socket = socket(&mut ours[1]).expect("it was met there");
    let (mut told, mut tell) = pipe().unwrap();
    let child = match fork().expect("there is room for a process") {
        Fork::Child => {
            let life = AssertUnwindSafe(move || live_in_a_fork(ours, generation));
            let Ok(id) = catch_unwind(life) else { leave(1) };
            let _ = tell.write_all(&id.to_ne_bytes());
            leave(0)
        }
        Fork::Parent(id) => Pid::from_raw(id).unwrap(),
    };
    drop(tell);
    let mut fds = [PollFd::new(&told, PollFlags::IN)];
    if poll(&mut fds, Some(&LIMIT.try_into().unwrap())).unwrap() == 0 {
        kill_process(child, Signal::KILL).unwrap();
        panic!("the forked process hangs");
    }
    let mut id = [0; 4];
    let is_told = told.read_exact(&mut id);
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0), "the forked process failed");
    is_told.unwrap();
    assert_ends(u32::from_ne_bytes(id));
    ours.iter_mut().for_each(assert_answers);
    Endpoint::Unix(socket).connect(Some(Instant::now() + LIMIT)).expect("its socket is there");
}

/// Waits until a process that nobody here can wait for has ended.
fn assert_ends(id: u32) {
    let end = Instant::now() + LIMIT;
    let runs = || {
        let state = std::fs::read_to_string(format!("/proc/{id}/stat"));
        state.is_ok_and(|state| !state.rsplit(')').next().unwrap().starts_with(" Z"))
    };
    while runs() {
        assert!(Instant::now() < end, "the server outlives its parent");
        thread::sleep(Duration::from_millis(2));
    }
}

fn main() {
    in_a_fork(1);
    println!("a fork starts its own programs, and leaves its parent's alone: ok");
}
