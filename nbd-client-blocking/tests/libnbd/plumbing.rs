//! States, cookies, polling, callbacks and ends.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nbd_client_blocking::proto::{
    ClientConfig, Command, Direction, Disconnect, RequestId, RequestStatus,
};
use nbd_client_blocking::{Client, ErrorKind, State, Woken};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::{MIB, connect, defaults, nbdkit, negotiate};

const LONG: Option<Duration> = Some(Duration::from_secs(60));
const SHORT: Option<Duration> = Some(Duration::from_millis(50));

#[test]
fn states_from_the_first_to_the_last() {
    let server = nbdkit(&["memory", "1M"]);
    let options = negotiate(&server, ClientConfig::new());
    assert_eq!(options.state(), State::Choosing);
    let mut client = options.go().expect("it is there");
    assert_eq!((client.state(), client.session().state_name()), (State::Ready, "ready"));
    let mut pipeline = client.pipeline();
    pipeline.read(vec![0; 512], 0).expect("queued");
    let processing = |client: &Client| client.session().core().expect("open").is_processing();
    assert!(processing(pipeline.client()), "a request waits to be sent");
    pipeline.notify_write();
    assert!(!processing(pipeline.client()), "a reply is due, and nothing half done");
    assert_eq!(pipeline.client().state(), State::Ready);
    pipeline.wait().expect("one is due").result.expect("read");
    pipeline.disconnect(Disconnect::AfterReplies);
    assert_eq!(pipeline.client().state(), State::Disconnecting);
    while pipeline.client().state() == State::Disconnecting {
        assert_ne!(pipeline.poll(LONG).expect("the connection holds"), Woken::TimedOut);
    }
    assert_eq!(pipeline.client().state(), State::Closed);
    assert_eq!(pipeline.poll(LONG).expect_err("nothing to wait for").errno(), 107);
    drop(pipeline);
    client.disconnect().expect("it is over already");

    let mut server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, ClientConfig::new());
    server.kill();
    client.read_exact_at(&mut [0; 512], 0).expect_err("the server is dead");
    assert_eq!(client.state(), State::Closed);
}

#[test]
fn cookies_that_are_unknown_pending_finished_and_retired() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, ClientConfig::new());
    let mut pipeline = client.pipeline();
    assert_eq!(pipeline.peek_completed(), None);
    for never in [0, 1 << 32, 7 << 32 | 3, u64::MAX] {
        assert_eq!(pipeline.status(RequestId::from_cookie(never)), RequestStatus::Unknown);
    }
    let first = pipeline.read(vec![0; 512], 0).expect("queued");
    let second = pipeline.read(vec![0; 512], 512).expect("queued");
    assert_eq!(pipeline.status(first), RequestStatus::InFlight);
    assert!(pipeline.take(first).is_none(), "it is pending");
    while pipeline.completed() < 2 {
        assert_eq!(pipeline.poll(LONG).expect("the connection holds"), Woken::Progress);
    }
    // A server answers in the order it likes: the older reply is the one that is offered.
    let older = pipeline.peek_completed().expect("both are finished");
    let newer = if older == first { second } else { first };
    assert_eq!(pipeline.status(newer), RequestStatus::Completed);
    assert_eq!(pipeline.in_flight(), 2, "finished, and not taken");
    pipeline.take(newer).expect("out of turn").result.expect("it is read");
    assert_eq!(pipeline.status(newer), RequestStatus::Retired);
    assert!(pipeline.take(newer).is_none(), "once only");
    assert_eq!(pipeline.status(older), RequestStatus::Completed);
    let taken = pipeline.next_completion().expect("in turn");
    assert_eq!(taken.id, older);
    taken.result.expect("it is read");
    assert_eq!(pipeline.in_flight(), 0);
    // A slot that is used again has a cookie that is new.
    let third = pipeline.read(vec![0; 512], 0).expect("queued");
    assert!(third != first && third != second);
    assert_eq!(pipeline.status(first), RequestStatus::Retired);
    assert_eq!(RequestId::from_cookie(third.to_cookie()), third);
}

#[test]
fn poll_wakes_by_the_server_another_descriptor_or_the_clock() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, ClientConfig::new());
    let mut pipeline = client.pipeline();
    let (mut kick, kicked) = UnixStream::pair().expect("a pair is made");
    assert_eq!(pipeline.poll(SHORT).expect("it is quiet"), Woken::TimedOut);
    assert_eq!(pipeline.poll_with(&kicked, SHORT).expect("it is quiet"), Woken::TimedOut);
    kick.write_all(b"!").expect("there is room");
    assert_eq!(pipeline.poll_with(&kicked, None).expect("it is quiet"), Woken::Other);
    pipeline.read(vec![0; 512], 0).expect("queued");
    while pipeline.completed() == 0 {
        assert_eq!(pipeline.poll(None).expect("the connection holds"), Woken::Progress);
    }
}

#[test]
fn a_poll_loop_of_ones_own() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, ClientConfig::new());
    client.write_all_at(&[4; 65536], 0).expect("it is written");
    let mut pipeline = client.pipeline();
    for i in 0..16 {
        pipeline.read(vec![0; 4096], i * 4096).expect("queued");
    }
    assert_eq!(pipeline.direction(), Direction::READ | Direction::WRITE);
    let mut done = 0;
    while done < 16 {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, pipeline.direction().contains(Direction::READ));
        events.set(PollFlags::OUT, pipeline.direction().contains(Direction::WRITE));
        let stream = &pipeline.client().connection().expect("it is connected").stream;
        let mut fds = [PollFd::from_borrowed_fd(stream.as_fd(), events)];
        let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(poll(&mut fds, Some(&limit)), Ok(1), "nothing comes");
        let ready = fds[0].revents();
        if ready.contains(PollFlags::OUT) {
            pipeline.notify_write();
        }
        if ready.contains(PollFlags::IN) {
            pipeline.notify_read();
        }
        while let Some(one) = pipeline.next_completion() {
            one.result.expect("it is read");
            assert_eq!(one.buffer.expect("it comes back"), [4; 4096]);
            done += 1;
        }
    }
    assert_eq!(pipeline.direction(), Direction::READ);
    // Nothing is due: reading does not wait.
    pipeline.notify_read();
    assert!(pipeline.try_wait().is_none());
}

#[test]
fn callbacks_are_called_once_each_whatever_happens() {
    let called = RefCell::new(Vec::new());
    let note = |done: nbd_client_blocking::Completion<Vec<u8>>| {
        let dropped = done.result.is_err_and(|error| error.kind() == ErrorKind::Stopped);
        called.borrow_mut().push((done.command.offset, done.buffer.is_some(), dropped));
    };
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, ClientConfig::new());
    let mut pipeline = client.pipeline();
    pipeline.submit_then(Command::read(0, 512), Some(vec![0; 512]), note).expect("queued");
    pipeline.submit_then(Command::read(512, 512), Some(vec![0; 512]), note).expect("queued");
    pipeline.read(vec![0; 512], 1024).expect("queued");
    let given_back = pipeline.wait().expect("one has no callback");
    assert_eq!(given_back.command.offset, 1024);
    assert!(pipeline.wait().is_none());
    // A server answers in the order it likes.
    called.borrow_mut().sort_unstable();
    assert_eq!(*called.borrow(), [(0, true, false), (512, true, false)]);
    // Not for a completion that somebody has taken, nor for whoever has its id next.
    called.borrow_mut().clear();
    for offset in [0, 512] {
        let command = Command::read(offset, 512);
        let id = pipeline.submit_then(command, Some(vec![0; 512]), note).expect("queued");
        while pipeline.completed() == 0 {
            pipeline.wait_for(1);
        }
        assert!(pipeline.take(id).expect("it is finished").result.is_ok());
        assert!(pipeline.take(id).is_none());
    }
    assert_eq!(*called.borrow(), []);
    // Dropped while the server is silent.
    server.stop().expect("it is stopped");
    pipeline.submit_then(Command::read(0, 512), Some(vec![0; 512]), note).expect("queued");
    pipeline.notify_write();
    pipeline.submit_then(Command::read(512, 512), Some(vec![0; 512]), note).expect("queued");
    drop(pipeline);
    called.borrow_mut().sort_unstable();
    assert_eq!(*called.borrow(), [(0, true, true), (512, true, true)]);
    server.cont().expect("it goes on");
    client.read_exact_at(&mut [0; 512], 0).expect("late replies are read over");
}

#[test]
fn death_completes_everything_once_and_gives_the_buffers_back() {
    let mut server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, ClientConfig::new());
    let mut pipeline = client.pipeline();
    server.stop().expect("it is stopped");
    for i in 0..8 {
        pipeline.read(vec![0; 512], i * 512).expect("queued");
    }
    pipeline.notify_write();
    for i in 8..16 {
        pipeline.write(vec![0; 512], i * 512).expect("queued");
    }
    server.kill();
    let mut offsets = Vec::new();
    while let Some(done) = pipeline.wait() {
        let error = done.result.expect_err("the server is dead");
        assert_eq!(error.errno(), 107, "{error}");
        assert_eq!(done.buffer.expect("it comes back").len(), 512);
        offsets.push(done.command.offset / 512);
    }
    assert_eq!(offsets, (0..16).collect::<Vec<_>>());
    assert_eq!(pipeline.client().state(), State::Closed);
    let error = pipeline.read(vec![0; 512], 0).expect_err("it is over").error;
    assert_eq!(error.errno(), 107, "{error}");
}

/// Everything that was sent is answered; nothing else is sent but the goodbye.
#[test]
fn shutdown_abandons_what_was_not_sent() {
    let server = nbdkit(&["memory", "64M"]);
    let mut client = connect(&server, ClientConfig::new());
    let mut pipeline = client.pipeline();
    server.stop().expect("it is stopped");
    for i in 0..64 {
        pipeline.write(vec![1; MIB as usize], i * MIB).expect("queued");
    }
    pipeline.notify_write();
    pipeline.disconnect(Disconnect::AbandonUnsent);
    server.cont().expect("it goes on");
    let (mut done, mut lost) = (0, 0);
    while let Some(completion) = pipeline.wait() {
        match completion.result {
            Ok(()) => done += 1,
            // A server may see the goodbye before it has done everything.
            Err(error) if error.errno() == 108 => done += 1,
            Err(error) => {
                assert_eq!(error.errno(), 107, "{error}");
                lost += 1;
            }
        }
        assert!(completion.buffer.is_some());
    }
    assert_eq!(done + lost, 64);
    assert!(done >= 1 && lost >= 1, "{done} answered and {lost} abandoned");
    drop(pipeline);
    client.disconnect().expect("an orderly end");
}

#[test]
fn shutdown_after_replies_and_after_requests() {
    let server = nbdkit(&["--filter=delay", "memory", "1M", "rdelay=100ms"]);
    for when in [Disconnect::AfterReplies, Disconnect::AfterRequests] {
        let mut client = connect(&server, ClientConfig::new());
        let mut pipeline = client.pipeline();
        for i in 0..4 {
            pipeline.read(vec![0; 512], i * 512).expect("queued");
        }
        pipeline.disconnect(when);
        let mut done = 0;
        while let Some(completion) = pipeline.wait() {
            match completion.result {
                Ok(()) => done += 1,
                // Who does not wait for the replies may not get them.
                Err(error) => {
                    assert_eq!(when, Disconnect::AfterRequests, "{error}");
                    assert!(matches!(error.errno(), 107 | 108), "{error}");
                }
            }
        }
        assert!(done == 4 || when == Disconnect::AfterRequests);
        assert_eq!(pipeline.in_flight(), 0);
    }
}

#[test]
fn a_timeout_is_no_end() {
    let server = nbdkit(&["memory", "1M"]);
    let mut client = connect(&server, ClientConfig::new());
    client.set_request_timeout(Duration::from_millis(200));
    let mut pipeline = client.pipeline();
    server.stop().expect("it is stopped");
    let id = pipeline.read(vec![0; 512], 0).expect("queued");
    let done = pipeline.wait().expect("its time is over");
    assert_eq!(done.id, id);
    let error = done.result.expect_err("it is silent");
    assert_eq!(error.errno(), 110, "{error}");
    assert_eq!(done.buffer.expect("it comes back").len(), 512);
    assert_eq!(pipeline.status(id), RequestStatus::Retired);
    server.cont().expect("it goes on");
    drop(pipeline);
    let mut back = [9; 512];
    client.within(Duration::from_secs(60)).read_exact_at(&mut back, 0).expect("it is read");
    assert_eq!(back, [0; 512], "the late answer is for nobody");
    defaults().uri(&server.uri()).and_then(Client::connect).expect("the server lives on");
}
